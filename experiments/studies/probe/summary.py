"""All layers summed up: scores with intervals, controls, baselines, comparisons,
mistakes and findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from ....probes import controls, evaluation
from ....probes.evaluation import ClusterBootstrap
from ...corpus import Corpus, Split
from ...features.sites import layer_of
from ...report.schema import Finding, Interval, Note, estimated
from ...report.words import finite
from ...tasks.task import Part, Task
from .findings import finding
from .notes import property_notes
from .options import ProbeOptions
from .records import (
    ClassScores,
    ComparisonRecord,
    ConfusionRecord,
    ErrorRecord,
    ProbeRecord,
    Results,
)
from .scoring import Cell

N_ERRORS = 50
"""Mistakes of a property that are listed."""
N_CONFUSIONS = 30
"""Confusions of a property that are listed."""


def summarise(
    cells: Sequence[Cell],
    tasks: Sequence[Task],
    splits: dict[str, dict[Split, Corpus]],
    options: ProbeOptions,
) -> Results:
    """What ``results.json`` holds of the probes of single sites."""
    whole = _Summary()
    for task in tasks:
        of_task = [cell for cell in cells if cell.property == task.property.name]
        whole.add(_of_property(of_task, task, splits[task.property.name]["test"], options))
    if options.control_seeds == 0:
        whole.notes.append(
            Note(kind="skipped", text="control tasks skipped: selectivity is not supported")
        )
    if options.random_models == 0:
        text = "random-weight model skipped: the comparison with it is not supported"
        whole.notes.append(Note(kind="skipped", text=text))
    return Results(mixes=[], trees=[], **vars(whole))


@dataclass
class _Summary:
    """The lists of `Results` that grow property by property."""

    records: list[ProbeRecord] = field(default_factory=list)
    classes: list[ClassScores] = field(default_factory=list)
    errors: list[ErrorRecord] = field(default_factory=list)
    confused: list[ConfusionRecord] = field(default_factory=list)
    comparisons: list[ComparisonRecord] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: _Summary) -> None:
        """The lists of another property behind these."""
        for name, values in vars(other).items():
            getattr(self, name).extend(values)


@dataclass(frozen=True)
class _Scored:
    """One property's cells as columns of numbers, a row a test item.

    Args:
        columns: of each cell, what its score is made of.
        scores: of each cell.
        replicates: the scores of each resample of the test sentences.
    """

    boot: ClusterBootstrap
    columns: list[Float[np.ndarray, "n k"]]
    scores: list[float]
    replicates: Float[np.ndarray, "b cells"]
    numbers: bool

    @classmethod
    def of(cls, cells: Sequence[Cell], test: Part, numbers: bool, seed: int) -> _Scored:
        """Accuracy of classes, R^2 of numbers."""
        boot = ClusterBootstrap(test.clusters, seed=seed)
        score_of = _score_of(numbers)
        columns = [_columns(cell, test, numbers) for cell in cells]
        # All cells in the same resamples, so that layers are compared in pairs.
        replicates = np.column_stack([score_of(boot.sums(column)) for column in columns])
        usable = np.isfinite(replicates).all(1)  # a resample of one number only has no R^2
        scores = [float(score_of(column.sum(0))) for column in columns]
        return cls(boot, columns, scores, replicates[usable], numbers)

    def widened(self) -> Float[np.ndarray, "b cells"]:
        """The replicates, as far from the scores as so few sentences ask for."""
        if self.boot.n_clusters == 1:
            return self.replicates
        n_cells = max(2, len(self.scores))
        return self.boot.widened(np.array(self.scores), self.replicates, among=n_cells)

    def best(self) -> tuple[np.ndarray, list[float]]:
        """The cells that may be the best, and the p at which each leaves them;
        all of them where nothing can be tested.
        """
        if self.boot.n_clusters < evaluation.TESTABLE:
            return np.ones(len(self.scores), dtype=bool), [1.0] * len(self.scores)
        return evaluation.best_set(self.scores, self.widened())

    def pairs(self) -> list[evaluation.Comparison]:
        """Every two cells: of numbers by their squared errors,
        whose difference is 0 where that of R^2 is.
        """
        if not self.numbers:
            right = np.column_stack([column[:, 0] for column in self.columns])
            return evaluation.compare_pairs(right, self.boot)
        errors = np.column_stack([column[:, 0] for column in self.columns])
        y = self.columns[0][:, 1]
        return evaluation.compare_pairs(-errors, self.boot, float(y.var()))

    def interval(self, cell: int) -> evaluation.Interval:
        """A cell's score with its interval over sentences."""
        if self.numbers:
            return self.boot.statistic(self.columns[cell], evaluation.r2_of_sums)
        return self.boot.mean(self.columns[cell][:, 0], kind="share")


def _of_property(
    cells: Sequence[Cell], task: Task, corpus: Corpus, options: ProbeOptions
) -> _Summary:
    """Everything about one property but what is asked of all layers together."""
    numbers, test = task.property.kind == "number", task.parts["test"]
    scored = _Scored.of(cells, test, numbers, options.seed)
    records = _records(cells, task, scored)
    top = int(np.argmax(scored.scores))
    out = _Summary(
        records=records,
        comparisons=_comparisons(records, scored),
        notes=property_notes(cells, task, options),
        findings=[Finding(property=task.property.name, text=finding(records))],
    )
    if not numbers:
        for cell, record in zip(cells, records, strict=True):
            out.classes += _classes(cell, record, test)
        out.errors += _errors(cells[top], records[top], task, corpus)
        out.confused += _confused(cells[top], test)
    return out


def _records(cells: Sequence[Cell], task: Task, scored: _Scored) -> list[ProbeRecord]:
    train, test = task.parts["train"], task.parts["test"]
    numbers = task.property.kind == "number"
    # Words that training has can be learned by heart; the others cannot.
    known = set(train.types)
    seen = np.array([kind in known for kind in test.types])
    base, prior = _baselines(task), _prior_bits(train, test)
    # All layers at once: pairs alone would not say which layers may be the best.
    is_best, p_worse = scored.best()
    records = []
    for i, cell in enumerate(cells):
        score = scored.interval(i)
        control = float(np.mean(cell.control)) if cell.control else None
        selectivity = _selectivity(cell, scored.columns[i], scored.boot)
        macro = _NONE if numbers else _macro_f1(cell, test, scored.boot)
        records.append(
            ProbeRecord(
                site=cell.site,
                layer=layer_of(cell.site, i),
                property=task.property.name,
                level=task.property.level,
                kind=task.property.kind,
                metric="r2" if numbers else "accuracy",
                **estimated("score", score),
                control=control,
                control_scores=cell.control,
                selectivity=None if control is None else score.value - control,
                selectivity_interval=Interval.of(selectivity),
                **base,
                embedding=scored.scores[0],
                random_model=cell.random_model,
                score_seen=_score_on(scored.columns[i], seen, numbers),
                score_unseen=_score_on(scored.columns[i], ~seen, numbers),
                n_seen=int(seen.sum()),
                n_unseen=int((~seen).sum()),
                **estimated("macro_f1", macro),
                n_train=len(train),
                n_dev=len(task.parts["dev"]),
                n_test=len(test),
                n_classes=None if numbers else len(set(train.labels)),
                l2=cell.l2,
                converged=cell.converged,
                gradient_norm=cell.gradient_norm,
                **_information(cell, cells[0], prior, scored.boot),
                code_bits=cell.code_bits,
                compression=cell.compression,
                control_compression=float(np.mean(cell.control_compression))
                if cell.control_compression
                else None,
                best=bool(is_best[i]),
                p_worse=p_worse[i],
            )
        )
    return records


_NONE = evaluation.Interval(np.nan, np.nan, np.nan)
"""Of what is not measured."""


def _selectivity(
    cell: Cell, columns: Float[np.ndarray, "n k"], boot: ClusterBootstrap
) -> evaluation.Interval:
    """Over test sentences and over the control tasks that might be drawn;
    numbers have no interval.
    """
    if not cell.control_values:
        return _NONE
    return evaluation.selectivity(columns[:, 0], np.array(cell.control_values), cell.control, boot)


def _score_on(columns: Float[np.ndarray, "n k"], rows: np.ndarray, numbers: bool) -> float | None:
    """The score on some of the test items; of fewer than two there is none."""
    if rows.sum() < 2:
        return None
    return finite(_score_of(numbers)(columns[rows].sum(0)))


def _comparisons(records: Sequence[ProbeRecord], scored: _Scored) -> list[ComparisonRecord]:
    """Every pair of layers on the same resamples."""
    comparisons = []
    for pair in scored.pairs():
        first, second = records[pair.a], records[pair.b]
        comparisons.append(
            ComparisonRecord(
                property=first.property,
                layer_a=first.layer,
                layer_b=second.layer,
                **estimated("difference", pair.difference),
                p=finite(pair.p),
                p_holm=finite(pair.p_holm),
            )
        )
    return comparisons


def _information(
    cell: Cell, embedding: Cell, prior: Sequence[float | None], boot: ClusterBootstrap
) -> dict[str, Any]:
    """Bits an item that a linear probe of the layer tells of the labels (V-information), and beyond
    the embedding layer.

        information   H(Y) - H(Y | R)
                      with H(Y) of the training frequencies (Xu et al. 2020)
        gain          H(Y | E) - H(Y | R)
                      over what the words alone tell (Pimentel et al. 2020)
        conditional   H(Y | E) - H(Y | E, R)
                      beyond what the words alone tell (Hewitt et al. 2021)

    All on the test items whose class training has; E is the embedding layer.

    Args:
        prior: -log2 of each test item's class frequency in training.
    """
    return {
        **_saved("information", prior, cell.bits, boot, len(prior)),
        **_saved("gain", embedding.bits, cell.bits, boot, len(prior)),
        **_saved("conditional", embedding.bits, cell.bits_beyond, boot, len(prior)),
    }


def _saved(
    name: str,
    before: Sequence[float | None],
    after: Sequence[float | None],
    boot: ClusterBootstrap,
    n_items: int,
) -> dict[str, Any]:
    """Mean difference of two series of bits with its interval, over the items that both have."""
    bits, known = np.zeros(n_items), np.zeros(n_items)
    for item, (first, second) in enumerate(zip(before, after, strict=False)):
        if first is not None and second is not None:
            bits[item], known[item] = first - second, 1.0
    if not known.any():
        return estimated(name, None)
    # A mean over the known items of each resample: a sum of bits over a count.
    return estimated(name, boot.ratio(bits, known))


def _prior_bits(train: Part, test: Part) -> list[float | None]:
    """-log2 of each test item's class frequency in training."""
    counts = Counter(str(label) for label in train.labels)
    bits: list[float | None] = []
    for label in test.labels:
        count = counts[str(label)]
        # A class that training does not have has no bits.
        bits.append(-float(np.log2(count / len(train))) if count else None)
    return bits


def _score_of(numbers: bool) -> Callable[[np.ndarray], Any]:
    """From the sums of the columns to the score."""
    return evaluation.r2_of_sums if numbers else _mean_of_sums


def _mean_of_sums(sums: np.ndarray) -> Any:
    return sums[..., 0] / sums[..., 1]


def _columns(cell: Cell, test: Part, numbers: bool) -> Float[np.ndarray, "n k"]:
    if numbers:
        return evaluation.r2_columns(test.labels, np.array(cell.predicted))
    is_right = _as_text(test.labels) == _as_text(cell.predicted)
    return np.column_stack([is_right.astype(float), np.ones(len(test))])


def _as_text(labels: Iterable[Any]) -> np.ndarray:
    """Labels as cells keep them: they are read back from JSON."""
    return np.array([str(label) for label in labels], dtype=object)


def _macro_f1(cell: Cell, test: Part, boot: ClusterBootstrap) -> evaluation.Interval:
    return evaluation.macro_f1_interval(_as_text(test.labels), _as_text(cell.predicted), boot)


def _distance_baseline(task: Task) -> dict[str, float]:
    """Of arcs and pairs: the most frequent label of each distance,
    left and right apart (the chain knows distance 1 only).
    """
    test_distances, train_distances = task.distances("test"), task.distances("train")
    if test_distances is None or train_distances is None:
        return {}
    labels = task.parts["train"].labels
    guessed = controls.type_majority(train_distances, labels, test_distances)
    return {"distance_majority": evaluation.accuracy(task.parts["test"].labels, guessed)}


def _baselines(task: Task) -> dict[str, float]:
    train, test = task.parts["train"], task.parts["test"]
    if task.property.kind == "number":
        flat = np.full(len(test), float(np.mean(train.labels)))
        by_type = controls.type_mean(train.types, train.labels, test.types)
        return {
            "majority": evaluation.r2(test.labels, flat),
            "type_majority": evaluation.r2(test.labels, by_type),
        }
    by_type = controls.type_majority(train.types, train.labels, test.types)
    return {
        "majority": float(np.mean(test.labels == controls.majority(train.labels))),
        "type_majority": evaluation.accuracy(test.labels, by_type),
        **_distance_baseline(task),
    }


def _classes(cell: Cell, record: ProbeRecord, test: Part) -> list[ClassScores]:
    rows = evaluation.per_class(_as_text(test.labels), _as_text(cell.predicted))
    about = {"property": cell.property, "site": cell.site, "layer": record.layer}
    return [ClassScores(**about, **row) for row in rows]


def _errors(cell: Cell, record: ProbeRecord, task: Task, corpus: Corpus) -> list[ErrorRecord]:
    test = task.parts["test"]
    wrong = [i for i in range(len(test)) if str(test.labels[i]) != cell.predicted[i]]
    wrong.sort(key=lambda i: -cell.confidence[i])
    rows = []
    for i in wrong[:N_ERRORS]:
        sentence = corpus.sentences[test.clusters[i]]
        word = int(test.words[i])  # -1 of an item that is the whole sentence
        rows.append(
            ErrorRecord(
                property=cell.property,
                site=cell.site,
                layer=record.layer,
                sentence_id=sentence.id,
                words=[token.form for token in sentence.words],
                index=word if word >= 0 else None,
                gold=str(test.labels[i]),
                predicted=cell.predicted[i],
                confidence=cell.confidence[i],
            )
        )
    return rows


def _confused(cell: Cell, test: Part) -> list[ConfusionRecord]:
    counts: Counter[tuple[str, str]] = Counter()
    for gold, predicted in zip(test.labels, cell.predicted, strict=True):
        if str(gold) != predicted:
            counts[str(gold), predicted] += 1
    # Ties by name, so that two runs list the same.
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:N_CONFUSIONS]
    records = []
    for (gold, predicted), count in top:
        records.append(
            ConfusionRecord(property=cell.property, gold=gold, predicted=predicted, count=count)
        )
    return records
