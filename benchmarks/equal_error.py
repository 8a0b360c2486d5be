"""Shapley values at equal error: what each library takes for the same distance to the exact values.

    python benchmarks/equal_error.py --model FOLDER_OR_GGUF [--words 12] [--share 0.05] \
        [--seeds 12] [--target " and"]
        [--text "..."] [--removal pad] [--peers DIR]

The values of all 2^n texts are computed once. From that table each method's root mean square error
is measured over seeds at growing numbers of evaluations, until it is below --share of the largest
exact score. Then each method is run live at the number that it needs: ours with its own scorer, the
others on a plain forward in batches of 64 with the head at the position that is read. Captum's two
estimators, shapiq's (--peers is a folder that holds it and shap), and shap's partition explainer,
whose values are Owen's: they do not become Shapley values with more evaluations, so its error is
printed at 2^n. The last line is how often ours cover: |estimate - exact| <= 1.96 standard errors,
over seeds and units.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from captum.attr import KernelShap, ShapleyValueSampling
from layerscope.experiments.attribution import Game, Options, Scorer, Target, ask, shapley
from layerscope.experiments.attribution import leverage as ours
from layerscope.experiments.attribution.scorer import Row
from layerscope.experiments.subject import load
from measure import start

TEXT = (
    "the old man who had lived near the river for many years said that his house was too "
    "small and that he wanted to move into the city where his children and their friends "
    "worked in a large shop"
)
BATCH = 64
Values = Callable[[np.ndarray], np.ndarray]


class Tabled:
    """A game whose values stand in a table."""

    draws, removal = 1, "table"

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.n = table, int(math.log2(len(table)))

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        return self.table[masks.astype(bool) @ (1 << np.arange(self.n))]

    def each(self, masks: np.ndarray) -> np.ndarray:
        return self(masks)[None]

    @property
    def value(self) -> float:
        return float(self.table[-1])


def plain(game: Game) -> Values:
    """Values by the model's forward as one would write it: every row, in batches,
    the head where it is read.
    """
    (part,) = game.question.parts
    question = game.question

    def values(masks: np.ndarray) -> np.ndarray:
        out = []
        runs, fills = game._plans[0]
        for first in range(0, len(masks), BATCH):
            rows: list[Row] = [
                game._row(part, runs, fills[0], keep) for keep in masks[first : first + BATCH] > 0
            ]
            ids = torch.tensor([row.ids for row in rows])
            with torch.inference_mode():
                if question.endpoint.whole:
                    logits = question.subject.model(input_ids=ids).logits[:, None]
                else:
                    hidden = question.subject.body(input_ids=ids).last_hidden_state
                    logits = question.endpoint.of(hidden[:, list(part.reads)], None)
                out += question.value(logits, part).tolist()
        return np.array(out)

    return values


def captum(kind: type) -> Callable[[Values, int, int, int], np.ndarray]:
    def scores(values: Values, n: int, samples: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        np.random.seed(seed)
        method = kind(lambda rows: torch.from_numpy(values(rows.numpy() > 0.5)).float())
        inputs = torch.ones(1, n)
        # Permutation sampling counts whole permutations.
        count = samples if kind is KernelShap else max(1, samples // n)
        found = method.attribute(
            inputs, torch.zeros(1, n), n_samples=count, perturbations_per_eval=BATCH
        )
        return found[0].double().numpy()

    return scores


def of_shapiq(name: str) -> Callable[[Values, int, int, int], np.ndarray]:
    def scores(values: Values, n: int, samples: int, seed: int) -> np.ndarray:
        import shapiq

        more = {"max_order": 1, "index": "SV"} if name == "KernelSHAPIQ" else {}
        method = getattr(shapiq, name)(n, random_state=seed, **more)
        found = method.approximate(samples, lambda masks: values(np.atleast_2d(masks)))
        return np.array([found[(i,)] for i in range(n)])

    return scores


def partition(values: Values, n: int, samples: int, seed: int) -> np.ndarray:
    import shap

    masker = shap.maskers.Partition(np.zeros((1, n)), clustering=_balanced(n))
    explainer = shap.explainers.Partition(lambda rows: values(rows > 0.5), masker)
    return explainer(np.ones((1, n)), max_evals=samples, silent=True).values[0]


def _balanced(n: int) -> np.ndarray:
    """Neighbours joined to pairs, pairs to fours: the hierarchy of a text."""
    level = [(i, 1) for i in range(n)]
    rows, height, new = [], 1.0, n
    while len(level) > 1:
        joined = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            size = left[1] + right[1]
            rows.append([left[0], right[0], height, size])
            joined.append((new, size))
            new += 1
        if len(level) % 2:
            joined.append(level[-1])
        level, height = joined, height + 1
    return np.array(rows, dtype=float)


PEERS = {
    "captum KernelShap": captum(KernelShap),
    "captum ShapleyValueSampling": captum(ShapleyValueSampling),
    "shapiq KernelSHAP": of_shapiq("KernelSHAP"),
    "shapiq PermutationSamplingSV": of_shapiq("PermutationSamplingSV"),
    "shapiq SVARM": of_shapiq("SVARM"),
    "shapiq KernelSHAPIQ": of_shapiq("KernelSHAPIQ"),
}


def values_of_all_sets(live: Game, given: argparse.Namespace) -> np.ndarray:
    """The values of all 2^n sets, from the file of ``--table`` if it is there.

    Raises:
        ValueError: the file holds another game's.
    """
    game = repr((Path(given.model).name, given.words, given.text, given.target, given.removal))
    if given.table and Path(given.table).exists():
        with np.load(given.table) as saved:
            if str(saved["game"]) != game:
                raise ValueError(
                    f"{given.table}: expected the values of {game}, got those of {saved['game']}"
                )
            return saved["values"]
    every_set = (np.arange(2**live.n)[:, None] >> np.arange(live.n)) & 1 > 0
    values = live(every_set)
    if given.table:
        np.savez(given.table, values=values, game=game)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--words", type=int, default=12)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--target", default=None)
    parser.add_argument("--removal", default=None)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--table", default=None, help="a file (.npz) that keeps the 2^n values")
    parser.add_argument("--peers", default=None)
    given = parser.parse_args()
    if given.peers:
        # numba, which they import, takes the coverage.py beside this file for the package of that
        # name.
        sys.path.remove(str(Path(__file__).resolve().parent))
        sys.path.append(given.peers)
    start()
    subject = load(given.model, dtype="float32", classifier=given.target is None)
    text = " ".join(given.text.split()[: given.words])
    question = ask(subject, text, Target(given.target, measure="logit") if given.target else None)
    n = len(question.units)
    live = Game(Scorer(question), given.removal)
    table = values_of_all_sets(live, given)
    tabled = Tabled(table)
    exact = shapley.shapley_values(table)
    wanted = given.share * float(np.abs(exact).max())

    def our_scores(game: object, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        found = ours.leverage(game, Options(samples=samples, seed=seed))
        return found.scores, found.errors

    def error_of(scores: Callable[[int, int], np.ndarray], samples: int) -> float:
        each = [np.square(scores(samples, seed) - exact).mean() for seed in range(given.seeds)]
        return math.sqrt(float(np.mean(each)))

    def needed(scores: Callable[[int, int], np.ndarray], most: int) -> tuple[int, float]:
        samples, error = 4 * n, math.inf
        while samples <= most:
            error = error_of(scores, samples)
            if error <= wanted:
                return samples, error
            samples = math.ceil(1.25 * samples)
        return 0, error

    print(
        f"{n} words, {question.name}: largest score {np.abs(exact).max():.3g}, "
        f"asked RMSE {wanted:.3g}"
    )
    samples, error = needed(lambda k, seed: our_scores(tabled, k, seed)[0], 2**n)
    fresh = Game(Scorer(question), given.removal)
    begun = time.perf_counter()
    found = ours.leverage(fresh, Options(samples=samples))
    ours_seconds = time.perf_counter() - begun
    print(
        f"leverage-shap: {samples} evaluations (RMSE {error:.3g}), {ours_seconds:.2f} s", flush=True
    )
    values = plain(live)
    for name, method in PEERS.items():
        samples, error = needed(lambda k, seed, m=method: m(tabled, n, k, seed), 60_000)
        if not samples:
            print(f"{name}: not reached in 60,000 evaluations (RMSE {error:.3g})", flush=True)
            continue
        # Long runs are timed on a part: the time of an evaluation does not change.
        timed = min(samples, 1200)
        begun = time.perf_counter()
        method(values, n, timed, 0)
        seconds = (time.perf_counter() - begun) * samples / timed
        print(
            f"{name}: {samples} evaluations (RMSE {error:.3g}), {seconds:.2f} s: "
            f"{seconds / ours_seconds:.1f}x",
            flush=True,
        )
    owen = partition(tabled, n, 2**n, 0)
    print(f"shap partition, all it asks for: RMSE {math.sqrt(np.square(owen - exact).mean()):.3g}")
    covered = []
    for seed in range(200):
        for share in (0.15, 0.05):
            found = ours.leverage(tabled, Options(error=share, seed=seed))
            covered.append(np.abs(found.scores - exact) <= 1.96 * found.errors + 1e-9)
    print(
        "95% intervals where ours stopped (errors of 15% and 5% asked, 200 seeds): "
        f"{np.mean(covered):.3f}"
    )


if __name__ == "__main__":
    main()
