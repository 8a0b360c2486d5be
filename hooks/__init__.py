"""Read and edit activations, attention and gradients inside any PyTorch model, by name.

>>> from hooks import capture, sites  # doctest: +SKIP
>>> with capture(model, "blocks.*.hook_resid_post") as acts:  # doctest: +SKIP
...     model(**batch)
"""

from hooks import edits
from hooks.activations import Activations, SiteNeverFired
from hooks.anatomy import Anatomy, UnknownArchitecture, WrappedModel, anatomy, sites
from hooks.capture import capture
from hooks.edits import Edit, EditError
from hooks.intervene import NothingChanged, intervene
from hooks.observe import observe
from hooks.reference import Reference, ReferenceMismatch
from hooks.resume import Readout, Resume
from hooks.sites import Site, UnknownSite
from hooks.store import ActivationStore, StoreError
from hooks.verify import UnsoundModel, Verdict, verify

__all__ = [
    "ActivationStore",
    "Activations",
    "Anatomy",
    "Edit",
    "EditError",
    "NothingChanged",
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
