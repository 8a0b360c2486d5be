"""The report against an HTML parser, an XML parser, a headless browser and plain arithmetic."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made import EVIL
from markupsafe import escape
from recorded import make
from recorded.altered import (
    deeper,
    with_effects,
    with_markup,
    with_one_wrong,
    with_relation,
    without_controls,
)

from experiments.pages import page_of, render_report, write_report
from experiments.report.axes import nice_ticks, shown_labels, value_range
from experiments.report.charts import spread
from experiments.report.matrix import oriented
from experiments.report.parts import Table
from experiments.report.schema import Interval, ResultsError, tidy
from experiments.report.words import number, runs, signed
from experiments.studies import STUDIES
from experiments.studies.probe.pictures import layer_curves_svg

Results = dict[str, Any]
RECORDED = {name: make.recorded(name) for name in make.COMMANDS}
PROBE = RECORDED["probe"]

VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "source",
    "track",
    "wbr",
}


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


def of(name: str, key: str = "records", **fields: Any) -> list[dict[str, Any]]:
    """Records of a recorded run that have these values."""
    return [
        one
        for one in RECORDED[name][key]
        if all(one[field] == value for field, value in fields.items())
    ]


def copied(name: str) -> Results:
    """A recorded run to change."""
    return copy.deepcopy(RECORDED[name])


SHAPES: dict[str, Callable[[], Results]] = {
    **{name: lambda name=name: RECORDED[name] for name in RECORDED},
    **{f"{name} with markup": lambda name=name: with_markup(RECORDED[name]) for name in RECORDED},
    "deep": lambda: deeper(PROBE, 31),
    "no controls": lambda: without_controls(PROBE),
    "relations": lambda: with_markup(with_relation(RECORDED["attend"])),
    "wrong": lambda: with_markup(with_one_wrong(RECORDED["doctor"])),
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
            if tag == "image" and name == "href" and value is not None:
                assert value.startswith("data:image/jpeg;base64,")  # the picture itself, no address
                continue
            assert value is None or (value.startswith("#") and value[1:] in ids), (tag, name, value)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    policy = next(
        a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>alert" not in text
    # every image has words and every table headings
    for attrs in page.all("svg"):
        if attrs.get("aria-hidden") == "true":
            continue
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)
    assert all(a.get("scope") in {"col", "row"} for a in page.all("th"))
    assert {a["for"] for a in page.all("label") if "for" in a} <= set(ids)


def test_markup_in_names_words_and_labels_stays_text() -> None:
    page = Page(render_report(with_markup(PROBE)))
    assert len(list(page.all("script"))) == 2
    assert "alert(1)" not in page.scripts[-1]
    assert EVIL[:9] not in page.scripts[0]
    assert any(EVIL in part for part in page.text)


def test_page_holds_the_numbers_of_the_run() -> None:
    page = Page(render_report(PROBE))
    shown = {part.strip() for part in page.text}
    for record in of("probe", property="upos"):
        for field in ("score", "control", "random_model", "score_seen", "score_unseen", "macro_f1"):
            assert number(record[field]) in shown
    data = json.loads(page.scripts[0])
    third = of("probe", "classes", property="upos", layer=1)
    assert sorted(row[3] for row in data["classes"]["p0"][2]) == sorted(
        round(1000 * c["f1"]) for c in third
    )
    assert PROBE["provenance"]["command"] in shown
    assert PROBE["provenance"]["model"]["sha256"] in shown


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


def attribution_scores() -> list[dict[str, Any]]:
    """The scores of two methods, a unit each."""
    methods = {name: of("attribute", method=name)[0]["scores"] for name in ("leave-one-out", "ig")}
    return [
        dict(zip(methods, scores, strict=True)) for scores in zip(*methods.values(), strict=True)
    ]


# recorded run, table, the records that it is of, and the field in each of its columns
SHOWN: list[tuple[str, str, list[dict[str, Any]], dict[str, str]]]
SHOWN = [
    ("probe", "p0-layers", of("probe", property="upos"),
     same("control", "selectivity", "l2", "compression", "gain") | {"accuracy": "score", "macro-F1": "macro_f1",
     "random weights": "random_model", "seen": "score_seen", "unseen": "score_unseen", "p worse": "p_worse",
     "code": "code_bits", "bits": "information", "beside": "conditional"}),
    ("probe", "p0-calibration-table", of("probe", property="upos"),
     same("classwise", "temperature") | {"ECE": "ece", "by chance": "ece_chance", "Brier": "brier", "AUROC": "auroc"}),
    ("probe", "mixes-table", of("probe", "mixes"),
     same("peakedness", "headroom") | {"centre of gravity": "centre_of_gravity", "above the embeddings": "centre_above"}),
    ("probe", "trees-table", of("probe", "trees"),
     same("epochs") | {"UUAS": "uuas", "distance ρ": "distance_spearman", "root": "root_accuracy",
     "depth ρ": "depth_spearman", "random UUAS": "random_uuas"}),
    ("probe-seeds", "seeds-table", of("probe-seeds", "seeds"), {"its standard deviation": "sd", "of selectivity": "sd_selectivity"}),
    ("ablate-layers", "ranking-effects-0", of("ablate-layers"), RANKED | {"of the clean metric": "normalised"}),
    ("ablate-heads", "ranking-effects-0", of("ablate-heads"), RANKED | {"estimate": "estimate", "null p": "null_p"}),
    ("patch-heads", "ranking-effects-0", of("patch-heads", value="denoising"), RANKED | {"of the way": "normalised"}),
    ("patch-positions", "ranking-effects-1", of("patch-positions", value="noising"), RANKED | same("estimate")),
    ("usage", "layers-table", of("usage", value="erase"),
     RANKED | same("decodable") | {"after": "erased_linear", "by a network": "erased_mlp", "null p": "null_p",
     "random": "null"}),
    ("neurons", "effects-0-0", of("neurons"), RANKED | same("k", "beyond") | {"random": "null", "null p": "null_p"}),
    ("attend", "heads-table", of("attend"),
     same("entropy", "distance", "first", "self", "previous") | {"effect": "measured.effect"}),
    ("attend", "more-heads-table", of("attend"),
     same("confidence", "punctuation", "induction", "duplicate")
     | {"first by value": "norm_first", "contribution": "output", "most like": "nearest_similarity"}),
    ("geometry", "layers-table", of("geometry"),
     same("anisotropy") | {"dimension": "intrinsic_dimension", "PCs for 90%": "components_90", "PC 1-2": "explained_2",
     "centred": "anisotropy_centred", "trust PCA": "trust_pca", "upos in the space": "separability.upos.places.space.accuracy"}),
    ("geometry", "lens-table", RECORDED["geometry"]["lens"]["records"],
     {"log2 p": "log2p", "median rank": "median_rank", "top-1": "top1"}),
    ("attribute", "scores-0", attribution_scores(), same("leave-one-out", "ig")),
    ("attribute", "faithful-table", of("attribute"),
     same("comprehensiveness", "sufficiency", "deletion", "insertion", "infidelity")),
    ("calibrate-questions", "measures", of("calibrate-questions"),
     same("accuracy") | {"answered": "n_answered", "mean": "confidence", "overconfidence": "overconfidence", "ECE": "ece",
     "by chance": "ece_chance", "equal mass": "ece_mass", "squared error": "squared_error", "AUROC": "auroc",
     "risk area": "aurc"}),
    ("ask", "effects-table", of("ask"), same("effect") | {"over random": "over_random", "p (Holm)": "p_holm"}),
    ("prune", "steps-table", of("prune"),
     same("parameters", "change", "difference") | {"heads a layer": "heads", "loss": "value", "at random": "random"}),
    ("lens", "layers-table", of("lens", "layers"), same("loss", "agreement") | {"KL": "kl", "median rank": "median_rank"}),
    ("swap", "swap-table", of("swap"), {f"size, {of('swap')[0]['unit']}": "size", "class changes": "flips"}),
    ("capture", "sites-table", of("capture"), same("width", "largest")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "uid", "records", "fields"), SHOWN, ids=[f"{run}-{uid}" for run, uid, *_ in SHOWN]
)
def test_a_table_holds_the_numbers_of_its_records(run, uid, records, fields) -> None:
    """Each row those of one record, unchanged; some show only the strongest, or a row more."""
    (table,) = (one for one in tables_of(page_of(RECORDED[run]).sections) if one.uid == uid)
    places = {column.name: i for i, column in enumerate(table.columns)}
    shown = Counter(tuple(row[places[column]].sort for column in fields) for row in table.rows)
    rows = [tidy(record) for record in records]
    there = Counter(tuple(row.get(field) for field in fields.values()) for row in rows)
    assert min(len(shown), len(there)) > 0
    assert shown <= there or there <= shown


def test_every_kind_of_run_has_a_table_that_is_checked() -> None:
    assert {RECORDED[run]["kind"] for run, *_ in SHOWN} | {"doctor"} == set(STUDIES)


def test_one_thing_wrong_stands_in_the_table_of_what_is_wrong() -> None:
    (table,) = (
        one
        for one in tables_of(page_of(with_one_wrong(RECORDED["doctor"])).sections)
        if one.uid == "wrong-table"
    )
    places = {column.name: i for i, column in enumerate(table.columns)}
    assert [(row[places["measured"]].sort, row[places["bound"]].sort) for row in table.rows] == [
        (0.5, 0.1)
    ]


def test_a_relation_stands_in_its_table() -> None:
    (table,) = (
        one
        for one in tables_of(page_of(with_relation(RECORDED["attend"])).sections)
        if one.uid == "relations-table"
    )
    places = {column.name: i for i, column in enumerate(table.columns)}
    assert [
        tuple(row[places[name]].sort for name in ("agreement", "gain", "n")) for row in table.rows
    ] == [(0.9, 0.4, 40)]


# -- what no run wrote


def required(kind: str) -> list[tuple[str, ...]]:
    """The fields of a kind's results that every run writes: at the top, and of one record."""
    results = STUDIES[kind].part("records").Results
    first = next(run for run in RECORDED.values() if run["kind"] == kind)["records"][0]
    top = [(field.name,) for field in dataclasses.fields(results) if is_required(field)]
    return [*top, ("records", min(first, key=lambda name: list(first).index(name)))]


def is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("kind", STUDIES)
def test_a_required_field_that_is_missing_is_one_line_with_its_place(kind: str) -> None:
    name = next(name for name, run in RECORDED.items() if run["kind"] == kind)
    for path in required(kind):
        results = copied(name)
        del (results["records"][0] if len(path) == 2 else results)[path[-1]]
        place = f"records[0].{path[1]}" if len(path) == 2 else path[0]
        with pytest.raises(ResultsError) as refused:
            render_report(results)
        assert str(refused.value) == f"results.json: {place}: Field required, got nothing"


def test_the_marked_word_is_the_wrong_one() -> None:
    marked = re.findall(r"<mark>(.*?)</mark>", render_report(PROBE))
    assert marked == [escape(error["words"][error["index"]]) for error in PROBE["errors"]]


def test_missing_controls_are_called_not_supported() -> None:
    words = " ".join(Page(render_report(without_controls(PROBE))).text)
    assert "no control task: not supported" in words
    assert "no random-weights model: not supported" in words
    assert "nan" not in words.lower().split()
    assert "no control task" not in " ".join(Page(render_report(PROBE)).text)


@pytest.mark.parametrize("command", sorted(STUDIES))
def test_a_control_asks_for_options_that_the_command_has(command: str) -> None:
    """An option that was renamed would make its control *not supported* in every run."""
    fields = {field.name for field in dataclasses.fields(STUDIES[command].options)}
    page = Path(inspect.getfile(STUDIES[command].options)).with_name("page.py")
    calls = [node for node in ast.walk(ast.parse(page.read_text())) if isinstance(node, ast.Call)]
    asked = [call.args[0] for call in calls if getattr(call.func, "id", "") == "told"]
    assert {name.value for name in asked if isinstance(name, ast.Constant)} <= fields


def test_a_run_with_random_attributions_has_that_control() -> None:
    """The recorded run was asked for two and has their record."""
    results = RECORDED["attribute"]
    assert any(record["method"] == "random" for record in results["records"])
    words = " ".join(Page(render_report(results)).text)
    assert re.search(r"random attributions\s+yes\s+the measure rewards any ranking", words)


def test_a_table_has_a_caption_that_is_seen_unless_its_heading_says_the_same() -> None:
    hidden = set()
    for results in RECORDED.values():
        text = render_report(results)
        hidden |= set(re.findall(r'<caption class="unseen">([^<]*)<', text))
    assert hidden <= {"Controls of this run", "Data", "The records of this run"}


def test_unconverged_probes_are_flagged() -> None:
    results = copied("probe-plain")
    for record in results["records"]:
        record["converged"] = True
    assert "unconverged" not in Page(render_report(results)).text
    next(one for one in results["records"] if one["property"] == "upos" and one["layer"] == 1)[
        "converged"
    ] = False
    assert any("did not converge at layer 1;" in part for part in Page(render_report(results)).text)


def test_size_of_a_deep_run() -> None:
    assert len(render_report(deeper(PROBE, 31)).encode()) < 1_500_000


def test_several_kinds_of_site_get_a_section_each() -> None:
    results = copied("probe-plain")
    other = [one for one in copied("probe-plain")["records"] if one["layer"] >= 0]
    for record in other:
        record["site"] = record["site"].replace("hook_resid_post", "hook_mlp_out")
    results["records"] += other
    page = Page(render_report(results))
    assert {"upos at blocks.*.hook_resid_post", "upos at blocks.*.hook_mlp_out"} <= {
        t.strip() for t in page.text
    }


def test_another_kind_of_run_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError,
        match=r"expected results of kind probe or ablate or .*, got 'nonsense'",
    ):
        render_report({"schema": 1, "kind": "nonsense", "records": []})


def test_write_replaces_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "report.html"
    write_report(RECORDED["ablate-layers"], path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(RECORDED["prune"], path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_standalone_picture_is_xml_that_needs_no_style_from_outside() -> None:
    root = ET.fromstring(layer_curves_svg(PROBE, "upos"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext())
    assert "var(--" not in text
    assert "upos, layer by layer in demo/demo-llama" in text
    ET.fromstring(layer_curves_svg(with_markup(PROBE), f"upos{EVIL}"))
    with pytest.raises(LookupError, match="no property 'xpos' in this run; it has: upos, depth"):
        layer_curves_svg(PROBE, "xpos")


def test_points_stand_where_the_scale_says() -> None:
    """Pixel distances between points are in the ratio of their scores' differences."""
    root = ET.fromstring(layer_curves_svg(PROBE, "upos"))
    group = next(
        g for g in root.iter() if g.get("class") == "s-score" and g.find("*[@cx]") is not None
    )
    ys = [float(c.attrib["cy"]) for c in group if "cy" in c.attrib]
    scores = [record["score"] for record in of("probe", property="upos")]
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
    page = Page(render_report(with_effects(RECORDED["ablate-heads"], {(1, 3): -1.4, (3, 2): 0.6})))
    cells = [a for a in page.all("rect") if a.get("data-k") is not None]
    kinds = {(a["class"] or "") for a in cells}
    assert len(cells) == 5 * 4
    # 0.6 is in the second quarter of 1.4
    assert kinds == {"m-even", "m-down4 m-clear", "m-up2 m-clear"}
    tips = json.loads(next(s for s in page.scripts if s.startswith("{")))["heats"]["effects-0"][
        "tips"
    ]
    assert len(tips) == 5 * 4
    name, effect, more = tips[1 * 4 + 3]
    assert name == "blocks.1.attn.hook_z[3]"
    assert effect.startswith("−1.")
    assert "p < 0.001, q = 0.004" in more


def test_comparisons_are_turned_to_deeper_minus_shallower() -> None:
    row = {"difference": -0.2, "difference_interval": Interval(-0.3, -0.1), "p_holm": 0.01}
    deeper = oriented([{**row, "layer_a": 0, "layer_b": 1}], [0.0, 1.0])
    assert deeper == {(1, 0): {"difference": -0.2, "interval": Interval(-0.3, -0.1), "p": 0.01}}
    shallower = oriented([{**row, "layer_a": 1, "layer_b": 0}], [0.0, 1.0])
    assert shallower == {(1, 0): {"difference": 0.2, "interval": Interval(0.1, 0.3), "p": 0.01}}


def test_numbers_in_words() -> None:
    assert (number(None), number(float("nan")), number(-0.5), number(-0.0001)) == (
        "–",
        "–",
        "−0.500",
        "−1.0e−04",
    )
    assert (signed(0.1234), signed(-0.1), signed(0.0)) == ("+0.123", "−0.100", "0.000")
    assert (signed(2e-5), number(-1e-12), number(0.004, 2)) == ("+2.0e−05", "0.000", "0.00")
    assert runs([0, 3, 4, 5, 8], ["emb", *map(str, range(9))]) == "emb, 2–4, 7"
