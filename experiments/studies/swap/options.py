"""Options of ``layerscope swap``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import TextsOptions
from .built_in import LISTS


@dataclass(frozen=True, kw_only=True)
class SwapOptions(TextsOptions):
    """Words of one list put in place of those of another."""

    list: tuple[str, ...] = option(
        "a built-in list of words that are swapped (repeatable; default: pronouns and names, unless others are given)",
        (),
        choices=tuple(LISTS),
    )
    swap: tuple[str, ...] = option(
        "two words that are swapped, A:B (repeatable)", (), metavar="A:B"
    )
    words: Path | None = option(
        "pairs of words that are swapped: JSONL, JSON, CSV or TSV with a and b, and perhaps list",
        None,
        metavar="FILE",
    )
    positive: str | None = option(
        "of a classifier: the class whose log-odds are measured on every text (default: the second of two)",
        None,
        metavar="CLASS",
    )
    null_draws: int = option("random swaps of each text to compare with", 5, least=1)
    show: int = option("texts that the page shows, those that move most", 30)
