"""What a run is told: frozen dataclasses whose fields carry their help; the command line is read from them."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any


def option(text: str, default: Any = MISSING, **more: Any) -> Any:
    """A field with its help text; without a default it is required."""
    metadata = {"help": text, **more}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The model, and where and how it runs."""

    model: str = option("hub id, local folder or GGUF file", metavar="M")
    out: Path = option("the run's folder", metavar="DIR")
    bos: str = option("token in front of each text: auto, always, never, or a token", "auto")
    batch_tokens: int = option("tokens of the texts that share a batch", 512)
    device: str | None = option("cpu, cuda, ... (default: a GPU where there is one)", None)
    dtype: str = option("weights in memory", "float32", choices=("float32", "float16", "bfloat16"))
    seed: int = option("everything random comes from it", 0)
    trust_remote_code: bool = option("run model code that comes with the weights", False)


@dataclass(frozen=True, kw_only=True)
class TextsConfig(RunConfig):
    """What is measured, and on which texts."""

    prompts: Path | None = option(
        "JSONL with prompt and, where the metric needs them, answer, wrong", None, metavar="FILE"
    )
    pairs: Path | None = option("minimal pairs, JSONL with sentence_good, sentence_bad", None, metavar="FILE")
    limit: int | None = option("use the first N prompts or pairs", None, metavar="N")
    metric: str | None = option(
        "what is measured (default: logit_difference; for pairs pair_difference, for prune and usage loss, with a probe "
        "probe_log_probability)",
        None,
    )

    @property
    def source(self) -> Path:
        """The file of prompts or pairs."""
        return self.prompts or self.pairs or Path()


@dataclass(frozen=True, kw_only=True)
class EffectsConfig(RunConfig):
    """Estimates that stand for exact effects, and the null."""

    estimate: str = option(
        "estimate all effects from gradients, and measure the largest exactly",
        "none",
        choices=("none", "gradient", "graddrop"),
    )
    verify: int = option("with --estimate: how many of the largest are measured exactly", 64)
    sample: int = option("with --estimate: how many others, drawn at random, are measured exactly", 32)
    null: int = option("repeat the exact effects with changes as large in this many random directions", 0)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(RunConfig):
    """A layer-wise probing study."""

    corpus: Path = option("training sentences, CoNLL-U", metavar="FILE")
    property: tuple[str, ...] = option("what to read: upos, deprel, feats:Number, depth, arc:deprel, ... (repeatable)")
    dev: Path | None = option(
        "sentences that choose the penalty (default: a tenth of the corpus)", None, metavar="FILE"
    )
    test: Path | None = option("sentences that are scored (default: a tenth of the corpus)", None, metavar="FILE")
    site: str = option("what to read at every layer: a site's name or a glob", "hook_resid_post")
    limit_sentences: int | None = option("draw this many training sentences", None, metavar="N")
    pooling: str = option("a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean"))
    l2: tuple[float, ...] = option("penalties to choose from (repeatable; default: the probes' own path)", ())
    tol: float = option("largest relative error of a probe's objective; a probe that misses it is flagged", 1e-5)
    control_seeds: int = option("control tasks a property; 0 skips them, and the report says so", 5)
    random_models: int = option("random-weight models to compare with; 0 skips them, and the report says so", 1)
    code_length: bool = option("also the bits that the labels take, by online code, and the control tasks'", False)
    batch_tokens: int = option("tokens of the texts that share a batch", 4096)
    keep_features: bool = option("keep the features on disk when the run is done", False)


@dataclass(frozen=True, kw_only=True)
class AblateConfig(TextsConfig, EffectsConfig):
    """Every part of a kind ablated on its own."""

    component: str = option("what is ablated", "heads", choices=("heads", "neurons", "mlps", "attentions", "layers"))
    value: str = option(
        "what takes its place", "zero", choices=("zero", "mean", "mean-position", "resample", "optimal")
    )
    steps: int = option("with --value optimal: steps of gradient descent", 50)
    reference: Path | None = option(
        "prompts whose values give mean and resample (default: the measured ones)", None, metavar="FILE"
    )
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): measure what it reads instead", None, metavar="FILE"
    )
    corpus: Path | None = option("with --probe: annotated sentences, CoNLL-U", None, metavar="FILE")

    @property
    def source(self) -> Path:
        """The file of prompts, pairs or sentences."""
        return self.corpus or super().source


@dataclass(frozen=True, kw_only=True)
class UsageConfig(TextsConfig, EffectsConfig):
    """A property probed at every layer, erased there, and missed or not by the model."""

    corpus: Path = option("training sentences, CoNLL-U", metavar="FILE")
    property: str = option("a property of words: upos, feats:Number, ...", metavar="P")
    dev: Path | None = option(
        "sentences that choose the penalty (default: a tenth of the corpus)", None, metavar="FILE"
    )
    test: Path | None = option("sentences that are scored (default: a tenth of the corpus)", None, metavar="FILE")
    limit_sentences: int | None = option("draw this many training sentences", None, metavar="N")
    pooling: str = option("a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean"))
    l2: tuple[float, ...] = option("penalties to choose from (repeatable; default: the probes' own path)", ())
    eraser: str = option("how it is erased", "leace", choices=("leace", "inlp"))
    push: float = option("also put the property where each class has its mean, times this; 0 does not", 0.0)
    null: int = option("random changes as large as the erasure to compare with", 5)


@dataclass(frozen=True, kw_only=True)
class PatchConfig(EffectsConfig):
    """Values of one run put into another, one head, position or layer at a time."""

    clean: Path = option("prompts, JSONL with prompt, answer, wrong and perhaps corrupted", metavar="FILE")
    corrupted: Path | None = option(
        "the corrupted prompts, a line for each of --clean (default: their 'corrupted')", None, metavar="FILE"
    )
    by: str = option("what is patched", "head", choices=("head", "position", "layer"))
    site: str | None = option(
        "another site of a block (default: by head attn.hook_z, by position hook_resid_pre)", None
    )
    direction: str = option(
        "clean into corrupted, corrupted into clean", "both", choices=("both", "denoising", "noising")
    )
    metric: str = option("what is measured", "logit_difference")
    limit: int | None = option("use the first N prompts", None, metavar="N")


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TextsConfig):
    """The least important heads cut out of the weights, step by step."""

    steps: int | None = option("stop after so many steps (default: at one head a layer)", None, metavar="N")
    random: int = option("models with as many heads drawn at random to compare with; 0 skips them", 2)


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Give a parser one option for each field, in a group for each class that the configuration inherits from."""
    hints = typing.get_type_hints(config)
    items = {item.name: item for item in dataclasses.fields(config)}
    for owner in config.__mro__[:-1]:
        group = parser if owner is config else parser.add_argument_group((owner.__doc__ or "").rstrip("."))
        for name in inspect.get_annotations(owner):
            if name in items:  # not yet given by a class that overrides it
                _add_option(group, items.pop(name), *_kind(hints[name]))


def _add_option(group: argparse._ActionsContainer, item: dataclasses.Field[Any], kind: Any, several: bool) -> None:
    flag, text = "--" + item.name.replace("_", "-"), item.metadata["help"]
    if kind is bool:
        group.add_argument(flag, action="store_true", help=text)
        return
    more: dict[str, Any] = {k: v for k, v in item.metadata.items() if k in ("choices", "metavar")}
    required = item.default is MISSING
    if not required and item.default not in (None, ()):
        text += f" (default: {item.default})"
    action = "append" if several else "store"
    group.add_argument(flag, type=kind, required=required, action=action, help=text, **more)


def from_arguments(config: type, arguments: argparse.Namespace) -> Any:
    """The configuration that a parsed command line gives; options not given keep their defaults."""
    given = {}
    for item in dataclasses.fields(config):
        value = getattr(arguments, item.name)
        if value is not None:
            given[item.name] = tuple(value) if isinstance(value, list) else value
    return config(**given)


def as_command(name: str, config: Any) -> str:
    """The command line that gives this configuration again."""
    import shlex

    words = ["layerscope", name]
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        values: Sequence[Any] = value if isinstance(value, tuple) else (value,)
        for one in values:
            words += [flag] if one is True else [flag, str(one)]
    return shlex.join(words)


def _kind(hint: Any) -> tuple[Any, bool]:
    """(type of one value, whether several may be given)."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return typing.get_args(hint)[0], True
    if origin in (types.UnionType, typing.Union):
        return next(a for a in typing.get_args(hint) if a is not type(None)), False
    return hint, False
