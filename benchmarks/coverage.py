"""How often intervals cover and tests reject, by simulation: what was used before, and what is used now.

    python benchmarks/coverage.py [--runs 400] [--only selectivity ece best f1 mean test]

selectivity  accuracy less that of 5 control tasks, against the mean over all control tasks
ece          of models whose calibration is known, rows alone and in groups that are right together; the share of samples whose
             ECE lies outside its own interval, and how often a calibrated model is called miscalibrated
best         how often any of k equal layers is called worse than the best
f1           macro-F1 of 12 classes, the rarest of 0.6% of the words, against that of the population
mean         means of few clusters, against the mean of the population
test         how often effects of mean 0 are called different from 0 at 5%
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from layerscope.probes import calibration as cal
from layerscope.probes import evaluation as ev
from layerscope.probes.evaluation import ClusterBootstrap, interval

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
            p = ev.holm([ev.bootstrap_p(difference, two_sided=False) for difference in others])
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
            gold, said = (v.astype(str).astype(object) for v in (cells // k, cells % k))
            boot = ClusterBootstrap(np.arange(n), BOOT, int(rng.integers(2**31)))
            columns = ev.confusion_columns(gold, said, sorted({*gold, *said}))
            before = interval(0.0, ev.macro_f1_of_sums(boot.sums(columns)))
            now = ev.macro_f1_interval(gold, said, boot)
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
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (5, 10, 20, 30, 50)
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
    runs: int, rng: np.random.Generator, sizes: tuple[int, ...] = (10, 20, 30)
) -> Iterator[Row]:
    for n in sizes:
        for kind in ("normal", "exponential", "lognormal"):
            draw, true = KINDS[kind]
            values = np.column_stack([draw(rng, n) - true for _ in range(max(runs, 1000))])
            flipped = ev.sign_flip_p(values, replicates=2000)
            now = ev.mean_p(values, replicates=2000)
            rates = [float(np.mean(np.array(p) < 0.05)) for p in (flipped, now)]
            yield f"{n} effects of mean 0, {kind}: called different at 5%", *rates, ".05"


PARTS = {
    "selectivity": selectivity,
    "ece": ece,
    "best": best,
    "f1": f1,
    "mean": mean,
    "test": rejections,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    print(
        f"{given.runs} simulated studies a row; a rate of .95 has a standard error of {(0.0475 / given.runs) ** 0.5:.3f}\n"
    )
    print("| what | before | now | wanted |\n|---|---|---|---|")
    for name in given.only:
        for what, before, now, wanted in PARTS[name](given.runs, np.random.default_rng(0)):
            print(f"| {what} | {before:.3f} | {now:.3f} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()
