"""The documentation as a site: `python docs/build.py --site` builds it into site/,
a folder for any static host.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project = "layerscope"
author = "The layerscope developers"
copyright = author
REPOSITORY = "https://github.com/layerscope/layerscope"

extensions = ["myst_nb"]
exclude_patterns = ["README.md", "gallery/site"]  # the front page opens with README.md
root_doc = "index"
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are kept with their output; tests/test_tutorials.py runs them
suppress_warnings = ["mystnb.unknown_mime_type"]

html_extra_path = ["gallery/site"]  # whole reports, which the gallery links to
html_theme = "furo"
html_title = "layerscope"
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}

OUTSIDE = re.compile(r"\]\(\.\./([^)]+)\)")
"""A Markdown link from docs/ to a file beside it, such as ``](../examples/README.md)``."""


def prepare_page(app: Any, document: str, source: list[str]) -> None:
    """The front page opens with README.md; links out of docs/ lead to the repository."""
    if document == "index":
        readme = Path(app.srcdir, "README.md").read_text(encoding="utf-8")
        source[0] = f"{readme}\n{source[0]}"
    if "/" not in document:
        source[0] = OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", prepare_page)
