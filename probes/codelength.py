"""Online code length: the bits needed to send the labels to a receiver who has the vectors (Voita &
Titov 2020).

    L = t_1 log2 K + sum_{i>=1} sum_{j in (t_i, t_{i+1}]} -log2 p_{theta_i}(y_j | x_j),
        compression = n log2 K / L

theta_i is the probe trained on the first t_i labels. Sentences are shuffled once with the seed, and
blocks end between sentences, so that a probe never codes the rest of a sentence that it has seen. A
label may occur first in a later block, so the code is p = (1 - e) p_probe + e/K with e = 1/(t_i +
1); this costs about 1.5 bits per block without new labels.

The penalty of each block is the one with the fewest bits on the last tenth of the labels already
sent, so the choice costs nothing. A choice by accuracy would code undecodable labels with an
overconfident probe. A choice on dev labels (``dev``) is not paid for: see ``unpaid``.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .design import Design, as_features, check_finite, penalties
from .fit import Fit
from .labels import Labels, encode_classes, encode_dev
from .solver import fit_many

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks, as shares of the sentences (Voita & Titov 2020)."""
L2 = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)
"""Up to where a probe says the class frequencies and no more:
labels that cannot be read cost no more than these.
"""
TAIL = 0.1
"""Share of the labels sent so far on which a block's penalty is chosen."""
CHOICE = 1e-3
"""Relative error to which a penalty is solved to be judged."""
NATS = float(np.log(2))


@dataclass(frozen=True)
class CodeLength:
    """The code length of the labels of one target.

    Attributes:
        bits: L.
        uniform: n log2 K, the cost without vectors.
        blocks: bits of each block; the first uses the uniform code.
        ends: number of rows before the end of each block.
        l2: penalty of the probe for each coded block.
        unpaid: bits of the dev labels that chose the penalties but were not sent (n_dev log2 K); 0
            without dev labels.
        n, n_classes: labels sent, and K.
    """

    bits: float
    uniform: float
    blocks: list[float]
    ends: list[int]
    l2: list[float]
    unpaid: float
    n: int
    n_classes: int

    @property
    def compression(self) -> float:
        """Uniform code length divided by this code length."""
        return self.uniform / self.bits

    def published(self, compat: str = "voita2020") -> tuple[float, float]:
        """Code length in "kbit", and compression, as the code of the paper prints them: the first
        block in bits, the others in nats, over 1,024.

        Raises:
            ValueError: another convention.
        """
        if compat != "voita2020":
            raise InputError(f"compat: expected 'voita2020', got {compat!r}")
        mixed = self.blocks[0] + NATS * sum(self.blocks[1:])
        return mixed / 1024, self.uniform / mixed


@checked
def online_code(
    X: Float[Tensor, "n d"] | Float[np.ndarray, "n d"],
    targets: Mapping[str, Labels],
    sentences: Sequence[int] | Int[np.ndarray, " n"],
    *,
    fractions: Sequence[float] = FRACTIONS,
    l2: float | Sequence[float] = L2,
    dev: tuple[Float[Tensor, "m d"] | Float[np.ndarray, "m d"], Mapping[str, Labels]] | None = None,
    seed: int = 0,
    tol: float = 1e-4,
    device: torch.device | str | None = None,
) -> dict[str, CodeLength]:
    """The code length of every target, on the same rows and blocks; all probes of a block are
    solved together.

    Args:
        targets: labels of all rows by name, such as a task and its control tasks.
        sentences: the sentence of each row.
        fractions: ends of the blocks as shares of the sentences, increasing to 1.
        l2: one penalty, or several to choose from.
        dev: features and labels for the choice of penalty; their cost is not counted. None chooses
            on the labels already sent.
        tol: relative error of the objective of a block.

    Raises:
        ValueError: features that are not finite, fractions that do not rise to 1, fewer than two
            sentences, a target with one class, with labels of another length, or one that dev does
            not have.
    """
    features = as_features(X, device)
    check_finite(features)
    owners = np.asarray(sentences)
    if len(owners) != len(features):
        raise InputError(f"expected a sentence for each of {len(features)} rows, got {len(owners)}")
    order, ends = _blocks(owners, fractions, seed)
    features = features[torch.from_numpy(order).to(features.device)]
    owners = owners[order]
    messages = [_Message.of(name, labels, order, ends[0]) for name, labels in targets.items()]
    coded_dev = None
    if dev is not None:
        dev_features, dev_labels = dev
        dev_features = as_features(dev_features, device)
        dev_index = {
            m.name: encode_dev(m.name, dev_labels, m.classes, len(dev_features)) for m in messages
        }
        coded_dev = dev_features, dev_index

    fits: dict[str, Fit] = {}
    for start, stop in itertools.pairwise(ends):
        sent = {}
        for message in messages:
            labels = message.index[:start]
            # A probe needs two classes; a message that has shown one only is coded by the escape
            # alone.
            if len(np.unique(labels)) > 1:
                sent[message.name] = labels
        # Each block's probes begin where those of the block before ended.
        if sent:
            fits = _fit(features[:start], sent, owners[:start], l2, coded_dev, tol, fits)
        else:
            fits = {}
        for message in messages:
            message.send(features[start:stop], start, stop, fits.get(message.name))

    lengths = {}
    for message in messages:
        n_dev = 0 if dev is None else len(dev[1][message.name])
        lengths[message.name] = message.length(ends, n_dev)
    return lengths


@dataclass
class _Message:
    """One target's labels, on their way: what the blocks sent so far have cost."""

    name: str
    classes: np.ndarray
    index: Int[np.ndarray, " n"]
    blocks: list[float]
    l2: list[float]

    @classmethod
    def of(cls, name: str, labels: Labels, order: np.ndarray, first: int) -> _Message:
        """The labels in the order of sending; the first block by the uniform code."""
        classes, index = encode_classes(name, labels, len(order))
        return cls(name, classes, index[order], [first * float(np.log2(len(classes)))], [])

    def send(self, X: Float[Tensor, "m d"], start: int, stop: int, fit: Fit | None) -> None:
        """Code the labels from start to stop by the probe of those before."""
        n_classes = len(self.classes)
        escape = 1 / (start + 1)
        wanted = torch.from_numpy(self.index[start:stop])
        p = _probability(fit, self.index[:start], X, wanted, n_classes)
        # Mixed with the uniform code, so that a label that no block has shown yet costs a finite
        # number of bits.
        mixed = (1 - escape) * p + escape / n_classes
        self.blocks.append(float(-mixed.log2().sum()))
        self.l2.append(float("nan") if fit is None else fit.l2)

    def length(self, ends: Sequence[int], n_dev: int) -> CodeLength:
        """What all of it cost."""
        n, n_classes = len(self.index), len(self.classes)
        # Without a model each label costs log2 of the number of classes.
        bits_each = float(np.log2(n_classes))
        return CodeLength(
            bits=sum(self.blocks),
            uniform=n * bits_each,
            blocks=self.blocks,
            ends=list(ends),
            l2=self.l2,
            unpaid=n_dev * bits_each,
            n=n,
            n_classes=n_classes,
        )


def _blocks(
    owners: np.ndarray, fractions: Sequence[float], seed: int
) -> tuple[np.ndarray, list[int]]:
    """Rows in the order in which they are sent, and where the blocks end."""
    fractions = list(fractions)
    rises = fractions == sorted(set(fractions))
    if not rises or not fractions or fractions[0] <= 0 or fractions[-1] != 1:
        raise InputError(f"fractions: expected shares that rise to 1, got {fractions}")
    names, sentence = np.unique(owners, return_inverse=True)
    n_sentences = len(names)
    if n_sentences < 2:
        raise InputError(f"expected at least 2 sentences, got {n_sentences}")
    shuffled = np.random.default_rng(seed).permutation(n_sentences)
    position = np.empty(n_sentences, dtype=int)
    position[shuffled] = np.arange(n_sentences)
    place = position[sentence]
    order = np.argsort(place, kind="stable")  # the words of a sentence stay in their order
    rows_before = np.bincount(place, minlength=n_sentences).cumsum()
    counts = sorted({max(1, round(fraction * n_sentences)) for fraction in fractions})
    return order, [int(rows_before[count - 1]) for count in counts]


def _fit(
    X: Float[Tensor, "n d"],
    targets: Mapping[str, np.ndarray],
    owners: np.ndarray,
    l2: float | Sequence[float],
    dev: tuple[Float[Tensor, "m d"] | Float[np.ndarray, "m d"], Mapping[str, Labels]] | None,
    tol: float,
    before: Mapping[str, Fit],
) -> dict[str, Fit]:
    """The probes of what has been sent, each at a penalty chosen on its last sentences (or on dev),
    from those of a block before."""
    path = penalties(l2, choose=True)
    with warnings.catch_warnings():
        # a block's probe is a code, however good
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(path) == 1:
            return fit_many(X, targets, path[0], tol=tol, start=before)
        if dev is not None:
            dev_X, dev_labels = dev
            of_targets = {name: dev_labels[name] for name in targets}
            return fit_many(X, targets, path, dev=(dev_X, of_targets), choose="bits", tol=tol)
        chosen = dict.fromkeys(targets, path[0]) | _tail_penalties(X, targets, owners, path)
        fits: dict[str, Fit] = {}
        design = Design(X)
        for penalty in sorted(set(chosen.values())):
            group = {name: targets[name] for name in targets if chosen[name] == penalty}
            # Targets with the same penalty are solved together.
            fits |= fit_many(design, group, penalty, tol=tol, start=before)
    return fits


def _tail_penalties(
    X: Float[Tensor, "n d"],
    targets: Mapping[str, np.ndarray],
    owners: np.ndarray,
    path: Sequence[float],
) -> dict[str, float]:
    """The penalty under which each target's last labels take the fewest bits;
    of targets that can be judged so.
    """
    cut = int(len(X) * (1 - TAIL))
    while cut and owners[cut] == owners[cut - 1]:  # the tail begins with a sentence
        cut -= 1
    heads, tails = {}, {}
    for name, index in targets.items():
        # A probe of the rows before the tail needs two classes there.
        if cut and len(np.unique(index[:cut])) > 1:
            heads[name], tails[name] = index[:cut], index[cut:]
    if not heads:
        return {}
    fits = fit_many(X[:cut], heads, path, dev=(X[cut:], tails), choose="bits", tol=CHOICE)
    return {name: fit.l2 for name, fit in fits.items()}


def _probability(
    fit: Fit | None,
    seen: Int[np.ndarray, " t"],
    X: Float[Tensor, "m d"],
    wanted: Int[Tensor, " m"],
    k: int,
) -> Float[Tensor, " m"]:
    """The probe's probability of each label; of the only class where there has been but one."""
    table = torch.zeros(len(X), k, dtype=torch.float64)
    if fit is None:
        only_class = int(seen[0])
        table[:, only_class] = 1.0
    else:
        columns = torch.from_numpy(fit.classes.astype(int))
        table[:, columns] = fit.predict_proba(X).cpu()
    return table.gather(1, wanted[:, None])[:, 0]
