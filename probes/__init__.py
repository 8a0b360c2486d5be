"""Train probes on arrays of activations; no model is needed.

``fit_many`` and ``ridge_many`` solve all probes on the same features together; the ``...Probe``
classes are scikit-learn estimators; ``Leace`` and ``Inlp`` erase a property; ``online_code``
measures its code length in bits; ``rankings`` ranks neurons; ``controls`` and ``evaluation``
provide control tasks, baselines, intervals and tests.
"""

from __future__ import annotations

if __name__ == "probes":  # by its short name: the same modules as layerscope.probes
    from layerscope.rooms import same_modules

    same_modules("probes")

from .codelength import CodeLength, online_code
from .crosstable import CrossTable, cross_table
from .design import Design, NonFiniteError
from .erasure import Inlp, Leace, erased
from .fit import Fit
from .gaussian import LDAProbe, MeanDifferenceProbe
from .linear import LogisticProbe, RidgeProbe
from .moments import Moments
from .networks import LowRankProbe, MLPProbe, NetworkFit, networks_many
from .ridge import RIDGE_L2, RidgeFit, ridge_many
from .solver import DEFAULT_L2, fit_many
from .sparse import SparseProbe, sparse_sweep

__all__ = [
    "DEFAULT_L2",
    "RIDGE_L2",
    "CodeLength",
    "CrossTable",
    "Design",
    "Fit",
    "Inlp",
    "LDAProbe",
    "Leace",
    "LogisticProbe",
    "LowRankProbe",
    "MLPProbe",
    "MeanDifferenceProbe",
    "Moments",
    "NetworkFit",
    "NonFiniteError",
    "RidgeFit",
    "RidgeProbe",
    "SparseProbe",
    "cross_table",
    "erased",
    "fit_many",
    "networks_many",
    "online_code",
    "ridge_many",
    "sparse_sweep",
]
