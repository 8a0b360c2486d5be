"""Options of the attribution methods; each method reads the ones it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...hooks.sites import SiteLike
from ..subject import Subject
from .units import AttributionError

ERROR = 0.05
"""Default stopping rule: largest standard error divided by largest absolute score."""
STEPS = 50
"""Default number of steps of a path that is evaluated once."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the attribution methods.

    Args:
        removal: how a unit is made absent (`experiments.attribution.game`).
        draws: number of draws of a random removal.
        proposals: another masked model, from which the removal ``propose`` draws words. If given,
            ``propose`` is the default removal.
        window: number of units that `windows` removes together.
        samples: changed texts of the tree (5,000) and KernelSHAP (2 M + 2,048); pairs of
            permutations (10); noisy copies of SmoothGrad (50). Of LIME (5,000) and leverage-shap
            (4,096) the most, where an error is asked for.
        error: LIME and leverage-shap stop once the largest standard error is this share of the
            largest score: 0.05 by default, or never where samples are given.
        verify: number of units, those that may be largest, for which leave-one-out is exact. A few
            random ones are exact too; one gradient estimates the rest. By default all are exact.
        features: number of units that LIME keeps, as published; 0 keeps all.
        steps: gradients along the path of conductance and dig (50); of integrated gradients those
            of the first round (10).
        baseline: where gradients are integrated from: zero, pad, mask, mean, sampled; by default
            the mean, at a site zero.
        noise: SmoothGrad's standard deviation, as a share of the input's range.
        site: where gradients are taken; by default the embedding. For hidden-out what is put out,
            one or several.
        value: what hidden-out puts in a site's place: zero, mean, shuffle, layer:N.
        reference: texts whose values give the mean; by default the words of the text itself.
        rule: of relevance propagation, at linear layers: 0, epsilon, gamma or zplus.
        seed: the seed of every random draw.

    Raises:
        AttributionError: a number that is too small.
    """

    removal: str | None = None
    draws: int = 5
    proposals: Subject | None = None
    window: int = 3
    samples: int | None = None
    error: float | None = None
    verify: int | None = None
    features: int = 10
    steps: int | None = None
    baseline: str | None = None
    noise: float = 0.15
    site: SiteLike | None = None
    value: str = "zero"
    reference: Sequence[str] = ()
    rule: str = "epsilon"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.error is not None and not 0 < self.error < 1:
            raise AttributionError(
                f"error {self.error}: expected a share of the largest score, above 0 and below 1"
            )
        least = {"draws": 1, "window": 1, "samples": 1, "verify": 1, "features": 0, "steps": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise AttributionError(f"{name} {value}: expected at least {low}")

    @property
    def asked_error(self) -> float:
        """Error, as a share of the largest score, at which drawing stops.

        It is 0 if a number of samples is set instead.
        """
        return self.error or (ERROR if self.samples is None else 0.0)

    @property
    def path_steps(self) -> int:
        """Number of steps of a path that is evaluated once."""
        return self.steps or STEPS

    @property
    def start(self) -> str:
        """Baseline from which gradients are integrated."""
        return self.baseline or ("mean" if self.site is None else "zero")
