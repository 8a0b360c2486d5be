"""Erase a property from vectors: LEACE in closed form, INLP by repeated probes; and measure the
remaining information.

    LEACE   r(x) = x - W^+ P W (x - m),   W = (Sigma_xx^(1/2))^+,
            P the orthogonal projector on the columns of W Sigma_xz
    INLP    r(x) = m + Q (x - m),         Q the projector on what no probe so far reads

z is the one-hot label. LEACE is the smallest change (in every quadratic norm) after which Cov(r(x),
z) = 0, so that no linear probe does better than a constant (Belrose et al. 2023). INLP repeats: fit
a linear probe on what is left, project its rows out; the projector is that of all rows together,
not a product of projectors (Ravfogel et al. 2020).

Erasure is claimed for linear probes alone: what a nonlinear one still reads is reported beside it
(`erased`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .checks import features_and_classes, fitted_features, more_rows
from .controls import majority
from .design import as_features, check_finite
from .evaluation import accuracy
from .labels import check_classes
from .moments import Moments
from .networks import MLPProbe
from .solver import fit_many
from .storage import Saved


class Eraser(TransformerMixin, Saved):
    """What the erasers share: r(x) = x - (x - mean) left right'.

    Attributes:
        mean_: [d].
        left_, right_: [d k]: x - mean is read along ``left_`` and taken away along ``right_``; k is
            the rank erased.
        classes_, class_means_: [c] and [c d].
    """

    n_features_in_: int
    class_means_: Float[np.ndarray, "c d"]
    mean_: Float[np.ndarray, " d"]
    left_: Float[np.ndarray, "d k"]
    right_: Float[np.ndarray, "d k"]
    classes_: np.ndarray
    _arrays = ("mean_", "left_", "right_", "class_means_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def transform(self, X: Any) -> np.ndarray:
        """X without the property, with the same data type."""
        X = fitted_features(self, X)
        part = (X - self.mean_.astype(X.dtype)) @ self.left_.astype(X.dtype)
        return X - part @ self.right_.T.astype(X.dtype)

    def push(
        self, x: Float[Tensor, "*places d"], label: Hashable, strength: float = 1.0
    ) -> Float[Tensor, "*places d"]:
        """A counterfactual (AlterRep, Ravfogel et al. 2021): erase the property, then set it to the
        mean of a class.

            r(x) + strength * P (m_c - m),   P = right left'

        Raises:
            ValueError: a label that was not fitted.
        """
        check_is_fitted(self)
        places = [i for i, known in enumerate(self.classes_.tolist()) if known == label]
        if not places:
            raise InputError(f"expected one of {self.classes_.tolist()}, got {label!r}")
        # Only the part of the class mean that was erased is put back.
        apart = self.class_means_[places[0]] - self.mean_
        toward = self.right_ @ (self.left_.T @ apart)
        return self.erase(x) + strength * torch.from_numpy(toward).to(x)

    def erase(self, x: Float[Tensor, "*places d"]) -> Float[Tensor, "*places d"]:
        """The same for a tensor, in its own type and on its device, in the graph:
        for a running model.
        """
        check_is_fitted(self)
        mean, left, right = (
            torch.from_numpy(a).to(x) for a in (self.mean_, self.left_, self.right_)
        )
        return x - ((x - mean) @ left) @ right.T


class Leace(Eraser):
    """Least-squares concept erasure.

    Args:
        rtol: directions of x whose variance is below this share of the largest, and directions of
            the whitened cross-covariance whose size is below this share of a perfect correlation,
            count as 0. Both are relative, so rare classes are erased as well as frequent ones.

    Attributes:
        mean_, left_, right_, classes_: see `Eraser`; k is at most c - 1.
        moments_: the statistics, for `partial_fit` and for merging; files do not hold them.

    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [-1.0, 2.0]])
    >>> Leace().fit_transform(X, ["a", "a", "b", "b"])[:, 0].round(9).tolist() != X[:, 0].tolist()
    True
    """

    moments_: Moments

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(self, rtol: float = 1e-6) -> None:
        self.rtol = rtol

    def fit(self, X: Any, y: Any) -> Leace:
        """Fit on features [n d] and one label per row.

        Raises:
            ValueError: for X that is not finite, or y with one class.
        """
        X, y = features_and_classes(self, X, y)
        return self.fit_moments(Moments().update(X, y.tolist()))

    def partial_fit(self, X: Any, y: Any) -> Leace:
        """Add rows to the statistics and solve again; rows in any number of parts give the same as
        in one.

        Raises:
            ValueError: for X that is not finite, one class only in all rows so far, or an eraser
                read from a file.
        """
        X, y = more_rows(self, X, y)
        return self.fit_moments(self.moments_.update(X, y.tolist()))

    def fit_moments(self, moments: Moments) -> Leace:
        """Fit on precomputed statistics.

        Raises:
            ValueError: one class only.
        """
        if not 0 <= self.rtol < 1:
            raise InputError(f"Leace: rtol: expected a share from 0 to 1, got {self.rtol}")
        self.moments_ = moments
        self.n_features_in_ = moments.means.shape[1]
        check_classes(moments.classes)
        self.classes_, counts, means = moments.sorted()
        covariance = moments.total() / moments.n
        values, vectors = torch.linalg.eigh(covariance)
        keep = values > self.rtol * values[-1]
        values, vectors = values[keep], vectors[:, keep]
        # Into coordinates of unit variance, and back.
        deviations = values.sqrt()
        whiten, colour = vectors / deviations, vectors * deviations
        # Columns sqrt(p_c) (m_c - m): their span is that of Sigma_xz, and of unit-variance z the
        # sizes are correlations.
        shares = counts / moments.n
        apart = ((means - moments.mean) * shares.sqrt()[:, None]).T
        basis, sizes, _ = torch.linalg.svd(whiten.T @ apart, full_matrices=False)
        used = basis[:, sizes > self.rtol**0.5]
        self.mean_ = moments.mean.cpu().numpy()
        self.class_means_ = means.cpu().numpy()
        self.left_ = (whiten @ used).cpu().numpy()
        self.right_ = (colour @ used).cpu().numpy()
        return self


class Inlp(Eraser):
    """Iterative nullspace projection.

    Args:
        max_iter: probes that are fitted at most.
        l2: penalty of the probes (`fit_many`).
        margin: stop when a probe's training accuracy exceeds that of the most frequent class by
            less.

    Attributes:
        mean_, left_, right_, classes_: see `Eraser`; ``left_`` and ``right_`` are the same
            orthonormal basis.
        scores_: training accuracy of each probe that was fitted, the last one not used where it
            stopped.
        n_iter_: how many were fitted.
    """

    scores_: list[float]
    n_iter_: int
    _recorded = ("scores_", "n_iter_")

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(self, max_iter: int = 20, l2: float = 1.0, margin: float = 0.01) -> None:
        self.max_iter = max_iter
        self.l2 = l2
        self.margin = margin

    def fit(self, X: Any, y: Any) -> Inlp:
        """Fit on features [n d] and one label per row.

        Raises:
            ValueError: for X that is not finite, or y with one class.
        """
        X, y = features_and_classes(self, X, y)
        if self.max_iter < 1 or not 0 <= self.margin < 1:
            raise InputError(
                "Inlp: expected max_iter from 1 and margin from 0 to 1, "
                f"got {self.max_iter} and {self.margin}"
            )
        features = as_features(X)
        check_finite(features)
        centre = features.double().mean(0)
        centred = (features - centre).to(features.dtype)
        basis = torch.zeros(features.shape[1], 0, dtype=torch.float64)
        rows = torch.zeros(0, features.shape[1], dtype=torch.float64)
        counts = np.unique(y, return_counts=True)[1]
        self.scores_ = []
        for _ in range(self.max_iter):
            # What the probes so far read is projected out, and another probe is trained on the
            # rest.
            left = centred - (centred @ basis.to(centred)) @ basis.T.to(centred)
            fit = fit_many(left, {"y": y}, l2=self.l2, tol=1e-5)["y"]
            self.classes_ = fit.classes
            self.scores_.append(accuracy(y, fit.predict(left)))
            if self.scores_[-1] - counts.max() / counts.sum() < self.margin:
                break
            read = fit.coef - fit.coef.mean(0)  # the softmax does not see what all classes share
            rows = torch.cat([rows, read / read.norm(dim=1, keepdim=True).clamp_min(1e-12)])
            # An orthonormal basis of all directions so far; nearly dependent ones would add
            # rounding.
            vectors, sizes, _ = torch.linalg.svd(rows.T, full_matrices=False)
            basis = vectors[:, sizes > 1e-6 * sizes[0]]
            if basis.shape[1] == features.shape[1]:
                break
        self.class_means_ = Moments().update(X, y.tolist()).sorted()[2].numpy()
        self.mean_, self.n_iter_ = centre.numpy(), len(self.scores_)
        self.left_ = self.right_ = basis.numpy()
        return self


@checked
def erased(
    eraser: Eraser,
    X: Float[np.ndarray, "n d"],
    labels: Iterable[Hashable],
    X_test: Float[np.ndarray, "m d"],
    labels_test: Iterable[Hashable],
    l2: float = 1.0,
) -> dict[str, float]:
    """Measure how much of a property remains after erasure, and how much the erasure changed.

    Returns:
        ``gap`` and ``gap_before``: largest distance between two class means over the root mean
            square of x - mean, on the
        rows of the fit; ``linear`` and ``linear_before``: test accuracy of a fresh linear probe;
        ``mlp``: that of a small network; ``majority``: of the most frequent training class;
        ``change``: root mean square of r(x) - x over that of x - mean.
    """
    y, y_test = np.array(list(labels)), np.array(list(labels_test))
    after, after_test = eraser.transform(X), eraser.transform(X_test)
    size = float(np.sqrt(((X - eraser.mean_) ** 2).sum(1).mean()))

    def gap(rows: np.ndarray) -> float:
        means = Moments().update(rows, y.tolist()).means
        return float(torch.cdist(means, means).max()) / size

    def linear(rows: np.ndarray, test: np.ndarray) -> float:
        return accuracy(y_test, fit_many(rows, {"y": y}, l2=l2, tol=1e-5)["y"].predict(test))

    # Erasure is of what is linear; a network shows what of the property is left in another form.
    network = MLPProbe(hidden=64).fit(after, y)
    return {
        "gap_before": gap(X),
        "gap": gap(after),
        "linear_before": linear(X, X_test),
        "linear": linear(after, after_test),
        "mlp": accuracy(y_test, network.predict(after_test)),
        "majority": accuracy(y_test, np.full(len(y_test), majority(y), dtype=object)),
        "change": float(np.sqrt(((after - X) ** 2).sum(1).mean())) / size,
    }
