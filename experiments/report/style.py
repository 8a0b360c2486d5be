"""Style sheets and scripts: of pages, and of pictures that stand alone."""

from __future__ import annotations

import re
from pathlib import Path

from .palette import PALETTE

HERE = Path(__file__).parent


def static(name: str) -> str:
    """A file that lies beside this package."""
    return (HERE / "static" / name).read_text(encoding="utf-8")


def palette_css() -> str:
    """The colours as variables, light by default, dark where the reader's system is,
    light on paper.
    """

    def block(which: int) -> str:
        return ":root{" + ";".join(f"--{k}:{pair[which]}" for k, pair in PALETTE.items()) + "}"

    return f"{block(0)}\n@media screen and (prefers-color-scheme:dark){{{block(1)}}}"


def standalone_style() -> str:
    """The charts' style sheets with the light palette written
    out (many viewers know no variables).
    """
    css = static("charts.css")
    css += static("marks.css").partition("@media")[0]
    css = re.sub(r"var\(--([a-z0-9]+)\)", lambda m: PALETTE[m.group(1)][0], css)
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", css, flags=re.S))
