"""Options of ``layerscope capture``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import SKIP_FILES, EngineOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(RunOptions, EngineOptions):
    """Capture."""

    site: tuple[str, ...] = option(
        "sites to capture: names, globs, or short names within a block (repeatable)"
    )
    corpus: tuple[Path, ...] = option(
        "annotated sentences, CoNLL-U (repeatable)", (), metavar="FILE"
    )
    lines: Path | None = option(
        "plain text, one text per line", None, metavar="FILE", aliases=("text",)
    )
    images: tuple[Path, ...] = option(
        "pictures: a table with the column file, as `probe --images` takes it (repeatable)",
        (),
        metavar="FILE",
    )
    audio: tuple[Path, ...] = option(
        "sounds: a table with the column file; start and end, in seconds, "
        "select a segment (repeatable)",
        (),
        metavar="FILE",
    )
    skip: float = option(SKIP_FILES, 0.1, metavar="SHARE", most=1)
    level: str | None = option(
        "what a row holds (default: word for --corpus, token for --lines, "
        "item for --images and --audio)",
        None,
        choices=("word", "token", "item"),
        aliases=("unit",),
    )
    pooling: str = option(
        "how the vectors of a word's tokens (of an item's patches or frames) are combined",
        "mean",
        choices=("first", "last", "mean"),
    )
    store_as: str = option(
        "data type on disk", "float32", choices=("float32", "float16", "bfloat16")
    )
    to: str | None = option(
        "folder or URL of the shards (default: DIR/store)", None, decides=False, metavar="WHERE"
    )
    limit: int | None = option(
        "use only the first N sentences, lines or files of each table (default: all)",
        None,
        metavar="N",
        least=1,
    )
    batch_tokens: int = option("tokens per batch and per shard", 4096, least=1)
    max_ram: str | None = option("memory limit, such as 2GB: batches become smaller", None)
    max_disk: str | None = option(
        "disk limit, such as 500GB: a larger capture is refused before it starts", None
    )
