"""The report against an HTML parser, an XML parser, a headless browser and plain arithmetic."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from experiments.report.page import KINDS, page_of
from made import EVIL
from made_up import (
    make_ablation,
    make_ask,
    make_attention,
    make_attribution,
    make_beside,
    make_calibration,
    make_capture,
    make_doctor,
    make_geometry,
    make_neurons,
    make_patching,
    make_pruning,
    make_results,
    make_screened,
    make_usage,
)
from made_up.beside import with_calibration

from experiments.report import layer_curves_svg, render_report, write_report
from experiments.report.charts import nice_ticks, shown_labels, spread, value_range
from experiments.report.matrix import oriented
from experiments.report.parts import Table
from experiments.report.words import number, runs, signed

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, the text inside scripts, and whether all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or (tag == "p" and tag not in self.stack):
            return
        while (last := self.stack.pop()) != tag:
            assert last in {"p", "li", "option"}, f"expected </{last}>, got </{tag}>"

    def handle_data(self, data: str) -> None:
        inside = self.stack[-1] if self.stack else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attrs for name, attrs in self.elements if name == tag)


def evil_results() -> dict[str, Any]:
    """Names, labels, words and notes that would all be scripts if one were written as it is."""
    results = make_results(3, (f"upos{EVIL}",))
    results["provenance"]["model"]["name"] = EVIL
    results["provenance"]["command"] = results["provenance"]["config"]["site"] = EVIL
    for row in results["errors"]:
        row |= {"words": [EVIL, "and", EVIL], "index": 0, "gold": EVIL, "sentence_id": EVIL}
    for row in results["classes"] + results["confused"]:
        row |= {k: row[k] + EVIL for k in ("label", "gold") if k in row}
    results["notes"].append({"kind": EVIL, "text": EVIL})
    results["findings"][0]["text"] = EVIL
    return results


def bare_results() -> dict[str, Any]:
    """A run whose every control was skipped, with one score missing too."""
    results = make_results(4, ("upos", "depth"), ("depth",))
    keep = {"site", "layer", "property", "metric", "kind", "level", "score", "best"}
    results["records"] = [{k: v if k in keep else None for k, v in r.items()} for r in results["records"]]
    results["records"][2]["score"] = float("nan")
    for key in ("classes", "errors", "confused", "comparisons", "notes", "findings"):
        results[key] = []
    return results


SHAPES = {
    "two": lambda: make_results(),
    "deep": lambda: make_results(31),
    "one": lambda: make_results(1, ("upos",)),
    "number": lambda: make_results(7, ("depth",), ("depth",)),
    "evil": evil_results,
    "bare": bare_results,
    "empty": lambda: {"schema": 1, "kind": "probe", "provenance": {}, "records": []},
    "ablation": lambda: make_ablation(),
    "evil ablation": lambda: make_ablation(2, 3, EVIL),
    "screened": lambda: make_screened(),
    "evil screened": lambda: make_screened(EVIL),
    "patching": lambda: make_patching(),
    "evil patching": lambda: make_patching(EVIL),
    "usage": lambda: make_usage(),
    "evil usage": lambda: make_usage(EVIL),
    "neurons": lambda: make_neurons(),
    "evil neurons": lambda: make_neurons(EVIL),
    "empty neurons": lambda: {"schema": 1, "kind": "neurons", "provenance": {}, "records": []},
    "pruning": lambda: make_pruning(),
    "evil pruning": lambda: make_pruning(EVIL),
    "attention": lambda: make_attention(),
    "evil attention": lambda: make_attention(EVIL),
    "empty attention": lambda: {"schema": 1, "kind": "attend", "provenance": {}, "records": []},
    "calibration": lambda: make_calibration(),
    "evil calibration": lambda: make_calibration(EVIL),
    "ask": lambda: make_ask(),
    "evil ask": lambda: make_ask(EVIL),
    "probes' calibration": lambda: with_calibration(make_results(4, ("upos",))),
    "beside": lambda: make_beside(),
    "evil beside": lambda: make_beside(EVIL),
    "geometry": lambda: make_geometry(),
    "evil geometry": lambda: make_geometry(EVIL),
    "empty geometry": lambda: {"schema": 1, "kind": "geometry", "provenance": {}, "records": []},
    "attribution": lambda: make_attribution(),
    "evil attribution": lambda: make_attribution(EVIL),
    "capture": lambda: make_capture(),
    "evil capture": lambda: make_capture(EVIL),
    "doctor": lambda: make_doctor(),
    "evil doctor": lambda: make_doctor(EVIL),
    "empty pruning": lambda: {"schema": 1, "kind": "prune", "provenance": {}, "records": []},
    "empty ablation": lambda: {"schema": 1, "kind": "ablate", "provenance": {}, "records": []},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_page_is_well_formed_and_asks_for_nothing(shape: str) -> None:
    text = render_report(SHAPES[shape]())
    page = Page(text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        assert tag not in {
            "img",
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "audio",
            "video",
        }
        assert "style" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attrs.get(name)
            assert value is None or (value.startswith("#") and value[1:] in ids), (tag, name, value)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("shape", SHAPES)
def test_every_image_has_words_and_every_table_headings(shape: str) -> None:
    page = Page(render_report(SHAPES[shape]()))
    ids = {a["id"] for _, a in page.elements if "id" in a}
    for attrs in page.all("svg"):
        if attrs.get("aria-hidden") == "true":
            continue
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= ids
    assert all(a.get("scope") in {"col", "row"} for a in page.all("th"))
    assert {a["for"] for a in page.all("label")} <= ids


def test_markup_in_names_words_and_labels_stays_text() -> None:
    text = render_report(evil_results())
    page = Page(text)
    assert len(list(page.all("script"))) == 2
    assert "alert(1)" not in page.scripts[-1]
    assert "<script>alert" not in text
    data = json.loads(page.scripts[0])
    assert EVIL[:9] not in page.scripts[0]
    assert set(data) == {"charts", "matrices", "classes"}
    assert any(EVIL in part for part in page.text)


def test_json_in_the_page_cannot_be_closed_from_inside() -> None:
    results = make_results(2, ("upos",))
    for k, record in enumerate(results["records"]):
        record |= {"site": f"module:{EVIL}{k}", "layer": None}
    page = Page(render_report(results))
    labels = json.loads(page.scripts[0])["charts"]["p0-main"]["labels"]
    assert labels == [f"module:{EVIL}0"]


def test_page_holds_the_numbers_of_the_run() -> None:
    results = make_results(7)
    page = Page(render_report(results))
    said = {part.strip() for part in page.text}
    for record in results["records"]:
        for field in ("score", "control", "random_model", "score_seen", "score_unseen", "macro_f1"):
            assert f"{record[field]:.3f}" in said
            assert f"{record[field]:.4g}" in said
    data = json.loads(page.scripts[0])
    first = [c for c in results["classes"] if c["property"] == "upos" and c["layer"] == 2]
    assert sorted(row[3] for row in data["classes"]["p0"][3]) == sorted(round(c["f1"], 4) for c in first)
    assert results["provenance"]["command"] in said
    assert results["provenance"]["model"]["sha256"] in said


def tables_of(part: Any) -> Iterator[Table]:
    """The tables of a page or of a part, at any depth."""
    if isinstance(part, Table):
        yield part
    elif isinstance(part, (list, tuple)):
        for one in part:
            yield from tables_of(one)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from tables_of(getattr(part, field.name))


def same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


RANKED = same("effect", "p", "q")
FAITHFUL = ("comprehensiveness", "sufficiency", "deletion", "insertion", "infidelity")


def faithful(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over the texts, a method each."""
    rows = results["records"]
    methods = dict.fromkeys(r["method"] for r in rows)
    return [{k: fmean(r[k] for r in rows if r["method"] == method) for k in FAITHFUL} for method in methods]


def with_value(value: str) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    return lambda results: [r for r in results["records"] if r["value"] == value]


# made-up run, table, the records that it is of, and the field in each of its columns
TOLD: list[tuple[Callable[[], dict[str, Any]], str, Callable[[dict[str, Any]], list[dict[str, Any]]], dict[str, str]]]
TOLD = [
    (make_results, "p0-layers", lambda r: [x for x in r["records"] if x["property"] == "upos"],
     same("control", "selectivity", "l2") | {"accuracy": "score", "macro-F1": "macro_f1", "random weights": "random_model",
     "seen": "score_seen", "unseen": "score_unseen", "p worse": "p_worse"}),
    (make_beside, "p0-layers", itemgetter("records"),
     same("compression", "gain") | {"code": "code_bits", "bits": "information", "beside": "conditional"}),
    (make_beside, "p0-calibration-table", itemgetter("records"),
     same("classwise", "temperature") | {"ECE": "ece", "by chance": "ece_chance", "Brier": "brier", "AUROC": "auroc"}),
    (make_beside, "mixes-table", itemgetter("mixes"),
     same("peakedness", "headroom") | {"centre of gravity": "centre_of_gravity", "above the embeddings": "centre_above"}),
    (make_beside, "trees-table", itemgetter("trees"),
     same("epochs") | {"UUAS": "uuas", "distance ρ": "distance_spearman", "root": "root_accuracy",
     "depth ρ": "depth_spearman", "random UUAS": "random_uuas"}),
    (make_ablation, "ranking-effects-0", itemgetter("records"), RANKED | {"of the clean metric": "normalised"}),
    (make_screened, "ranking-effects-0", itemgetter("records"), RANKED | {"estimate": "estimate", "null p": "null_p"}),
    (make_patching, "ranking-effects-0", with_value("denoising"), RANKED | {"of the way": "normalised"}),
    (make_patching, "ranking-effects-1", with_value("noising"), RANKED | same("estimate")),
    (make_usage, "layers-table", with_value("erase"),
     RANKED | same("decodable") | {"after": "erased_linear", "by a network": "erased_mlp", "null p": "null_p",
     "random": "null"}),
    (make_neurons, "effects-0-0", itemgetter("records"), RANKED | same("k", "beyond") | {"random": "null", "null p": "null_p"}),
    (make_attention, "heads-table", itemgetter("records"),
     same("entropy", "confidence", "distance", "first", "previous", "induction", "duplicate", "effect")
     | {"first by value": "norm_first", "contribution": "output"}),
    (make_attention, "relations-table", itemgetter("relations"), same("gain", "n") | {"agreement": "score"}),
    (make_geometry, "layers-table", itemgetter("records"),
     same("anisotropy") | {"dimension": "intrinsic_dimension", "PCs for 90%": "components_90", "PC 1-2": "explained_2",
     "centred": "anisotropy_centred", "trust PCA": "trust_pca", "upos in the space": "upos:space"}),
    (make_geometry, "lens-table", lambda r: r["lens"]["records"], {"log2 p": "log2p", "median rank": "median_rank",
     "likeliest": "top1"}),
    (make_attribution, "scores-0", lambda r: [dict(zip(("a", "b"), s, strict=True)) for s in
     zip(*(x["scores"] for x in r["records"][:2]), strict=True)], {"leave-one-out": "a", "ig": "b"}),
    (make_attribution, "faithful-table", faithful, same(*FAITHFUL)),
    (make_calibration, "measures", itemgetter("records"),
     same("accuracy") | {"answered": "n_answered", "mean": "confidence", "overconfidence": "overconfidence", "ECE": "ece",
     "by chance": "ece_chance", "equal mass": "ece_mass", "squared error": "brier_top", "AUROC": "auroc",
     "risk area": "aurc"}),
    (make_ask, "effects-table", itemgetter("records"), same("effect", "p") | {"over random": "over_random"}),
    (make_pruning, "steps-table", itemgetter("records"),
     same("parameters", "change", "speed", "difference") | {"heads a layer": "heads", "loss": "value", "at random": "random"}),
    (make_capture, "sites-table", itemgetter("records"), same("width", "largest")),
    (make_doctor, "wrong-table", lambda r: [x for x in r["records"] if x["status"] == "WRONG"], same("measured", "bound")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "uid", "records", "fields"), TOLD, ids=[f"{m.__name__}-{uid}" for m, uid, *_ in TOLD])
def test_a_table_holds_the_numbers_of_its_records(make, uid, records, fields) -> None:
    """Each row those of one record, unchanged; some show only the strongest, or a row more."""
    results = make()
    (table,) = (found for found in tables_of(page_of(results).sections) if found.uid == uid)
    places = {column.name: i for i, column in enumerate(table.columns)}
    shown = Counter(tuple(row[places[column]].sort for column in fields) for row in table.rows)
    there = Counter(tuple(record.get(field) for field in fields.values()) for record in records(results))
    assert min(len(shown), len(there)) > 0
    assert shown <= there or there <= shown


def test_every_kind_of_run_has_a_table_that_is_checked() -> None:
    assert {make()["kind"] for make, *_ in TOLD} == set(KINDS)


def test_the_marked_word_is_the_wrong_one() -> None:
    results = make_results(3, ("upos",))
    text = render_report(results)
    marked = re.findall(r"<mark>(.*?)</mark>", text)
    assert marked == [e["words"][e["index"]] for e in results["errors"]]


def test_missing_controls_are_called_not_supported() -> None:
    page = Page(render_report(bare_results()))
    said = " ".join(page.text)
    assert "no control task: not supported" in said
    assert "no random-weights model: not supported" in said
    assert "nan" not in said.lower().split()
    whole = " ".join(Page(render_report(make_results())).text)
    assert "no control task" not in whole


def test_unconverged_probes_are_flagged() -> None:
    results = make_results(4, ("upos",))
    assert "unconverged" not in Page(render_report(results)).text
    results["records"][2]["converged"] = False
    said = Page(render_report(results)).text
    assert any("did not converge at layer 1;" in part for part in said)


def test_size_of_a_deep_run() -> None:
    assert len(render_report(make_results(31)).encode()) < 1_500_000


def test_several_kinds_of_site_get_a_section_each() -> None:
    results = make_results(4, ("upos",))
    other = copy.deepcopy(results["records"][1:])
    for record in other:
        record["site"] = record["site"].replace("hook_resid_post", "hook_mlp_out")
    results["records"] += other
    page = Page(render_report(results))
    assert {"upos at blocks.*.hook_resid_post", "upos at blocks.*.hook_mlp_out"} <= {t.strip() for t in page.text}


def test_another_kind_of_run_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError,
        match=r"expected results of kind probe or ablate or .*, got 'nonsense'",
    ):
        render_report({"schema": 1, "kind": "nonsense", "records": []})


def test_write_replaces_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "report.html"
    write_report(make_results(2, ("upos",)), path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(make_results(3, ("upos",)), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_standalone_picture_is_xml_that_needs_no_style_from_outside() -> None:
    results = make_results(7)
    root = ET.fromstring(layer_curves_svg(results, "upos"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext())
    assert "var(--" not in text
    assert "upos, layer by layer in all-MiniLM-L6-v2" in text
    ET.fromstring(layer_curves_svg(evil_results(), f"upos{EVIL}"))
    with pytest.raises(LookupError, match="no property 'xpos' in this run; it has: upos, deprel"):
        layer_curves_svg(results, "xpos")


def test_points_stand_where_the_scale_says() -> None:
    """Pixel distances between points are in the ratio of their scores' differences."""
    results = make_results(5, ("upos",))
    root = ET.fromstring(layer_curves_svg(results, "upos"))
    group = next(g for g in root.iter() if g.get("class") == "s-score" and g.find("*[@cx]") is not None)
    ys = [float(c.attrib["cy"]) for c in group if "cy" in c.attrib]
    scores = [r["score"] for r in results["records"]]
    slope = (ys[0] - ys[2]) / (scores[2] - scores[0])
    for y, score in zip(ys, scores, strict=True):
        assert y == pytest.approx(ys[0] - slope * (score - scores[0]), abs=0.15)


def test_labels_keep_their_distance_and_their_order() -> None:
    wanted = [10.0, 11.0, 12.0, 60.0, 99.0, 100.0]
    got = spread(wanted, 10.0, 0.0, 100.0)
    assert got == sorted(got)
    assert all(b - a >= 10.0 - 1e-9 for a, b in itertools.pairwise(got))
    assert got[3] == 60.0
    assert got[-1] <= 100.0
    assert got[0] >= 0.0
    assert sum(got[:3]) / 3 == pytest.approx(11.0)
    assert spread([5.0, 1.0], 1.0, 0.0, 9.0) == [5.0, 1.0]


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0.8123, 0.9345), (-3.2, 0.9), (0.5, 0.5001)):
        ticks = nice_ticks(low, high)
        assert 3 <= len(ticks) <= 9
        assert low - 1e-9 <= ticks[0]
        assert ticks[-1] <= high + 1e-9


def test_a_terrible_baseline_does_not_flatten_the_curve() -> None:
    low, high = value_range([0.5, 0.6], [-40.0, 0.1], 1.0)
    assert -1 < low < 0.1
    assert 0.6 < high <= 1.0


def test_axis_labels_of_many_layers_do_not_touch() -> None:
    labels = ["emb", *map(str, range(80))]
    shown = shown_labels(labels, 640.0)
    assert {0, 80} <= set(shown)
    assert len(shown) < 30
    gaps = [(b - a) * 640 / 80 for a, b in itertools.pairwise(shown)]
    assert min(gaps) >= 20


def test_a_grid_of_effects_colours_what_is_clear_and_reads_every_cell() -> None:
    text = render_report(make_ablation())
    page = Page(text)
    cells = [a for a in page.all("rect") if a.get("data-k") is not None]
    kinds = {(a["class"] or "") for a in cells}
    assert len(cells) == 144
    assert kinds == {"m-even", "m-down4", "m-up2"}  # 0.7 is half of the largest, 1.4
    tips = json.loads(next(s for s in page.scripts if s.startswith("{")))["heats"]["effects-0"]["tips"]
    assert len(tips) == 144
    assert tips[15] == ["blocks.1.attn.hook_z[3]", tips[15][1], tips[15][2]]
    assert tips[15][1].startswith("−1.")
    assert "p < 0.001, q = 0.004" in tips[15][2]


def test_comparisons_are_turned_to_deeper_minus_shallower() -> None:
    rows = [{"layer_a": 0, "layer_b": 1, "difference": -0.2, "low": -0.3, "high": -0.1, "p_holm": 0.01}]
    assert oriented(rows, [0.0, 1.0]) == {(1, 0): {"difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.01}}
    rows = [{"layer_a": 1, "layer_b": 0, "difference": -0.2, "low": -0.3, "high": -0.1, "p_holm": 0.01}]
    assert oriented(rows, [0.0, 1.0]) == {(1, 0): {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.01}}


def test_numbers_in_words() -> None:
    assert (number(None), number(float("nan")), number(-0.5), number(-0.0001)) == (
        "–",
        "–",
        "−0.500",
        "0.000",
    )
    assert (signed(0.1234), signed(-0.1), signed(0.0)) == ("+0.123", "−0.100", "0.000")
    assert runs([0, 3, 4, 5, 8], ["emb", *map(str, range(9))]) == "emb, 2–4, 7"
