"""What ``layerscope capture`` writes beside the store."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """The values of one site."""

    site: str = entry("the site")
    layer: int | None = entry("the block, from 0; null outside the blocks")
    level: str = entry("what a row is: word, token or item")
    rows: int = entry("how many rows", "rows")
    width: int = entry("values of a row", "values")
    dtype: str = entry("their type on disk")
    bytes: int = entry("size of all rows", "bytes")
    largest: float = entry("largest absolute value: a massive activation shows here")


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """The whole store."""

    rows: int = entry("rows at each site", "rows")
    texts: int = entry("texts, or pictures or sounds, that were read", "texts")
    shards: int = entry("files of each site", "files")
    bytes: int = entry("size on disk, with the index", "bytes")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A capture."""

    records: list[SiteRecord] = entry("one for each site")
    store: StoreRecord = entry("the store as a whole")


def texts_of(level: str) -> str:
    """What rows of a level are parts of."""
    return "files" if level == "item" else "texts"
