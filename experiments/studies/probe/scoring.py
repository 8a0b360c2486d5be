"""One site scored: a probe for every property, its control tasks,
and the same probes on random-weight models.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ....probes import controls, evaluation
from ....probes.codelength import L2 as CODE_L2
from ....probes.codelength import CodeLength, online_code
from ....probes.design import Design
from ....probes.fit import Fit
from ....probes.labels import encode_with
from ....probes.ridge import RIDGE_L2, RidgeFit, ridge_many
from ....probes.solver import DEFAULT_L2, fit_many
from ...corpus import Split
from ...tasks.task import Part, Task, Vectors, solved_together
from .options import ProbeOptions


@dataclass(frozen=True)
class Cell:
    """One property at one site: what its probe predicts of the test items, and what that is
    compared with.

    Args:
        control: score of each control task.
        control_values: of classes, the share of the control tasks that are right on each item: the
            interval of the selectivity needs it.
        random_model: mean score over the random-weight models.
        bits: surprisal of each item's class; None for a class that training does not have.
        bits_beyond: the same of a probe that also sees the embedding layer.
        code_bits: online code length of the training labels.
        compression: uniform code length divided by it.
        control_compression: that of each control task.
    """

    property: str
    site: str
    predicted: list[Any]
    confidence: list[float]
    l2: float
    converged: bool
    gradient_norm: float
    control: list[float]
    control_values: list[float]
    control_converged: bool
    random_model: float | None
    bits: list[float | None] = dataclasses.field(default_factory=list)
    bits_beyond: list[float | None] = dataclasses.field(default_factory=list)
    code_bits: float | None = None
    compression: float | None = None
    control_compression: list[float] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What is kept of an unfinished run."""
        # Not asdict, which copies every number of every list.
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cell:
        """The cell again."""
        return cls(**record)


@dataclass(frozen=True)
class _Kind:
    """What differs between probing classes and probing numbers.

    Args:
        fit: from the options to a function of design, labels, penalties and perhaps dev.
        path: penalties to choose from.
        control: draws the labels of a control task from word types, labels and a seed.
        score: of the true and the predicted labels.
    """

    fit: Callable[[ProbeOptions], Callable[..., Mapping[str, Any]]]
    path: tuple[float, ...]
    control: Callable[..., np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], float]


KINDS = {
    "class": _Kind(
        lambda options: partial(fit_many, tol=options.tol),
        DEFAULT_L2,
        controls.control_labels,
        evaluation.accuracy,
    ),
    "number": _Kind(lambda options: ridge_many, RIDGE_L2, controls.control_numbers, evaluation.r2),
}
"""Kind of a property -> how it is probed."""

Keep = Callable[[str, Fit, Mapping[Split, Part], Vectors, Vectors], object]
"""keep(property, probe, parts, dev vectors, test vectors)."""


def score_cell(
    site: str,
    tasks: Sequence[Task],
    features: Sequence[Vectors],
    options: ProbeOptions,
    keep: Keep = lambda *_: None,
    embedding: Vectors | None = None,
) -> list[Cell]:
    """Probe every property at one site.

    Args:
        features: the model's, then those of each random-weight model.
        keep: is given each property's name and its probe of the model's own features, where it is
            of classes, and the labels and vectors (dev, then test) that it is judged by.
        embedding: the embedding layer's features, where a probe of both is wanted.

    Tasks that read the same vectors are solved together; controls use their task's chosen penalty,
    so that both are the same probe.
    """
    cells: dict[str, Cell] = {}
    # what did not converge is recorded in the cells and reported in the notes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for tasks_of_group in solved_together(tasks):
            group = _Group(tasks_of_group, options)
            for cell in _group_cells(site, group, features, keep, embedding):
                cells[cell.property] = cell
    return [cells[task.property.name] for task in tasks]


@dataclass(frozen=True)
class _Control:
    """A control task: labels drawn anew for every word type."""

    key: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class _Solved:
    """Probes of one model's features.

    Args:
        design: the training vectors, prepared: every probe of them shares it.
        test: vectors of the test items.
        fits: by property, and by key of a control task.
    """

    design: Design
    test: Vectors
    fits: Mapping[str, Any]


@dataclass(frozen=True)
class _Group:
    """Tasks that read the same vectors, so that their probes are solved together."""

    tasks: Sequence[Task]
    options: ProbeOptions

    @property
    def kind(self) -> _Kind:
        """Classes or numbers: all tasks of a group are of one kind."""
        return KINDS[self.tasks[0].property.kind]

    @property
    def of_classes(self) -> bool:
        """Whether the labels are classes."""
        return self.tasks[0].property.kind == "class"

    @property
    def path(self) -> tuple[float, ...]:
        """The penalties to choose from."""
        return self.options.l2 or self.kind.path

    @cached_property
    def parts(self) -> dict[str, dict[Split, Part]]:
        """The items of each property."""
        return {task.property.name: task.parts for task in self.tasks}

    def labels(self, split: Split) -> dict[str, np.ndarray]:
        """The labels of each property."""
        return {name: parts[split].labels for name, parts in self.parts.items()}

    def vectors(self, values: Vectors, split: Split) -> Vectors:
        """The items' vectors, the same for all tasks."""
        return self.tasks[0].vectors(values, split)

    def fit(self, *args: Any, **settings: Any) -> Mapping[str, Any]:
        """The solver of this kind."""
        return self.kind.fit(self.options)(*args, **settings)

    def solve_for_bits(self, values: Vectors) -> _Solved:
        """A probe for every property of classes, at the penalty that leaves the fewest bits on dev.

        The penalty with the best accuracy is often too small for bits: a probe that is sure and
        wrong costs many.
        """
        train, dev, test = (self.vectors(values, split) for split in ("train", "dev", "test"))
        design = Design(train, device=self.options.device)
        labels, dev_labels = self.labels("train"), self.labels("dev")
        fits = self.fit(design, labels, self.path, dev=(dev, dev_labels), choose="bits")
        return _Solved(design, test, fits)

    def solve(self, values: Vectors, extra: Mapping[str, np.ndarray] | None = None) -> _Solved:
        """A probe for every property, at the penalty that is best on dev.

        Args:
            extra: training labels of further probes. They are fitted here if there is one penalty
                only; else they wait until their task's penalty is chosen.
        """
        train, dev, test = (self.vectors(values, split) for split in ("train", "dev", "test"))
        design = Design(train, device=self.options.device)
        # Nothing is chosen: tasks and controls have one penalty, and are one solve.
        if len(self.path) == 1:
            labels = {**self.labels("train"), **(extra or {})}
            return _Solved(design, test, self.fit(design, labels, self.path[0]))
        fits = self.fit(design, self.labels("train"), self.path, dev=(dev, self.labels("dev")))
        return _Solved(design, test, fits)

    def control_tasks(self, name: str) -> list[_Control]:
        """A property's control tasks.

        One is left out that drew a single class, or for the test items a single number, which no
        R^2 can judge.
        """
        train, test = self.parts[name]["train"], self.parts[name]["test"]
        types = [*train.types, *test.types]
        tasks = []
        for seed in range(self.options.control_seeds):
            # A word type has one label in training and in test: the control can be learned by heart
            # alone.
            drawn = self.kind.control(types, train.labels, self.options.seed + seed)
            labels, gold = drawn[: len(train)], drawn[len(train) :]
            can_be_judged = self.of_classes or len(set(gold)) > 1
            if len(set(labels)) > 1 and can_be_judged:
                tasks.append(_Control(f"{name}, control {seed}", labels, gold))
        return tasks


def _group_cells(
    site: str, group: _Group, features: Sequence[Vectors], keep: Keep, embedding: Vectors | None
) -> list[Cell]:
    """The cells of tasks that are solved together."""
    own_features, *random_features = features
    random_scores = _random_scores(group, random_features)
    control_tasks = {name: group.control_tasks(name) for name in group.parts}
    solved = _with_controls(group, own_features, control_tasks)
    bits = _bits(group, own_features)
    bits_beyond = _bits_beyond(group, own_features, embedding)
    codes = _codes(group, own_features, control_tasks)
    cells = []
    for name, parts in group.parts.items():
        fit = solved.fits[name]
        if isinstance(fit, Fit):
            keep(name, fit, parts, group.vectors(own_features, "dev"), solved.test)
        predicted, confidence = _predictions(fit, solved.test)
        scores, shares, converged = _judged_controls(group, control_tasks[name], solved)
        cell = Cell(
            property=name,
            site=site,
            predicted=predicted,
            confidence=confidence,
            l2=float(fit.l2),
            converged=_converged(fit),
            gradient_norm=float(fit.gradient_norm),
            control=scores,
            control_values=shares,
            control_converged=converged,
            random_model=float(np.mean(random_scores[name])) if random_scores[name] else None,
            bits=bits.get(name) or _surprisals(fit, solved.test, parts["test"].labels),
            bits_beyond=bits_beyond.get(name, []),
        )
        if codes:
            # What compresses shuffled labels compresses by memory, not by what the features tell.
            of_controls = [codes[task.key].compression for task in control_tasks[name]]
            cell = dataclasses.replace(
                cell,
                code_bits=codes[name].bits,
                compression=codes[name].compression,
                control_compression=of_controls,
            )
        cells.append(cell)
    return cells


def _random_scores(group: _Group, random_features: Sequence[Vectors]) -> dict[str, list[float]]:
    """Each property's score on the features of each random-weight model."""
    scores: dict[str, list[float]] = {name: [] for name in group.parts}
    for values in random_features:
        solved = group.solve(values)
        for name, parts in group.parts.items():
            predicted = solved.fits[name].predict(solved.test)
            scores[name].append(group.kind.score(parts["test"].labels, predicted))
    return scores


def _with_controls(
    group: _Group, values: Vectors, control_tasks: Mapping[str, Sequence[_Control]]
) -> _Solved:
    """Probes of the model's features, for the properties and for their control tasks,
    each at its property's penalty.
    """
    labels = {task.key: task.train for tasks in control_tasks.values() for task in tasks}
    solved = group.solve(values, labels)
    fits = dict(solved.fits)
    for l2 in sorted({fits[name].l2 for name in group.parts}):
        # Control tasks whose penalty the solve did not reach.
        waiting = {}
        for name in group.parts:
            if fits[name].l2 != l2:
                continue
            for task in control_tasks[name]:
                if task.key not in fits:
                    waiting[task.key] = labels[task.key]
        if waiting:
            fits |= group.fit(solved.design, waiting, l2)
    return _Solved(solved.design, solved.test, fits)


def _judged_controls(
    group: _Group, control_tasks: Sequence[_Control], solved: _Solved
) -> tuple[list[float], list[float], bool]:
    """Each control task's score; of classes, how many of them are right on each item, as a share;
    whether all converged.
    """
    scores, right, converged = [], [], True
    for task in control_tasks:
        fit = solved.fits[task.key]
        predicted = fit.predict(solved.test)
        scores.append(group.kind.score(task.test, predicted))
        if group.of_classes:
            right.append(task.test == predicted)
        converged = converged and _converged(fit)
    shares = [float(share) for share in np.mean(right, axis=0)] if right else []
    return scores, shares, converged


def _bits_beyond(
    group: _Group, values: Vectors, embedding: Vectors | None
) -> dict[str, list[float | None]]:
    """Surprisals of a probe that sees the embedding layer and this one side by side,
    by property.
    """
    if not (isinstance(embedding, Tensor) and isinstance(values, Tensor) and group.of_classes):
        return {}
    return _surprisals_of_all(group, torch.cat([embedding, values], 1))


def _bits(group: _Group, values: Vectors) -> dict[str, list[float | None]]:
    """Surprisals of a probe of this layer, by property; empty where bits are not asked for."""
    if not (group.options.information and group.of_classes):
        return {}
    return _surprisals_of_all(group, values)


def _surprisals_of_all(group: _Group, values: Vectors) -> dict[str, list[float | None]]:
    solved = group.solve_for_bits(values)
    return {
        name: _surprisals(solved.fits[name], solved.test, parts["test"].labels)
        for name, parts in group.parts.items()
    }


def _codes(
    group: _Group, values: Vectors, control_tasks: Mapping[str, Sequence[_Control]]
) -> dict[str, CodeLength]:
    """Code lengths of properties and control tasks, which share their vectors."""
    options = group.options
    if not options.code_length or not group.of_classes:
        return {}
    labels = group.labels("train") | {
        task.key: task.train for tasks in control_tasks.values() for task in tasks
    }
    train, path = group.vectors(values, "train"), options.l2 or CODE_L2
    assert isinstance(train, Tensor)  # the plan has refused it otherwise
    sentences = group.tasks[0].parts["train"].clusters
    l2 = path[0] if len(path) == 1 else path
    return online_code(train, labels, sentences, l2=l2, seed=options.seed, device=options.device)


def _predictions(fit: Fit | RidgeFit, X: Vectors) -> tuple[list[Any], list[float]]:
    if isinstance(fit, RidgeFit):
        return [float(v) for v in fit.predict(X)], []
    best = fit.predict_proba(X).max(dim=1)
    return [str(c) for c in fit.classes[best.indices.cpu().numpy()]], [
        round(float(p), 4) for p in best.values
    ]


def _surprisals(fit: Fit | RidgeFit, X: Vectors, gold: np.ndarray) -> list[float | None]:
    """-log2 p of each item's class; None for a class that training does not have.

    A number has none.
    """
    if isinstance(fit, RidgeFit):
        return []
    index = encode_with(gold, fit.classes)
    bits = -fit.log_proba(X).cpu().numpy()[np.arange(len(gold)), index] / np.log(2)
    return [round(float(b), 4) if i >= 0 else None for b, i in zip(bits, index, strict=True)]


def _converged(fit: Fit | RidgeFit) -> bool:
    return fit.converged if isinstance(fit, Fit) else True  # ridge is a closed form
