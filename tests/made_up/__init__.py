"""Made-up results of every kind of run, shaped like the real ones: for the report's tests and for looking at it."""

from made_up.beside import make_beside
from made_up.confidence import make_ask, make_calibration
from made_up.interventions import make_ablation, make_patching, make_pruning, make_screened
from made_up.looking import make_attention, make_capture, make_doctor, make_geometry
from made_up.probing import make_results
from made_up.studies import make_attribution, make_neurons, make_usage

__all__ = [
    "make_ablation", "make_ask", "make_attention", "make_attribution", "make_beside", "make_calibration", "make_capture", "make_doctor",
    "make_geometry", "make_neurons", "make_patching", "make_pruning", "make_results", "make_screened", "make_usage",
]  # fmt: skip
