"""Ways in which a model is run, and what it says of two texts under each; each text alone is the
oracle of them all.

A `Way` takes a model, a function from rows of ids to the edits of these rows, and the texts. It
gives for each text its tokens, how many of them were the prompt, and the logits of its last tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..intervene import intervene
from ..sites import SiteLike

Edits: TypeAlias = "dict[SiteLike, Any]"
Make: TypeAlias = "Callable[[Tensor], Edits]"
Answer: TypeAlias = "Iterator[tuple[Tensor, int, Tensor]]"
Way: TypeAlias = "Callable[[nn.Module, Make, Texts], Answer]"
Call: TypeAlias = "Callable[[Callable[..., Any], Mapping[str, Any]], Any]"
ROOM = 16
"""Columns of a static cache."""


@dataclass(frozen=True)
class Texts:
    """Two prompts of different lengths and the tokens that follow both.

    Args:
        prompts: the ids of each; the first is the longest.
        next_tokens: tokens that are read one at a time behind the prompts.
        pad: the id that shorter prompts are padded with.
        first: the first token's position id; None where the model is given none.
    """

    prompts: tuple[Tensor, ...]
    next_tokens: Int[Tensor, " new"]
    pad: int = 0
    first: int | None = 0

    def alone(self) -> Texts:
        """The first prompt by itself."""
        return Texts(self.prompts[:1], self.next_tokens, self.pad, self.first)

    def batch(
        self, side: Literal["left", "right"]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """All prompts in one batch: ids, mask, position ids."""
        size = len(self.prompts[0])
        ids = self.next_tokens.new_full((len(self.prompts), size), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(self.prompts):
            columns = slice(size - len(prompt), size) if side == "left" else slice(len(prompt))
            ids[row, columns] = prompt
            mask[row, columns] = 1
        return ids, mask, self.positions(mask)

    def positions(self, mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The position id of every column."""
        return (mask.cumsum(1) - 1).clamp(min=0) + (self.first or 0)


def edited(model: nn.Module, edits: Edits) -> AbstractContextManager[object]:
    """The model with these edits, or as it is where there are none."""
    return intervene(model, edits) if edits else nullcontext()


def alone(
    model: nn.Module, edits: Edits, text: Int[Tensor, " pos"]
) -> Float[Tensor, "columns vocab"]:
    """The oracle: logits of a text by itself,
    in one forward without a cache (an adapter may put columns in front).
    """
    rows = text[None]
    with torch.no_grad(), edited(model, edits):
        out: Any = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False)
    return _logits(model, out)[0]


# ---------------------------------------------------------------- how a module is called


def by_name(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """With keywords."""
    return function(**given)


def by_position(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """By position as far as the texts go, defaults in between; switches by name."""
    forward = getattr(function, "forward", function)
    takes = inspect.signature(forward).parameters.values()
    named = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    last = max(at for at, p in enumerate(named) if p.name in given and p.name != "use_cache")
    positional = named[: last + 1]
    args = [given.get(p.name, p.default) for p in positional]
    names = {p.name for p in positional}
    kwargs = {name: value for name, value in given.items() if name not in names}
    return function(*args, **kwargs)


# ---------------------------------------------------------------- ways


def rows_of(ids: Tensor, mask: Tensor, logits: Tensor) -> Answer:
    """Each text of a padded batch that was read in one forward."""
    for row, real, row_logits in zip(ids, mask.bool(), logits, strict=True):
        yield row[real], int(real.sum()), row_logits[real]


def padded(side: Literal["left", "right"]) -> Way:
    """All prompts in one forward."""

    def run(model: nn.Module, make: Make, texts: Texts) -> Answer:
        ids, mask, at = texts.batch(side)
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "position_ids": at}
        if texts.first is None:
            del given["position_ids"]
        with edited(model, make(ids)):
            yield from rows_of(ids, mask, _logits(model, model(**given)))

    return run


def steps(
    call: Call = by_name,
    part: Callable[[Any], Callable[..., Any]] = lambda model: model,
    cache: Literal["own", "dynamic", "static"] = "own",
    size: int = 1,
    after: Callable[[Tensor], None] = lambda seen: None,
) -> Way:
    """The left-padded batch, then the same new tokens for all rows behind a cache.

    Args:
        call: how the part is called.
        part: what of the model is called: itself, its forward, its body.
        cache: what it keeps: a cache that the model makes, or one that is given to it.
        size: new tokens in one call.
        after: told the mask of all columns so far after each call.
    """

    def run(model: nn.Module, make: Make, texts: Texts) -> Answer:
        ids, mask, _ = texts.batch("left")
        kept = _cache(model, cache)
        step_logits = []
        with edited(model, make(ids)):
            text, seen = ids, mask
            for new in (ids, *texts.next_tokens.expand(len(ids), -1).split(size, dim=1)):
                if new is not ids:
                    text = torch.cat([text, new], dim=1)
                    seen = torch.cat([seen, torch.ones_like(new)], dim=1)
                given = {"input_ids": new, "attention_mask": seen, "past_key_values": kept}
                if texts.first is not None:
                    given["position_ids"] = texts.positions(seen)[:, -new.shape[1] :]
                out = call(part(model), {**given, "use_cache": True})
                kept = out.past_key_values
                step_logits.append(_logits(model, out))
                after(seen)
        logits = torch.cat(step_logits, dim=1)
        for row, real, row_logits, prompt in zip(
            text, seen.bool(), logits, texts.prompts, strict=True
        ):
            yield row[real], len(prompt), row_logits[real]

    return run


def _cache(model: Any, kind: str) -> Any:
    if kind == "own":
        return None
    import transformers  # only where a cache of its kind is asked for

    if kind == "static":
        return transformers.StaticCache(config=model.config, max_cache_len=ROOM)
    return transformers.DynamicCache(config=model.config)


def _logits(model: Any, out: Any) -> Tensor:
    """The logits of a call of the model or of its body;
    a body by itself answers with its last hidden states.
    """
    if hasattr(out, "logits"):
        return out.logits
    head = getattr(model, "lm_head", None)
    return out.last_hidden_state if head is None else head(out.last_hidden_state)


def _generate(model: Any, make: Make, texts: Texts, options: Mapping[str, Any]) -> Any:
    ids, mask, _ = texts.batch("left")
    # Samples are drawn from the global generator, which is the user's.
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), edited(model, make(ids)):
        torch.manual_seed(0)
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=len(texts.next_tokens),
            eos_token_id=None,
            pad_token_id=texts.pad,
            return_dict_in_generate=True,
            **{"do_sample": False, **options},
        )


def generated(**options: Any) -> Way:
    """`generate`, with the logits that it gave at each step."""

    def run(model: nn.Module, make: Make, texts: Texts) -> Answer:
        out = _generate(model, make, texts, {**options, "output_logits": True})
        _, mask, _ = texts.batch("left")
        size = mask.shape[1]
        # several samples of a text stand side by side
        mask = mask.repeat_interleave(len(out.sequences) // len(mask), 0).bool()
        for row, real, row_logits in zip(
            out.sequences, mask, torch.stack(out.logits, dim=1), strict=True
        ):
            yield torch.cat([row[:size][real], row[size:-1]]), int(real.sum()), row_logits

    return run


def beams(width: int = 3) -> Way:
    """Beam search of the first prompt: the likelihood of each beam,
    which its own logits must give.
    """

    def run(model: nn.Module, make: Make, texts: Texts) -> Answer:
        options = {"num_beams": width, "num_return_sequences": width, "length_penalty": 0.0}
        out = _generate(model, make, texts.alone(), {**options, "output_scores": True})
        for text, likelihood in zip(out.sequences, out.sequences_scores, strict=True):
            yield text, len(texts.prompts[0]), likelihood

    return run


def wanted(answer: tuple[Tensor, int, Tensor], oracle: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What a way should have given for a text: the oracle's logits of its last tokens,
    or a beam's likelihood.
    """
    text, prompt, measured = answer
    if measured.ndim:
        return oracle(text, prompt)[-len(measured) :]
    each = oracle(text[:-1], prompt).log_softmax(-1)[prompt - 1 :]
    return each.gather(1, text[prompt:, None]).sum()
