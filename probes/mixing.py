"""Scalar mixes: one probe that reads all layers at once and learns how much of each it wants (Tenney et al. 2019).

    h = sum_l a_l z_l,   a = softmax(s),   p(y) = softmax(V h + b),   z_l the standardised features of layer l

The published gamma is left out: V takes it up. *Cumulative* probes see layers 0..k only; what each adds tells where a property
is resolved:

    D_l = S(0..l) - S(0..l-1)        expected layer = sum_{l>=1} l D_l / sum_{l>=1} D_l

The gains are not clipped. Their sum, S(0..L) - S(0), is what there is to explain; where it cannot be told from 0 the quotient
says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

from .design import check_finite
from .labels import Labels, encode_classes, encode_with, of_dev


@dataclass(frozen=True)
class MixFit:
    """A fitted scalar mix of layers 0..k.

    Attributes:
        mix: a, [k + 1], sums to 1.
        weight, bias: V [c d] and b [c], of the standardised features.
        mean, scale: of the training rows, [k + 1, d].
        epochs, converged: passes, and whether the held-out loss had stopped falling.
    """

    classes: np.ndarray
    mix: Float[Tensor, " layers"]
    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    mean: Float[Tensor, "layers d"]
    scale: Float[Tensor, "layers d"]
    epochs: int
    converged: bool

    def predict(self, layers: Sequence[Float[Tensor, "n d"]]) -> np.ndarray:
        """The most probable class of every row; layers above the k-th are not read."""
        hidden = torch.zeros_like(layers[0], dtype=torch.float32)
        for a, values, mean, scale in zip(self.mix, layers, self.mean, self.scale, strict=False):
            hidden += a * (values.float() - mean) / scale
        return self.classes[(hidden @ self.weight.T + self.bias).argmax(1).numpy()]

    @property
    def centre_of_gravity(self) -> float:
        """sum_l l a_l, layer 0 included."""
        return float((torch.arange(len(self.mix)) * self.mix).sum())

    @property
    def peakedness(self) -> float:
        """KL(a || uniform) in bits: 0 where all layers count alike, log2 of their number where one does."""
        positive = self.mix[self.mix > 0].double()
        return float((positive * positive.log2()).sum() + np.log2(len(self.mix)))


def mix_many(
    layers: Sequence[Float[Tensor, "n d"]],
    targets: Mapping[str, Labels],
    dev: tuple[Sequence[Float[Tensor, "m d"]], Mapping[str, Labels]],
    *,
    cumulative: bool = True,
    epochs: int = 40,
    batch: int = 256,
    rate: float = 1e-2,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[tuple[str, int], MixFit]:
    """A mix for each target, and with ``cumulative`` for each number of layers, trained at once on the same batches.

    Args:
        layers: features of the same rows at every layer, the lowest first.
        targets: labels of all rows by name.
        dev: held-out features and labels that decide the end.

    Returns:
        (target, highest layer that it sees) -> its mix.

    Raises:
        ValueError: layers of other shapes or not finite, a target with one class, or one that dev does not have.
    """
    shapes = {tuple(values.shape) for values in layers}
    if len(shapes) != 1:
        raise InputError(f"expected layers of one shape, got {sorted(shapes)}")
    for place, (own, other) in enumerate(zip(layers, dev[0], strict=True)):
        check_finite(own, f"layer {place}")
        check_finite(other, f"dev, layer {place},")
    coded = {name: encode_classes(name, labels) for name, labels in targets.items()}
    mean = torch.stack([values.float().mean(0) for values in layers])
    scale = torch.stack([values.float().std(0, correction=0) for values in layers]).clamp_min(1e-6)
    Z, held = (
        torch.stack([(v.float() - m) / s for v, m, s in zip(given, mean, scale, strict=True)], 1)
        for given in (layers, dev[0])
    )  # n layers d
    tops = range(len(layers)) if cumulative else (len(layers) - 1,)
    models = [(place, name, top) for place, name in enumerate(coded) for top in tops]
    which = torch.tensor([place for place, _, _ in models])
    y = torch.stack([torch.from_numpy(index) for _, index in coded.values()])[which]
    held_y = torch.stack([torch.from_numpy(encode_with(of_dev(n, dev[1]), c)) for n, (c, _) in coded.items()])[which]
    sizes = torch.tensor([len(coded[name][0]) for _, name, _ in models])
    absent = torch.arange(int(sizes.max()))[None] >= sizes[:, None]
    hidden = torch.arange(len(layers))[None] > torch.tensor([top for _, _, top in models])[:, None]

    def losses(w: Sequence[Tensor], rows: Float[Tensor, "b l d"], gold: Int[Tensor, "m b"]) -> Float[Tensor, " m"]:
        mix = torch.softmax(w[0].masked_fill(hidden, -torch.inf), 1)
        mixed = torch.einsum("ml,bld->mbd", mix, rows)
        logits = (mixed @ w[1].transpose(1, 2) + w[2][:, None]).masked_fill(absent[:, None], -torch.inf)
        known = gold >= 0
        said = torch.log_softmax(logits, 2).gather(2, gold.clamp_min(0)[..., None])[..., 0]
        return -(said * known).sum(1) / known.sum(1).clamp_min(1)

    def held_loss(w: Sequence[Tensor]) -> Float[Tensor, " m"]:
        parts = torch.arange(len(held)).split(4096)
        weights = [(held_y[:, part] >= 0).sum(1) for part in parts]
        sums = [losses(w, held[part], held_y[:, part]) * n for part, n in zip(parts, weights, strict=True)]
        return torch.stack(sums).sum(0) / torch.stack(weights).sum(0).clamp_min(1)

    count, width = len(models), Z.shape[2]
    found = descend(
        [
            torch.zeros(count, len(layers)),
            torch.zeros(count, int(sizes.max()), width),
            torch.zeros(count, int(sizes.max())),
        ],
        lambda w, rows: losses(w, Z[rows], y[:, rows]),
        held_loss,
        len(Z),
        epochs=epochs,
        batch=batch,
        rate=rate,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
    s, V, b = found.weights
    out = {}
    for i, (_, name, top) in enumerate(models):
        classes, seen = coded[name][0], slice(top + 1)
        mix, own = torch.softmax(s[i, seen], 0), slice(len(classes))
        end = int(found.epochs[i]), bool(found.converged[i])
        out[name, top] = MixFit(classes, mix, V[i, own], b[i, own], mean[seen], scale[seen], *end)
    return out


def expected_layer(scores: Float[np.ndarray, "*b layers"]) -> Float[np.ndarray, "*b"]:
    """The expected layer from the scores of cumulative probes of layers 0..0, 0..1, ..., 0..L.

    >>> expected_layer(np.array([0.5, 0.5, 0.9, 0.9])).item()
    2.0
    """
    gains = np.diff(scores, axis=-1)
    total = gains.sum(-1)
    weighted = (gains * np.arange(1, scores.shape[-1])).sum(-1)
    return np.divide(weighted, total, out=np.full_like(total, np.nan), where=total != 0)
