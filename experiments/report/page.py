"""From results to a page of parts, and from a page to one HTML text with its style, script and data inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from layerscope.errors import InputError

from .ask import ask_page
from .attend import attend_page
from .attribute import attribute_page
from .calibrate import calibrate_page
from .capture import capture_page
from .controls import controls
from .curves import PALETTE
from .doctor import doctor_page
from .effects import effects_page
from .geometry import geometry_page
from .neurons import neurons_page
from .parts import Page, Section
from .probe import probe_page
from .provenance import again, caveats, provenance
from .prune import prune_page
from .study import gather
from .usage import usage_page

HERE = Path(__file__).parent
STYLES = ("charts.css", "report.css", "marks.css", "attention.css", "maps.css")
SCRIPTS = ("attention.js", "maps.js", "report.js")
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


def page_of(results: Mapping[str, Any]) -> Page:
    """The page of a run, as parts.

    Raises:
        ValueError: no report exists for this kind of run; the message names the kinds there are.
    """
    kind = str(results.get("kind"))
    if kind not in KINDS:
        raise InputError(f"expected results of kind {' or '.join(KINDS)}, got {kind!r}")
    page = KINDS[kind](results)
    day = str((results.get("provenance") or {}).get("finished") or "")[:10]
    facts = [fact for fact in (*page.facts, day) if fact]
    return replace(page, facts=facts, sections=[*page.sections, *closing(results)])


def closing(results: Mapping[str, Any]) -> list[Section]:
    """What every page ends with: controls, caveats, provenance, the command."""
    studies = gather(results) if results.get("kind") == "probe" else []
    found = [controls(results), caveats(results, studies), provenance(results), again(results)]
    return [section for section in found if section is not None]


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
        page=page, forced=forced, css=Markup(css), js=Markup(js), policy=policy, data=embedded(page.data)
    )


def forced_past(results: Mapping[str, Any]) -> str:
    """What stands over every number of a study that went on against the doctor."""
    wrong = ((results.get("provenance") or {}).get("doctor") or {}).get("wrong") or ()
    return (
        f"Forced past the doctor, which finds {len(wrong)} things WRONG with this model; the first: {wrong[0]}"
        if wrong
        else ""
    )


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
