"""Options of ``layerscope swap``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import TextsOptions
from .built_in import LISTS


@dataclass(frozen=True, kw_only=True)
class SwapOptions(TextsOptions):
    """Word swaps."""

    list: tuple[str, ...] = option(
        "built-in list of words to swap (repeatable; default: pronouns and names, "
        "unless --swap or --words is given)",
        (),
        choices=tuple(LISTS),
    )
    swap: tuple[str, ...] = option("two words to swap, A:B (repeatable)", (), metavar="A:B")
    words: Path | None = option(
        "pairs of words to swap: JSONL, JSON, CSV or TSV with a, b and, optionally, list",
        None,
        metavar="FILE",
    )
    positive: str | None = option(
        "for classifiers: class whose log-odds are measured on every text (default: "
        "the second of two)",
        None,
        metavar="CLASS",
    )
    null_draws: int = option(
        "number of random swaps of each text to compare with", 5, least=1, most=10_000
    )
    show: int = option("number of texts on the page, those with the largest changes", 30)
