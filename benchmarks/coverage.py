"""How often intervals cover and tests reject, by simulation: what was used before, and what is used
now.

    python benchmarks/coverage.py [--runs 400] [--only selectivity ece best ...]

selectivity  accuracy less that of 5 control tasks, against the mean over all control tasks
ece          of models whose calibration is known, rows alone and in groups that are right together;
             the share of samples whose ECE lies outside its own interval, and how often a
             calibrated model is called miscalibrated
best         how often any of k equal layers is called worse than the best
f1           macro-F1 of 12 classes, the rarest of 0.6% of the words, against that of the population
mean         means of few clusters, against the mean of the population
uneven       the same of clusters of 1 to 12 items, and of one that holds half of them
test         how often effects of mean 0 are called different from 0 at 5%
paired       how often any of 12 differences of 0 between two methods (lenses, confidences) is
             called significant (Holm)
fdr          of a grid of 60 parts, 12 with an effect: the share of the significant ones that have
             none
layers       few sentences: how often some pair of equal layers is called different, and some layer
             worse than the best
share        effects as a share of the unedited metric: a ratio of two means over the same prompts
weighted     means over the queries of few texts, as attention's statistics are
over         mean confidence less accuracy of calibrated models that are nearly always right
ranking      AUROC of few wrong answers
median       medians of few texts
groups       difference of two groups' accuracy: groups apart, and templates that are in both
agreement    intervals and p of effects that are half the time significant: how often one of them
             rejects 0 and the other does not
swap         the size of a swap's effect beyond that of random swaps, where both are alike
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import superseded
from layerscope.probes import calibration as cal
from layerscope.probes import evaluation as ev
from layerscope.probes.evaluation import ClusterBootstrap, interval
from layerscope.probes.groups import group_difference
from scipy import stats
from superseded import bootstrap_p

BOOT = 600
"""Resamples of one simulated study."""
Row = tuple[str, float, float, str]
"""What, before, now, wanted."""


def selectivity(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (300, 3000)
) -> Iterator[Row]:
    for n in sizes:
        covered = np.zeros(2)
        for _ in range(runs):
            right = rng.random(n) < 0.9
            # a control task is easier or harder as it is drawn
            scores = np.clip(rng.normal(0.6, 0.02, 5), 0, 1)
            control = rng.random((n, 5)) < scores
            boot = ClusterBootstrap(np.arange(n) // 10, BOOT, int(rng.integers(2**31)))
            columns = np.column_stack([right - control.mean(1), np.ones(n)])
            sums = boot.sums(columns)
            before = interval(0.0, sums[:, 0] / sums[:, 1])
            now = ev.selectivity(right.astype(float), control.mean(1), list(control.mean(0)), boot)
            covered += [before.low <= 0.3 <= before.high, now.low <= 0.3 <= now.high]
        yield (
            f"selectivity, {n} test words, 5 control seeds: covers",
            *(covered / runs),
            ".93 to .97",
        )


def _answers(n: int, size: int, rho: float, gap: float, rng: np.random.Generator):
    confidence, groups = rng.uniform(0.5, 1, n), np.arange(n) // size
    shared = rng.random(n // size)[groups]
    numbers = np.where(rng.random(n) < rho**0.5, shared, rng.random(n))
    return confidence, numbers < confidence - gap, groups


def ece(
    runs: int,
    rng: np.random.Generator,
    cases=((100, 1, 0.0), (1000, 1, 0.0), (300, 5, 0.3), (1000, 10, 0.3)),
):
    for gap in (0.0, 0.1):
        for n, size, rho in cases:
            covered, outside, called = np.zeros(2), np.zeros(2), np.zeros(2)
            for _ in range(runs):
                confidence, correct, groups = _answers(n, size, rho, gap, rng)
                bins, seed = cal.Bins.of(confidence), int(rng.integers(2**31))
                boot = ClusterBootstrap(groups, BOOT, seed)
                value = cal.ece_in(bins, confidence, correct)
                drawn = boot.grouped(bins.index, 15, correct - confidence)
                percentile = interval(value, np.abs(drawn).sum(1) / n)
                before = max(0.0, 2 * value - percentile.high), max(0.0, 2 * value - percentile.low)
                alone = cal.chance(confidence, bins, 300, seed)
                grouped = cal.chance(confidence, bins, 300, seed, correct=correct, clusters=groups)
                now = cal.ece_interval(confidence, correct, bins, boot, grouped)
                covered += [before[0] <= gap <= before[1], now.low <= gap <= now.high]
                outside += [not before[0] <= value <= before[1], not now.low <= value <= now.high]
                called += [alone.p(value) < 0.05, grouped.p(value) < 0.05]
            what = f"ECE, gap {gap:g}, {n} rows in groups of {size}"
            yield f"{what}: covers", *(covered / runs), ">= .95"
            yield f"{what}: outside its own interval", *(outside / runs), "0"
            if gap == 0:
                yield f"{what}: called miscalibrated at 5%", *(called / runs), ".05"


def best(
    runs: int, rng: np.random.Generator, layers: tuple[int, ...] = (7, 13, 31)
) -> Iterator[Row]:
    for k in layers:
        worse = np.zeros(2)
        for _ in range(runs):
            right = (rng.random((500, 1)) < 0.8) ^ (rng.random((500, k)) < 0.1)
            boot = ClusterBootstrap(np.arange(500) // 5, BOOT, int(rng.integers(2**31)))
            scores, drawn = right.mean(0), boot.means(right.astype(float))
            top = int(np.argmax(scores))
            others = [drawn[:, top] - drawn[:, i] for i in range(k) if i != top]
            p = ev.holm([bootstrap_p(difference, two_sided=False) for difference in others])
            worse += [min(p) < 0.05, not ev.best_set(list(scores), drawn)[0].all()]
        yield f"some of {k} equal layers called worse", *(worse / runs), "<= .05"


def f1(runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (500, 2000)) -> Iterator[Row]:
    k = 12
    share = 1 / np.arange(1, k + 1) ** 1.5
    share /= share.sum()
    right = np.linspace(0.97, 0.6, k)
    joint = share[:, None] * (1 - right)[:, None] * share / (1 - share)[:, None]
    np.fill_diagonal(joint, share * right)
    true = float((2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))).mean())
    for n in sizes:
        covered = np.zeros(2)
        for _ in range(runs):
            cells = rng.choice(k * k, n, p=joint.ravel())
            gold, predicted = (v.astype(str).astype(object) for v in (cells // k, cells % k))
            boot = ClusterBootstrap(np.arange(n), BOOT, int(rng.integers(2**31)))
            columns = ev.confusion_columns(gold, predicted, sorted({*gold, *predicted}))
            before = interval(0.0, ev.macro_f1_of_sums(boot.sums(columns)))
            now = ev.macro_f1_interval(gold, predicted, boot)
            covered += [before.low <= true <= before.high, now.low <= true <= now.high]
        yield f"macro-F1, {n} words, 12 classes: covers", *(covered / runs), ".93 to .97"


KINDS = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
    "a share of .9": (lambda rng, n: (rng.random(n) < 0.9).astype(float), 0.9),
    "answers -1, 0, 1": (lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.8, 0.15]), 0.1),
}


def mean(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (5, 6, 8, 10, 15, 20, 30, 50, 100)
) -> Iterator[Row]:
    for n in sizes:
        for kind, (draw, true) in KINDS.items():
            covered = np.zeros(2)
            for _ in range(runs):
                values = draw(rng, n)
                boot = ClusterBootstrap(np.arange(n), 1000, int(rng.integers(2**31)))
                before, now = (
                    interval(0.0, boot.means(values[:, None])[:, 0]),
                    boot.mean(values, kind="difference" if kind.startswith("answers") else None),
                )
                covered += [
                    before.low <= true <= before.high,
                    now.low <= true + 1e-12 and true - 1e-12 <= now.high,
                ]
            yield f"mean of {n} clusters, {kind}: covers", *(covered / runs), ".95"


def rejections(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (6, 8, 10, 15, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "exponential", "lognormal"):
            draw, true = KINDS[kind]
            values = np.column_stack([draw(rng, n) - true for _ in range(max(runs, 1000))])
            flipped = ev.sign_flip_p(values, replicates=2000)
            now = ev.mean_p(values, replicates=2000)
            rates = [float(np.mean(np.array(p) < 0.05)) for p in (flipped, now)]
            yield f"{n} effects of mean 0, {kind}: called different at 5%", *rates, ".05"


def _covers(ends: Any, true: float) -> bool:
    return bool(ends.low <= true + 1e-12 and true - 1e-12 <= ends.high)


def _boot(groups: np.ndarray, rng: np.random.Generator) -> ClusterBootstrap:
    return ClusterBootstrap(groups, 1000, int(rng.integers(2**31)))


def _percentiles(boot: ClusterBootstrap, values: np.ndarray) -> np.ndarray:
    return boot.means(values[:, None].astype(float))[:, 0]


def uneven(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (6, 8, 10, 15, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        items = {
            "1 to 12 items": np.resize([1, 2, 3, 5, 12], n),
            "half in one": np.r_[n, np.ones(n - 1, int)],
        }
        for what, of_cluster in items.items():
            groups = np.repeat(np.arange(n), of_cluster)
            for kind in ("normal", "lognormal", "shares"):
                covered = np.zeros(2)
                for _ in range(runs):
                    boot = _boot(groups, rng)
                    if kind == "shares":
                        true, values = (
                            0.75,
                            (rng.random(len(groups)) < rng.beta(6, 2, n)[groups]).astype(float),
                        )
                    else:
                        draw, true = KINDS[kind]
                        values = draw(rng, n)[groups] + 0.5 * rng.normal(size=len(groups))
                    before = interval(0.0, _percentiles(boot, values))
                    share = "share" if kind == "shares" else None
                    covered += [_covers(before, true), _covers(boot.mean(values, kind=share), true)]
                yield f"mean of {n} clusters, {what}, {kind}: covers", *(covered / runs), ".95"


def paired(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (6, 10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "exponential"):
            called = np.zeros(2)
            draw, true = KINDS[kind]
            for _ in range(runs):
                # Layers of one model move together.
                values = np.column_stack([draw(rng, n) - true for _ in range(12)])
                values = 0.7 * values + 0.7 * (draw(rng, n) - true)[:, None]
                boot = _boot(np.arange(n), rng)
                before = [bootstrap_p(replicates) for replicates in boot.means(values).T]
                now = ev.mean_p(values, replicates=2000, seed=int(rng.integers(2**31)))
                called += [min(ev.holm(before)) < 0.05, min(ev.holm(now)) < 0.05]
            yield (
                f"some of 12 differences of 0 over {n} texts, {kind}: called",
                *(called / runs),
                "<= .05",
            )


def fdr(runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (15, 30)) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "exponential"):
            false = np.zeros(2)
            draw, true = KINDS[kind]
            for _ in range(runs):
                values = np.column_stack([draw(rng, n) - true for _ in range(60)])
                values[:, :12] += 1.5
                for k, test in enumerate((ev.sign_flip_p, ev.mean_p)):
                    q = ev.benjamini_hochberg(
                        test(values, replicates=10_000, seed=int(rng.integers(2**31)))
                    )
                    is_called = np.array(q) < 0.05
                    false[k] += is_called[12:].sum() / max(1, is_called.sum())
            yield (
                f"60 parts, 12 with an effect, {n} prompts, {kind}: false discoveries",
                *(false / runs),
                "<= .05",
            )


def layers(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (8, 10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        called, worse = np.zeros(2), np.zeros(2)
        for _ in range(runs):
            groups = np.repeat(np.arange(n), 12)
            # Words of a sentence are right together, and so are layers.
            hard = rng.normal(size=n)[groups][:, None] + 1.5 * rng.normal(size=(len(groups), 1))
            right = (hard + rng.normal(size=(len(groups), 7)) < 1.5).astype(float)
            boot = _boot(groups, rng)
            scores, drawn = right.mean(0), boot.means(right)
            before = ev.holm([p for _, p in superseded.pairs(scores, drawn, None)])
            now = [pair.p_holm for pair in ev.compare_pairs(right, boot)]
            called += [min(before) < 0.05, min(now) < 0.05]
            for k, replicates in enumerate((drawn, boot.widened(scores, drawn, 7))):
                worse[k] += not ev.best_set(list(scores), replicates)[0].all()
        yield (
            f"7 equal layers, {n} sentences: some pair called different",
            *(called / runs),
            "<= .05",
        )
        yield (
            f"7 equal layers, {n} sentences: some called worse than the best",
            *(worse / runs),
            "<= .05",
        )


def share(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (6, 10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "lognormal"):
            covered = np.zeros(2)
            for _ in range(runs):
                base = 3 + rng.normal(size=n) if kind == "normal" else 2 * rng.lognormal(size=n)
                effect = 0.3 * base + 0.5 * rng.normal(size=n)
                boot = _boot(np.arange(n), rng)
                drawn = boot.means(np.column_stack([effect, base]))
                before = interval(0.0, drawn[:, 0] / drawn[:, 1])
                covered += [_covers(before, 0.3), _covers(boot.ratio(effect, base), 0.3)]
            yield f"share of the metric, {n} prompts, {kind}: covers", *(covered / runs), ".95"


def weighted(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (6, 10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        covered = np.zeros(2)
        for _ in range(runs):
            queries = rng.integers(5, 40, n).astype(float)
            mass = queries * rng.beta(2, 3, n)
            boot = _boot(np.arange(n), rng)
            sums = boot.sums(np.column_stack([mass, queries]))
            before = interval(0.0, sums[:, 0] / sums[:, 1])
            covered += [_covers(before, 0.4), _covers(boot.ratio(mass, queries), 0.4)]
        yield f"mean over the queries of {n} texts: covers", *(covered / runs), ".95"


def over(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (30, 100, 300)
) -> Iterator[Row]:
    for n in sizes:
        for lowest in (0.9, 0.6):
            covered = np.zeros(2)
            for _ in range(runs):
                confidence = rng.uniform(lowest, 1, n)
                correct = rng.random(n) < confidence
                boot = _boot(np.arange(n), rng)
                by_chance = cal.chance(confidence, cal.Bins.of(confidence), 500)
                now = cal.overconfidence_interval(confidence, correct, boot, by_chance)
                covered += [_covers(boot.mean(confidence - correct), 0.0), _covers(now, 0.0)]
            yield (
                f"overconfidence of calibrated models, {n} rows, {lowest} to 1: covers",
                *(covered / runs),
                ".95",
            )


def ranking(
    runs: int,
    rng: np.random.Generator,
    sizes: tuple[tuple[int, float], ...] = (
        (12, 0.9),
        (20, 0.8),
        (50, 0.9),
        (200, 0.95),
        (200, 0.7),
    ),
) -> Iterator[Row]:
    for n, accuracy in sizes:
        for apart in (1.0, 2.5):
            covered, known = np.zeros(2), 0
            true = float(stats.norm.cdf(apart / 2**0.5))
            for _ in range(runs):
                right = rng.random(n) < accuracy
                if right.all() or not right.any():
                    continue
                known += 1
                confidence = stats.norm.cdf(rng.normal(size=n) + apart * right)
                boot = _boot(np.arange(n), rng)
                counts = boot.sums(np.eye(n))
                drawn = _aurocs(confidence, right, counts)
                now = cal.ranking_intervals(confidence, right, boot)[0]
                covered += [_covers(interval(0.0, drawn), true), _covers(now, true)]
            yield (
                f"AUROC of {true:.2f}, {n} rows, {accuracy:.0%} right: covers",
                *(covered / known),
                ".95",
            )


def _aurocs(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUROC of each resample; NaN of one without right or wrong rows."""
    above = (confidence[right][:, None] > confidence[~right]).astype(float)
    won = np.einsum("bi,ij,bj->b", counts[:, right], above, counts[:, ~right])
    pairs = counts[:, right].sum(1) * counts[:, ~right].sum(1)
    return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)


def median(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (10, 20, 50)
) -> Iterator[Row]:
    for n in sizes:
        covered = np.zeros(2)
        for _ in range(runs):
            groups = np.repeat(np.arange(n), 8)
            values = np.exp(rng.normal(size=n)[groups] + rng.normal(size=len(groups)))
            boot = _boot(groups, rng)
            counts = np.random.default_rng(int(rng.integers(2**31))).integers(0, n, (300, n))
            drawn = np.array([np.median(values.reshape(n, 8)[row]) for row in counts])
            covered += [_covers(interval(0.0, drawn), 1.0), _covers(boot.median(values), 1.0)]
        yield f"median over the tokens of {n} texts: covers", *(covered / runs), ".95"


def groups(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (8, 15, 30)
) -> Iterator[Row]:
    for n in sizes:
        for what in ("apart", "apart, uneven", "templates in both"):
            covered, called = np.zeros(2), np.zeros(2)
            for _ in range(runs):
                if what == "templates in both":
                    clusters = np.repeat(np.arange(n), 2)
                    in_second = np.tile([False, True], n)
                else:
                    clusters = np.arange(2 * n)
                    in_second = clusters >= (n // 2 if "uneven" in what else n)
                ease = rng.beta(4, 2, len(np.unique(clusters)))[clusters]
                values = (rng.random(len(clusters)) < ease).astype(float)
                # Before: Student's interval and test of two means, as if rows were independent.
                naive: Any = stats.ttest_ind(values[in_second], values[~in_second])
                ends = naive.confidence_interval()
                difference = group_difference(
                    values,
                    in_second,
                    clusters,
                    share=True,
                    seed=int(rng.integers(2**31)),
                    draws=1000,
                )
                covered += [_covers(ends, 0.0), _covers(difference.interval, 0.0)]
                called += [naive.pvalue < 0.05, difference.p < 0.05]
            yield f"two groups, {n} rows or templates, {what}: covers", *(covered / runs), ".95"
            yield (
                f"two equal groups, {n} rows or templates, {what}: called",
                *(called / runs),
                "<= .05",
            )


def _near_significance(
    kind: str, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Effects about two standard errors from 0, their clusters and their true mean."""
    apart = 2.2 / n**0.5
    if kind == "answers":
        up = min(0.9, 0.1 + apart)
        return rng.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.9 - up, up]), np.arange(n), up - 0.1
    if kind == "answers of words":
        clusters = np.repeat(np.arange(n), 8)
        better = np.clip(0.1 + apart * rng.exponential(0.3, n), 0, 0.8)[clusters]
        drawn = rng.random(len(clusters))
        values = (drawn < better).astype(float) - (drawn > 0.9)
        # E min(x, .7) of an exponential variable of mean .3 apart
        scale = 0.3 * apart
        return values, clusters, scale * (1 - float(np.exp(-0.7 / scale)))
    draw, true = KINDS[kind]
    spread = {"normal": 1.0, "exponential": 1.0, "lognormal": 2.16}[kind]
    return draw(rng, n) - true + apart * spread, np.arange(n), apart * spread


def agreement(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (3, 6, 8, 10, 20, 30, 100)
) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "exponential", "lognormal", "answers", "answers of words"):
            apart, covered, known = np.zeros(2), np.zeros(2), 0
            for _ in range(runs):
                values, clusters, true = _near_significance(kind, n, rng)
                if not values.any():
                    continue
                boot = _boot(clusters, rng)
                before = boot.mean(values)
                old_p = superseded.mean_p(values, boot, clusters)
                tested = ev.mean_effects(values[:, None], boot, 2000)
                now, p = tested.interval(), float(tested.p[0])
                known += 1
                apart += [_disagree(before, old_p), _disagree(now, p)]
                covered += [_covers(before, true), np.isnan(p) or _covers(now, true)]
            yield f"{n} clusters, {kind}: interval and p disagree", *(apart / known), "0"
            yield f"{n} clusters, {kind}: covers", *(covered / known), ">= .95"
        for kind in ("accuracy", "R2"):
            apart = np.zeros(2)
            for _ in range(runs):
                columns, below, clusters = _two_layers(kind, n, rng)
                boot = _boot(clusters, rng)
                sums = boot.sums(np.column_stack([columns, below]))
                drawn = sums[:, :2] / sums[:, 2:]
                scores = columns.sum(0) / below.sum()
                apart[0] += _disagree(*superseded.pairs(scores, drawn, boot)[0])
                pair = ev.compare_pairs(columns, boot, float(below.mean()))[0]
                apart[1] += _disagree(pair.difference, pair.p)
            yield (
                f"{n} sentences, {kind} of two layers: interval and p disagree",
                *(apart / runs),
                "0",
            )
        apart = np.zeros(2)
        for _ in range(runs):
            in_second = np.arange(2 * n) >= n
            values = (rng.random(2 * n) < np.where(in_second, 0.5 + 1.1 / n**0.5, 0.5)).astype(
                float
            )
            clusters, seed = np.arange(2 * n), int(rng.integers(2**31))
            naive: Any = stats.ttest_ind(values[in_second], values[~in_second])
            tested = group_difference(
                values, in_second, clusters, share=True, seed=seed, draws=1000
            )
            first, second = values[~in_second].sum(), values[in_second].sum()
            exact = stats.fisher_exact([[first, n - first], [second, n - second]])[1]
            apart += [
                _disagree(naive.confidence_interval(), float(exact)),
                _disagree(tested.interval, tested.p),
            ]
        yield f"two groups of {n} rows, a share: interval and p disagree", *(apart / runs), "0"


def _two_layers(
    kind: str, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the scores of two layers are sums of, for 6 words a sentence,
    and what they are divided by.
    """
    clusters = np.repeat(np.arange(n), 6)
    hard = rng.normal(size=n)[clusters]
    better = np.array([0.0, 0.8 / n**0.5])
    if kind == "accuracy":
        right = rng.normal(size=(6 * n, 2)) + hard[:, None] < 1 + 2 * better
        return right.astype(float), np.ones(6 * n), clusters
    y = rng.normal(size=6 * n) + hard
    error = rng.normal(size=(6 * n, 2)) * (1 - better)
    return -(error**2), (y - y.mean()) ** 2, clusters


def _disagree(ends: Any, p: float) -> bool:
    """Whether one of them rejects 0 and the other does not; nothing of both rejects nothing."""
    excludes = bool(ends.low > 0 or ends.high < 0)
    return excludes != bool(p < 0.05)


def swap(
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        called, covered = np.zeros(2), np.zeros(2)
        for _ in range(runs):
            scale = rng.lognormal(size=n)
            size = scale * np.abs(rng.normal(size=n))
            random = (scale[:, None] * np.abs(rng.normal(size=(n, 5)))).mean(1)
            beyond, boot = size - random, _boot(np.arange(n), rng)
            before = ev.sign_flip_p(beyond[:, None], replicates=2000)[0]
            now = ev.mean_p(beyond[:, None], replicates=2000, seed=int(rng.integers(2**31)))[0]
            called += [before < 0.05, now < 0.05]
            covered += [
                _covers(interval(0.0, _percentiles(boot, beyond)), 0.0),
                _covers(boot.mean(beyond), 0.0),
            ]
        yield f"swap as large as random swaps, {n} texts: called", *(called / runs), "<= .05"
        yield f"swap as large as random swaps, {n} texts: covers", *(covered / runs), ".95"


PARTS = {
    "selectivity": selectivity,
    "ece": ece,
    "best": best,
    "f1": f1,
    "mean": mean,
    "uneven": uneven,
    "test": rejections,
    "paired": paired,
    "fdr": fdr,
    "layers": layers,
    "share": share,
    "weighted": weighted,
    "over": over,
    "ranking": ranking,
    "median": median,
    "groups": groups,
    "agreement": agreement,
    "swap": swap,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    print(
        f"{given.runs} simulated studies a row; a rate of .95 has a standard error of "
        f"{(0.0475 / given.runs) ** 0.5:.3f}\n"
    )
    print("| what | before | now | wanted |\n|---|---|---|---|")
    for name in given.only:
        for what, before, now, wanted in PARTS[name](given.runs, np.random.default_rng(0)):
            print(f"| {what} | {before:.3f} | {now:.3f} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()
