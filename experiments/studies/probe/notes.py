"""What a reader of one property's probes must know: fits that did not converge, absent classes,
few sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ....probes import evaluation
from ...report.schema import Note
from ...tasks.task import Task
from .options import ProbeOptions
from .scoring import Cell


def property_notes(cells: Sequence[Cell], task: Task, options: ProbeOptions) -> list[Note]:
    name, notes = task.property.name, []

    def add(kind: str, text: str) -> None:
        notes.append(Note(kind=kind, text=f"{name}: {text}"))

    unconverged = [cell.site for cell in cells if not cell.converged]
    if unconverged:
        add("warning", f"probes not converged at {', '.join(unconverged)}")
    unconverged = [cell.site for cell in cells if not cell.control_converged]
    if unconverged:
        add("warning", f"control probes not converged at {', '.join(unconverged)}")
    if options.control_seeds and any(len(cell.control) < options.control_seeds for cell in cells):
        add("skipped", "some control tasks drew only one class or number and were left out")
    if task.property.kind == "class":
        notes += _absent_classes(task)
    elif options.control_seeds:
        add("info", "the selectivity of a number (R2 minus the control's R2) has no interval")
    _, clusters = np.unique(task.parts["test"].clusters, return_inverse=True)
    effective = evaluation.effective_clusters(clusters)
    # A bootstrap over a handful of sentences gives intervals that are too narrow.
    few = evaluation.few_clusters(int(clusters.max()) + 1, effective=effective)
    if few:
        add("warning", few)
    if task.property.level == "sentence":
        add("info", "the control task labels a sentence by its first word")
    return notes


def _absent_classes(task: Task) -> list[Note]:
    """A warning of test items that no probe can get right."""
    trained = {str(label) for label in task.parts["train"].labels}
    lost = Counter(str(label) for label in task.parts["test"].labels if str(label) not in trained)
    if not lost:
        return []
    text = (
        f"{task.property.name}: classes absent from training count as wrong: {_some(sorted(lost))} "
        f"({lost.total()} test items)"
    )
    return [Note(kind="warning", text=text)]


def _some(names: Sequence[str], most: int = 10) -> str:
    """Names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
