"""Probes with a hidden layer, many trained at once in one batched model: an MLP, or a linear map of limited rank.

    MLP        softmax(V relu(U x + a) + b)
    low rank   softmax(V (U x) + b),   U of shape rank x d

Adam on shuffled batches of standardised rows; after each epoch the loss on held-out rows. Where it has not fallen, training goes
on from the network of the lowest loss with a smaller step, and ends when it falls at no step (`training`). Every target and seed has
its own weights, step and end; the batches are shared, so that one product serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import ClassifierMixin
from torch import Tensor

from .checks import features_and_classes, fitted_features
from .design import as_features, check_finite
from .labels import Labels, encode_classes, encode_with, of_dev
from .storage import Saved
from .training import Schedule, train

Activation = Literal["relu", "none"]
_TENSORS = ("U", "a", "V", "b", "mean", "scale")
_RECORDED = ("activation", "dev_loss", "epochs", "converged")
HELD_OUT = 0.1
"""Share of the training rows that decide the end, where no dev rows are given."""


@dataclass(frozen=True)
class NetworkFit:
    """A fitted network for features in their original units.

    Attributes:
        weights: U [h d], a [h], V [c h], b [c] of the standardised features.
        mean, scale: of the training rows.
        dev_loss: cross-entropy of the held-out rows in bits, the lowest.
        epochs: passes that were made.
        converged: whether training on lowered it at no step.
    """

    classes: np.ndarray
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    activation: Activation
    dev_loss: float
    epochs: int
    converged: bool

    def log_proba(self, X: Float[Tensor, "n d"] | np.ndarray) -> Float[Tensor, "n c"]:
        """Log-probabilities (nats) of every class for every row."""
        U, a, V, b = (weight.double() for weight in self.weights)
        hidden = ((as_features(X, U.device).double() - self.mean) / self.scale) @ U.T + a
        return torch.log_softmax(
            (hidden.relu() if self.activation == "relu" else hidden) @ V.T + b, 1
        )

    def predict(self, X: Float[Tensor, "n d"] | np.ndarray) -> np.ndarray:
        """The most probable class of every row."""
        return self.classes[self.log_proba(X).argmax(1).cpu().numpy()]


def networks_many(
    X: Float[Tensor, "n d"] | np.ndarray,
    targets: Mapping[str, Labels],
    hidden: int = 100,
    activation: Activation = "relu",
    *,
    dev: tuple[Float[Tensor, "m d"] | np.ndarray, Mapping[str, Labels]] | None = None,
    seeds: Sequence[int] = (0,),
    epochs: int = 40,
    batch: int = 256,
    rate: float = 1e-3,
    weight_decay: float = 0.0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[tuple[str, int], NetworkFit]:
    """One network for each target and seed, all at once.

    Args:
        targets: labels of all rows by name.
        hidden: width of the hidden layer, or the rank where ``activation`` is ``none``.
        dev: held-out features and labels that decide the end; None takes a tenth of the rows.
        seeds: of the initial weights; the first also shuffles the batches.
        weight_decay: taken off the weights at each step, times the step's size (AdamW).

    Returns:
        (target, seed) -> its network.

    Raises:
        ValueError: for features or dev that are not finite, a target with one class, or one that dev does not have.
    """
    features = as_features(X, device).float()
    check_finite(features)
    generator = torch.Generator().manual_seed(seeds[0])
    order = torch.randperm(len(features), generator=generator)
    coded = {name: encode_classes(name, labels) for name, labels in targets.items()}
    goal = torch.stack([torch.from_numpy(index) for _, index in coded.values()])  # target row
    if dev is None:
        cut = max(1, round(len(order) * HELD_OUT))
        held, order = order[:cut], order[cut:] if cut < len(order) else order
        held_X, held_y = features[held], goal[:, held]
    else:
        held_X = as_features(dev[0], device).float()
        check_finite(held_X, "dev")
        held_y = torch.stack(
            [torch.from_numpy(encode_with(of_dev(n, dev[1]), c)) for n, (c, _) in coded.items()]
        )
    features, goal = features[order], goal[:, order]
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale[scale <= 1e-6 * mean.abs()] = 1.0
    Z, held_Z = (features - mean) / scale.clamp_min(1e-12), (held_X - mean) / scale.clamp_min(1e-12)

    names = [(place, name, seed) for place, name in enumerate(targets) for seed in seeds]
    which = torch.tensor([place for place, _, _ in names])
    sizes = torch.tensor([len(coded[name][0]) for _, name, _ in names])
    wide = int(sizes.max())
    absent = (torch.arange(wide)[None] >= sizes[:, None]).to(Z.device)
    weights = _initial([seed for *_, seed in names], Z.shape[1], hidden, sizes.tolist(), Z.device)
    if activation == "none":
        weights[1].zero_()

    def logits(w: Sequence[Tensor], rows: Float[Tensor, "m d"]) -> Float[Tensor, "t m c"]:
        inner = torch.einsum("md,thd->tmh", rows, w[0]) + w[1][:, None]
        inner = inner.relu() if activation == "relu" else inner
        out = inner @ w[2].transpose(1, 2) + w[3][:, None]
        return out.masked_fill(absent[:, None], -torch.inf)

    def losses(
        w: Sequence[Tensor], rows: Float[Tensor, "m d"], y: Int[Tensor, "t m"]
    ) -> Float[Tensor, " t"]:
        logp = torch.log_softmax(logits(w, rows), 2)
        known = y >= 0  # a dev label that training does not have says nothing of when to stop
        picked = logp.gather(2, y.clamp_min(0)[..., None].to(logp.device))[..., 0]
        return -(picked * known.to(picked)).sum(1) / known.sum(1).clamp_min(1).to(picked)

    found = train(
        weights,
        lambda w, rows: losses(w, Z[rows], goal[which][:, rows]),
        lambda w: losses(w, held_Z, held_y[which]),
        len(Z),
        Schedule(rate, epochs, batch, weight_decay=weight_decay),
        generator,
        free=[None, torch.zeros(1, device=Z.device) if activation == "none" else None, None, None],
        progress=progress,
    )
    out = {}
    for i, (_, name, seed) in enumerate(names):
        classes = coded[name][0]
        U, a, V, b = (w[i].detach() for w in found.weights)
        mine = (U, a, V[: len(classes)], b[: len(classes)])
        bits = float(found.lowest[i]) / float(np.log(2))
        out[name, seed] = NetworkFit(
            classes,
            mine,
            mean,
            scale.clamp_min(1e-12),
            activation,
            bits,
            int(found.epochs[i]),
            bool(found.converged[i]),
        )
    return out


def _initial(
    seeds: Sequence[int], d: int, hidden: int, classes: Sequence[int], device: torch.device
) -> list[Tensor]:
    """Uniform in +-1/sqrt(inputs), as torch's linear layers begin; the same for a seed whatever is trained beside it."""
    out: list[list[Tensor]] = [[], [], [], []]
    for seed, own in zip(seeds, classes, strict=True):
        generator = torch.Generator().manual_seed(seed)
        shapes = (((hidden, d), d), ((hidden,), d), ((own, hidden), hidden), ((own,), hidden))
        drawn = [
            (torch.rand(shape, generator=generator) * 2 - 1) / fan**0.5 for shape, fan in shapes
        ]
        for part, weight in zip(out[:2], drawn[:2], strict=True):
            part.append(weight)
        for part, weight in zip(out[2:], drawn[2:], strict=True):
            part.append(
                torch.cat([weight, weight.new_zeros(max(classes) - own, *weight.shape[1:])])
            )
    return [torch.stack(part).to(device) for part in out]


class _NetworkProbe(ClassifierMixin, Saved):
    """A network as a scikit-learn classifier.

    Attributes:
        classes_: [c].
        fit_: the `NetworkFit`.
        n_iter_, converged_: epochs, and whether the held-out loss fell at no step any more.
    """

    classes_: np.ndarray
    n_features_in_: int
    fit_: NetworkFit
    n_iter_: int
    converged_: bool
    seed: int
    max_iter: int
    device: str | None

    def _fit(self, X: Any, y: Any, hidden: int, activation: Activation) -> None:
        X, y = features_and_classes(self, X, y)
        more: dict[str, Any] = {
            "seeds": (self.seed,),
            "epochs": self.max_iter,
            "device": self.device,
        }
        found = networks_many(
            X, {"y": y}, hidden, activation, batch=min(256, max(16, len(X) // 50)), **more
        )
        self._take(found["y", self.seed])

    def _take(self, fit: NetworkFit) -> None:
        self.fit_, self.classes_, self.n_iter_, self.converged_ = (
            fit,
            fit.classes,
            fit.epochs,
            fit.converged,
        )

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        fit = self.fit_
        tensors = dict(zip(_TENSORS, (*fit.weights, fit.mean, fit.scale), strict=True))
        recorded = {name: getattr(fit, name) for name in _RECORDED}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}, recorded

    def _restore(self, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        U, a, V, b, mean, scale = (torch.from_numpy(tensors[name]) for name in _TENSORS)
        recorded = {name: header[name] for name in _RECORDED}
        self._take(NetworkFit(self.classes_, (U, a, V, b), mean, scale, **recorded))
        self.n_features_in_ = len(mean)

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """Log-probabilities in nats."""
        X = fitted_features(self, X)  # first: it says if the probe is not fitted
        return self.fit_.log_proba(X).double().cpu().numpy()

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """Probabilities of the classes, in the order of ``classes_``."""
        p = np.exp(self.predict_log_proba(X))
        return p / p.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row."""
        index = self.predict_log_proba(X).argmax(1)
        return self.classes_[index]


class MLPProbe(_NetworkProbe):
    """A probe with one hidden layer of rectified units.

    Args:
        hidden: its width.
        max_iter: epochs at most.
        seed: of the initial weights, the held-out rows and the batches.
        device: where to train; None is the CPU.
    """

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(
        self, hidden: int = 100, max_iter: int = 100, seed: int = 0, device: str | None = None
    ) -> None:
        self.hidden = hidden
        self.max_iter = max_iter
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any) -> MLPProbe:
        """Fit on features [n d] and one label per row; raises ValueError for X that is not finite, or y with one class."""
        self._fit(X, y, self.hidden, "relu")
        return self


class LowRankProbe(_NetworkProbe):
    """A linear probe through a bottleneck of ``rank`` directions (Hewitt & Liang 2019).

    Args:
        rank: of the linear map.
        max_iter, seed, device: see `MLPProbe`.
    """

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(
        self, rank: int = 10, max_iter: int = 100, seed: int = 0, device: str | None = None
    ) -> None:
        self.rank = rank
        self.max_iter = max_iter
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any) -> LowRankProbe:
        """Fit on features [n d] and one label per row; raises ValueError for X that is not finite, or y with one class."""
        self._fit(X, y, self.rank, "none")
        return self
