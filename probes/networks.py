"""MLP probes and low-rank linear probes, many of them trained together in one batched model.

    MLP        softmax(V relu(U x + a) + b)
    low rank   softmax(V (U x) + b),   U of shape rank x d

Adam on shuffled batches of standardised rows; after each epoch the loss on held-out rows. Where it
has not fallen, training goes on from the network of the lowest loss with a smaller step, and ends
when it falls at no step (`training`). Every target and seed has its own weights, step and end; the
batches are shared, so that one product serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import ClassifierMixin
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .checks import features_and_classes, fitted_features
from .design import as_features, check_finite
from .labels import Labels, encode_classes, encode_dev
from .storage import Saved
from .training import Schedule, Trained, train

Activation = Literal["relu", "none"]
_TENSORS = ("U", "a", "V", "b", "mean", "scale")
_RECORDED = ("activation", "dev_loss", "epochs", "stationary")
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
        stationary: whether training on lowered it at no step (see `probes.training`).
    """

    classes: np.ndarray
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    activation: Activation
    dev_loss: float
    epochs: int
    stationary: bool

    def log_proba(self, X: Float[Tensor, "n d"] | np.ndarray) -> Float[Tensor, "n c"]:
        """Log-probabilities (nats) of every class for every row."""
        U, a, V, b = (weight.double() for weight in self.weights)
        Z = (as_features(X, U.device).double() - self.mean) / self.scale
        hidden = Z @ U.T + a
        hidden = hidden.relu() if self.activation == "relu" else hidden
        return torch.log_softmax(hidden @ V.T + b, 1)

    def predict(self, X: Float[Tensor, "n d"] | np.ndarray) -> np.ndarray:
        """The most probable class of every row."""
        return self.classes[self.log_proba(X).argmax(1).cpu().numpy()]


_ROUNDING, _TINY = 1e-6, 1e-12


@checked
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
    """One network per target and seed, all trained together.

    Args:
        targets: labels of all rows by name.
        hidden: width of the hidden layer, or the rank where ``activation`` is ``none``.
        dev: held-out features and labels that decide when to stop; None uses a tenth of the rows.
        seeds: seeds of the initial weights; the first also shuffles the batches.
        weight_decay: weight decay of AdamW.

    Returns:
        (target, seed) -> its network.

    Raises:
        ValueError: for features or dev that are not finite or of another width, a target with one
            class, with labels of another length or one that dev does not have, sizes below 1, or an
            unknown activation.
    """
    seeds = list(map(int, seeds))
    _check_sizes(hidden=hidden, epochs=epochs, batch=batch, seeds=len(seeds))
    if activation not in get_args(Activation):
        raise InputError(
            f"activation: expected one of {list(get_args(Activation))}, got {activation!r}"
        )
    features = as_features(X, device).float()
    check_finite(features)
    generator = torch.Generator().manual_seed(seeds[0])
    order = torch.randperm(len(features), generator=generator)
    n = len(features)
    coded = {name: encode_classes(name, labels, n) for name, labels in targets.items()}
    if not coded:
        return {}
    goal = torch.stack([torch.from_numpy(index) for _, index in coded.values()])  # target row
    if dev is None:
        cut = max(1, round(len(order) * HELD_OUT))
        held_rows = order[:cut]
        order = order[cut:] if cut < len(order) else order  # one row is held out and trained on
        held_X, held_y = features[held_rows], goal[:, held_rows]
    else:
        held_X = _dev_features(dev[0], features.shape[1], device)
        held_y = _dev_labels(coded, dev[1], len(held_X))
    features, goal = features[order], goal[:, order]
    mean, scale = _moments(features)
    Z, held_Z = (features - mean) / scale, (held_X - mean) / scale

    # One model for each target and seed.
    models = [(place, name, seed) for place, name in enumerate(targets) for seed in seeds]
    which = torch.tensor([place for place, _, _ in models])
    sizes = [len(coded[name][0]) for _, name, _ in models]
    weights = _initial([seed for *_, seed in models], Z.shape[1], hidden, sizes, Z.device)
    networks = _Networks(sizes, activation, Z.device)
    frozen_bias = None
    if activation == "none":
        # A bias between two linear maps adds nothing to the second's.
        weights[1].zero_()
        frozen_bias = torch.zeros(1, device=Z.device)
    labels, held_labels = goal[which], held_y[which]
    trained = train(
        weights,
        lambda w, rows: networks.slopes(w, Z[rows], labels[:, rows]),
        lambda w: networks.losses(w, held_Z, held_labels),
        len(Z),
        Schedule(rate, epochs, batch, weight_decay=weight_decay),
        generator,
        free=[None, frozen_bias, None, None],
        progress=progress,
    )
    fits = {}
    for i, (_, name, seed) in enumerate(models):
        fits[name, seed] = _fit(trained, i, coded[name][0], mean, scale, activation)
    return fits


def _dev_features(
    X: Float[Tensor, "m d"] | np.ndarray, width: int, device: torch.device | str | None
) -> Float[Tensor, "m d"]:
    features = as_features(X, device).float()
    check_finite(features, "dev")
    if features.shape[1] != width:
        raise InputError(f"dev has {features.shape[1]} features, but X has {width}")
    return features


def _fit(
    trained: Trained,
    number: int,
    classes: np.ndarray,
    mean: Float[Tensor, " d"],
    scale: Float[Tensor, " d"],
    activation: Activation,
) -> NetworkFit:
    """One of the networks that were trained together."""
    U, a, V, b = (w[number].detach() for w in trained.weights)
    return NetworkFit(
        classes,
        (U, a, V[: len(classes)], b[: len(classes)]),
        mean,
        scale,
        activation,
        float(trained.lowest[number]) / float(np.log(2)),
        int(trained.epochs[number]),
        bool(trained.stationary[number]),
    )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name}: expected at least 1, got {size}")


class _Networks:
    """Many networks side by side, all padded to the classes of the widest.

    Args:
        sizes: classes of each network.
    """

    def __init__(self, sizes: Sequence[int], activation: Activation, device: torch.device) -> None:
        self.activation = activation
        columns = torch.arange(max(sizes))[None]
        self.absent = (columns >= torch.tensor(sizes)[:, None]).to(device)
        self.is_padded = len(set(sizes)) > 1

    def logits(self, w: Sequence[Tensor], rows: Float[Tensor, "m d"]) -> Float[Tensor, "t m c"]:
        """Of every network for every row."""
        return self._outer(w, self._inner(w, rows))

    def _inner(self, w: Sequence[Tensor], rows: Float[Tensor, "m d"]) -> Float[Tensor, "t m h"]:
        """The hidden layer."""
        n_networks, width, _ = w[0].shape
        # One product for all networks, side by side.
        inner = (rows @ w[0].flatten(0, 1).T).view(len(rows), n_networks, width).transpose(0, 1)
        inner = inner + w[1][:, None]
        return inner.relu_() if self.activation == "relu" else inner

    def _outer(self, w: Sequence[Tensor], inner: Float[Tensor, "t m h"]) -> Float[Tensor, "t m c"]:
        outer = inner @ w[2].transpose(1, 2) + w[3][:, None]
        return outer.masked_fill_(self.absent[:, None], -torch.inf) if self.is_padded else outer

    def losses(
        self, w: Sequence[Tensor], rows: Float[Tensor, "m d"], y: Int[Tensor, "t m"]
    ) -> Float[Tensor, " t"]:
        """Mean cross-entropy of each, in nats."""
        log_p = torch.log_softmax(self.logits(w, rows), 2)
        is_known = y >= 0  # a dev label that training does not have says nothing of when to stop
        index = y.clamp_min(0)[..., None].to(log_p.device)
        of_label = log_p.gather(2, index)[..., 0]
        known = is_known.to(of_label)
        return -(of_label * known).sum(1) / is_known.sum(1).clamp_min(1).to(of_label)

    def slopes(
        self, w: Sequence[Tensor], rows: Float[Tensor, "m d"], y: Int[Tensor, "t m"]
    ) -> list[Tensor]:
        r"""The gradient of each network's loss, all labels known.

        .. math:: G = (p - e_y) / m, \quad \nabla V = G^\top H, \quad
            D = (G V) \odot [H > 0], \quad \nabla U = D^\top X

        Written out, as autograd takes twice the time for networks of this size.
        """
        inner = self._inner(w, rows)
        log_p = torch.log_softmax(self._outer(w, inner), 2)
        index = y[..., None].to(log_p.device)
        of_log_p = torch.zeros_like(log_p).scatter_(2, index, -1 / len(rows))
        of_logits = torch.ops.aten._log_softmax_backward_data(of_log_p, log_p, 2, log_p.dtype)
        of_inner = of_logits @ w[2]
        if self.activation == "relu":
            of_inner = torch.ops.aten.threshold_backward(of_inner, inner, 0)
        n_networks, n_rows, width = of_inner.shape
        side_by_side = of_inner.transpose(0, 1).reshape(n_rows, n_networks * width)
        of_first = (rows.T @ side_by_side).T.view(n_networks, width, -1)
        of_second = (inner.transpose(1, 2) @ of_logits).transpose(1, 2)
        return [of_first, of_inner.sum(1), of_second, of_logits.sum(1)]


def _dev_labels(
    coded: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: Mapping[str, Labels], m: int
) -> Int[Tensor, "t m"]:
    """Each target's dev labels as places of its classes;
    -1 for a class that training does not have.

    Raises:
        ValueError: none of a target's dev labels is one of training.
    """
    rows = []
    for name, (classes, _) in coded.items():
        rows.append(torch.from_numpy(encode_dev(name, labels, classes, m)))
    return torch.stack(rows)


def _moments(
    features: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation of each column; 1 where a column varies by rounding alone."""
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale[scale <= _ROUNDING * mean.abs()] = 1.0
    return mean, scale.clamp_min(_TINY)


def _initial(
    seeds: Sequence[int], d: int, hidden: int, classes: Sequence[int], device: torch.device
) -> list[Tensor]:
    """Uniform in +-1/sqrt(inputs), as torch's linear layers begin;
    the same for a seed whatever is trained beside it.
    """
    parts: list[list[Tensor]] = [[], [], [], []]
    widest = max(classes)
    for seed, n_classes in zip(seeds, classes, strict=True):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, inputs: int, source: torch.Generator = generator) -> Tensor:
            return (torch.rand(shape, generator=source) * 2 - 1) / inputs**0.5

        # The order of the draws is part of what a seed means.
        U, a = draw(hidden, d, inputs=d), draw(hidden, inputs=d)
        V, b = draw(n_classes, hidden, inputs=hidden), draw(n_classes, inputs=hidden)
        absent = widest - n_classes
        V = torch.cat([V, V.new_zeros(absent, hidden)])
        b = torch.cat([b, b.new_zeros(absent)])
        for part, weight in zip(parts, (U, a, V, b), strict=True):
            part.append(weight)
    return [torch.stack(part).to(device) for part in parts]


_BATCH, _LEAST_BATCH, _STEPS = 256, 16, 50
"""Rows a step: so many that an epoch has about 50 steps, between 16 and 256."""


class _NetworkProbe(ClassifierMixin, Saved):
    """A network as a scikit-learn classifier.

    Attributes:
        classes_: [c].
        fit_: the `NetworkFit`.
        n_iter_, stationary_: epochs, and whether the held-out loss fell at no step any more.
    """

    classes_: np.ndarray
    n_features_in_: int
    fit_: NetworkFit
    n_iter_: int
    stationary_: bool
    seed: int
    max_iter: int
    device: str | None

    def _fit(self, X: Any, y: Any, hidden: int, activation: Activation) -> None:
        X, y = features_and_classes(self, X, y)
        fits = networks_many(
            X,
            {"y": y},
            hidden,
            activation,
            seeds=(self.seed,),
            epochs=self.max_iter,
            batch=min(_BATCH, max(_LEAST_BATCH, len(X) // _STEPS)),
            device=self.device,
        )
        self._take(fits["y", self.seed])

    def _take(self, fit: NetworkFit) -> None:
        self.fit_, self.classes_ = fit, fit.classes
        self.n_iter_, self.stationary_ = fit.epochs, fit.stationary

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        fit = self.fit_
        tensors = dict(zip(_TENSORS, (*fit.weights, fit.mean, fit.scale), strict=True))
        recorded = {name: getattr(fit, name) for name in _RECORDED}
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}, recorded

    def _restore(self, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        U, a, V, b, mean, scale = (torch.from_numpy(tensors[name]) for name in _TENSORS)
        # Files of before have another name for it.
        known = {"stationary": header.get("converged"), **header}
        recorded = {name: known[name] for name in _RECORDED}
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
    """A probe with one hidden layer of rectified linear units.

    Args:
        hidden: width of the hidden layer.
        max_iter: maximum number of epochs.
        seed: seed of the initial weights, the held-out rows and the batches.
        device: device for training; None is the CPU.
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
        """Fit on features [n d] and one label per row; raises ValueError for X that is not finite,
        or y with one class.
        """
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
        """Fit on features [n d] and one label per row; raises ValueError for X that is not finite,
        or y with one class.
        """
        self._fit(X, y, self.rank, "none")
        return self
