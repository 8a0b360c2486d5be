"""Which sites have a vector for each token, and how a record numbers their layers."""

from __future__ import annotations

from collections.abc import Sequence

from ...hooks import Site, sites
from ..subject import Subject
from .layout import FeatureError

EMBEDDING = "blocks.0.hook_resid_pre"
"""The embedding layer: what goes into the first block."""


_OUTSIDE_BLOCKS = ("blocks.", "module:", "ln_final", "hook_embed")
"""How names begin that are not a block's own."""


def vector_sites(subject: Subject, patterns: Sequence[str]) -> list[str]:
    """The sites that names, globs and a block's own names (``hook_resid_post``) mean, in the
    model's order.

    Raises:
        FeatureError: a site that has one value a pair of positions.
    """
    wanted = [p if p.startswith(_OUTSIDE_BLOCKS) else f"blocks.*.{p}" for p in patterns]
    paths, named = [], []
    for pattern in wanted:
        if pattern.startswith("module:"):
            paths.append(pattern)
            continue
        if pattern.endswith("]"):
            part = pattern.removeprefix("blocks.*.")
            raise FeatureError(
                f"--site {part}: expected a whole site, without an index: {part.partition('[')[0]}"
            )
        named.append(pattern)
    names = [*(sites(subject.model, *named) if named else ()), *paths]
    for name in names:
        if ".hook_pattern" in name or ".hook_attn_scores" in name:
            raise FeatureError(
                f"--site {name}: expected a site with one vector a token, "
                "attention has one value a pair"
            )
    return names


def study_sites(subject: Subject, site: str) -> list[str]:
    """The embedding layer and then the site at every layer, in the model's order."""
    return [EMBEDDING, *(s for s in vector_sites(subject, [site]) if s != EMBEDDING)]


def layer_of(site: str, place: int) -> int:
    """The number of a site's layer, as names of sites count blocks: k for anything in block k, -1
    for the embedding layer.

    Raw modules, which are in no block, are counted in the order of the list, whose first place is
    the embedding layer's.

    >>> sites = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "module:rnn:output"
    >>> tuple(layer_of(site, place) for place, site in enumerate(sites))
    (-1, 0, 1)
    """
    layer = Site(site).layer
    return place - 1 if place == 0 or layer is None else layer
