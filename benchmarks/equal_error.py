"""Shapley values at equal error: what each library takes for the same distance to the exact values.

    python benchmarks/equal_error.py --model FOLDER_OR_GGUF [--words 12] [--share 0.05] \
        [--seeds 12] [--target " and"] [--text "..."] [--removal pad] [--peers DIR]
        [--reference 50] [--most 60000] [--values FILE.npz]

Up to 16 words the values of all 2^n texts are computed once, and the Shapley values are exact. Of
longer texts they are estimated from --reference times the evaluations that ours needs, and the
reference's own standard error is printed beside what is asked.

Each method's root mean square error is measured over seeds at growing numbers of evaluations, until
it is below --share of the largest score; between the last two numbers the error is taken to fall on
a line of logarithms. A method that is above it at --most evaluations is given the number at which
its error would be small enough if it falls with the root of the evaluations, as that of draws does;
its line says "about". No text is computed twice: --values keeps what is known.
Then each method is run live at the number that it needs: ours with its own scorer, the
others on a plain forward in batches of 64 with the head at the position that is read. An encoder is
given a head of its own, a direction between two texts, and masks its words. Captum's two
estimators, shapiq's (--peers is a folder that holds it and shap), and shap's partition explainer,
whose values are Owen's: they do not become Shapley values with more evaluations, so its error is
printed at 2^n, up to 16 words. The last line is how often ours cover: |estimate - exact| <= 1.96
standard errors, over seeds and units.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
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
Scores = Callable[[Values, int, int, int], np.ndarray]
"""A method: of a game, its units, the evaluations and the seed."""


class Remembered:
    """A game of which no set is evaluated twice, whoever asks.

    Args:
        name: of the game, which its file holds.
        file: keeps the values that are known, from one run to the next.

    Raises:
        ValueError: the file holds another game's.
    """

    draws = 1

    def __init__(self, live: Game, name: str, file: str | None) -> None:
        self.live, self.n, self.removal = live, live.n, live.removal
        self.name, self.file = name, file
        self.known: dict[bytes, float] = {}
        if file and Path(file).exists():
            with np.load(file) as saved:
                if str(saved["game"]) != name:
                    raise ValueError(
                        f"{file}: expected the values of {name}, got those of {saved['game']}"
                    )
                keys = [row.tobytes() for row in saved["sets"]]
                self.known = dict(zip(keys, saved["values"].tolist(), strict=True))

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        keys = [row.tobytes() for row in np.packbits(masks.astype(bool), axis=1)]
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        if new:
            values = self.live(masks[list(new.values())].astype(bool))
            self.known |= dict(zip(new, values.tolist(), strict=True))
        return np.array([self.known[key] for key in keys])

    def each(self, masks: np.ndarray) -> np.ndarray:
        return self(masks)[None]

    @property
    def value(self) -> float:
        return float(self(np.ones((1, self.n), dtype=bool))[0])

    def save(self) -> None:
        if self.file:
            sets = np.array([np.frombuffer(key, np.uint8) for key in self.known])
            values = np.array(list(self.known.values()))
            np.savez(self.file, sets=sets, values=values, game=self.name)


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


def captum(kind: type) -> Scores:
    def scores(values: Values, n: int, samples: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        np.random.seed(seed)
        method = kind(lambda rows: torch.from_numpy(values(rows.numpy() > 0.5)).float())
        inputs = torch.ones(1, n)
        # Permutation sampling counts whole permutations.
        count = samples if kind is KernelShap else max(1, samples // n)
        attributed = method.attribute(
            inputs, torch.zeros(1, n), n_samples=count, perturbations_per_eval=BATCH
        )
        return attributed[0].double().numpy()

    return scores


def of_shapiq(name: str) -> Scores:
    def scores(values: Values, n: int, samples: int, seed: int) -> np.ndarray:
        import shapiq

        settings = {"max_order": 1, "index": "SV"} if name == "KernelSHAPIQ" else {}
        method = getattr(shapiq, name)(n, random_state=seed, **settings)
        values_of_sets = method.approximate(samples, lambda masks: values(np.atleast_2d(masks)))
        return np.array([values_of_sets[(i,)] for i in range(n)])

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


CONTRAST = (
    "a warm, funny and beautifully acted film that I would watch again",
    "a dull, clumsy and badly acted film that I could not finish",
)
"""An encoder without a head is given one: the direction between what it makes of these texts."""


def with_direction(folder: str, into: str) -> str:
    """The folder of the encoder with a head whose logits are that direction and its opposite."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    heard: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda module, given: heard.append(given[0]))
    with torch.no_grad():
        model.eval()(**tokenizer(list(CONTRAST), return_tensors="pt", padding=True))
        (of_texts,) = heard
        direction = of_texts[0] - of_texts[1]
        model.classifier.weight.copy_(torch.stack([-direction, direction]))
        model.classifier.bias.zero_()
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    return into


MOST_EXACT = 16
"""Words of which all sets are evaluated."""
PARTS = 8
"""Of a long reference: runs of different seeds, whose spread is its standard error."""


def exact_scores(game: Remembered) -> np.ndarray:
    """The Shapley values, from the values of all sets."""
    every_set = (np.arange(2**game.n)[:, None] >> np.arange(game.n)) & 1 > 0
    return shapley.shapley_values(game(every_set))


def long_reference(game: Remembered, samples: int) -> tuple[np.ndarray, float]:
    """The mean of several long runs of ours, and its root mean square standard error."""
    each = [our_scores(game, samples // PARTS, 1000 + part)[0] for part in range(PARTS)]
    spread = np.var(each, axis=0, ddof=1) / PARTS
    return np.mean(each, axis=0), math.sqrt(float(spread.mean()))


def our_scores(game: object, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    result = ours.leverage(game, Options(samples=samples, seed=seed))
    return result.scores, result.errors


def needed(
    error_of: Callable[[int], float], wanted: float, least: int, most: int, growth: float
) -> tuple[int, str]:
    """Evaluations at which the error is small enough, and how that is known.

    Between the last two numbers the logarithm of the error is taken to fall on a line.
    """
    samples, before = least, None
    while True:
        error = error_of(samples)
        if error <= wanted:
            if before is None:
                return samples, f"RMSE {error:.3g}"
            fewer, larger = before
            part = math.log(larger / wanted) / math.log(larger / error)
            needs = math.ceil(fewer * (samples / fewer) ** part)
            return needs, f"RMSE {larger:.3g} at {fewer}, {error:.3g} at {samples}"
        if samples == most:
            needs = math.ceil(samples * (error / wanted) ** 2)
            return needs, f"about: RMSE {error:.3g} at {most}"
        before = samples, error
        samples = min(most, math.ceil(growth * samples))


def covered_scores(
    game: Remembered, exact: np.ndarray, given: argparse.Namespace
) -> list[np.ndarray]:
    """Whether each score's interval covers it where ours stopped, for each seed and asked error."""
    covered = []
    for seed in range(given.covers):
        for share in (0.15, given.share):
            result = ours.leverage(game, Options(error=share, seed=seed))
            covered.append(np.abs(result.scores - exact) <= 1.96 * result.errors + 1e-9)
    return covered


def arguments() -> argparse.Namespace:
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
    parser.add_argument("--reference", type=int, default=50)
    parser.add_argument("--most", type=int, default=60_000)
    parser.add_argument("--growth", type=float, default=1.25, help="from one number to the next")
    parser.add_argument("--covers", type=int, default=200, help="seeds that test the intervals")
    parser.add_argument("--methods", nargs="*", choices=PEERS, help="of the others (default: all)")
    parser.add_argument("--values", default=None, help="a file (.npz) that keeps what is known")
    parser.add_argument("--peers", default=None)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.peers:
        # numba, which they import, takes the coverage.py beside this file for the package of that
        # name.
        sys.path.remove(str(Path(__file__).resolve().parent))
        sys.path.append(given.peers)
    start()
    with tempfile.TemporaryDirectory() as folder:
        is_encoder = given.target is None and Path(given.model).is_dir()
        source = with_direction(given.model, folder) if is_encoder else given.model
        subject = load(source, dtype="float32", classifier=given.target is None)
    text = " ".join(given.text.split()[: given.words])
    question = ask(subject, text, Target(given.target, measure="logit") if given.target else None)
    n = len(question.units)
    live = Game(Scorer(question), given.removal)
    name = repr((Path(given.model).name, given.words, given.text, given.target, given.removal))
    game = Remembered(live, name, given.values)
    if n <= MOST_EXACT:
        exact, uncertain = exact_scores(game), 0.0
    else:
        stopped = ours.leverage(game, Options(error=given.share))
        exact, uncertain = long_reference(game, given.reference * int(stopped.figures["samples"]))
    game.save()
    wanted = given.share * float(np.abs(exact).max())
    print(
        f"{n} words, {question.name}: largest score {np.abs(exact).max():.3g}, "
        f"asked RMSE {wanted:.3g}, the reference's own {uncertain:.2g}",
        flush=True,
    )

    def error_of(scores: Callable[[int, int], np.ndarray], samples: int) -> float:
        each = [np.square(scores(samples, seed) - exact).mean() for seed in range(given.seeds)]
        return math.sqrt(float(np.mean(each)))

    def of_ours(samples: int) -> float:
        return error_of(lambda k, seed: our_scores(game, k, seed)[0], samples)

    ours_need, known = needed(of_ours, wanted, 4 * n, given.most, given.growth)
    fresh = Game(Scorer(question), given.removal)
    begun = time.perf_counter()
    ours.leverage(fresh, Options(samples=ours_need))
    ours_seconds = time.perf_counter() - begun
    print(
        f"leverage-shap: {ours_need} evaluations ({known}), {ours_seconds:.2f} s",
        flush=True,
    )
    game.save()
    values = plain(live)
    for name in given.methods or PEERS:
        method = PEERS[name]

        def of_peer(samples: int, method: Scores = method) -> float:
            return error_of(lambda k, seed: method(game, n, k, seed), samples)

        samples, known = needed(of_peer, wanted, 4 * n, given.most, given.growth)
        game.save()
        # Long runs are timed on a part: the time of an evaluation does not change.
        timed = min(samples, 1200)
        begun = time.perf_counter()
        method(values, n, timed, 0)
        seconds = (time.perf_counter() - begun) * samples / timed
        print(
            f"{name}: {samples} evaluations ({known}), {samples / ours_need:.1f}x; "
            f"{seconds:.2f} s, {seconds / ours_seconds:.1f}x",
            flush=True,
        )
    if n <= MOST_EXACT:
        owen = partition(game, n, 2**n, 0)
        missed = math.sqrt(np.square(owen - exact).mean())
        print(f"shap partition, all it asks for: RMSE {missed:.3g}")
    covered = covered_scores(game, exact, given)
    game.save()
    print(
        f"95% intervals where ours stopped (errors of 15% and {given.share:.0%} asked, "
        f"{given.covers} seeds): {np.mean(covered):.3f}"
    )


if __name__ == "__main__":
    main()
