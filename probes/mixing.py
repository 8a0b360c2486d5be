"""Scalar mixes: one probe that reads all layers at once and learns how much of each it wants
(Tenney et al. 2019).

    h = sum_l a_l z_l,   a_l >= 0, sum a_l = 1,   p(y) = softmax(V u + b),   u = h / std(h)
    min_a  phi(a) = min_V,b  sum_i -log p(y_i) + l2/2 ||V||^2

z_l are the standardised features of layer l. The published gamma is left out: V takes it up. The
mix is standardised again: else the penalty would favour single layers, which vary more than mixes
of them. For given weights a the rest is the regression of `fit_many`, solved as every other probe
is, its penalty chosen on dev. The weights take quasi-Newton steps: the gradient of phi is that of
the objective at the inner optimum, and what the steps tell of phi's curvature is kept for the mix
of one layer more. The starts are all layers alike and the mix of the layers below, and a search
that ends above the mix of the layers below is made again from the other start: further layers do
not make a mix worse.

A mix is *stationary* if its regression has converged, and no layer would be worth more weight (the
Frank-Wolfe gap of the simplex). phi is not convex: other weights may be better.

    sum_l a_l g_l - min_l g_l <= GAP * objective,     g_l = d objective / d a_l

*Cumulative* probes see layers 0..k only; what each adds tells where a property is resolved:

    D_l = S(0..l) - S(0..l-1)        expected layer = sum_{l>=1} l D_l / sum_{l>=1} D_l

The gains are not clipped. Their sum, S(0..L) - S(0), is what there is to explain; where it cannot
be told from 0 the quotient says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from .design import check_finite, penalties
from .labels import Labels, encode_classes, encode_dev
from .mix_search import GAP, Search, starts_of
from .solver import DEFAULT_L2


@dataclass(frozen=True)
class MixFit:
    """A fitted scalar mix of layers 0..k.

    Attributes:
        mix: a, [k + 1], sums to 1.
        weight, bias: V [c d] and b [c], of the standardised features.
        mean, scale: of the training rows, [k + 1, d].
        l2: the penalty that was best on dev.
        objective: of the training rows, in nats.
        gap: what more weight for one layer promises, as a share of the objective.
        stationary: whether the regression's objective is proved and the gap is within `GAP`.
    """

    classes: np.ndarray
    mix: Float[Tensor, " layers"]
    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    mean: Float[Tensor, "layers d"]
    scale: Float[Tensor, "layers d"]
    l2: float
    objective: float
    gap: float
    stationary: bool

    def predict(self, layers: Sequence[Float[Tensor, "n d"]]) -> np.ndarray:
        """The most probable class of every row; layers above the k-th are not read."""
        hidden = torch.zeros_like(layers[0], dtype=torch.float32)
        for weight, values, mean, scale in zip(
            self.mix, layers, self.mean, self.scale, strict=False
        ):
            hidden += weight * (values.float() - mean) / scale
        logits = hidden @ self.weight.T + self.bias
        return self.classes[logits.argmax(1).numpy()]

    @property
    def centre_of_gravity(self) -> float:
        """sum_l l a_l, layer 0 included."""
        return float((torch.arange(len(self.mix)) * self.mix).sum())

    @property
    def peakedness(self) -> float:
        """KL(a || uniform) in bits: 0 where all layers count alike,
        log2 of their number where one does.
        """
        positive = self.mix[self.mix > 0].double()
        return float((positive * positive.log2()).sum() + np.log2(len(self.mix)))


_LEAST_SCALE = 1e-6
"""A column that does not vary is divided by this, not by 0."""


def mix_many(
    layers: Sequence[Float[Tensor, "n d"]],
    targets: Mapping[str, Labels],
    dev: tuple[Sequence[Float[Tensor, "m d"]], Mapping[str, Labels]],
    *,
    cumulative: bool = True,
    l2: float | Sequence[float] = DEFAULT_L2,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[tuple[str, int], MixFit]:
    """A mix for each target, and with ``cumulative`` for each number of layers.

    Args:
        layers: features of the same rows at every layer, the lowest first.
        targets: labels of all rows by name.
        dev: further features and labels, on which the penalty is chosen by accuracy.
        seed: nothing is drawn; whoever gave one may go on.
        progress: called with (mixes done, mixes in all).

    Returns:
        (target, highest layer that it sees) -> its mix.

    Raises:
        ValueError: layers of other shapes or not finite, a target with one class, or one that dev
            does not have.
    """
    path = tuple(penalties(l2, choose=True))
    shapes = {tuple(values.shape) for values in layers}
    if len(shapes) != 1:
        raise InputError(f"expected layers of one shape, got {sorted(shapes)}")
    if len(dev[0]) != len(layers):
        raise InputError(f"expected {len(layers)} layers of dev, got {len(dev[0])}")
    for place, (train_layer, dev_layer) in enumerate(zip(layers, dev[0], strict=True)):
        check_finite(train_layer, f"layer {place}")
        check_finite(dev_layer, f"dev, layer {place},")
    widths = {values.shape[1] for values in (*layers, *dev[0])}
    if len(widths) != 1 or len({len(values) for values in dev[0]}) != 1:
        raise InputError(
            f"expected dev layers of one shape and {layers[0].shape[1]} features, "
            f"got {[list(values.shape) for values in dev[0]]}"
        )
    n, m = len(layers[0]), len(dev[0][0])
    coded = {name: encode_classes(name, labels, n) for name, labels in targets.items()}
    dev_indices = {
        name: encode_dev(name, dev[1], classes, m) for name, (classes, _) in coded.items()
    }
    mean = torch.stack([values.float().mean(0) for values in layers])
    scale = torch.stack([values.float().std(0, correction=0) for values in layers])
    scale = scale.clamp_min(_LEAST_SCALE)
    # Layers are mixed on one scale, that of the training rows, so that a weight says what a layer
    # is worth.
    train_Z = _standardised(layers, mean, scale)
    dev_Z = _standardised(dev[0], mean, scale)
    tops = range(len(layers)) if cumulative else (len(layers) - 1,)
    mixes: dict[tuple[str, int], MixFit] = {}
    for name, (classes, index) in coded.items():
        search = Search(train_Z, index, dev_Z, dev_indices[name], path)
        mix, fit = None, None
        for top in tops:
            starts = starts_of(top, mix)
            if fit is None:
                mix, fit, gap = search.best(starts)
            else:
                mix, fit, gap = search.best(starts, fit.l2, fit.objective)
            mixes[name, top] = MixFit(
                classes,
                torch.from_numpy(mix).float(),
                fit.coef.float().cpu(),
                fit.intercept.float().cpu(),
                mean[: top + 1],
                scale[: top + 1],
                fit.l2,
                fit.objective,
                gap,
                fit.converged and gap <= GAP,
            )
            if progress is not None:
                progress(len(mixes), len(coded) * len(tops))
    return mixes


def _standardised(
    layers: Sequence[Float[Tensor, "n d"]], mean: Tensor, scale: Tensor
) -> Float[Tensor, "layers n d"]:
    # In one block: a mix, and what each layer promises, are then one product over all of them.
    stacked = torch.empty(len(layers), *layers[0].shape)
    for place, values in enumerate(layers):
        torch.sub(values.float(), mean[place], out=stacked[place]).div_(scale[place])
    return stacked


def expected_layer(scores: Float[np.ndarray, "*b layers"]) -> Float[np.ndarray, "*b"]:
    """The expected layer from the scores of cumulative probes of layers 0..0, 0..1, ..., 0..L.

    >>> expected_layer(np.array([0.5, 0.5, 0.9, 0.9])).item()
    2.0
    """
    gains = np.diff(scores, axis=-1)
    total = gains.sum(-1)
    weighted = (gains * np.arange(1, scores.shape[-1])).sum(-1)
    return np.divide(weighted, total, out=np.full_like(total, np.nan), where=total != 0)
