"""Learn to read a property from arrays of activations; never sees a model.

``fit_many`` and ``ridge_many`` solve all probes that share their features at once; ``LogisticProbe``
and ``RidgeProbe`` are the same solvers as scikit-learn estimators; ``controls`` and ``evaluation``
say what a score is worth.
"""

from __future__ import annotations

from probes.design import Design, NonFiniteError
from probes.fit import Fit
from probes.linear import LogisticProbe, RidgeProbe
from probes.ridge import RIDGE_L2, RidgeFit, ridge_many
from probes.solver import DEFAULT_L2, fit_many

__all__ = [
    "DEFAULT_L2",
    "RIDGE_L2",
    "Design",
    "Fit",
    "LogisticProbe",
    "NonFiniteError",
    "RidgeFit",
    "RidgeProbe",
    "fit_many",
    "ridge_many",
]
