"""``layerscope calibrate``: confidence against correctness,
for any classifier and for language models.
"""

from __future__ import annotations

from ...calibration import confidence
from ...calibration.inputs import ConfidenceInputs, cost, prepare
from ...runs.execute import Run
from .records import Results

__all__ = ["cost", "measure", "prepare"]


def measure(inputs: ConfidenceInputs, run: Run) -> Results:
    """Every confidence, judged."""
    return Results(**confidence.measure(inputs, run))
