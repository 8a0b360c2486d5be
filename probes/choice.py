"""Which penalty each target gets: a path from strong to weak, judged on dev.

A target leaves the path once its score has fallen twice in a row, or, where accuracy chooses, once
a weaker penalty brings next to nothing. The best of those that were tried is taken; of equals the
stronger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .design import CPU_BLOCK, Design
from .newton import is_rough, minimise
from .rows import OnDisk, blocks_of

CHOICE_TOL, CHOICE_TOL_EXACT = 2e-5, 1e-6
"""Relative error of the objective to which a penalty is solved to be judged on dev: by rough
products, and by exact ones, whose next step costs little. The chosen one is solved to ``tol``.
"""

FALLS = 2
"""Penalties in a row whose dev score falls, after which a target goes no weaker."""
LITTLE = 0.01
"""A share of the dev bits that is not worth a weaker penalty."""

Choose = Literal["accuracy", "bits"]
"""What a penalty is judged by on dev: how many rows are right, or how few bits the labels take. A
penalty that is right most often may be far too sure of what it gets wrong: where bits are reported,
bits must choose."""


@dataclass(frozen=True)
class Judged:
    """What a penalty gives on dev.

    Attributes:
        accuracy: share of the ``n`` rows that are right.
        bits: mean of the labels that training has; 0 where it has none of them.
    """

    accuracy: float
    bits: float
    n: int

    def score(self, choose: Choose) -> float:
        """The larger the better."""
        return -self.bits if choose == "bits" else self.accuracy

    def adds_little_to(self, stronger: Judged) -> bool:
        """Whether the weaker penalty brings less than a standard error of accuracy, and few bits.

        The rule of one standard error (Hastie, Tibshirani & Friedman 2009, section 7.10): what is
        left to win is less than dev can tell, while each weaker penalty takes several times as
        long. Bits keep a path going that has not left the majority class yet.
        """
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.n)
        is_level = self.accuracy - stronger.accuracy < error
        return is_level and self.bits > (1 - LITTLE) * stronger.bits


@dataclass
class Target:
    """One target on its way: its labels, and the best penalty so far."""

    name: str
    classes: np.ndarray
    index: Int[np.ndarray, " n"]
    dev: Int[np.ndarray, " m"] | None
    scores: dict[float, float] = field(default_factory=dict)
    best: tuple[float, Tensor] | None = None  # the penalty and its coefficients
    judged: Judged | None = None  # of the last penalty
    falls: int = 0
    is_level: bool = False

    def consider(self, l2: float, W: Tensor, judged: Judged, choose: Choose) -> None:
        """Keep the penalty if it is the best so far. Penalties come strong to weak."""
        score = judged.score(choose)
        if self.judged is not None:
            self.falls = self.falls + 1 if score < self.judged.score(choose) else 0
            self.is_level = choose == "accuracy" and judged.adds_little_to(self.judged)
        if self.best is None or score > max(self.scores.values()):
            self.best = l2, W
        self.scores[l2], self.judged = score, judged

    @property
    def goes_on(self) -> bool:
        """Whether a weaker penalty is worth its time."""
        return self.falls < FALLS and not self.is_level


def labels_of(group: Sequence[Target], design: Design) -> Int[Tensor, "n k"]:
    return torch.from_numpy(np.stack([t.index for t in group], axis=1)).to(design.device)


def choose_penalties(
    design: Design,
    group: Sequence[Target],
    start: Float[Tensor, "r k c"],
    path: Sequence[float],
    dev_rows: Float[Tensor, "m r"] | OnDisk,
    choose: Choose,
    tol: float,
    max_iter: int,
    advance: Callable[[int], None],
) -> tuple[Float[Tensor, "r k c"], list[float]]:
    """The penalty of every target that is best on dev,
    and its coefficients to about ``CHOICE_TOL``.
    """
    W = start.clone()
    loose = max(tol, CHOICE_TOL if is_rough(design, CHOICE_TOL) else CHOICE_TOL_EXACT)
    active = list(range(len(group)))
    for step, penalty in enumerate(path):
        members = [group[j] for j in active]
        l2 = torch.full((len(members),), penalty, dtype=torch.float64, device=design.device)
        labels = labels_of(members, design)
        # Each penalty begins where the stronger one before it ended.
        solution = minimise(design, labels, W[:, active], l2, tol=loose, max_iter=max_iter)
        W[:, active] = solution.W
        for j, target in enumerate(members):
            coefficients = solution.W[:, j]
            judged = judge(target, coefficients, dev_rows)
            target.consider(penalty, coefficients.clone(), judged, choose)
        active = [j for j in active if group[j].goes_on]
        # A target that goes no weaker leaves out the solves of all penalties to come.
        left_out = (len(members) - len(active)) * (len(path) - step - 1)
        advance(len(members) + left_out)
        if not active:
            break
    best = [target.best for target in group if target.best is not None]
    return torch.stack([W for _, W in best], dim=1), [l2 for l2, _ in best]


def judge(
    target: Target, W: Float[Tensor, "r c"], dev_rows: Float[Tensor, "m r"] | OnDisk
) -> Judged:
    """Accuracy and bits on dev."""
    assert target.dev is not None
    coefficients = W[:, : len(target.classes)]
    gold = torch.from_numpy(target.dev).to(coefficients.device)
    right, nats = 0, 0.0
    for rows in blocks_of(len(dev_rows), CPU_BLOCK):
        logits, labels = dev_rows[rows] @ coefficients, gold[rows]
        right += int((logits.argmax(1) == labels).sum())
        is_known = labels >= 0
        log_p = torch.log_softmax(logits[is_known].double(), 1)
        nats -= float(log_p.gather(1, labels[is_known, None]).sum())
    n_known = max(1, int((gold >= 0).sum()))
    return Judged(right / len(gold), nats / math.log(2) / n_known, len(gold))
