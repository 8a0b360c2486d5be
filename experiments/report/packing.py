"""Sections of a heavy page, compressed: each is unpacked when its reader opens it.

A browser takes seconds to lay out what a study of a hundred layers and fifty properties draws,
about a million elements, and a reader looks at a few sections of it. So a page that is too heavy
holds its larger sections as compressed HTML, with the data of their pictures; ``static/report.js``
puts one into the page at a time. What is small stays in sight: findings, the first numbers of each
section, tables at a glance.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from .parts import Page, Section

HEAVY_PAGE = 1_500_000
"""Characters of sections from which a page is packed; lighter ones open in less than a second."""
HEAVY_SECTION = 20_000
"""Characters from which a section of such a page is packed."""
LIGHT_PARTS = ("stats", "text")
"""Parts at the head of a section that stay in sight."""


def packed(page: Page, environment: Environment) -> tuple[list[Markup], dict[str, Any]]:
    """The HTML of each section, and the page's data, with packed sections under ``packed``."""
    bodies = [html_of(environment, section.parts) for section in page.sections]
    if sum(map(len, bodies)) < HEAVY_PAGE:
        return bodies, page.data
    data: dict[str, Any] = {kind: dict(entries) for kind, entries in page.data.items()}
    data["packed"] = {}
    for place, (section, body) in enumerate(zip(page.sections, bodies, strict=True)):
        if len(body) < HEAVY_SECTION:
            continue
        head, rest = _split(section)
        html = html_of(environment, rest)
        data["packed"][section.uid] = _compressed({"html": html, "data": taken(data, html)})
        template = environment.get_template("packed.html.j2")
        body = template.render(head=html_of(environment, head), uid=section.uid)
        bodies[place] = Markup(body)
    return bodies, data


def html_of(environment: Environment, parts: Sequence[Any]) -> Markup:
    """The HTML of some parts."""
    return Markup(environment.get_template("parts.html.j2").render(parts=parts))


def _split(section: Section) -> tuple[Sequence[Any], Sequence[Any]]:
    """The first parts, which stay in sight, and the others."""
    light = 0
    while light < len(section.parts) and section.parts[light].kind in LIGHT_PARTS:
        light += 1
    return section.parts[:light], section.parts[light:]


def taken(data: dict[str, Any], html: str) -> dict[str, dict[str, Any]]:
    """The entries of the data that the section's elements name, taken out of the page's."""
    named = set(re.findall(r'data-[a-z]+="([^"]*)"', html))
    taken: dict[str, dict[str, Any]] = {}
    for kind, entries in data.items():
        if kind != "packed":
            taken[kind] = {key: entries.pop(key) for key in named & entries.keys()}
    return taken


def _compressed(value: Any) -> str:
    """JSON, compressed, as text; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    compressed = gzip.compress(text.encode(), mtime=0)
    # Base 85 is a sixteenth shorter than base 64. Digits that HTML would escape are replaced by
    # three that it does not use.
    return base64.b85encode(compressed).translate(_PLAIN_DIGITS).decode()


_PLAIN_DIGITS = bytes.maketrans(b"&<>", b",./")
