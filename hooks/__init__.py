"""Read and edit activations, attention and gradients inside any PyTorch model, by name.

>>> from layerscope import capture, sites  # doctest: +SKIP
>>> with capture(model, "blocks.*.hook_resid_post") as acts:  # doctest: +SKIP
...     model(**batch)
"""

from __future__ import annotations

if __name__ == "hooks":  # by its short name: the same modules as layerscope.hooks
    from layerscope.rooms import same_modules

    same_modules("hooks")

from . import edits
from .activations import Activations, SiteNeverFired
from .anatomy import Anatomy, UnknownArchitecture, WrappedModel, anatomy
from .capture import capture
from .edits import Edit, EditError
from .intervene import NothingChanged, intervene
from .observe import observe
from .positions import PositionsUnknown
from .reference import Reference, ReferenceMismatch
from .resume import Readout, Resume
from .sites import Site, UnknownSite
from .store import ActivationStore, StoreError
from .verify import UnsoundModel, Verdict, verify

# isort: split
from .anatomy import sites  # the function, which has its name in common with a module

__all__ = [
    "ActivationStore",
    "Activations",
    "Anatomy",
    "Edit",
    "EditError",
    "NothingChanged",
    "PositionsUnknown",
    "Readout",
    "Reference",
    "ReferenceMismatch",
    "Resume",
    "Site",
    "SiteNeverFired",
    "StoreError",
    "UnknownArchitecture",
    "UnknownSite",
    "UnsoundModel",
    "Verdict",
    "WrappedModel",
    "anatomy",
    "capture",
    "edits",
    "intervene",
    "observe",
    "sites",
    "verify",
]
