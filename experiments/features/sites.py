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
    """The number of a site's layer, as names of sites count blocks: k for anything in block k, -1 for the embedding layer.

    Raw modules, which are in no block, are counted in the order of the list, whose first place is the embedding layer's.

    >>> layer_of("blocks.0.hook_resid_pre", 0), layer_of("blocks.0.hook_resid_post", 1), layer_of("module:rnn:output", 2)
    (-1, 0, 1)
    """
    layer = Site(site).layer
    return place - 1 if place == 0 or layer is None else layer
