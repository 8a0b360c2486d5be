"""Options of ``layerscope capture``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import EngineOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(RunOptions, EngineOptions):
    """Activations of a text, written to disk."""

    site: tuple[str, ...] = option(
        "what is captured: names, globs, or shorthands of a block's (repeatable)"
    )
    corpus: tuple[Path, ...] = option(
        "annotated sentences, CoNLL-U (repeatable)", (), metavar="FILE"
    )
    lines: Path | None = option(
        "plain text, one text a line", None, metavar="FILE", aliases=("text",)
    )
    level: str | None = option(
        "what a row is (default: a word of --corpus, a token of --lines)",
        None,
        choices=("word", "token"),
        aliases=("unit",),
    )
    pooling: str = option(
        "a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean")
    )
    store_as: str = option("values on disk", "float32", choices=("float32", "float16", "bfloat16"))
    to: str | None = option(
        "folder or URL of the shards (default: DIR/store)", None, decides=False, metavar="WHERE"
    )
    limit: int | None = option(
        "use the first N sentences or lines of each file", None, metavar="N", least=1
    )
    batch_tokens: int = option("tokens of the texts that share a batch, and a shard", 4096, least=1)
    max_ram: str | None = option(
        "memory of the process that is not exceeded, as 2GB: batches are made as small", None
    )
    max_disk: str | None = option(
        "bytes on disk that are not exceeded, as 500GB: more is refused beforehand", None
    )
