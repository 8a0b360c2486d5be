"""Calibration of a study's probes: their predictions, and the measures of calibration site by site.

Test rows are measured; the dev rows, on which the penalty was chosen, fit the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....probes.calibration import BINS, ece, top_label
from ....probes.fit import Fit
from ....probes.labels import encode_with
from ....probes.scaling import TemperatureScaling, as_logits
from ...calibration.predictions import Predictions, read_predictions, save_predictions
from ...calibration.reliability import Judged, judge
from ...corpus import Split
from ...report.schema import Note
from ...runs.folder import file_name
from ...tasks.task import Part, Vectors
from .records import CalibrationRecord, Results

FIELDS = (
    "ece",
    "ece_interval",
    "ece_chance",
    "ece_p",
    "ece_mass",
    "classwise",
    "brier",
    "nll",
    "auroc",
)
"""Measures that a probe's record gets."""


def predictions_path(folder: Path, name: str, site: str) -> Path:
    """Where the predictions of a property's probe at a site are kept."""
    return folder / "predictions" / file_name(name) / f"{file_name(site)}.npz"


def keep_predictions(
    folder: Path,
    site: str,
    name: str,
    fit: Fit,
    parts: Mapping[Split, Part],
    dev: Vectors,
    test: Vectors,
) -> None:
    """Write a probe's predictions of the test rows, and of the dev rows as validation.

    Rows of a class that training does not have are left out: no probe gives it a probability.
    """
    tested = _predictions(fit, parts["test"], test)
    validation = _predictions(fit, parts["dev"], dev)
    both = tested.with_validation(validation) if len(validation) else tested
    save_predictions(predictions_path(folder, name, site), both)


def _predictions(fit: Fit, part: Part, vectors: Vectors) -> Predictions:
    classes = tuple(str(c) for c in fit.classes)
    labels = encode_with([str(v) for v in part.labels], np.array(classes, dtype=object))
    known = labels >= 0
    P = fit.predict_proba(vectors).cpu().numpy()
    return Predictions(
        P[known], labels[known], classes, part.clusters[known], np.zeros(known.sum(), bool)
    )


def with_calibration(results: Results, folder: Path, seed: int) -> Results:
    """The results with the measures of each kept probe in its record,
    and its bins and classes in ``calibration``.
    """
    records, calibration, notes = [], [], []
    for record in results.records:
        path = predictions_path(folder, record.property, record.site)
        if record.kind != "class" or not path.exists():
            records.append(record)
            continue
        predictions = read_predictions(path)
        test = predictions.rows(~predictions.validation)
        validation = predictions.rows(predictions.validation)
        if len(test) < BINS:
            text = f"{record.property}: {len(test)} test items are too few for calibration"
            notes.append(Note(kind="skipped", text=text))
            records.append(record)
            continue
        judged = judge(Judged.of(record.property, test), BINS, seed)
        measures = {name: getattr(judged, name) for name in FIELDS}
        records.append(replace(record, **measures, **_scaled(test, validation)))
        place = {"property": record.property, "site": record.site, "layer": record.layer}
        calibration.append(CalibrationRecord(**vars(judged), **place))
    if any(record.ece is not None for record in records):
        text = (
            "calibration leaves out test words with a class that is absent from training; "
            "temperatures are fitted on the dev rows that also chose the penalty"
        )
        notes.append(Note(kind="info", text=text))
    return replace(
        results, records=records, calibration=calibration, notes=[*results.notes, *notes]
    )


def _scaled(test: Predictions, validation: Predictions) -> dict[str, float]:
    """The temperature that the validation rows fit, and the test rows' ECE with it."""
    if not len(validation):
        return {}
    scaling = TemperatureScaling().fit(as_logits(validation.probabilities), validation.labels)
    P = scaling.predict_proba(as_logits(test.probabilities))
    return {
        "temperature": float(scaling.temperature_[0]),
        "ece_scaled": ece(*top_label(P, test.labels)),
    }
