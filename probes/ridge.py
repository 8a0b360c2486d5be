"""Ridge regression for number-valued properties: all targets and penalties from one factorisation.

    min_w,b  sum_i (y_i - w.x_i - b)^2 + l2 ||w||^2
    w = Q (diag(e) + l2)^-1 Z'y,   b = mean(y)

in the eigenbasis Q, e of a ``Design``, where the features are standardised and centred. The same
convention as scikit-learn's ``Ridge(alpha=l2)`` on standardised features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .design import Design, as_rows, penalties
from .evaluation import r2
from .labels import as_numbers, of_dev
from .rows import OnDisk, blocks_of

RIDGE_L2 = (1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1.0)
"""Strong to weak; e is of the order of n, so these run from 'almost the mean' to 'almost free'."""


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge regression for features in their original units.

    Attributes:
        l2: the penalty (chosen on dev where a path was given).
        coef, intercept: [d] float64 and a number.
        objective: sum of squares plus penalty at the solution.
        gradient_norm: norm of the normal equations' residual, in float64.
        dev_scores: dev R^2 by penalty.
    """

    l2: float
    coef: Float[Tensor, " d"]
    intercept: float
    objective: float
    gradient_norm: float
    dev_scores: dict[float, float] = field(default_factory=dict)

    def predict(self, X: Float[Tensor, "n d"] | np.ndarray | OnDisk) -> Float[np.ndarray, " n"]:
        """Predicted numbers, float64."""
        features = as_rows(X, self.coef.device)
        if features.shape[1] != len(self.coef):
            raise InputError(
                f"X has {features.shape[1]} features, but the fit expects {len(self.coef)}"
            )
        if isinstance(features, OnDisk):
            return np.concatenate([self.predict(features[rows]) for rows in features.blocks()])
        return (features.double() @ self.coef + self.intercept).cpu().numpy()


def _mean_and_cross(
    design: Design, Y: Float[Tensor, "n t"]
) -> tuple[Float[Tensor, " t"], Float[Tensor, "r t"]]:
    """Mean of each target and Z'(Y - mean) without the bias row, in float64."""
    mean = Y.mean(0)
    total = torch.zeros(design.rotated.shape[1], Y.shape[1], dtype=torch.float64, device=Y.device)
    for start in range(0, design.n, design.block):
        rows = slice(start, start + design.block)
        total += design.rotated[rows].double().T @ (Y[rows] - mean)
    return mean, total[:-1]


def _values(name: str, values: ArrayLike, n: int) -> Float[np.ndarray, " n"]:
    array = as_numbers(values, f"target {name!r}")
    if array.shape != (n,):
        raise InputError(f"target {name!r} must be [{n}], one number per row, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(
            f"target {name!r} must be finite, got NaN or infinity in "
            f"{int((~np.isfinite(array)).sum())} rows, "
            f"first at row {int(np.flatnonzero(~np.isfinite(array))[0])}"
        )
    return array


@checked
def ridge_many(
    X: Float[Tensor, "n d"] | np.ndarray | OnDisk | Design,
    targets: Mapping[str, ArrayLike],
    l2: float | Sequence[float] = RIDGE_L2,
    *,
    dev: tuple[Float[Tensor, "m d"] | np.ndarray | OnDisk, Mapping[str, ArrayLike]] | None = None,
    standardize: bool = True,
    device: torch.device | str | None = None,
) -> dict[str, RidgeFit]:
    """Ridge regression of every target on the same features; the counterpart of ``fit_many``.

    Args:
        X: training features [n d], or a ``Design`` made from them.
        targets: a number for every training row, by name.
        l2: one penalty, or several, which need ``dev``: each target gets the one with the best dev
            R^2 (ties, and dev numbers that do not vary: the stronger). All come from the same
            factorisation.
        dev: features [m d] and numbers by target name.

    Raises:
        ValueError: for features or targets that are not finite, lengths or widths that differ, a
            penalty that is not positive, a path without dev, or a target that dev does not have.

    >>> X = np.arange(6.0).reshape(6, 1); fit = ridge_many(X, {"line": 2 * X[:, 0] + 1}, l2=1e-9)
    >>> fit["line"].predict(np.array([[10.0]])).round(3).tolist()
    [21.0]
    """
    path = penalties(l2, choose=dev is not None)
    design = X if isinstance(X, Design) else Design(X, standardize, device)
    names = list(targets)
    if not names:
        return {}
    Y = np.stack([_values(name, targets[name], design.n) for name in names], axis=1)
    scores: dict[str, dict[float, float]] = {name: {} for name in names}
    with torch.no_grad():
        numbers = torch.from_numpy(Y).to(design.device)
        mean, cross = _mean_and_cross(design, numbers)
        # In the eigenbasis of X'X the solution of every penalty is a division.
        eigenvalues = design.eigenvalues[:-1, None]
        choice = dict.fromkeys(names, path[0])
        if dev is not None:
            dev_rows = design.rotate_dev(dev[0])
            gold = {name: _values(name, of_dev(name, dev[1]), len(dev_rows)) for name in names}
            for penalty in path:
                predicted = _predicted(design, dev_rows, cross / (eigenvalues + penalty), mean)
                for j, name in enumerate(names):
                    scores[name][penalty] = r2(gold[name], predicted[:, j])
            # The path goes from strong to weak, and `max` takes the first of equals: ties go to the
            # stronger.
            choice = {name: max(path, key=scores[name].__getitem__) for name in names}
        chosen = eigenvalues.new_tensor([choice[name] for name in names])
        W = cross / (eigenvalues + chosen)
        V = design.basis @ W
        squared_error, gradient = _certificate(design, numbers, mean, V, chosen)
        coef, intercept = design.unrotate(torch.cat([W, mean[None]]))
        objective = squared_error + chosen * V.square().sum(0)
    fits = {}
    for j, name in enumerate(names):
        fits[name] = RidgeFit(
            l2=choice[name],
            coef=coef[j],
            intercept=float(intercept[j]),
            objective=float(objective[j]),
            gradient_norm=float(gradient[:, j].norm()),
            dev_scores=scores[name],
        )
    return fits


def _predicted(
    design: Design, rows: Float[Tensor, "m r"] | OnDisk, W: Tensor, mean: Tensor
) -> Float[np.ndarray, "m t"]:
    """What the coefficients in the eigenbasis say of some rows, read in blocks."""
    parts = []
    for block in blocks_of(len(rows), design.block):
        features = rows[block][:, :-1].double()  # the last column is the constant
        parts.append(features @ W + mean)
    return torch.cat(parts).cpu().numpy()


def _certificate(
    design: Design, numbers: Tensor, mean: Tensor, V: Tensor, l2: Tensor
) -> tuple[Float[Tensor, " t"], Float[Tensor, "d t"]]:
    """Squared error and gradient at the solution,
    from the rows themselves and not from the factorisation.
    """
    squared_error, gradient = torch.zeros_like(mean), torch.zeros_like(V)
    for block, features in design.blocks(torch.float64):
        residual = numbers[block] - mean - features @ V
        squared_error += residual.square().sum(0)
        gradient -= 2 * features.T @ residual
    gradient += 2 * l2 * V
    return squared_error, gradient
