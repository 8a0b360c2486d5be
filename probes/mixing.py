"""Scalar mixes: one probe that reads all layers at once and learns how much of each it wants
(Tenney et al. 2019).

    h = sum_l a_l z_l,   a_l >= 0, sum a_l = 1,   p(y) = softmax(V u + b),   u = h / std(h)
    min_a  phi(a) = min_V,b  sum_i -log p(y_i) + l2/2 ||V||^2

z_l are the standardised features of layer l. The published gamma is left out: V takes it up. The
mix is standardised again: else the penalty would favour single layers, which vary more than mixes
of them. For given weights a the rest is the regression of `fit_many`, solved as every other probe
is, its penalty chosen on dev; the weights move along the gradient of phi, which is that of the
objective at the inner optimum. The starts are all layers alike and the mix of the layers below, so
that further layers do not make a mix worse.

A mix is *stationary* if its regression has converged, and no layer would be worth more weight (the
Frank-Wolfe gap of the simplex). phi is not convex: other weights may be better.

    sum_l a_l g_l - min_l g_l <= GAP * objective,     g_l = d objective / d a_l

*Cumulative* probes see layers 0..k only; what each adds tells where a property is resolved:

    D_l = S(0..l) - S(0..l-1)        expected layer = sum_{l>=1} l D_l / sum_{l>=1} D_l

The gains are not clipped. Their sum, S(0..L) - S(0), is what there is to explain; where it cannot
be told from 0 the quotient says nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from layerscope.errors import InputError

from .design import Design, check_finite
from .fit import Fit
from .labels import Labels, encode_classes, encode_with, of_dev
from .solver import DEFAULT_L2, fit_many

GAP = 1e-3
"""What more weight for one layer may still promise, as a share of the objective."""
STEPS = 25
"""Regressions for one search of the weights, about."""
PEAK = 0.95
"""Weight of the one layer of a start."""
ROUGH = 3e-4
"""Relative error of the regressions of a search; the last one is solved to the solver's own."""


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
    l2: Sequence[float] = DEFAULT_L2,
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
    shapes = {tuple(values.shape) for values in layers}
    if len(shapes) != 1:
        raise InputError(f"expected layers of one shape, got {sorted(shapes)}")
    for place, (train_layer, dev_layer) in enumerate(zip(layers, dev[0], strict=True)):
        check_finite(train_layer, f"layer {place}")
        check_finite(dev_layer, f"dev, layer {place},")
    coded = {name: encode_classes(name, labels) for name, labels in targets.items()}
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
        dev_index = encode_with(of_dev(name, dev[1]), classes)
        search = _Search(train_Z, index, dev_Z, dev_index, tuple(l2))
        mix_below: np.ndarray | None = None
        for top in tops:
            mix, fit, gap = search.best(_starts(top, mix_below))
            mix_below = mix
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
) -> list[Float[Tensor, "n d"]]:
    return [(v.float() - m) / s for v, m, s in zip(layers, mean, scale, strict=True)]


def _starts(top: int, before: Float[np.ndarray, " k"] | None) -> list[Float[np.ndarray, " layers"]]:
    """Weights to begin from: all layers alike, and one almost alone,
    or the mix of the layers below.
    """
    count = top + 1
    if count == 1:
        return [np.ones(1)]
    even = np.full(count, 1 / count)
    if before is not None:
        # From the mix below, which leaves a little for the new layer: at weight 0 its slope alone
        # could bring it in.
        return [even, np.append(PEAK * before, 1 - PEAK)]
    starts = [even]
    for layer in range(count):
        is_peak = np.arange(count) == layer
        starts.append(np.where(is_peak, PEAK, (1 - PEAK) / top))
    return starts


@dataclass
class _Search:
    """The weights of one target's mix, on standardised layers of training and dev rows."""

    layers: Sequence[Float[Tensor, "n d"]]
    index: Int[np.ndarray, " n"]
    held: Sequence[Float[Tensor, "m d"]]
    held_index: Int[np.ndarray, " m"]
    penalties: tuple[float, ...]
    warm: dict[str, Fit] = field(default_factory=dict)

    def best(
        self, starts: Sequence[Float[np.ndarray, " k"]]
    ) -> tuple[Float[np.ndarray, " k"], Fit, float]:
        """The weights from the best of some starts, their regression, and the gap that is left."""
        middle = float(np.median(self.penalties))
        objectives = [0.0]
        if len(starts) > 1:
            # Rough regressions are enough to tell which start is the best.
            objectives = [self.regression(mix, middle, ROUGH).objective for mix in starts]
        mix = starts[int(np.argmin(objectives))]
        l2 = self.penalty(mix)
        mix = self.descend(mix, l2)
        # what was best for the start need not be for the end
        if len(mix) > 1:
            l2_of_end = self.penalty(mix)
            if l2_of_end != l2:
                l2, mix = l2_of_end, self.descend(mix, l2_of_end)
        fit = self.regression(mix, l2)
        return mix, fit, self.gap(mix, fit)

    def descend(self, mix: Float[np.ndarray, " k"], l2: float) -> Float[np.ndarray, " k"]:
        """Weights from which no layer promises more than `GAP`, as far as `STEPS` regressions
        reach.

        phi does not change where all weights are multiplied by a number, so that they need only not
        be negative.
        """
        if len(mix) == 1:
            return mix
        # L-BFGS keeps only where it ends; the best point that it passed may be an earlier one.
        n, reached = len(self.index), []

        def value(a: np.ndarray) -> tuple[float, np.ndarray]:
            total = max(float(a.sum()), 1e-12)
            weights = a / total
            fit = self.regression(weights, l2, ROUGH)
            slope = self.slope(weights, fit)
            reached.append((fit.objective, weights, slope))
            return fit.objective / n, slope / (n * total)

        def stop(_: np.ndarray) -> None:
            objective, weights, slope = reached[-1]
            if _gap(weights, slope) <= GAP / 2 * objective:
                raise StopIteration

        options = {"maxfun": STEPS, "ftol": 1e-9, "gtol": 1e-9}
        minimize(
            value,
            mix,
            method="L-BFGS-B",
            jac=True,
            bounds=[(0, None)] * len(mix),
            callback=stop,
            options=options,
        )
        return min(reached, key=lambda point: point[0])[1]

    def mixed(
        self, layers: Sequence[Float[Tensor, "n d"]], mix: Float[np.ndarray, " k"]
    ) -> Float[Tensor, "n d"]:
        """h of every row."""
        hidden = torch.zeros_like(layers[0])
        for a, values in zip(mix, layers, strict=False):
            hidden += float(a) * values
        return hidden

    def regression(self, mix: Float[np.ndarray, " k"], l2: float, tol: float = 5e-7) -> Fit:
        """V and b for given weights."""
        design = Design(self.mixed(self.layers, mix))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # recorded in the mix
            self.warm = fit_many(design, {"y": self.index}, l2, start=self.warm, tol=tol)
        return self.warm["y"]

    def penalty(self, mix: Float[np.ndarray, " k"]) -> float:
        """The penalty that is best on dev for given weights."""
        if len(self.penalties) == 1:
            return self.penalties[0]
        design = Design(self.mixed(self.layers, mix))
        dev_rows = self.mixed(self.held, mix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            dev = (dev_rows, {"y": self.held_index})
            self.warm = fit_many(design, {"y": self.index}, self.penalties, dev=dev, tol=ROUGH)
        return self.warm["y"].l2

    def slope(self, mix: Float[np.ndarray, " k"], fit: Fit) -> Float[np.ndarray, " k"]:
        """d objective / d a_l = <G, z_l> - sum_j <G_j, h_j> cov(z_lj, h_j) / var(h_j),
            G = R V / std(h), R = p - [y].

        The second term is that of the standard deviation of h; with it sum_l a_l d_l is 0.
        """
        hidden = self.mixed(self.layers, mix)
        residual = fit.predict_proba(hidden).cpu()
        residual[torch.arange(len(residual)), torch.from_numpy(self.index)] -= 1
        back = (residual @ fit.coef.cpu()).float()
        # The mean is 0: the layers are centred already.
        variance = hidden.square().mean(0).clamp_min(1e-12)
        along = (back * hidden).sum(0) / (variance * len(hidden))
        toward = back - along * hidden
        return np.array(
            [
                float((toward * values).sum(dtype=torch.float64))
                for values in self.layers[: len(mix)]
            ]
        )

    def gap(self, mix: Float[np.ndarray, " k"], fit: Fit) -> float:
        """What more weight for one layer promises, as a share of the objective."""
        return _gap(mix, self.slope(mix, fit)) / fit.objective


def _gap(mix: Float[np.ndarray, " k"], slope: Float[np.ndarray, " k"]) -> float:
    return float(mix @ slope - slope.min())


def expected_layer(scores: Float[np.ndarray, "*b layers"]) -> Float[np.ndarray, "*b"]:
    """The expected layer from the scores of cumulative probes of layers 0..0, 0..1, ..., 0..L.

    >>> expected_layer(np.array([0.5, 0.5, 0.9, 0.9])).item()
    2.0
    """
    gains = np.diff(scores, axis=-1)
    total = gains.sum(-1)
    weighted = (gains * np.arange(1, scores.shape[-1])).sum(-1)
    return np.divide(weighted, total, out=np.full_like(total, np.nan), where=total != 0)
