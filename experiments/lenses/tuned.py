"""The tuned lens: gradient descent on the divergence from the model's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..subject import Subject
from ..subject.word_spans import Encoded
from .lens import Advance, Lens
from .streams import LensError, Streams, all_streams

DRAWN_POSITIONS = 64
"""Positions of a step."""


def tuned(
    subject: Subject,
    start: Lens,
    texts: Sequence[Encoded],
    validation: Sequence[Encoded],
    batch_tokens: int,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    seed: int = 0,
    advance: Advance = lambda n: None,
) -> Lens:
    """Gradient descent on the divergence from the model's own prediction, from the least squares.

    The parameters that are best on the validation texts are kept, for each layer: none is worse
    there than the start.
    """
    assert start.weight is not None
    assert start.bias is not None
    weight, bias = (value.clone().requires_grad_(True) for value in (start.weight, start.bias))
    best_weight, best_bias = start.weight.clone(), start.bias.clone()
    best = _divergences(subject, Lens("tuned", start.weight, start.bias), validation, batch_tokens)
    begun = best.clone()
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while step < steps:
        for streams in all_streams(subject, texts, batch_tokens):
            places = _drawn(streams.mask, subject.has_sink_position, generator)
            loss = _loss(streams, Lens("tuned", weight, bias), places).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            advance(1)
            if step % max(1, steps // 4) == 0 or step == steps:
                now = Lens("tuned", weight.detach(), bias.detach())
                reached = _divergences(subject, now, validation, batch_tokens)
                better = reached < best
                best = torch.where(better, reached, best)
                best_weight[better], best_bias[better] = (
                    weight.detach()[better],
                    bias.detach()[better],
                )
            if step >= steps:
                break
    about = {"steps": steps, "layers_improved": int((best < begun).sum())}
    return Lens("tuned", best_weight, best_bias, about)


def _drawn(mask: Tensor, has_sink: bool, generator: torch.Generator) -> Tensor:
    """Some positions of a batch, as a mask."""
    used = mask.clone()
    used[:, : 1 if has_sink else 0] = False
    places = used.flatten().nonzero()[:, 0]
    kept = places[
        torch.randperm(len(places), generator=generator)[:DRAWN_POSITIONS].to(places.device)
    ]
    drawn = torch.zeros_like(used.flatten())
    drawn[kept] = True
    return drawn.view_as(used)


def _loss(streams: Streams, lens: Lens, places: Tensor) -> Float[Tensor, " layer"]:
    """Mean KL(p_L || lens) in nats at some places, layer by layer."""
    with torch.no_grad():
        target = streams.clean.logits[places].float().log_softmax(-1)
    losses = []
    for layer in range(streams.n_layers):
        read = lens(layer, streams.stream(layer)[places])
        guess = streams.logits(read).float().log_softmax(-1)
        losses.append((target.exp() * (target - guess)).sum(-1).mean())
    return torch.stack(losses)


def _divergences(
    subject: Subject, lens: Lens, texts: Sequence[Encoded], batch_tokens: int
) -> Float[Tensor, " layer"]:
    """Mean divergence of each layer over some texts."""
    total, count = None, 0
    with torch.no_grad():
        for streams in all_streams(subject, texts, batch_tokens):
            used = streams.mask.clone()
            used[:, : 1 if subject.has_sink_position else 0] = False
            losses = _loss(streams, lens, used) * int(used.sum())
            total = losses if total is None else total + losses
            count += int(used.sum())
    if total is None:
        raise LensError("expected texts to choose the tuned lens by, got none")
    return total / count
