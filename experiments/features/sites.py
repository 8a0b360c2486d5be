"""Which sites have a vector for each token, and how a record numbers their layers."""

from __future__ import annotations

from collections.abc import Sequence

from ...hooks import Site, sites
from ..subject import Subject
from .layout import FeatureError

EMBEDDING = "blocks.0.hook_resid_pre"
"""The embedding layer: what goes into the first block."""


def vector_sites(subject: Subject, patterns: Sequence[str]) -> list[str]:
    """The sites that names, globs and a block's own names (``hook_resid_post``) mean, in the model's order.

    Raises:
        FeatureError: a site that has one value a pair of positions.
    """
    beyond = ("blocks.", "module:", "ln_final", "hook_embed")
    wanted = [p if p.startswith(beyond) else f"blocks.*.{p}" for p in patterns]
    for pattern in wanted:
        if pattern.endswith("]") and not pattern.startswith("module:"):
            name = pattern.partition("[")[0].removeprefix("blocks.*.")
            raise FeatureError(
                f"--site {pattern.removeprefix('blocks.*.')}: expected a whole site, without an index: {name}"
            )
    paths = [p for p in wanted if p.startswith("module:")]
    named = [p for p in wanted if p not in paths]
    found = [*(sites(subject.model, *named) if named else ()), *paths]
    if pairs := [s for s in found if ".hook_pattern" in s or ".hook_attn_scores" in s]:
        raise FeatureError(
            f"--site {pairs[0]}: expected a site with one vector a token, attention has one value a pair"
        )
    return found


def study_sites(subject: Subject, site: str) -> list[str]:
    """The embedding layer and then the site at every layer, in the model's order."""
    return [EMBEDDING, *(s for s in vector_sites(subject, [site]) if s != EMBEDDING)]


def layer_of(site: str, place: int) -> int:
    """0 for the embedding layer, k + 1 for anything in block k; the place in the list for raw modules."""
    if place == 0:
        return 0
    layer = Site(site).layer
    return place if layer is None else layer + 1
