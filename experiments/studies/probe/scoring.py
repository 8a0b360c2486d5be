"""One site scored: a probe for every property, its control tasks, and the same probes on random-weight models."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
    """One property at one site: what its probe said on the test items, and what stands beside it.

    `control` has one score a control seed, `control_values` the per-item mean over seeds (right or not, for classes)
    that the interval of the selectivity needs; `random_model` the mean over the random-weight models. `bits` is the surprisal
    of each item's class, `bits_beyond` that of a probe which also sees the embedding layer; None for a class that training
    does not have. `code_bits` is the
    online code length of the training labels, `compression` the uniform code over it, `control_compression` that of each
    control task, where they were asked for.
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
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cell:
        """The cell again."""
        return cls(**record)


@dataclass(frozen=True)
class _Kind:
    """What differs between probing classes and probing numbers."""

    fit: Callable[[ProbeOptions], Callable[..., Mapping[str, Any]]]
    path: tuple[float, ...]
    control: Callable[..., np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], float]


KINDS = {
    "class": _Kind(
        lambda config: partial(fit_many, tol=config.tol), DEFAULT_L2, controls.control_labels, evaluation.accuracy
    ),
    "number": _Kind(lambda config: ridge_many, RIDGE_L2, controls.control_numbers, evaluation.r2),
}


def score_cell(
    site: str,
    tasks: Sequence[Task],
    features: Sequence[Vectors],
    config: ProbeOptions,
    keep: Callable[[str, Fit, Mapping[Split, Part], Vectors, Vectors], object] = lambda *_: None,
    embedding: Vectors | None = None,
) -> list[Cell]:
    """Probe every property at one site.

    Args:
        features: the model's, then those of each random-weight model.
        keep: is given each property's name and its probe of the model's own features, where it is of classes, and the
            labels and vectors (dev, then test) that it is judged by.
        embedding: the embedding layer's features, where a probe of both is wanted.

    Tasks that read the same vectors are solved together; controls use their task's chosen penalty, so that both are
    the same probe.
    """
    found: dict[str, Cell] = {}
    with warnings.catch_warnings():  # what did not converge is recorded in the cells and said in the results' notes
        warnings.simplefilter("ignore", ConvergenceWarning)
        for group in solved_together(tasks):
            found |= {cell.property: cell for cell in _group_cells(site, group, features, config, keep, embedding)}
    return [found[task.property.name] for task in tasks]


def _group_cells(
    site: str,
    group: Sequence[Task],
    features: Sequence[Vectors],
    config: ProbeOptions,
    keep: Callable[[str, Fit, Mapping[Split, Part], Vectors, Vectors], object],
    embedding: Vectors | None,
) -> list[Cell]:
    kind = KINDS[group[0].property.kind]
    fit_all, path = kind.fit(config), config.l2 or kind.path
    parts = {task.property.name: task.parts for task in group}

    def solve(values: Vectors, more: Mapping[str, np.ndarray]) -> tuple[Design, Vectors, Mapping[str, Any]]:
        """The probes of one model's features, each at the penalty that is best on dev; if there is one, ``more`` too."""
        train, dev, test = (group[0].vectors(values, split) for split in ("train", "dev", "test"))
        design = Design(train, device=config.device)
        labels, held = ({name: p[split].labels for name, p in parts.items()} for split in ("train", "dev"))
        if len(path) == 1:
            return design, test, fit_all(design, {**labels, **more}, path[0])
        return design, test, fit_all(design, labels, path, dev=(dev, held))

    random_scores: dict[str, list[float]] = {name: [] for name in parts}
    for values in features[1:]:
        _, test, fits = solve(values, {})
        for name, fit in fits.items():
            random_scores[name].append(kind.score(parts[name]["test"].labels, fit.predict(test)))

    drawn = {name: _control_tasks(kind, parts[name], config) for name in parts}
    controls_of = {name: [f"{name}, control {seed}" for seed in drawn[name]] for name in parts}
    labels = {
        key: train for name in parts for key, (train, _) in zip(controls_of[name], drawn[name].values(), strict=True)
    }
    design, test, found = solve(features[0], labels)
    fits = {name: found[name] for name in parts}
    for l2 in sorted({fit.l2 for fit in fits.values()}):  # a control has its task's penalty
        wanted = [key for name in parts if fits[name].l2 == l2 for key in controls_of[name] if key not in found]
        if wanted:
            found = {**found, **fit_all(design, {key: labels[key] for key in wanted}, l2)}

    beyond: dict[str, list[float | None]] = {}
    if isinstance(embedding, Tensor) and isinstance(features[0], Tensor) and group[0].property.kind == "class":
        _, both, joint = solve(torch.cat([embedding, features[0]], 1), {})
        beyond = {name: _surprisals(joint[name], both, parts[name]["test"].labels) for name in parts}

    codes = _codes(group, features[0], {**{n: parts[n]["train"].labels for n in parts}, **labels}, config)
    cells = []
    for name, fit in fits.items():
        own = [found[key] for key in controls_of[name]]
        said = [(gold, control.predict(test)) for control, (_, gold) in zip(own, drawn[name].values(), strict=True)]
        right = [gold == predicted for gold, predicted in said] if isinstance(fit, Fit) else []
        if isinstance(fit, Fit):
            keep(name, fit, parts[name], group[0].vectors(features[0], "dev"), test)
        predicted, confidence = _predictions(fit, test)
        cells.append(
            Cell(
                property=name,
                site=site,
                predicted=predicted,
                confidence=confidence,
                l2=float(fit.l2),
                converged=_converged(fit),
                gradient_norm=float(fit.gradient_norm),
                control=[kind.score(gold, predicted) for gold, predicted in said],
                control_values=[float(v) for v in np.mean(right, axis=0)] if right else [],
                control_converged=all(_converged(control) for control in own),
                random_model=float(np.mean(random_scores[name])) if random_scores[name] else None,
                bits=_surprisals(fit, test, parts[name]["test"].labels),
                bits_beyond=beyond.get(name, []),
                code_bits=codes[name].bits if codes else None,
                compression=codes[name].compression if codes else None,
                control_compression=[codes[key].compression for key in controls_of[name]] if codes else [],
            )
        )
    return cells


def _codes(
    group: Sequence[Task], values: Vectors, labels: Mapping[str, np.ndarray], config: ProbeOptions
) -> dict[str, CodeLength]:
    """Code lengths of tasks and control tasks that share their vectors."""
    if not config.code_length or group[0].property.kind != "class":
        return {}
    train, path = group[0].vectors(values, "train"), config.l2 or CODE_L2
    assert isinstance(train, Tensor)  # the plan has refused it otherwise
    owners = group[0].parts["train"].clusters
    l2 = path[0] if len(path) == 1 else path
    return online_code(train, labels, owners, l2=l2, seed=config.seed, device=config.device)


def _control_tasks(
    kind: _Kind, parts: Mapping[Any, Any], config: ProbeOptions
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Training and test labels of the control tasks, by seed; left out is one that drew a single class, or for the test items
    a single number, which no R^2 can judge."""
    train, test = parts["train"], parts["test"]
    out = {}
    for seed in range(config.control_seeds):
        drawn = kind.control([*train.types, *test.types], train.labels, config.seed + seed)
        labels, gold = drawn[: len(train)], drawn[len(train) :]
        if len(set(labels)) > 1 and (kind is KINDS["class"] or len(set(gold)) > 1):
            out[seed] = labels, gold
    return out


def _predictions(fit: Fit | RidgeFit, X: Vectors) -> tuple[list[Any], list[float]]:
    if isinstance(fit, RidgeFit):
        return [float(v) for v in fit.predict(X)], []
    best = fit.predict_proba(X).max(dim=1)
    return [str(c) for c in fit.classes[best.indices.cpu().numpy()]], [round(float(p), 4) for p in best.values]


def _surprisals(fit: Fit | RidgeFit, X: Vectors, gold: np.ndarray) -> list[float | None]:
    """-log2 p of each item's class; None for a class that training does not have. A number has none."""
    if isinstance(fit, RidgeFit):
        return []
    index = encode_with(gold, fit.classes)
    bits = -fit.log_proba(X).cpu().numpy()[np.arange(len(gold)), index] / np.log(2)
    return [round(float(b), 4) if i >= 0 else None for b, i in zip(bits, index, strict=True)]


def _converged(fit: Fit | RidgeFit) -> bool:
    return fit.converged if isinstance(fit, Fit) else True  # ridge is a closed form
