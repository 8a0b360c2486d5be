"""From a page of parts to one HTML text with its style, script and data inside: readable offline,
with no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .packing import packed
from .parts import Page
from .style import HERE, palette_css, standalone_style, static

STYLES = ("charts.css", "report.css", "marks.css", "attention.css", "maps.css")
SCRIPTS = ("attention.js", "maps.js", "figures.js", "report.js")


def rendered(page: Page, forced: str = "") -> str:
    """The page as one HTML text.

    Args:
        forced: what stands over every number.
    """
    bodies, data = packed(page, environment())
    return document("page.html.j2", page, data, forced=forced, bodies=bodies)


def environment() -> Environment:
    """The templates; every text is escaped where it is put in."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["zip"] = zip
    return made


def document(template: str, page: Page, data: Mapping[str, Any], **fields: Any) -> str:
    """A document of its own, with style, script and data inside."""
    facts = ", ".join(page.facts)
    # what the page's script needs for figures that are saved
    figures = {
        "style": standalone_style(),
        "name": page.title,
        "about": f"{page.title} ({facts}; {page.kicker})",
    }
    css = "\n".join((palette_css(), *map(static, STYLES)))
    js = "\n".join(map(static, SCRIPTS))
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{digest(css)}'",
            f"script-src '{digest(js)}'",
            "img-src data:",  # a figure that is saved as PNG is drawn from its own text
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return (
        environment()
        .get_template(template)
        .render(
            page=page,
            css=Markup(css),
            js=Markup(js),
            policy=policy,
            data=embedded({**data, "figures": figures}),
            **fields,
        )
    )


def forced_past(results: Mapping[str, Any]) -> str:
    """What stands over every number of a study that went on against the doctor."""
    wrong = ((results.get("provenance") or {}).get("doctor") or {}).get("wrong") or ()
    return (
        (
            f"Forced past the doctor, which finds {len(wrong)} things WRONG with this model; "
            f"the first: {wrong[0]}"
        )
        if wrong
        else ""
    )


def digest(text: str) -> str:
    """The hash by which the page's policy knows its own style and script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(data: Any) -> Markup:
    """JSON that no text inside it can break out of: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write_page(page: Page, path: Path, forced: str = "") -> None:
    """Write a page; a reader sees the old file or the new, never half."""
    text = rendered(page, forced)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
