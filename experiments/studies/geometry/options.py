"""Options of ``layerscope geometry``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import RunOptions, StoreOptions


@dataclass(frozen=True, kw_only=True)
class GeometryOptions(StoreOptions, RunOptions):
    """Geometry."""

    corpus: Path = option("annotated sentences, CoNLL-U", metavar="FILE")
    property: tuple[str, ...] = option(
        "property that colours the maps: upos, deprel, depth, ... (repeatable; default: upos)", ()
    )
    limit: int | None = option("use only the first N sentences", 400, metavar="N", least=1)
    sample: int = option(
        "draw N words of these sentences at random", 1000, metavar="N", least=1, aliases=("words",)
    )
    method: tuple[str, ...] = option(
        "projection: pca, tsne or umap (repeatable; default: pca and tsne)", ()
    )
    perplexity: float = option("perplexity of t-SNE", 30.0, least=1)
    site: str = option("site to read at every layer: a name or a glob", "hook_resid_post")
    pooling: str = option(
        "how the vectors of a word's tokens are combined", "mean", choices=("first", "last", "mean")
    )
    compare: str | None = option(
        "another model whose layers are compared with this model's", None, metavar="M"
    )
    lens_texts: int = option(
        "number of texts for the logit lens; 0 skips it",
        24,
        metavar="N",
        aliases=("lens",),
    )
    export: tuple[str, ...] = option(
        "also write the points: npz, parquet or projector (repeatable)", ()
    )
    batch_tokens: int = option("tokens per batch", 4096, least=1)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The maps that are drawn."""
        return tuple(dict.fromkeys(self.method)) or ("pca", "tsne")

    @cached_property
    def properties(self) -> tuple[str, ...]:
        """The properties that colour them."""
        return tuple(dict.fromkeys(self.property)) or ("upos",)
