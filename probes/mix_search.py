"""The search for the weights of a scalar mix (`probes.mixing`): quasi-Newton steps on the simplex,
each with a regression solved warm.

The regressions take the time. So the model of phi's curvature is kept from mix to mix, a regression
is solved as exactly as the gap that is left needs, and penalties are judged from the last one
outwards: weak ones take longest and are asked for last.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .design import Design
from .fit import Fit
from .solver import fit_many

GAP = 1e-3
"""What more weight for one layer may still promise, as a share of the objective."""
STEPS = 25
"""Regressions for one search of the weights, about."""
PEAK = 0.95
"""Weight of the one layer of a start."""
ROUGH, FINE = 3e-4, 1e-6
"""Relative errors of the regressions of a search, far from its end and near it."""
CHOICE = 1e-3
"""Relative error of the regressions by which penalties are judged."""
ROWS = 256
"""Rows whose products are summed in single precision."""
FIRST_STEP = 0.3
"""How far the first step goes from layer to layer, before anything is known of the curvature."""
NOISE = 2 * ROUGH
"""Relative difference of rough objectives that may be their errors."""
SHORTER, SHORTEST = 0.3, 0.05
"""What a step that does not lower phi is multiplied by, and the length that is not shortened."""
LEFT = 0.2
"""Least share of its weight that a layer keeps in one step."""
ALIKE = 0.5
"""Standard errors by which dev accuracies may differ and still count as alike."""
FAINT = 1e-5
"""Bend of a step, as a share of the objective, that slopes are too inexact to measure."""
DAMPED = 0.2
"""Least curvature along a step, as a share of what the model said."""


def starts_of(
    top: int, below: Float[np.ndarray, " k"] | None
) -> list[Float[np.ndarray, " layers"]]:
    """Weights to begin from: all layers alike, and the mix of the layers below; where there is none
    each layer almost alone.

    All are inside of the simplex: phi has stationary points in its corners, which a layer without
    weight does not leave although much is gained further on.
    """
    count = top + 1
    if count == 1:
        return [np.ones(1)]
    starts = [np.full(count, 1 / count)]
    if below is not None:
        return [*starts, np.append(PEAK * below, 1 - PEAK)]
    for layer in range(count):
        is_peak = np.arange(count) == layer
        starts.append(np.where(is_peak, PEAK, (1 - PEAK) / top))
    return starts


@dataclass(frozen=True)
class _Point:
    """Weights of layers, what their regression comes to, and where it falls.

    Attributes:
        slope: d objective / d a_l.
    """

    mix: Float[np.ndarray, " k"]
    objective: float
    slope: Float[np.ndarray, " k"]

    @property
    def gap(self) -> float:
        """What more weight for one layer promises, as a share of the objective."""
        return float(self.mix @ self.slope - self.slope.min()) / self.objective


class _Curvature:
    """A quadratic model of phi over the simplex, kept from step to step and from mix to mix.

    BFGS: B <- B - B s s'B / s'B s + y y' / y's, with y damped where it bends less than B says
    (Powell 1978; Nocedal & Wright 2006, procedure 18.2).
    """

    def __init__(self) -> None:
        self.B = np.zeros((0, 0))

    def extend(self, point: _Point) -> None:
        """Further layers: each bends phi as the layers do on average."""
        known, count = len(self.B), len(point.mix)
        spread = float(np.ptp(point.slope))
        typical = float(np.diag(self.B).mean()) if known > 1 else spread / FIRST_STEP
        B = np.eye(count) * max(typical, 1e-12)
        B[:known, :known] = self.B if known > 1 else B[:known, :known]
        self.B = B

    def learn(self, before: _Point, after: _Point) -> None:
        """What a step tells."""
        s, y = after.mix - before.mix, after.slope - before.slope
        Bs = self.B @ s
        bend = float(s @ Bs)
        if bend < FAINT * before.objective:
            return  # shorter than the errors of slopes
        slope_change = float(s @ y)
        if slope_change < DAMPED * bend:
            share = (1 - DAMPED) * bend / (bend - slope_change)
            y = share * y + (1 - share) * Bs
        self.B = self.B - np.outer(Bs, Bs) / bend + np.outer(y, y) / float(s @ y)

    def minimum(self, point: _Point) -> Float[np.ndarray, " k"]:
        """The weights at which the model is least.

        With B = L L' the model is |L'x - L'a + L^-1 g|^2 / 2 but for a constant: least squares of
        weights that are not negative, and one row more that makes them sum to 1.
        """
        k = len(point.mix)
        ridge = 1e-8 * float(np.trace(self.B)) / k
        L = np.linalg.cholesky(self.B + ridge * np.eye(k))
        goal = L.T @ point.mix - np.linalg.solve(L, point.slope)
        heavy = 1e3 * float(np.abs(L).max())
        rows = np.vstack([L.T, np.full(k, heavy)])
        weights, _ = nnls(rows, np.append(goal, heavy))
        return weights / weights.sum()


@dataclass
class Search:
    """The weights of one target's mixes, on standardised layers of training and dev rows.

    Attributes:
        curvature: what the steps so far say of phi's second derivatives, for the layers that were
            mixed last.
        warm: the last regression, from which the next one begins.
        last_design: of the weights whose bytes are beside it.
    """

    layers: Float[Tensor, "layers n d"]
    index: Int[np.ndarray, " n"]
    dev_layers: Float[Tensor, "layers m d"]
    dev_index: Int[np.ndarray, " m"]
    penalties: tuple[float, ...]
    curvature: _Curvature = field(default_factory=_Curvature)
    warm: dict[str, Fit] = field(default_factory=dict)
    last_design: tuple[bytes, Design] | None = None

    def best(
        self,
        starts: Sequence[Float[np.ndarray, " k"]],
        l2: float | None = None,
        below: float = np.inf,
    ) -> tuple[Float[np.ndarray, " k"], Fit, float]:
        """The weights from the best of some starts, their regression, and the gap that is left.

        Args:
            l2, below: the penalty of the mix of the layers below, and its objective.
        """
        if l2 is None:
            l2 = self.penalty(starts[0], float(np.median(self.penalties)))
        points = [self.point(mix, l2, ROUGH) for mix in starts]
        points.sort(key=lambda point: point.objective)
        point = self.descend(points[0], l2)
        for other in points[1:]:
            if point.objective <= (1 + NOISE) * below:
                break
            again = self.descend(other, l2)
            point = min(point, again, key=lambda point: point.objective)
        chosen = l2
        if len(point.mix) > 1:
            # What was best for the mix below need not be for this one.
            chosen = self.penalty(point.mix, l2)
        if chosen != l2:
            point = self.descend(self.point(point.mix, chosen, ROUGH), chosen)
        fit = self.regression(point.mix, chosen)
        return point.mix, fit, self._at(point.mix, fit).gap

    def descend(self, point: _Point, l2: float) -> _Point:
        """A point from which no layer promises more than `GAP`, as far as `STEPS` regressions
        reach.

        Quasi-Newton steps on the simplex: the quadratic model of phi is minimised over it, and the
        objective is asked on the way there.
        """
        self.curvature.extend(point)
        direction, length = np.zeros_like(point.mix), 1.0
        for _ in range(STEPS):
            if point.gap <= GAP / 2:
                break
            if length == 1.0:
                # Not into a corner at once, which may be stationary and far from the best.
                goal = np.maximum(self.curvature.minimum(point), LEFT * point.mix)
                direction = goal / goal.sum() - point.mix
            # Slopes err by the root of what their regression does: the smaller the gap, the better
            # it is solved.
            tol = min(ROUGH, max(FINE, point.gap**2))
            after = self.point(point.mix + length * direction, l2, tol)
            self.curvature.learn(point, after)
            # Rough objectives differ by their errors; slopes tell how phi fell between them.
            fall = after.objective - point.objective
            if abs(fall) < NOISE * point.objective:
                fall = float((point.slope + after.slope) @ (after.mix - point.mix)) / 2
            if fall < 0 or after.gap <= GAP / 2:
                point, length = after, 1.0
            elif length > SHORTEST:
                length *= SHORTER
            else:
                break
        return point

    def point(self, mix: Float[np.ndarray, " k"], l2: float, tol: float) -> _Point:
        """The weights with their regression, solved to a relative error."""
        return self._at(mix, self.regression(mix, l2, tol))

    def mixed(
        self, layers: Float[Tensor, "layers n d"], mix: Float[np.ndarray, " k"]
    ) -> Float[Tensor, "n d"]:
        """h of every row."""
        weights = torch.from_numpy(mix).float()
        return (weights @ layers[: len(mix)].flatten(1)).view(layers.shape[1:])

    def designed(self, mix: Float[np.ndarray, " k"]) -> Design:
        """The design of a mix; that of the last one is kept."""
        key = mix.tobytes()
        if self.last_design is None or self.last_design[0] != key:
            self.last_design = key, Design(self.mixed(self.layers, mix))
        return self.last_design[1]

    def regression(self, mix: Float[np.ndarray, " k"], l2: float, tol: float = 5e-7) -> Fit:
        """V and b for given weights."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # recorded in the mix
            self.warm = fit_many(
                self.designed(mix), {"y": self.index}, l2, start=self.warm, tol=tol
            )
        return self.warm["y"]

    def penalty(self, mix: Float[np.ndarray, " k"], l2: float) -> float:
        """The penalty that is best on dev for given weights, by accuracy and, where that is alike,
        by bits; found from one that is near.

        To either side the search goes on while accuracy rises or bits fall. Bits tell what
        accuracy is too coarse for: where both are worse, further penalties are worse still. The
        weak ones are solved last and only if they are asked for: they take most of the time.
        """
        path = sorted(self.penalties)
        mixed_dev = self.mixed(self.dev_layers, mix)
        judged: dict[int, tuple[float, float]] = {}
        fits: dict[int, dict[str, Fit]] = {}

        def score(place: int) -> tuple[float, float]:
            if place not in judged:
                judged[place] = self.judged(self.regression(mix, path[place], CHOICE), mixed_dev)
                fits[place] = self.warm
            return judged[place]

        begin = int(np.argmin(np.abs(np.log(path) - np.log(l2))))
        if len(path) > 1:
            score(begin)
        for step in (1, -1):
            place = begin
            self.warm = fits.get(begin, self.warm)
            while 0 <= place + step < len(path):
                here, there = score(place), score(place + step)
                if there[0] <= here[0] and there[1] <= here[1]:
                    break
                place += step
        # Accuracy tells penalties apart that differ by more than its error; of the others the one
        # with the fewest bits.
        highest = max((accuracy for accuracy, _ in judged.values()), default=0.0)
        error = (highest * (1 - highest) / max(1, len(mixed_dev))) ** 0.5
        alike = [place for place in judged if judged[place][0] >= highest - ALIKE * error]
        best = max(alike, key=lambda place: judged[place][1], default=begin)
        self.warm = fits.get(best, self.warm)
        return path[best]

    def judged(self, fit: Fit, dev_rows: Float[Tensor, "m d"]) -> tuple[float, float]:
        """Accuracy on dev, and minus the nats of its labels that training has."""
        log_p = fit.log_proba(dev_rows)
        labels = torch.from_numpy(self.dev_index)
        known = labels >= 0
        nats = -log_p[known].gather(1, labels[known, None]).sum()
        return float((log_p.argmax(1) == labels).double().mean()), -float(nats)

    def _at(self, mix: Float[np.ndarray, " k"], fit: Fit) -> _Point:
        """d objective / d a_l = <G, z_l> - sum_j <G_j, h_j> cov(z_lj, h_j) / var(h_j),
            G = R V / std(h), R = p - [y].

        The second term is that of the standard deviation of h; with it sum_l a_l d_l is 0.
        """
        hidden = self.designed(mix).features
        assert isinstance(hidden, Tensor)
        residual = fit.predict_proba(hidden).cpu()
        residual[torch.arange(len(residual)), torch.from_numpy(self.index)] -= 1
        back = (residual @ fit.coef.cpu()).float()
        # The mean is 0: the layers are centred already.
        variance = hidden.square().mean(0).clamp_min(1e-12)
        along = (back * hidden).sum(0) / (variance * len(hidden))
        toward = back - along * hidden
        slope = torch.zeros(len(mix), dtype=torch.float64)
        # A block of rows at a time in single precision, their sums in double.
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            of_rows = torch.einsum("lnd,nd->l", self.layers[: len(mix), rows], toward[rows])
            slope += of_rows.double()
        return _Point(mix, fit.objective, slope.numpy())
