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

from typing import TYPE_CHECKING

from layerscope.lazy import lazy

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

__all__, __getattr__, __dir__ = lazy(
    __name__,
    {
        "codelength": ("CodeLength", "online_code"),
        "crosstable": ("CrossTable", "cross_table"),
        "design": ("Design", "NonFiniteError"),
        "erasure": ("Inlp", "Leace", "erased"),
        "fit": ("Fit",),
        "gaussian": ("LDAProbe", "MeanDifferenceProbe"),
        "linear": ("LogisticProbe", "RidgeProbe"),
        "moments": ("Moments",),
        "networks": ("LowRankProbe", "MLPProbe", "NetworkFit", "networks_many"),
        "ridge": ("RIDGE_L2", "RidgeFit", "ridge_many"),
        "solver": ("DEFAULT_L2", "fit_many"),
        "sparse": ("SparseProbe", "sparse_sweep"),
    },
)
