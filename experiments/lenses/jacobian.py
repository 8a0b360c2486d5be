r"""The Jacobian lens: the mean derivative of the last block's output, and how well so many texts
determine it.

    J_l = E_text [ 1/|V| sum_{t in V} sum_{t' in V, t' >= t} dh_L,t' / dh_l,t ]
        (Gurnee et al. 2026)

One backward pass gives one row of every layer's J, so a text costs d_model passes. In a causal
model the positions in front of V are constants and the last one reaches no other: neither is
differentiated.

The texts are dealt to two halves. The cosine c of the halves' estimates is the reliability of half
the texts; that of all is 2c / (1 + c), and .95 takes .95 (1 - c) / (.05 c) times half of them
(Spearman-Brown).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Resume
from ..subject import Subject
from ..subject.word_spans import Encoded
from .lens import Advance, Lens
from .streams import LensError, all_streams

FIRST_POSITION = 16
"""Positions of each text that are left out, as published."""
ROWS = 256
"""Positions, over all copies of a text, of one backward pass."""
FEWEST_COPIES = 8
"""Output dimensions of one backward pass at least."""
FEWEST_TEXTS = 8
"""Texts before the fit may stop early."""
TARGET = 0.95
"""Reliability whose number of texts is estimated."""
OVERLAP = 10
"""Likeliest tokens that the readings of two halves are compared by."""


@dataclass(frozen=True)
class Reliability:
    """How well a Jacobian is known at a layer.

    Args:
        cosine: between the estimates from two halves of the texts.
        texts_needed: texts that would give the whole a reliability of .95; None where the halves
            disagree.
        overlap: share of the ten likeliest tokens that the halves' readings have in common, on
            other texts; None unmeasured.
        curve: (texts, reliability of the whole) as the fit went on.
    """

    cosine: float
    texts_needed: int | None
    overlap: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)


def reliabilities_of(lens: Lens) -> list[Reliability]:
    """What a fitted Jacobian lens, or its file, says of each layer; empty for others."""
    rows: list[dict[str, Any]] = lens.about.get("reliability", [])
    return [Reliability(**row) for row in rows]


def jacobian(
    subject: Subject,
    texts: Sequence[Encoded],
    *,
    first: int = FIRST_POSITION,
    lowest: int = 0,
    stop_at: float | None = None,
    others: Sequence[Encoded] = (),
    advance: Advance = lambda n: None,
) -> Lens:
    """The mean Jacobian over texts, each of which counts the same; ``about`` has its reliability by
    layer.

    Args:
        first: positions left out at the beginning of each text.
        lowest: the lowest layer that gets a matrix; 1 leaves out the embedding's, as published
            lenses do, which saves one block of the backward passes.
        stop_at: stop when the least reliable layer's whole (Spearman-Brown) reaches this, after 8
            texts or more.
        others: texts on which the readings of the two halves are compared.

    Raises:
        LensError: no text is long enough.
    """
    long = [text for text in texts if len(text) > first + 1]
    if not long:
        longest = max((len(text) for text in texts), default=0)
        raise LensError(
            f"the Jacobian lens leaves out the first {first} tokens and the last of each "
            f"text: expected a text of at least {first + 2} tokens, "
            f"got {len(texts)} texts of at most {longest}"
        )
    halves: list[Tensor] = []
    counts = [0, 0]
    curve: list[list[float]] = []
    for number, text in enumerate(long):
        rows = text_jacobian(subject, text, first, lowest)
        half = number % 2
        if counts[half]:
            halves[half] += rows
        else:
            halves.append(rows)
        counts[half] += 1
        advance(1)
        if half == 1:
            curve.append([_of_the_whole(cosine) for cosine in _cosines(halves)])
            is_enough = stop_at is not None and min(curve[-1][lowest:]) >= stop_at
            if is_enough and number + 1 >= FEWEST_TEXTS:
                break
    n = sum(counts)
    whole = torch.stack(halves).sum(0) / n
    reliability = _reliabilities(subject, halves, counts, curve, others) if min(counts) else []
    about = {
        "texts": n,
        "left_out_texts": len(texts) - len(long),
        "first_position": first,
        "reliability": [vars(row) for row in reliability],
    }
    return Lens("jacobian", whole, None, about, frozenset(range(lowest)))


def text_jacobian(
    subject: Subject, text: Encoded, first: int = FIRST_POSITION, lowest: int = 0
) -> Float[Tensor, "layer d_model d_model"]:
    """One text's Jacobian at every layer: backward passes of several output dimensions,
    for all layers at once; zeros below the lowest layer.
    """
    (batch,) = subject.batches([text])
    last = len(text) - 1
    inputs = {
        name: _without_last(value, last) for name, value in batch.inputs(subject.device).items()
    }
    subject.require_gradients()
    with torch.no_grad():
        # One position's logits tell whether norm and head are known: J itself needs none.
        clean = Resume(subject.model, inputs, positions=torch.tensor([last - 1]))
        if not clean.exact:
            raise LensError(f"{subject.name}: its final norm and head alone do not give its logits")
        start = first if clean.causal else 0
    n_layers, width, kept = subject.n_layers, subject.d_model, last - first
    copies = min(width, max(FEWEST_COPIES, ROWS // (last - start)))
    rows = torch.zeros(n_layers, width, width, device=subject.device)
    with frozen(subject.model), torch.enable_grad():
        # The graph begins at the lowest layer: nothing below it is differentiated.
        stream = clean.residual(lowest)[:, start:].detach()
        sources = [stream.repeat(copies, 1, 1).requires_grad_(True)]
        for layer in range(lowest, n_layers):
            sources.append(clean.block(layer, sources[-1], start))  # at every position
        end = sources.pop()
        for begin in range(0, width, copies):
            dimensions = range(begin, min(begin + copies, width))
            cotangent = torch.zeros_like(end)
            for copy, dimension in enumerate(dimensions):
                cotangent[copy, -kept:, dimension] = 1.0
            is_last = dimensions.stop == width
            gradients = torch.autograd.grad(end, sources, cotangent, retain_graph=not is_last)
            for layer, gradient in enumerate(gradients, start=lowest):
                of_rows = gradient[: len(dimensions), -kept:].float()
                rows[layer, begin : dimensions.stop] = of_rows.mean(1)
    return rows


def _without_last(value: Any, last: int) -> Any:
    """What is given by position, without the last one."""
    is_by_position = isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == last + 1
    return value[:, :last] if is_by_position else value


def _cosines(halves: Sequence[Tensor]) -> list[float]:
    """Similarity of the two estimates, layer by layer."""
    a, b = (half.flatten(1) for half in halves)
    return torch.nn.functional.cosine_similarity(a, b).tolist()


def _of_the_whole(cosine: float) -> float:
    """Spearman-Brown: the reliability of twice as many texts."""
    return 2 * cosine / (1 + cosine) if cosine > 0 else 0.0


def _reliabilities(
    subject: Subject,
    halves: Sequence[Tensor],
    counts: Sequence[int],
    curve: Sequence[Sequence[float]],
    others: Sequence[Encoded],
) -> list[Reliability]:
    """Every layer's."""
    lenses = [Lens("jacobian", total / count) for total, count in zip(halves, counts, strict=True)]
    overlaps = _overlaps(subject, lenses, others) if others else [None] * len(halves[0])
    out = []
    for layer, cosine in enumerate(_cosines(halves)):
        needed = None
        if cosine > 0:
            times = TARGET * (1 - cosine) / (cosine * (1 - TARGET))
            needed = max(1, round(times * sum(counts) / 2))
        points = [(2 * (at + 1), row[layer]) for at, row in enumerate(curve)]
        out.append(Reliability(cosine, needed, overlaps[layer], points))
    return out


def _overlaps(
    subject: Subject, lenses: Sequence[Lens], texts: Sequence[Encoded]
) -> list[float | None]:
    """Share of the likeliest tokens that two lenses have in common at each layer,
    mean over positions.
    """
    totals = torch.zeros(subject.n_layers)
    count = 0
    first = 1 if subject.has_sink_position else 0
    with torch.no_grad():
        for text in texts:
            for streams in all_streams(subject, [text], len(text)):
                for layer in range(subject.n_layers):
                    best = []
                    for lens in lenses:
                        logits = streams.logits(lens(layer, streams.stream(layer)))[0, first:]
                        best.append(logits.topk(min(OVERLAP, logits.shape[-1]), -1).indices)
                    is_in_both = (best[0][:, :, None] == best[1][:, None, :]).any(-1)
                    totals[layer] += float(is_in_both.float().mean(-1).sum())
                count += len(text) - first
    return (totals / count).tolist() if count else [None] * subject.n_layers


class frozen:  # noqa: N801
    """Inside, no parameter asks for a gradient; outside each does as before."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)
