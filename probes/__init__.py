"""Train probes on arrays of activations; no model is needed.

``fit_many`` and ``ridge_many`` solve all probes on the same features together; the ``...Probe``
classes are scikit-learn estimators; ``Leace`` and ``Inlp`` erase a property; ``online_code``
measures its code length in bits; ``rankings`` ranks neurons; ``controls`` and ``evaluation``
provide control tasks, baselines, intervals and tests. A name is imported when it is first used:
the estimators need scikit-learn, the statistics and solvers only numpy, scipy.special and torch.
"""

from __future__ import annotations

if __name__ == "probes":  # by its short name: the same modules as layerscope.probes
    from layerscope.rooms import same_modules

    same_modules("probes")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codelength import CodeLength as CodeLength
    from .codelength import online_code as online_code
    from .crosstable import CrossTable as CrossTable
    from .crosstable import cross_table as cross_table
    from .design import Design as Design
    from .design import NonFiniteError as NonFiniteError
    from .erasure import Inlp as Inlp
    from .erasure import Leace as Leace
    from .erasure import erased as erased
    from .fit import Fit as Fit
    from .gaussian import LDAProbe as LDAProbe
    from .gaussian import MeanDifferenceProbe as MeanDifferenceProbe
    from .linear import LogisticProbe as LogisticProbe
    from .linear import RidgeProbe as RidgeProbe
    from .moments import Moments as Moments
    from .networks import LowRankProbe as LowRankProbe
    from .networks import MLPProbe as MLPProbe
    from .networks import NetworkFit as NetworkFit
    from .networks import networks_many as networks_many
    from .ridge import RIDGE_L2 as RIDGE_L2
    from .ridge import RidgeFit as RidgeFit
    from .ridge import ridge_many as ridge_many
    from .solver import DEFAULT_L2 as DEFAULT_L2
    from .solver import fit_many as fit_many
    from .sparse import SparseProbe as SparseProbe
    from .sparse import sparse_sweep as sparse_sweep

_MODULES = {
    "CodeLength": "codelength",
    "online_code": "codelength",
    "CrossTable": "crosstable",
    "cross_table": "crosstable",
    "Design": "design",
    "NonFiniteError": "design",
    "Inlp": "erasure",
    "Leace": "erasure",
    "erased": "erasure",
    "Fit": "fit",
    "LDAProbe": "gaussian",
    "MeanDifferenceProbe": "gaussian",
    "LogisticProbe": "linear",
    "RidgeProbe": "linear",
    "Moments": "moments",
    "LowRankProbe": "networks",
    "MLPProbe": "networks",
    "NetworkFit": "networks",
    "networks_many": "networks",
    "RIDGE_L2": "ridge",
    "RidgeFit": "ridge",
    "ridge_many": "ridge",
    "DEFAULT_L2": "solver",
    "fit_many": "solver",
    "SparseProbe": "sparse",
    "sparse_sweep": "sparse",
}
"""Public name -> the module that has it."""
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
