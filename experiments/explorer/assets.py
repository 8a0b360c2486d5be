"""The front end: one style sheet and one ES module, put together from the files in ``static``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..report.style import palette_css

SCRIPTS = ("elements.js", "channel.js", "words.js", "model.js", "answer.js", "out.js", "explore.js")
HERE = Path(__file__).parent / "static"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>layerscope explore</title>
<link rel="stylesheet" href="explore.css">
<script type="module" src="start.js"></script>
</head>
<body><div id="explore" class="explore"></div></body>
</html>
"""
START = (
    'import { mountLive } from "./explore.js";\nmountLive(document.getElementById("explore"));\n'
)


@cache
def front_end() -> tuple[str, str]:
    """The style sheet, with the colours of all pages, and the module."""
    colours = palette_css().replace(":root", ".explore")
    css = f"{colours}\n{(HERE / 'explore.css').read_text(encoding='utf-8')}"
    parts = [(HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return css, "\n".join(parts)
