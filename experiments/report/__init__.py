"""One self-contained HTML page per run, made from its results.json: readable offline, with no request.

>>> from experiments.report import render_report
>>> render_report({"schema": 1, "kind": "probe", "records": []}).startswith("<!doctype html>")
True
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .ask import ask_page
from .attend import attend_page
from .attribute import attribute_page
from .calibrate import calibrate_page
from .capture import capture_page
from .curves import PALETTE, layer_curves_svg
from .doctor import doctor_page
from .effects import effects_page
from .geometry import geometry_page
from .neurons import neurons_page
from .parts import Page
from .probe import probe_page
from .prune import prune_page
from .usage import usage_page

__all__ = ["layer_curves_svg", "render_report", "write_report"]

HERE = Path(__file__).parent
# A new kind of run is one function here, composed of the same parts.
KINDS: dict[str, Callable[[Mapping[str, Any]], Page]] = {
    "probe": probe_page,
    "ablate": effects_page,
    "patch": effects_page,
    "attribute": attribute_page,
    "prune": prune_page,
    "usage": usage_page,
    "neurons": neurons_page,
    "attend": attend_page,
    "capture": capture_page,
    "calibrate": calibrate_page,
    "ask": ask_page,
    "geometry": geometry_page,
    "doctor": doctor_page,
}


def render_report(results: dict[str, Any]) -> str:
    """The report as one HTML text.

    Args:
        results: the content of results.json (schema 1).
    Raises:
        ValueError: no report exists for this kind of run; the message names the kinds there are.
    """
    kind = str(results.get("kind"))
    if kind not in KINDS:
        raise ValueError(f"expected results of kind {' or '.join(KINDS)}, got {kind!r}")
    page = KINDS[kind](results)
    css = "\n".join(
        (palette_css(), static("charts.css"), static("report.css"), static("attention.css"), static("maps.css"))
    )
    js = "\n".join((static("attention.js"), static("maps.js"), static("report.js")))
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
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
        page=page, forced=_forced(results), css=Markup(css), js=Markup(js), policy=policy, data=embedded(page.data)
    )


def _forced(results: Mapping[str, Any]) -> str:
    """What stands over every number of a study that went on against the doctor."""
    wrong = ((results.get("provenance") or {}).get("doctor") or {}).get("wrong") or ()
    return (
        f"Forced past the doctor, which finds {len(wrong)} things WRONG with this model; the first: {wrong[0]}"
        if wrong
        else ""
    )


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the report of `results` to `path`; a reader sees the old file or the new, never half."""
    path = Path(path)
    text = render_report(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def static(name: str) -> str:
    """A file that lies beside this package."""
    return (HERE / "static" / name).read_text(encoding="utf-8")


def palette_css() -> str:
    """The colours as variables, light by default, dark where the reader's system is, light on paper."""

    def block(which: int) -> str:
        return ":root{" + ";".join(f"--{k}:{pair[which]}" for k, pair in PALETTE.items()) + "}"

    return f"{block(0)}\n@media screen and (prefers-color-scheme:dark){{{block(1)}}}"


def digest(text: str) -> str:
    """The hash by which the page's policy knows its own style and script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(data: Any) -> Markup:
    """JSON that no text inside it can break out of: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
