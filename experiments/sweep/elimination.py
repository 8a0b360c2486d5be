"""Which parts are surely not among the K largest, from their effects on some of the prompts.

The prompts so far are a random sample of all of them, and what is asked is the mean over all: a
race stops what a full run would not list. So nothing but the draw is random, whatever groups the
prompts are of. First-order estimates g are known on every prompt (`estimate`), and effects e on the
sampled ones, so the mean of a part is

    m = b mean_all(g) + mean_sample(e - b g),    b in `SLOPES`, of least variance

the difference estimator of survey sampling. It is right on average whatever g is, its error is that
of the residuals e - b g alone, and it vanishes as the sample becomes all prompts:

    var(m) = (1 - n/N) s^2 / n,    s^2 the variance of the residuals, n of N prompts

Part i is behind part j if, for s_j the sign of m_j and both signs of part i,

    s_j m_j -+ m_i  >  t * standard error

paired by prompt. The one error that counts is a part of the true K largest with K others ahead of
it; at least one of them is then wrongly ahead, so the level is divided by the K (parts - K) pairs
(and by the stages). A few prompts may all miss those on which a part matters: where its variance
is below the mean of its site's in the first stage, that mean counts as much as that stage's prompts
do, and the part's own variance as those since.

Source: Särndal, Swensson and Wretman 1992, chapter 6 (difference estimator) and 2.8 (finite
populations); Maron and Moore 1994 (races), with t instead of Hoeffding's bound; Even-Dar et al.
2006 (elimination).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ...probes.distributions import t_quantile

WRONG = 0.05
"""Chance at most that a part of the true K largest stops, over all stages."""
SLOPES = (0.0, 0.5, 1.0)
"""How much of an estimate is taken off."""
LEADERS = 4
"""Parts that may be ahead of others: so many times those that are looked for, the largest.

More than the K largest: one of those that varies much over prompts is ahead of no other part early,
while the next ones may be.
"""


@dataclass(frozen=True)
class Eliminated:
    """What a race leaves.

    Args:
        effects: of every part; of one that stopped, `Standing.filled` at that moment.
        ran_on: on how many prompts each part ran.
        intervals: of the parts that stopped, 95% of the effect over all prompts; else NaN.
    """

    effects: Float[np.ndarray, "parts prompts"]
    ran_on: Int[np.ndarray, " parts"]
    intervals: Float[np.ndarray, "parts 2"]


def eliminate(
    effects_of: Callable[[int, Int[np.ndarray, " some"]], Float[np.ndarray, "some stage"]],
    of_stages: Sequence[Sequence[int]],
    estimates: Float[np.ndarray, "parts prompts"],
    site_names: Sequence[str],
    keep: int,
    wrong: float = WRONG,
) -> Eliminated:
    """Measure stage by stage, and stop the parts that are surely not among the largest ``keep``.

    Args:
        effects_of: from a stage and the parts that are left to their effects on its prompts.
        of_stages: the prompts of each stage, in the order of those effects.
        estimates: first-order effects; 0 where there are none.
        site_names: the site of each part: those of one site vary alike.
        wrong: chance at most that a part of the true largest stops.
    """
    n_parts, n_prompts = estimates.shape
    effects = np.full((n_parts, n_prompts), np.nan)
    ran_on, intervals = np.zeros(n_parts, dtype=int), np.full((n_parts, 2), np.nan)
    alive, floors = np.arange(n_parts), np.zeros(n_parts)
    is_sampled = np.zeros(n_prompts, dtype=bool)
    n_pairs = keep * (n_parts - keep)
    level = wrong / (len(of_stages) - 1) / n_pairs
    for stage, prompts in enumerate(of_stages):
        effects[np.ix_(alive, np.asarray(prompts))] = effects_of(stage, alive)
        is_sampled[prompts] = True
        ran_on[alive] = is_sampled.sum()
        if stage + 1 == len(of_stages):
            break
        now = standing(effects[np.ix_(alive, is_sampled)], estimates[alive], is_sampled)
        if stage == 0:
            floors = site_floors(now.spread, site_names)
        weight = len(of_stages[0]) / is_sampled.sum()
        variances = now.variances(floors[alive], weight)
        is_behind = surely_behind(now, keep, level, variances)
        stopped = alive[is_behind]
        effects[stopped] = now.filled[is_behind]
        intervals[stopped] = now.intervals(variances)[is_behind]
        alive = alive[~is_behind]
    return Eliminated(effects, ran_on, intervals)


@dataclass(frozen=True)
class Standing:
    """What a sample of the prompts tells of the effects over all prompts.

    Args:
        filled: the effects; on prompts that are not in the sample b g + mean(e - b g), so that the
            mean over all prompts is the difference estimator.
        residuals: e - b g, centred and over sqrt(n - 1): their products are covariances.
    """

    filled: Float[np.ndarray, "parts prompts"]
    residuals: Float[np.ndarray, "parts sample"]

    @property
    def scale(self) -> float:
        """From a variance of residuals to that of their mean."""
        n, n_all = self.residuals.shape[1], self.filled.shape[1]
        return (1 - n / n_all) / n

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the variances."""
        return self.residuals.shape[1] - 1

    @property
    def means(self) -> Float[np.ndarray, " parts"]:
        """The estimated effects over all prompts."""
        return self.filled.mean(1)

    @property
    def spread(self) -> Float[np.ndarray, " parts"]:
        """Variances of the residuals."""
        return (self.residuals**2).sum(1)

    def variances(
        self, floors: Float[np.ndarray, " parts"], weight: float
    ) -> Float[np.ndarray, " parts"]:
        """Squared standard errors of the means.

        Args:
            floors: variances of residuals that those below are drawn to, with this weight.
        """
        lacking = np.maximum(0, floors - self.spread)
        return self.scale * (self.spread + weight * lacking)

    def intervals(self, variances: Float[np.ndarray, " parts"]) -> Float[np.ndarray, "parts 2"]:
        """95% intervals of the effects over all prompts."""
        reach = t_quantile(0.975, self.degrees) * np.sqrt(variances)
        return np.stack([self.means - reach, self.means + reach], axis=1)


def standing(
    effects: Float[np.ndarray, "parts sample"],
    estimates: Float[np.ndarray, "parts prompts"],
    is_sampled: Bool[np.ndarray, " prompts"],
) -> Standing:
    """The effects over all prompts, from those on a sample.

    Args:
        estimates: of every part on every prompt; 0 where there are none.
    """
    known = estimates[:, is_sampled]
    residuals = np.stack([_centred(effects - slope * known) for slope in SLOPES])
    best = (residuals**2).sum(2).argmin(0)
    slopes = np.array(SLOPES)[best][:, None]
    offsets = (effects - slopes * known).mean(1, keepdims=True)
    filled = slopes * estimates + offsets
    filled[:, is_sampled] = effects
    return Standing(filled, residuals[best, np.arange(len(best))])


def _centred(values: Float[np.ndarray, "parts sample"]) -> Float[np.ndarray, "parts sample"]:
    """Distances from each part's mean, over sqrt(n - 1)."""
    return (values - values.mean(1, keepdims=True)) / np.sqrt(values.shape[1] - 1)


def site_floors(
    spread: Float[np.ndarray, " parts"], site_names: Sequence[str]
) -> Float[np.ndarray, " parts"]:
    """The mean over each part's site of the variances in the first stage."""
    _, of_part = np.unique(site_names, return_inverse=True)
    means = np.bincount(of_part, weights=spread) / np.bincount(of_part)
    return means[of_part]


def surely_behind(
    now: Standing, keep: int, level: float, variances: Float[np.ndarray, " parts"]
) -> Bool[np.ndarray, " parts"]:
    """Which parts have ``keep`` others significantly ahead of them.

    Args:
        level: chance of a wrong answer for each pair of parts.
        variances: squared standard errors of the parts that may be behind.
    """
    means, sizes = now.means, np.abs(now.means)
    leaders = np.argsort(-sizes, kind="stable")[: LEADERS * keep]
    leader_variances = now.scale * now.spread[leaders]
    covariances = now.scale * (now.residuals[leaders] @ now.residuals.T)
    signs = np.sign(means[leaders])
    t = t_quantile(1 - level, now.degrees)
    is_ahead = np.ones(covariances.shape, dtype=bool)
    for sign in (1, -1):
        gaps = sizes[leaders, None] - sign * means
        of_pairs = leader_variances[:, None] + variances - 2 * sign * signs[:, None] * covariances
        is_ahead &= gaps > t * np.sqrt(np.maximum(of_pairs, 0))
    return is_ahead.sum(0) >= keep
