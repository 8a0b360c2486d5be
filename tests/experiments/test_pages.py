"""Every kind of page in headless Chromium: no error, nothing wider than the page, tables that sort,
keys that work.
"""

from __future__ import annotations

import base64
import copy
import io
import itertools
import re
import time
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM, Browser
from made import EVIL
from PIL import Image
from recorded import make
from recorded.altered import deeper, with_effects, with_markup, with_relation

from experiments.comparison import compared_page, names
from experiments.pages import page_of as run_page
from experiments.pages import render_report
from experiments.report import packing
from experiments.report.palette import PALETTE
from experiments.report.pictures import pictures
from experiments.report.render import rendered
from experiments.results import Results
from experiments.studies import STUDIES

RECORDED = {name: make.recorded(name) for name in make.COMMANDS}


def side_by_side(evil=""):
    """Two probing runs of models of different depth, and an ablation."""
    runs = [
        copy.deepcopy(RECORDED["probe"]),
        deeper(RECORDED["probe"], 13),
        RECORDED["ablate-heads"],
    ]
    runs[1]["provenance"]["model"]["name"] = "org/deeper"
    return [with_markup(run, evil) for run in runs]


def page_of(results):
    """From a run to its page, with some text behind every text in it."""
    return lambda evil="": render_report(with_markup(results, evil))


PAGES = {name: page_of(results) for name, results in RECORDED.items()}
PAGES |= {
    "attend": page_of(with_relation(RECORDED["attend"])),
    "effects": page_of(with_effects(RECORDED["ablate-heads"], {(1, 3): -1.4, (3, 2): 0.6})),
    "side by side": lambda evil="": rendered(compared_page(side_by_side(evil))),
}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    one = Browser()
    yield one
    one.close()


def opened(browser, tmp_path, text, width=1200):
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    browser.open(path, width)
    assert browser.errors == []
    assert browser.evaluate("document.documentElement.dataset.ready") == "true"
    assert browser.evaluate("document.documentElement.dataset.error === undefined")


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_errors_and_fits(name, browser, tmp_path):
    for evil, width in (("", 1200), ("", 400), (EVIL, 400)):
        text = PAGES[name](evil)
        assert len(text.encode()) < 6_000_000
        opened(browser, tmp_path, text, width)
        wide = browser.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, (width, evil)
    # what must be there on every page, seen by the browser
    assert browser.evaluate("document.querySelector('h1').textContent.length > 5")
    ids = browser.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)")
    closing = (
        ["caveats", "provenance"]
        if name == "side by side"
        else ["controls", "caveats", "provenance", "again"]
    )
    assert ids[0] == "findings"
    assert ids[-len(closing) :] == closing


READ = """[...document.querySelectorAll("main > section")].map((section) => {
  const copy = section.cloneNode(true);
  copy.querySelectorAll(".packed > summary").forEach((node) => node.remove());
  return [section.id, copy.textContent.replace(/\\s+/g, " ").trim()];
})"""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["probe", "ablate-heads", "attend", "geometry"])
def test_a_packed_section_is_the_same_when_it_is_opened(name, browser, tmp_path, monkeypatch):
    opened(browser, tmp_path, PAGES[name]())
    whole = browser.evaluate(READ)
    nodes = browser.evaluate("document.getElementsByTagName('*').length")
    monkeypatch.setattr(packing, "HEAVY_PAGE", 0)
    monkeypatch.setattr(packing, "HEAVY_SECTION", 5000)
    opened(browser, tmp_path, PAGES[name]())
    assert browser.evaluate("document.getElementsByTagName('*').length") < nodes / 2
    first = browser.evaluate("document.querySelector('.packed').dataset.packed")
    # a link to a section opens it, and a click the others
    browser.evaluate(f"location.hash = '#{first}'")
    browser.evaluate("document.querySelectorAll('.packed').forEach((one) => { one.open = true; })")
    closed = (
        "[...document.querySelectorAll('.packed')].filter((one) "
        "=> !one.querySelector('div')).length"
    )
    for _ in range(200):
        if browser.evaluate(closed) == 0:
            break
        time.sleep(0.02)
    assert browser.evaluate("document.querySelector('.packed').open")
    assert browser.evaluate(READ) == whole
    assert browser.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("name", ["probe", "ablate-heads", "side by side"])
def test_every_table_sorts_by_every_column_both_ways(name, browser, tmp_path):
    opened(browser, tmp_path, PAGES[name]())
    columns = browser.evaluate(
        """[...document.querySelectorAll("table[data-sortable]")].flatMap((table) => {
          const shown = (cell) => (cell.querySelector(".v") ?? cell).textContent;
          const key = (row, i) => row.cells[i].dataset.s ?? shown(row.cells[i]);
          return [...table.tHead.rows[0].cells].flatMap((head, i) => [0, 1].map(() => {
            head.querySelector("button").click();
            return [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => key(row, i))];
          }));
        })"""
    )
    assert len(columns) > 20
    compared = 0
    for direction, keys in columns:
        values = [float(k.replace(",", "")) for k in keys if re.fullmatch(r"-?[\d,.]+(e-?\d+)?", k)]
        if len(values) < 2 or len(values) != sum(k not in ("", "–") for k in keys):
            continue
        pairs = list(itertools.pairwise(values if direction == "ascending" else values[::-1]))
        assert all(a <= b for a, b in pairs), keys
        compared += any(a < b for a, b in pairs)
    assert compared > 5


@pytest.mark.browser
def test_keys_reach_what_the_pointer_reaches(browser, tmp_path):
    opened(browser, tmp_path, PAGES["probe"]())
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    chart = "document.querySelector('.chart')"
    browser.evaluate(f"{chart}.focus()")
    browser.press("End")
    assert browser.evaluate(f"{chart}.getAttribute('aria-valuenow')") == "5"
    assert "4" in browser.evaluate(f"{chart}.getAttribute('aria-valuetext')")
    assert not browser.evaluate("document.querySelector('#tip').hidden")
    browser.press("Escape")
    assert browser.evaluate("document.querySelector('#tip').hidden")
    browser.evaluate("document.querySelector('#overview-table thead button').focus()")
    browser.press("Enter")
    assert (
        browser.evaluate(
            "document.querySelector('#overview-table thead th').getAttribute('aria-sort')"
        )
        == "ascending"
    )


@pytest.mark.browser
def test_arrow_keys_go_through_a_grid(browser, tmp_path):
    opened(browser, tmp_path, PAGES["effects"]())
    browser.evaluate("document.querySelector('.heat').focus()")
    told, places = "document.querySelector('.heat').getAttribute('aria-description')", []
    for key in (
        "ArrowRight",
        "ArrowRight",
        "ArrowDown",
        "ArrowLeft",
        "ArrowUp",
    ):  # the first press takes the first cell
        browser.press(key)
        cell = "document.querySelector('.heat rect.at')"
        places.append([browser.evaluate(f"Number({cell}.getAttribute('{axis}'))") for axis in "xy"])
        assert browser.evaluate(
            f"{told}.startsWith(data.heats[document.querySelector('[data-heat]').dataset.heat].tips[Number({cell}.dataset.k)][0] "
            "+ ': ')"
        )
    (x0, y0), (x1, y1), (x2, y2), *back = places
    assert (x1 > x0, y1, x2, y2 > y1) == (True, y0, x1, True)
    assert back == [[x0, y2], [x0, y0]]
    assert not browser.evaluate("document.getElementById('tip').hidden")


@pytest.mark.browser
def test_a_head_is_chosen_and_its_words_look_somewhere(browser, tmp_path):
    opened(browser, tmp_path, PAGES["attend"](EVIL))
    assert re.match(
        r"Layer \d, head \d",
        browser.evaluate("document.querySelector('[data-role=head]').textContent"),
    )
    assert "</script" in browser.evaluate("document.querySelector('[data-role=sees]').textContent")
    results = with_effects(RECORDED["ablate-heads"], {(1, 3): -1.4})
    results["patterns"] |= {
        "tokens": ["<s>", " a", " b"],
        "weights": patterns([[255, 0, 0], [100, 155, 0], [5, 50, 200]]),
    }
    # the strongest head's pattern stands there before any click
    opened(browser, tmp_path, render_report(results))
    assert "Attention of blocks.1.attn.hook_z[3] in one text" in browser.evaluate(
        "document.body.textContent"
    )
    titles = browser.evaluate("[...document.querySelectorAll('title')].map(t => t.textContent)")
    assert titles.count(" b attends to  a: 0.20") == 1


def patterns(one):
    """The same pattern of every head, as a page holds it."""
    return base64.b64encode(bytes(weight for row in one for weight in row) * 5 * 4).decode()


@pytest.mark.browser
def test_on_paper_there_is_neither_a_menu_nor_a_cut_table(browser, tmp_path):
    opened(browser, tmp_path, PAGES["probe"]())
    browser.do("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert browser.evaluate(
            "[...document.querySelectorAll('.frame')].every(f => "
            "getComputedStyle(f).maxHeight === 'none')"
        )
        assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(28, 33, 41)"
    finally:
        browser.do("Emulation.setEmulatedMedia", media="")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_background(mode):
    """4.5:1: names and curves' labels on paper, ink on every tint, badges on theirs."""
    pairs = [
        (name, "paper") for name in ("ink", "quiet", "score", "f1", "control", "random", "plain")
    ]
    pairs += [("ink", tint) for tint in ("wash", "choice", "good", "warn", "mark")]
    pairs += [("control", "warn"), ("f1", "good"), ("quiet", "wash"), ("score", "choice")]
    for text, background in pairs:
        a, b = sorted(
            (luminance(PALETTE[text][mode]), luminance(PALETTE[background][mode])), reverse=True
        )
        assert (a + 0.05) / (b + 0.05) >= 4.5, (text, background)


def test_runs_are_named_by_what_tells_them_apart():
    a, b = (STUDIES["probe"].read(copy.deepcopy(RECORDED["probe"])) for _ in range(2))
    b.provenance["config"]["site"] = "attn.hook_z"
    name = a.provenance["model"]["name"]
    heads = STUDIES["ablate"].read(RECORDED["ablate-heads"])
    assert names([a, b]) == [f"{name} (site hook_resid_post)", f"{name} (site attn.hook_z)"]
    assert names([a, a]) == [f"{name} #1", f"{name} #2"]
    assert names([a, heads]) == [f"probe {name}", f"ablate {name}"]


def test_side_by_side_holds_each_runs_best_where_its_records_have_it():
    runs = side_by_side()
    section = next(s for s in compared_page(runs).sections if s.title == "upos")
    for run, row in zip(runs[:2], section.parts[1].rows, strict=True):
        records = [r for r in run["records"] if r["property"] == "upos"]
        top = max(records, key=lambda r: r["score"])
        assert row[1].sort == top["score"]
        assert float(row[3].sort) == pytest.approx(
            (top["layer"] + 1) / max(r["layer"] + 1 for r in records)
        )
    with pytest.raises(ValueError, match="at least one run"):
        compared_page([])


# What a click would save, kept instead: (name, text or bytes as a data address).
SAVES = """window.saved = []; window.saveAs = (blob, name) => {
  const reader = new FileReader();
  reader.onload = () => window.saved.push([name, reader.result]);
  reader.readAsDataURL(blob);
}"""


@pytest.mark.browser
def test_a_figure_leaves_as_svg_png_and_caption(browser, tmp_path):
    opened(browser, tmp_path, PAGES["ablate-heads"]())
    browser.evaluate(SAVES)
    figure = "document.querySelector('.heat').parentNode"
    browser.evaluate(
        f"[...{figure}.querySelectorAll('.leave button')].slice(0, 2).forEach((b) => b.click())"
    )
    for _ in range(200):
        if browser.evaluate("window.saved.length") == 2:
            break
        time.sleep(0.02)
    kept = {name.rpartition(".")[2]: address for name, address in browser.evaluate("window.saved")}
    svg = base64.b64decode(kept["svg"].partition(",")[2]).decode()
    root = ElementTree.fromstring(svg)
    oracle = ElementTree.fromstring(pictures(run_page(RECORDED["ablate-heads"]))[0].svg)
    assert root.attrib["viewBox"] == oracle.attrib["viewBox"]
    assert len(root.findall(".//{*}rect")) == len(oracle.findall(".//{*}rect"))
    image = Image.open(io.BytesIO(base64.b64decode(kept["png"].partition(",")[2])))
    assert image.size == tuple(int(3 * float(root.attrib[side])) for side in ("width", "height"))
    assert len(image.convert("RGB").getcolors(1_000_000)) > 10  # drawn, not blank
    caption = browser.evaluate("captionOf(document.querySelector('.heat').parentNode, 'Effects')")
    assert caption.startswith("Effects. ")
    assert "6 prompts" in caption
    assert "outline significant" not in caption
    assert browser.errors == []


@pytest.mark.browser
def test_cells_of_a_notebook_do_not_meet(browser, tmp_path):
    names = ("ablate-heads", "attend", "attribute-classifier", "ablate-heads", "lens")
    cells = [Results(RECORDED[name])._repr_html_() for name in names]
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{''.join(cells)}", encoding="utf-8")
    browser.open(path, 400)
    of_frames = (
        "[...document.querySelectorAll('iframe')].map((f) => f.contentDocument.documentElement)"
    )
    for _ in range(200):
        ready = browser.evaluate(f"{of_frames}.map((root) => root.dataset.ready)")
        if ready == ["true"] * len(names):
            break
        browser.evaluate(
            "document.querySelectorAll('iframe').forEach((f) => { f.loading = 'eager'; })"
        )
        time.sleep(0.02)
    assert ready == ["true"] * len(names)
    assert browser.evaluate(f"{of_frames}.every((root) => root.dataset.error === undefined)")
    assert browser.evaluate(f"{of_frames}.every((root) => root.scrollWidth <= root.clientWidth)")
    assert browser.requests == [path.as_uri()]
    assert browser.errors == []
