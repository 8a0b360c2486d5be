"""Stacks: which lists of blocks a model has,
and the row of `hooks.families` that describes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .configuration import text_config
from .families import FAMILIES, Family, PlaceSpec

_JOINED = {
    "encoder-decoder": ("blocks", "decoder_blocks"),
    "vision-encoder-decoder": ("vision_blocks", "blocks"),
    "speech-encoder-decoder": ("audio_blocks", "blocks"),
}
"""What the encoder's and the decoder's stacks of joined models are called."""


@dataclass(frozen=True)
class Stack:
    """One list of blocks in a model: its name in sites, its row, and where the row's paths start.

    Args:
        name: ``blocks``, ``decoder_blocks``, ``vision_blocks``, ``audio_blocks``.
        prefix: path of the body, with its dot; empty for the model itself.
        config: the body's own configuration.
    """

    name: str
    prefix: str
    family: Family
    config: Any

    @property
    def path(self) -> str:
        """Where its blocks are."""
        return self.prefix + self.family.blocks


def stacks_of(model: nn.Module) -> list[Stack]:
    """The stacks that the table knows in a model, the text's (or the only one) first,
    as ``blocks``.
    """
    matches = list(_matches(model))
    if not matches:
        return []
    if pair := _joined(model, matches):
        return pair
    main = _main(model, matches)
    stacks: dict[str, Stack] = {}
    if main is not None:
        stacks["blocks"] = main
        decoder = main.family.decoder
        if decoder is not None and submodule(model, main.prefix + decoder.blocks) is not None:
            stacks["decoder_blocks"] = replace(main, name="decoder_blocks", family=decoder)
    for match in matches:
        name = _sense(match.config)
        if match is not main and name is not None:
            # Of two vision towers the first has the name.
            stacks.setdefault(name, replace(match, name=name))
    return list(stacks.values())


def _joined(model: nn.Module, matches: list[Stack]) -> list[Stack]:
    """Two models of their own that transformers joins to an encoder and a decoder."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    match_of = {match.prefix.partition(".")[0]: match for match in matches}
    if kind not in _JOINED or not {"encoder", "decoder"} <= match_of.keys():
        return []
    encoder_name, decoder_name = _JOINED[kind]
    stacks = [
        replace(match_of["encoder"], name=encoder_name),
        replace(_with_cross(model, match_of["decoder"]), name=decoder_name),
    ]
    return sorted(stacks, key=lambda stack: stack.name != "blocks")


def _with_cross(model: nn.Module, decoder: Stack) -> Stack:
    """A decoder that reads an encoder's text, of a family whose decoder can stand alone."""
    for family in FAMILIES[decoder.config.model_type]:
        row = family.decoder
        if row is not None and submodule(model, decoder.prefix + row.blocks) is not None:
            return replace(decoder, family=without_clipped(row, decoder.config))
    return decoder


def _main(model: nn.Module, matches: list[Stack]) -> Stack | None:
    """The stack of the text; of a model without text the only one, if it is the body itself or
    stands in a user's own module.
    """
    config = getattr(model, "config", None)
    text = text_config(config)
    text_type = getattr(text, "model_type", "")
    for match in matches:
        if getattr(match.config, "model_type", None) == text_type:
            return match
    only = matches[0]
    is_body = len(matches) == 1 and (config is None or only.prefix.count(".") <= 1)
    return only if is_body else None


def _matches(model: nn.Module) -> Iterator[Stack]:
    inside: list[str] = []
    for path, module in model.named_modules():
        # A part of a module that a row describes is described by it.
        if any(path.startswith(prefix) for prefix in inside):
            continue
        # Bodies within a model (a vision tower, a text model) have a configuration of their own.
        config = getattr(module, "config", None)
        prefix = f"{path}." if path else ""
        for family in FAMILIES.get(getattr(config, "model_type", None) or "", ()):
            resolved = _resolved(module, family) if family.when(config) else None
            if resolved is None:
                continue
            inside.append(prefix)
            yield Stack("blocks", prefix, without_clipped(resolved, config), config)
            if not prefix:
                return
            break


def _resolved(module: nn.Module, family: Family) -> Family | None:
    """The row as this module has it: whole, its encoder alone, or its decoder alone."""
    if submodule(module, family.blocks) is not None:
        return family
    decoder = family.decoder
    if decoder is not None and submodule(module, decoder.blocks) is not None:
        return replace(decoder, inside=_without_cross(decoder), cross=None)
    class_name = type(module).__name__.lower()
    for part, row in (("encoder", family), ("decoder", decoder)):
        # An encoder alone is its own body: the row's paths lose their first name.
        start = f"{part}."
        if row is None or not row.blocks.startswith(start) or part not in class_name:
            continue
        blocks = row.blocks.removeprefix(start)
        if submodule(module, blocks) is None:
            continue
        outside = {}
        for site, place in row.outside.items():
            outside[site] = place.removeprefix(start) if isinstance(place, str) else place
        return replace(
            row,
            blocks=blocks,
            outside=outside,
            inside=_without_cross(row),
            cross=None,
            decoder=None,
        )
    return None


def without_clipped(row: Family, config: Any) -> Family:
    """A row without what this configuration clips behind the module that gives it (OLMo, MPT)."""
    of_attention = getattr(config, "attn_config", config)
    if getattr(of_attention, "clip_qkv", None) is None:
        return row
    why = "clipped behind its projection, by no module"
    return row.without(why, *(f"attn.hook_{part}" for part in "qkv"))


def _without_cross(row: Family) -> dict[str, PlaceSpec]:
    """The sites of a decoder that runs without an encoder."""
    inside = {part: place for part, place in row.inside.items() if "cross" not in part}
    middle = inside.get("hook_resid_mid")
    if row.cross is not None and isinstance(middle, str) and middle.startswith(row.cross):
        # Where norms come first, the next one that reads the sum is the MLP's.
        inside["hook_resid_mid"] = row.inside["hook_resid_mid_cross"]
    return inside


def _sense(config: Any) -> str | None:
    kind = str(getattr(config, "model_type", ""))
    if "vision" in kind or hasattr(config, "image_size") or hasattr(config, "patch_size"):
        return "vision_blocks"
    if "audio" in kind or "speech" in kind or hasattr(config, "num_mel_bins"):
        return "audio_blocks"
    return None


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """A module by its path, None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
