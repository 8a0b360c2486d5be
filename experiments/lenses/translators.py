r"""From a layer's residual stream to the one behind the last block.

    logit           h                                              (nostalgebraist 2020)
    least-squares   A h + b = argmin sum ||h_L - A h - b||^2        (Din et al. 2023)
    tuned           A h + b = argmin E KL(p_L || U N(A h + b))      (Belrose et al. 2023), from the least squares
    jacobian        J h,  J = E_text [ 1/|V| sum_{t in V} sum_{t' in V, t' >= t} dh_L,t' / dh_t ]   (Gurnee et al. 2026)

N is the model's final norm, U its head. V are the positions of a text without the first ones (16, as published) and the
last. A position that only holds a BOS is left out of the fits: its values are hundreds of times larger than all others'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..subject import Subject
from ..subject.word_spans import Encoded
from .streams import LensError, Streams, all_streams

KINDS = ("logit", "least-squares", "tuned", "jacobian")
RIDGE = 1e-6
"""Share of the mean variance that is added to each variance: fewer tokens than dimensions then have a solution."""
FIRST_POSITION = 16
"""Positions of each text that a Jacobian leaves out, as published."""
COPIES = 16
"""Output dimensions of one backward pass of a Jacobian."""
DRAWN_POSITIONS = 64
"""Positions of a step of the tuned lens."""

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Lens:
    """One kind, at every layer.

    Args:
        weight: None for the identity.
        bias: None for none.
        about: what it was fitted on and how.
    """

    kind: str
    weight: Float[Tensor, "layer d_model d_model"] | None = None
    bias: Float[Tensor, "layer d_model"] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, layer: int, stream: Float[Tensor, "*places d_model"]
    ) -> Float[Tensor, "*places d_model"]:
        """The stream of a layer as it would be behind the last block; the last layer's is left as it is."""
        if self.weight is None or layer >= len(self.weight):
            return stream
        moved = stream.float() @ self.weight[layer].T
        return (moved if self.bias is None else moved + self.bias[layer]).to(stream.dtype)

    def shuffled(self) -> Lens:
        """Every layer with the translator of a layer half a model away: what the layers have in common."""
        if self.weight is None:
            return self
        half = len(self.weight) // 2
        bias = None if self.bias is None else self.bias.roll(half, 0)
        return Lens(self.kind, self.weight.roll(half, 0), bias, self.about)

    def save(self, path: Path) -> None:
        """Write it as safetensors, with what it was fitted on in the header."""
        tensors = {
            name: value
            for name, value in (("weight", self.weight), ("bias", self.bias))
            if value is not None
        }
        partial = path.with_name(f".{path.name}.partial")
        header = {"layerscope_lens": json.dumps({"kind": self.kind, **self.about})}
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, header)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, subject: Subject) -> Lens:
        """A lens from a file of `save`.

        Raises:
            LensError: no lens, or one of another model or width.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = (file.metadata() or {}).get("layerscope_lens")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(header or "")
        except Exception as error:
            raise LensError(
                f"{path}: expected a lens that layerscope lens wrote ({error})"
            ) from None
        if about.get("model_sha256") != subject.sha256:
            raise LensError(
                f"{path}: expected a lens of {subject.name}, it is of {about.get('model')}"
            )
        device = subject.device
        parts = {name: value.to(device) for name, value in tensors.items()}
        return cls(str(about.pop("kind")), parts.get("weight"), parts.get("bias"), about)


@dataclass
class _Sums:
    """Sums of a layer's streams and the last layer's, in float64, about the first batch's mean."""

    n: int = 0
    x: Tensor | None = None
    y: Tensor | None = None
    xx: Tensor | None = None
    xy: Tensor | None = None

    def add(self, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]) -> None:
        """More rows; products are taken in float32."""
        sums = x.double().sum(0), y.double().sum(0), (x.T @ x).double(), (x.T @ y).double()
        if self.x is None:
            self.x, self.y, self.xx, self.xy = sums
        else:
            for total, more in zip((self.x, self.y, self.xx, self.xy), sums, strict=True):
                total += more  # pyright: ignore[reportOperatorIssue]
        self.n += len(x)

    def solution(self) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
        """A and b of the least squares."""
        assert self.x is not None
        assert self.y is not None
        assert self.xx is not None
        assert self.xy is not None
        mean_x, mean_y = self.x / self.n, self.y / self.n
        variance = self.xx / self.n - torch.outer(mean_x, mean_x)
        covariance = self.xy / self.n - torch.outer(mean_x, mean_y)
        ridge = (
            RIDGE
            * variance.diagonal().mean()
            * torch.eye(len(mean_x), dtype=variance.dtype, device=variance.device)
        )
        weight = torch.linalg.solve(variance + ridge, covariance).T
        return weight, mean_y - weight @ mean_x


def least_squares(
    subject: Subject, texts: Sequence[Encoded], batch_tokens: int, advance: Advance = lambda n: None
) -> Lens:
    """The closed form, from sums over all texts."""
    first = 1 if subject.has_sink_position else 0
    sums: list[_Sums] = []
    shift: list[Tensor] = []
    for streams in all_streams(subject, texts, batch_tokens):
        used = streams.mask.clone()
        used[:, :first] = False
        rows = [streams.stream(layer)[used].float() for layer in range(streams.n_layers + 1)]
        if not sums:
            sums = [_Sums() for _ in rows[:-1]]
            # subtracted from every row: sums of squares stay small
            shift = [row.mean(0) for row in rows]
        centred = [row - mean for row, mean in zip(rows, shift, strict=True)]
        for total, row in zip(sums, centred[:-1], strict=True):
            total.add(row, centred[-1])
        advance(len(streams.batch.rows))
    if not sums:
        raise LensError("expected texts of two tokens or more to fit a lens on, got none")
    weights, biases = [], []
    for total, mean in zip(sums, shift, strict=False):
        weight, bias = total.solution()
        weights.append(weight.float())
        biases.append((bias + shift[-1].double() - weight @ mean.double()).float())
    return Lens("least-squares", torch.stack(weights), torch.stack(biases), {"tokens": sums[0].n})


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

    The parameters that are best on the validation texts are kept, for each layer: none is worse there than the start.
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
        guess = streams.logits(_spread(read, places)).float()[places].log_softmax(-1)
        losses.append((target.exp() * (target - guess)).sum(-1).mean())
    return torch.stack(losses)


def _spread(rows: Tensor, places: Tensor) -> Tensor:
    """Rows at their places of a batch, zeros elsewhere: the model's end takes whole batches."""
    out = rows.new_zeros((*places.shape, rows.shape[-1]))
    return out.masked_scatter(places[..., None].expand_as(out), rows)


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


@dataclass(frozen=True)
class Reliability:
    """How well a Jacobian is known at a layer.

    Args:
        cosine: between the estimates from two halves of the texts.
        texts_needed: how many texts would give the whole a reliability of .95 (Spearman-Brown); None where the halves disagree.
    """

    cosine: float
    texts_needed: int | None


def jacobian(
    subject: Subject,
    texts: Sequence[Encoded],
    *,
    first: int = FIRST_POSITION,
    stop_at: float | None = None,
    advance: Advance = lambda n: None,
) -> tuple[Lens, list[Reliability]]:
    """The mean Jacobian over texts, each of which counts the same, with its reliability by layer.

    Args:
        first: positions left out at the beginning of each text.
        stop_at: stop when the least reliable layer's whole (Spearman-Brown) reaches this, after 8 texts or more.

    Raises:
        LensError: no text is long enough.
    """
    long = [text for text in texts if len(text) > first + 1]
    if not long:
        raise LensError(
            f"the Jacobian lens leaves out the first {first} tokens and the last of each text: expected a text of at least "
            f"{first + 2} tokens, got {len(texts)} texts of at most {max((len(t) for t in texts), default=0)}"
        )
    halves: list[Tensor | None] = [None, None]
    counts = [0, 0]
    for number, text in enumerate(long):
        here = _text_jacobian(subject, text, first)
        half = number % 2
        before = halves[half]
        halves[half] = here if before is None else before + here
        counts[half] += 1
        advance(1)
        if stop_at is not None and number >= 7 and number % 2:
            cosine = min(_cosines(halves))
            if 2 * cosine / (1 + cosine) >= stop_at:
                break
    n = sum(counts)
    whole = sum(half for half in halves if half is not None) / n
    found = [_reliability(cosine, n) for cosine in _cosines(halves)] if min(counts) else []
    about = {"texts": n, "left_out_texts": len(texts) - len(long), "first_position": first}
    return Lens("jacobian", whole, None, about), found  # pyright: ignore[reportArgumentType]


def _cosines(halves: Sequence[Tensor | None]) -> list[float]:
    a, b = (half for half in halves if half is not None)
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).tolist()


def _reliability(cosine: float, n: int) -> Reliability:
    if cosine <= 0:
        return Reliability(cosine, None)
    needed = 0.95 * (1 - cosine) / (cosine * (1 - 0.95)) * n / 2
    return Reliability(cosine, max(1, round(needed)))


def _text_jacobian(
    subject: Subject, text: Encoded, first: int
) -> Float[Tensor, "layer d_model d_model"]:
    """One text's Jacobian at every layer: a backward pass for each `COPIES` output dimensions, for all layers at once."""
    (batch,) = subject.batches([text])
    streams = Streams.of(subject, batch)
    n_layers, width = subject.n_layers, subject.d_model
    used = list(range(first, len(text) - 1))
    rows = torch.zeros(n_layers, width, width, device=subject.device)
    with frozen(subject.model), torch.enable_grad():
        sources = [streams.stream(0).detach().repeat(COPIES, 1, 1).requires_grad_(True)]
        for layer in range(n_layers):
            sources.append(streams.clean.run(layer, sources[-1], until=layer + 1))
        last = sources.pop()
        for start in range(0, width, COPIES):
            stop = min(start + COPIES, width)
            cotangent = torch.zeros_like(last)
            for copy, dimension in enumerate(range(start, stop)):
                cotangent[copy, used, dimension] = 1.0
            gradients = torch.autograd.grad(last, sources, cotangent, retain_graph=stop < width)
            for layer, gradient in enumerate(gradients):
                rows[layer, start:stop] = gradient[: stop - start, used].float().mean(1)
    return rows


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
