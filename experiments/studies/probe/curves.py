"""The records of results.json gathered into curves: one profile per property and kind of site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from ...report.schema import Interval, is_above
from ...report.words import family, finite, interval, layer_label, listed, number, runs
from .records import (
    METRICS,
    ClassScores,
    ComparisonRecord,
    ConfusionRecord,
    ErrorRecord,
    ProbeRecord,
    Results,
)

Row = TypeVar("Row", ClassScores, ErrorRecord, ConfusionRecord, ComparisonRecord)


@dataclass(frozen=True)
class Profile:
    """One property read at one kind of site, shallowest layer first.

    Args:
        uid: of its section on the page.
        name: the property.
        family: the site without its block's number.
        alone: whether the run has this property at no other kind of site.
    """

    uid: str
    name: str
    family: str
    alone: bool
    records: tuple[ProbeRecord, ...]

    @property
    def title(self) -> str:
        """The property, with the kind of site where the run has several."""
        return self.name if self.alone else f"{self.name} at {self.family}"

    @property
    def labels(self) -> list[str]:
        """Names of the positions on the layer axis."""
        return [layer_label(record.layer, record.site) for record in self.records]

    @property
    def metric(self) -> str:
        """The score's name in words."""
        return METRICS[self.records[0].metric]

    @property
    def is_number(self) -> bool:
        """Whether the property is a number and not one of several classes."""
        return self.records[0].kind == "number"

    @property
    def best(self) -> list[int]:
        """Positions of the model confidence set:
        layers that are not shown to be worse than the others.
        """
        return [i for i, record in enumerate(self.records) if record.best]

    @property
    def best_text(self) -> str:
        """The best layers as runs: `emb, 2–4`."""
        return runs(self.best, self.labels)

    @property
    def top(self) -> int:
        """Position of the highest score (the first of equals)."""
        return max(range(len(self.records)), key=lambda i: (self.records[i].score, -i))

    @property
    def highest(self) -> ProbeRecord:
        """The record there."""
        return self.records[self.top]

    def column(self, name: str) -> list[float | None]:
        """One field of numbers over the layers."""
        return [finite(getattr(record, name)) for record in self.records]

    def first(self, name: str) -> float | None:
        """The first value of a field that does not depend on the layer."""
        return next((v for v in self.column(name) if v is not None), None)

    def has(self, name: str) -> bool:
        """Whether any layer has a value for the field."""
        return self.first(name) is not None

    def intervals(self, name: str) -> list[Interval | None]:
        """The intervals of such a field."""
        return [getattr(record, f"{name}_interval") for record in self.records]

    def control_ranges(self) -> list[Interval | None]:
        """Lowest and highest control-task score over the seeds, layer by layer."""
        return [
            Interval(min(record.control_scores), max(record.control_scores))
            if record.control_scores
            else None
            for record in self.records
        ]

    def missing(self) -> list[str]:
        """Controls without a number at any layer, in words: the report calls them not supported."""
        return [words for name, words in CONTROLS.items() if not self.has(name)]

    def unconverged(self) -> list[int]:
        """Positions whose probe did not reach the optimum."""
        return [i for i, r in enumerate(self.records) if not r.converged]

    def here(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of another table of the results that are of this property and kind of site."""
        same = [row for row in rows if row.property == self.name]
        if self.alone:
            return same
        sites = {record.site for record in self.records}
        return [row for row in same if getattr(row, "site", None) in (None, *sites)]

    @property
    def headline(self) -> str:
        """Where the property is decoded best, and what random weights reach, in a line."""
        top = self.highest
        doubtful = 0.0 if self.is_number else top.majority
        if not is_above(top.score_interval, doubtful):
            guess = "a constant guess" if self.is_number else "the most frequent class"
            return f"{self.title} is not decoded better than {guess} ({number(doubtful)})"
        best = self.best or [self.top]
        where = runs(best, self.labels)
        plural = "layers" if len(best) > 1 else "layer"
        place = "the embeddings" if where == "emb" else f"{plural} {where}"
        text = f"{self.title} peaks at {place} ({self.metric} {number(top.score)})"
        if top.random_model is not None:
            text += f"; random weights reach {number(top.random_model)}"
        return text

    def describe(self) -> str:
        """A plain sentence for a kind of site that no finding speaks of."""
        top = self.highest
        text = f"{self.name} is decoded best at layer {self.labels[self.top]} "
        span = interval(top.score_interval)
        text += f"({self.metric} {number(top.score)}{f', {span}' if span else ''})."
        if len(self.best) > 1:
            text += f" Layers {self.best_text} are not significantly worse."
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


def gather(results: Results) -> list[Profile]:
    """The profiles of a run, in the order in which its records name their properties."""
    by_property: dict[str, list[ProbeRecord]] = {}
    for record in results.records:
        by_property.setdefault(record.property, []).append(record)
    profiles: list[Profile] = []
    for name, records in by_property.items():
        families: dict[str, list[ProbeRecord]] = {}
        embedding = [record for record in records if record.layer < 0]
        for record in records:
            if record.layer >= 0:
                families.setdefault(family(record.site), []).append(record)
        if not families:
            families = {embedding[0].site: []}
        is_only = len(families) == 1
        for kind, of_family in families.items():
            # The embedding layer is where every family's curve begins.
            ordered = sorted([*embedding, *of_family], key=lambda record: record.layer)
            profiles.append(Profile(f"p{len(profiles)}", name, kind, is_only, tuple(ordered)))
    return profiles


def cautions(results: Results) -> list[tuple[str, str, str]]:
    """Controls that are missing and probes that did not converge, as rows of the caveats."""
    rows: list[tuple[str, str, str]] = []
    for profile in gather(results):
        if missing := profile.missing():
            text = (
                f"{profile.title}: no {listed(missing)}. Conclusions that rest on it are not "
                "supported by this run."
            )
            rows.append(("not supported", "warn", text))
        if late := profile.unconverged():
            where = runs(late, profile.labels)
            text = (
                f"{profile.title}: the probe did not converge at layer {where}; "
                "its score there may be too low."
            )
            rows.append(("unconverged", "warn", text))
    return rows
