"""Whether the probes of a study are as sure as they are right: their predictions kept, and judged site by site.

Test rows are measured; the dev rows, on which the penalty was chosen, fit the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....probes.calibration import BINS, ece, top_label
from ....probes.fit import Fit
from ....probes.labels import encode_with
from ....probes.scaling import TemperatureScaling, as_logits
from ...calibration.predictions import Predictions, read_predictions, save_predictions
from ...calibration.reliability import Judged, judge
from ...corpus import Split
from ...runs.folder import file_name
from ...tasks.task import Part, Vectors

FIELDS = ("ece", "ece_low", "ece_high", "ece_chance", "ece_p", "ece_mass", "classwise", "brier", "nll", "auroc")


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
    """Write what a probe says of the test rows, and of the dev rows as validation; rows of a class that training does not
    have are left out: no probe gives it a probability."""
    rows = []
    for part, vectors in ((parts["test"], test), (parts["dev"], dev)):
        labels = encode_with([str(v) for v in part.labels], np.array([str(c) for c in fit.classes], dtype=object))
        known = labels >= 0
        P = fit.predict_proba(vectors).cpu().numpy()
        classes = tuple(str(c) for c in fit.classes)
        rows.append(Predictions(P[known], labels[known], classes, part.clusters[known], np.zeros(known.sum(), bool)))
    save_predictions(
        predictions_path(folder, name, site), rows[0].with_validation(rows[1]) if len(rows[1]) else rows[0]
    )


def add_calibration(results: dict[str, Any], folder: Path, seed: int) -> None:
    """Put the measures of each kept probe into its record, and its bins and classes into ``calibration``."""
    results["calibration"] = []
    for record in results["records"]:
        path = predictions_path(folder, record["property"], record["site"])
        if record["kind"] != "class" or not path.exists():
            continue
        predictions = read_predictions(path)
        test, held = predictions.rows(~predictions.validation), predictions.rows(predictions.validation)
        if len(test) < BINS:
            results["notes"].append(
                {"kind": "skipped", "text": f"{record['property']}: {len(test)} test items are too few for calibration"}
            )
            continue
        found = judge(Judged.of(record["property"], test), BINS, seed)
        record |= {name: found.get(name) for name in FIELDS}
        if len(held):
            fitted = TemperatureScaling().fit(as_logits(held.probabilities), held.labels)
            P = fitted.predict_proba(as_logits(test.probabilities))
            record |= {"temperature": float(fitted.temperature_[0]), "ece_scaled": ece(*top_label(P, test.labels))}
        head = {"property": record["property"], "site": record["site"], "layer": record["layer"]}
        results["calibration"].append({**head, **found})
    results["notes"] += _notes(results["records"])


def _notes(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a reader of the ECEs must know."""
    if not any(r.get("ece") is not None for r in records):
        return []
    text = (
        "calibration: test words of classes that training lacks are left out; temperatures are fitted on the dev rows that "
        "also chose the penalty"
    )
    return [{"kind": "info", "text": text}]
