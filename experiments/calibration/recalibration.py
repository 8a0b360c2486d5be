"""Scalings of confidence, fitted on the rows that are set apart for it."""

from __future__ import annotations

from pathlib import Path

from ...probes.scaling import SCALINGS, TemperatureScaling, as_logits
from ..report.schema import Note
from .predictions import Predictions
from .reliability import Judged


def recalibrated(
    predictions: Predictions, test: Predictions, notes: list[Note], out: Path
) -> list[Judged]:
    """The test rows' confidence after each scaling, fitted on the validation rows alone.

    Args:
        test: the rows of ``predictions`` that are measured.
        notes: get what was skipped or did not converge.
        out: the run's folder; the scalings are written to ``scalings/NAME.safetensors`` in it.
    """
    validation = predictions.rows(predictions.validation)
    if not len(validation):
        text = (
            "scalings skipped: there are no validation rows to fit them on (--validation FILE, "
            "--split SHARE, or marked rows)"
        )
        notes.append(Note(kind="skipped", text=text))
        return []
    if not test.same_width:
        notes.append(
            Note(
                kind="skipped",
                text="scalings skipped: the questions differ in their number of choices",
            )
        )
        return []
    # Rows of one group are alike: a scaling that has seen the group looks better than it is on new
    # ones.
    if set(validation.clusters.tolist()) & set(test.clusters.tolist()):
        notes.append(
            Note(
                kind="warning", text="some groups have rows both in validation and in the test set"
            )
        )
    methods = []
    (out / "scalings").mkdir(exist_ok=True)
    for name, kind in SCALINGS.items():
        # A vector or matrix scaling has parameters for each class; the first choice of two
        # questions has nothing in common but its place.
        if name != "temperature" and not test.by_class:
            notes.append(Note(kind="info", text=f"{name} scaling skipped: choices are not classes"))
            continue
        fitted = kind().fit(as_logits(validation.probabilities), validation.labels)
        fitted.save(out / "scalings" / f"{name}.safetensors")
        if not fitted.converged_:
            text = f"{name} scaling did not converge: {str(fitted.describe())[:100]}"
            notes.append(Note(kind="warning", text=text))
        if isinstance(fitted, TemperatureScaling):
            text = (
                f"temperature {fitted.temperature_[0]:.4g}, fitted on {len(validation)} "
                "validation rows"
            )
            notes.append(Note(kind="info", text=text))
        methods.append(
            Judged.of(f"{name} scaling", test, fitted.predict_proba(as_logits(test.probabilities)))
        )
    return methods
