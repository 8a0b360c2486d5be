"""The records of results.json gathered into curves: one study per property and kind of site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...report.words import family, finite, interval, layer_label, listed, number, runs

Record = Mapping[str, Any]
METRICS = {"accuracy": "accuracy", "r2": "R²", "spearman": "Spearman's ρ", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Study:
    """One property read at one kind of site, shallowest layer first."""

    uid: str
    name: str
    family: str
    alone: bool
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """The property, with the kind of site where the run has several."""
        return self.name if self.alone else f"{self.name} at {self.family}"

    @property
    def labels(self) -> list[str]:
        """Names of the positions on the layer axis."""
        return [layer_label(r.get("layer"), str(r.get("site", ""))) for r in self.records]

    @property
    def metric(self) -> str:
        """The score's name in words."""
        name = str(self.records[0].get("metric", "score"))
        return METRICS.get(name, name)

    @property
    def is_number(self) -> bool:
        """Whether the property is a number and not one of several classes."""
        return self.records[0].get("kind") == "number"

    @property
    def best(self) -> list[int]:
        """Positions of the set of best layers: none of them is significantly worse than the best."""
        return [i for i, r in enumerate(self.records) if r.get("best") is True]

    @property
    def best_text(self) -> str:
        """The best layers as runs: `emb, 2–4`."""
        return runs(self.best, self.labels)

    @property
    def top(self) -> int:
        """Position of the highest score (the first of equals)."""
        scores = [(-s, i) for i, s in enumerate(self.column("score")) if s is not None]
        return min(scores)[1] if scores else 0

    def column(self, name: str) -> list[float | None]:
        """One field over the layers; None where it is missing or not finite."""
        return [finite(r.get(name)) for r in self.records]

    def first(self, name: str) -> float | None:
        """The first value of a field that does not depend on the layer."""
        return next((v for v in self.column(name) if v is not None), None)

    def has(self, name: str) -> bool:
        """Whether any layer has a value for the field."""
        return self.first(name) is not None

    def seeds(self) -> tuple[list[float | None], list[float | None]]:
        """Lowest and highest control-task score over the seeds, layer by layer."""
        low: list[float | None] = []
        high: list[float | None] = []
        for record in self.records:
            scores = [v for x in record.get("control_scores") or () if (v := finite(x)) is not None]
            low.append(min(scores) if scores else None)
            high.append(max(scores) if scores else None)
        return low, high

    def missing(self) -> list[str]:
        """Controls without a number at any layer, in words: the report calls them not supported."""
        return [words for name, words in CONTROLS.items() if not self.has(name)]

    def unconverged(self) -> list[int]:
        """Positions whose probe did not reach the optimum."""
        return [i for i, r in enumerate(self.records) if r.get("converged") is False]

    def here(self, rows: Sequence[Record]) -> list[Record]:
        """The rows of another table of the results that speak of this study."""
        same = [r for r in rows if r.get("property") == self.name]
        if self.alone:
            return same
        sites = {r.get("site") for r in self.records}
        return [r for r in same if r.get("site") is None or r.get("site") in sites]

    def describe(self) -> str:
        """A plain sentence for runs that bring no finding of their own."""
        if not self.has("score"):
            return f"No layer has a score for {self.name}."
        top = self.records[self.top]
        span = interval(top.get("low"), top.get("high"))
        text = f"{self.name} is read best at layer {self.labels[self.top]} "
        text += f"({self.metric} {number(top.get('score'))}"
        text += f", {span})." if span else ")."
        if len(self.best) > 1:
            text += f" Layers {self.best_text} cannot be told apart from it."
        return text


CONTROLS = {
    "control": "control task",
    "selectivity": "selectivity",
    "majority": "majority baseline",
    "type_majority": "type-majority baseline",
    "embedding": "embedding layer",
    "random_model": "random-weights model",
    "score_seen": "seen word types",
    "score_unseen": "unseen word types",
}


def gather(results: Mapping[str, Any]) -> list[Study]:
    """The studies of a run, in the order in which its records name them."""
    by_property: dict[str, list[Record]] = {}
    for record in results.get("records") or ():
        by_property.setdefault(str(record.get("property", "?")), []).append(record)
    out: list[Study] = []
    for name, records in by_property.items():
        groups: dict[str, list[Record]] = {}
        embedding = [r for r in records if finite(r.get("layer")) == 0]
        for record in records:
            if finite(record.get("layer")) != 0:
                groups.setdefault(family(str(record.get("site", ""))), []).append(record)
        if not groups:
            groups = {str(embedding[0].get("site", "")): []}
        for kind, rows in groups.items():
            ordered = sorted([*embedding, *rows], key=depth)
            out.append(Study(f"p{len(out)}", name, kind, len(groups) == 1, tuple(ordered)))
    return out


def depth(record: Record) -> tuple[bool, float]:
    """Sort key: by layer, and sites without one (raw modules) after all others."""
    layer = finite(record.get("layer"))
    return layer is None, layer or 0.0


def cautions(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Controls that are missing and probes that did not converge, as rows of the caveats."""
    rows: list[tuple[str, str, str]] = []
    for study in gather(results):
        if missing := study.missing():
            text = f"{study.title}: no {listed(missing)}. Conclusions that rest on it are not supported by this run."
            rows.append(("not supported", "warn", text))
        if late := study.unconverged():
            where = runs(late, study.labels)
            text = f"{study.title}: the probe did not converge at layer {where}; its score there may be too low."
            rows.append(("unconverged", "warn", text))
    return rows
