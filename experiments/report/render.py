"""From a page of parts to one HTML text with its style, script and data inside: readable offline, with no request."""

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
from .style import HERE, palette_css, static

STYLES = ("charts.css", "report.css", "marks.css", "attention.css", "maps.css")
SCRIPTS = ("attention.js", "maps.js", "report.js")


def rendered(page: Page, forced: str = "") -> str:
    """The page as one HTML text.

    Args:
        forced: what stands over every number.
    """
    css = "\n".join((palette_css(), *map(static, STYLES)))
    js = "\n".join(map(static, SCRIPTS))
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
    bodies, data = packed(page, environment)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{digest(css)}'",
            f"script-src '{digest(js)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        forced=forced,
        css=Markup(css),
        js=Markup(js),
        policy=policy,
        bodies=bodies,
        data=embedded(data),
    )


def forced_past(results: Mapping[str, Any]) -> str:
    """What stands over every number of a study that went on against the doctor."""
    wrong = ((results.get("provenance") or {}).get("doctor") or {}).get("wrong") or ()
    return (
        f"Forced past the doctor, which finds {len(wrong)} things WRONG with this model; the first: {wrong[0]}"
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
