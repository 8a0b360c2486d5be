"""Sets of neurons, and what is done to them in the running model.

    zero, mean     x_j <- 0, or the neuron's mean over training words
    translate c    x_j <- x_j + beta (1 - r_j / k) (mean of class c - mean of all other classes'
                   words),   r_j = 0 for the first

The translation is that of Antverg & Belinkov (2022): the neurons that a ranking puts first move
most. Of two classes its direction is the difference of their means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....hooks import edits
from ....hooks.edits import Edit

RANDOM = "random"
ALONE = "alone"


@dataclass(frozen=True)
class NeuronSet:
    """Neurons of one site that are changed together.

    Args:
        source: the ranking that they are the first of; ``random``; or ``alone`` for a single neuron
            that the page names.
        neurons: the first of the order first.
    """

    site: str
    source: str
    neurons: tuple[int, ...]

    @property
    def k(self) -> int:
        """How many neurons."""
        return len(self.neurons)


def neuron_sets(
    site: str,
    orders: Mapping[str, Sequence[int]],
    ks: Sequence[int],
    named: Sequence[int],
    draws: int,
    seed: int,
) -> list[NeuronSet]:
    """The first k of every ranking, as many in random orders, and the neurons that are named,
    each alone.
    """
    width = len(next(iter(orders.values())))
    rng = np.random.default_rng(seed)
    all_orders = [(source, tuple(order)) for source, order in orders.items()]
    for _ in range(draws):
        all_orders.append((RANDOM, tuple(rng.permutation(width).tolist())))
    sets = []
    for source, order in all_orders:
        # The first k of one random order for all k: sets grow, as those of a ranking do.
        sets += [NeuronSet(site, source, order[:k]) for k in ks]
    sets += [NeuronSet(site, ALONE, (neuron,)) for neuron in named]
    return sets


@dataclass(frozen=True)
class Means:
    """Means of a site's neurons over training words: of all, of each class,
    and of the words of all other classes.
    """

    every: Float[Tensor, " d"]
    of: Mapping[str, Float[Tensor, " d"]]
    others: Mapping[str, Float[Tensor, " d"]]

    @classmethod
    def over(cls, X: Float[Tensor, "n d"], labels: np.ndarray) -> Means:
        """The means of these rows."""
        masks = {str(c): torch.from_numpy(labels == c) for c in sorted(set(labels))}
        rows = X.double()
        return cls(
            rows.mean(0),
            {c: rows[mask].mean(0) for c, mask in masks.items()},
            {c: rows[~mask].mean(0) for c, mask in masks.items()},
        )


Change = Callable[[NeuronSet, Means], Edit]


def ablated(value: str) -> Change:
    """``zero`` or ``mean`` in the neurons' place."""

    def change(chosen: NeuronSet, means: Means) -> Edit:
        level = means.every if value == "mean" else torch.zeros_like(means.every)
        return _edit(value, chosen, lambda x: level[list(chosen.neurons)].to(x).expand_as(x))

    return change


def translated(label: str, beta: float) -> Change:
    """The neurons moved towards a class."""

    def change(chosen: NeuronSet, means: Means) -> Edit:
        at = list(chosen.neurons)
        fall = beta * (1 - torch.arange(chosen.k, dtype=torch.float64) / chosen.k)
        move = fall * (means.of[label][at] - means.others[label][at])
        return _edit(f"translate {label}", chosen, lambda x: x + move.to(x))

    return change


def _edit(name: str, chosen: NeuronSet, change: Callable[[Tensor], Tensor]) -> Edit:
    """A change of some columns of the site, whose heads stand side by side where it has heads."""
    at = torch.tensor(chosen.neurons)

    def apply(value: Tensor) -> Tensor:
        flat = value.flatten(2).clone()
        flat[..., at] = change(flat[..., at])
        return flat.view_as(value)

    return edits.function(apply, name)
