"""One pass of a model over texts in which attention is reduced layer by layer, as it is computed,
and never kept.

A `Reducer` is shown one batch's pattern of one layer at a time and keeps sums. Memory is that of
one layer's pattern of one batch, whatever the number of texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerscope.errors import InputError

from ...hooks import Site, anatomy, observe, sites
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded

PATTERN, VISIBLE = "attn.hook_pattern", "attn.hook_attn_scores[0]"
"""Parts of a block; ``VISIBLE`` are the first head's scores,
whose -inf entries are what a query cannot see.
"""


@runtime_checkable
class Reducer(Protocol):
    """What makes sums of a batch's values as they appear."""

    @property
    def parts(self) -> Sequence[str]:
        """The parts of each block that it must be shown: site names without their block."""
        ...

    def begin(self, batch: Batch) -> None:
        """A batch's forward starts."""
        ...

    def see(self, layer: int, part: str, value: Tensor) -> None:
        """One value of one layer (the layer's place among those that have a pattern);
        it is gone afterwards.
        """
        ...

    def end(self) -> None:
        """The batch's forward is over."""
        ...


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of a batch whose texts have one length: what is theirs is a plain slice.

    Args:
        rows: in the batch.
        texts: which texts they are.
        keys: positions of the whole text; ``words`` of it without the special tokens around it,
            counted from its start.
    """

    rows: slice
    texts: list[int]
    keys: slice
    words: slice

    @property
    def queries(self) -> slice:
        """Positions in the batch of the tokens that are no special ones."""
        return slice(self.keys.start + self.words.start, self.keys.start + self.words.stop)


def runs(batch: Batch, encoded: Sequence[Encoded], most: int = 1 << 30) -> Iterator[Run]:
    """The batch in runs of at most ``most`` rows;
    texts without a token of their own are left out.
    """
    shapes = [
        _shape(encoded[row], shift) for row, shift in zip(batch.rows, batch.shifts, strict=True)
    ]
    start = 0
    # Neighbours of one shape are one block: sums over it need no mask of padding.
    for shape, group in itertools.groupby(shapes):
        stop = start + len(list(group))
        shift, length, lead, end = shape
        if end > lead:
            for at in range(start, stop, most):
                rows = slice(at, min(at + most, stop))
                yield Run(
                    rows, list(batch.rows[rows]), slice(shift, shift + length), slice(lead, end)
                )
        start = stop


def sink_of(value: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch query"]:
    """The weight that no token gets:
    that of the learned sink of a softmax that has one (see `layers_with_sink`).
    """
    return (1 - value.float().sum(-1)).clamp(min=0)


def with_sink(
    rows: Float[Tensor, "*batch key"], layer_has_sink: bool
) -> Float[Tensor, "*batch place"]:
    """Rows of weights and, behind those of a softmax with a learned sink,
    the weight that no token gets.
    """
    return torch.cat([rows, sink_of(rows)[..., None]], dim=-1) if layer_has_sink else rows


def layers_with_sink(model: nn.Module) -> list[bool]:
    """Of each layer with patterns, whether its softmax has a learned sink,
    a logit that is no token (gpt-oss).
    """
    places = anatomy(model).places
    modules = [
        model.get_submodule(places[f"blocks.{layer}.{PATTERN}"].path)
        for layer in layers_with_patterns(model)
    ]
    return [getattr(module, "sinks", None) is not None for module in modules]


def _shape(text: Encoded, shift: int) -> tuple[int, int, int, int]:
    """Where the text begins, its length, and where its own tokens begin and end."""
    words = [place for place, special in enumerate(text.special) if not special]
    return shift, len(text), words[0] if words else 0, words[-1] + 1 if words else 0


def layers_with_patterns(model: nn.Module) -> list[int]:
    """The blocks whose attention can be seen, in order."""
    return [
        layer
        for name in sites(model, f"blocks.*.{PATTERN}")
        if (layer := Site(name).layer) is not None
    ]


def pass_over(
    subject: Subject,
    encoded: Sequence[Encoded],
    reducers: Sequence[Reducer],
    *,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] = lambda texts: None,
) -> None:
    """Run the model's body over the texts once and show every reducer what it asked for.

    Args:
        advance: called with the number of texts done, for a progress bar.

    Raises:
        InputError: attention that is NaN.
        UnknownSite: a model without a part that a reducer needs.
        SiteNeverFired: a layer whose attention is neither sdpa nor a softmax.
    """
    # Hybrids have layers without attention: reducers count those that have some.
    place = {layer: i for i, layer in enumerate(layers_with_patterns(subject.model))}
    wanted = list(dict.fromkeys(part for reducer in reducers for part in reducer.parts))

    def see(site: Site, value: Tensor, batch: Batch) -> None:
        if site.layer in place:
            part = str(site).partition(".attn.")[2]
            # One NaN would become a NaN in every mean, where nobody could tell whence it came.
            if f"attn.{part}" == PATTERN:
                _require_numbers(subject, batch, encoded, site, value)
            for reducer in reducers:
                if f"attn.{part}" in reducer.parts:
                    reducer.see(place[site.layer], f"attn.{part}", value)

    for batch in subject.batches(encoded, batch_tokens):
        for reducer in reducers:
            reducer.begin(batch)
        with (
            torch.inference_mode(),
            observe(
                subject.model,
                *(f"blocks.*.{part}" for part in wanted),
                see=partial(see, batch=batch),
            ),
        ):
            subject.forward(batch)
        for reducer in reducers:
            reducer.end()
        advance(len(batch))


def _require_numbers(
    subject: Subject, batch: Batch, encoded: Sequence[Encoded], site: Site, value: Tensor
) -> None:
    """Raise `InputError` for a pattern that is NaN at a token of a text;
    padding may be anything.
    """
    # One number to wait for; the search for the place comes only where it is needed.
    if not bool(value.sum().isnan()):
        return
    broken = value.isnan().any(-1).any(1) & batch.attention_mask.to(value.device).bool()
    rows = broken.any(1).nonzero()[:, 0].tolist()
    if rows:
        row = rows[0]
        text = encoded[batch.rows[row]]
        first = int(broken[row].nonzero()[0, 0]) - batch.shifts[row]
        raise InputError(
            f"{site} of {subject.name} is NaN in the text {text.text[:40]!r}, "
            f"from its token {subject.token(text.ids[first])!r} on: "
            "an embedding or a weight of the model is not a finite number"
        )
