"""The pictures of a profile: its layer curves with every control, and three closer looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from layerscope.errors import UnknownName

from ...report.axes import Plot, draw_axes, level_line, value_range
from ...report.canvas import Box, px, svg
from ...report.charts import (
    Rule,
    Series,
    draw_best,
    draw_cursor,
    draw_end_labels,
    draw_legend,
    draw_rule,
    draw_series,
)
from ...report.provenance import model_name
from ...report.schema import from_json
from ...report.style import standalone_style
from ...report.words import interval, number, plural
from .curves import Profile, gather
from .records import Results

X_TITLE = "layer (emb = embedding, k = after block k)"


def all_series(profile: Profile) -> list[Series]:
    """The curves of the main picture that have a number somewhere, the score last (on top)."""
    out = [
        Series("random weights", "random", profile.column("random_model")),
        Series("control task", "control", profile.column("control"), profile.control_ranges()),
        interval_series(profile, "score", profile.metric, "score", points=True),
    ]
    return [s for s in out if any(v is not None for v in s.values)]


def interval_series(
    profile: Profile, field: str, name: str, kind: str, *, points: bool = False
) -> Series:
    """One field with its 95% interval."""
    return Series(name, kind, profile.column(field), profile.intervals(field), points)


def all_rules(profile: Profile) -> list[Rule]:
    """The baselines that are one number for all layers."""
    names = {
        "embedding": ("embedding layer", "emb"),
        "type_majority": ("word type's mean" if profile.is_number else "type majority", "type"),
        "distance_majority": ("distance majority", "type"),
        "majority": ("mean" if profile.is_number else "majority", "major"),
    }
    baselines = [(name, kind, profile.first(field)) for field, (name, kind) in names.items()]
    return [Rule(name, kind, value) for name, kind, value in baselines if value is not None]


def describe(profile: Profile, series: Sequence[Series], rules: Sequence[Rule]) -> str:
    """The picture in words: where each curve starts, peaks and ends, and every baseline."""
    parts: list[str] = []
    for curve in reversed(series):
        known = [(i, value) for i, value in enumerate(curve.values) if value is not None]
        (first, at_first), (last, at_last) = known[0], known[-1]
        peak, highest = max(known, key=lambda pair: pair[1])
        text = f"{curve.name}: {number(at_first)} at {profile.labels[first]}"
        if len(known) > 1:
            text += (
                f", highest {number(highest)} at {profile.labels[peak]}, "
                f"{number(at_last)} at {profile.labels[last]}"
            )
        parts.append(text)
    parts += [f"{rule.name}: {number(rule.value)}" for rule in rules]
    if profile.best:
        parts.append(f"set of best layers: {profile.best_text}")
    return "; ".join(parts) + ". The table below has the same numbers."


def compose(
    profile: Profile,
    box: Box,
    series: Sequence[Series],
    rules: Sequence[Rule] = (),
    *,
    uid: str,
    title: str,
    y_title: str,
    ends: str = "names",
    zero: bool = False,
    extra: Sequence[str] = (),
    attrs: str = "",
) -> str:
    """Axes, best layers, baselines, curves and names, in that order from back to front.

    `ends` is `names` (at the lines' right ends), `legend` (below) or `inside` (small pictures).
    """
    is_small = ends == "inside"
    low, high = _range(series, rules, zero)
    plot = Plot(box, len(profile.records), low, high)
    body = list(extra)
    body += draw_best(plot, profile.best, "" if is_small else f"best: {profile.best_text}")
    body += draw_axes(plot, profile.labels, y_title, "layer" if is_small else X_TITLE)
    if zero and low <= 0 <= high:
        body.append(level_line(box, plot.y(0.0), "axis"))
    body += [draw_rule(plot, rule) for rule in rules]
    for curve in series:
        body += draw_series(plot, curve, profile.best)
    if ends == "names":
        body += draw_end_labels(plot, list(reversed(series)), rules, 17.0)
    elif ends == "legend":
        body += draw_legend(box, list(reversed(series)), rules, box.y_end + 56)
    elif len(series) > 1:
        body += draw_end_labels(plot, series, (), 14.0)
    body.append(draw_cursor(box))
    scale = f' data-x0="{px(plot.x0)}" data-dx="{plot.dx:.3f}"'
    words = describe(profile, series, rules)
    return svg(box, body, title=title, desc=words, uid=uid, attrs=scale + attrs)


def _range(series: Sequence[Series], rules: Sequence[Rule], zero: bool) -> tuple[float, float]:
    """The values that the picture has room for: the main curves whole,
    the others as far as they are near.
    """
    main, others = [], []
    for curve in series:
        (main if curve.kind in MAIN_KINDS else others).extend(curve.present())
    others += [rule.value for rule in rules]
    if zero:
        others.append(0.0)
    return value_range(main, others, 1.0)


MAIN_KINDS = {"score", "f1", "seen", "unseen", "selectivity"}


def main_picture(profile: Profile, *, narrow: bool = False) -> str:
    """Every curve and baseline of a profile, for a wide page or for a telephone."""
    series, rules = all_series(profile), all_rules(profile)
    rows = (len(series) + len(rules) + 1) // 2
    wide = Box(880.0, 430.0, right=176.0, top=44.0, bottom=46.0)
    small = Box(380.0, 330.0 + 20.0 * rows, right=8.0, top=44.0, bottom=60.0 + 20.0 * rows)
    return compose(
        profile,
        small if narrow else wide,
        series,
        rules,
        uid=f"{profile.uid}-{'narrow' if narrow else 'wide'}",
        title=f"{profile.title}: {profile.metric} by layer, with its controls",
        y_title=f"{profile.metric} on the test split",
        ends="legend" if narrow else "names",
    )


_CODE_CAPTION = "Uniform code / online code of the labels"
_BITS_CAPTION = "Information beyond the embedding layer"


def close_pictures(profile: Profile) -> list[tuple[str, str, list[Series]]]:
    """The closer looks: (caption, drawing, curves); one without numbers is left out."""
    score = interval_series(profile, "score", profile.metric, "score", points=True)
    selectivity = interval_series(profile, "selectivity", "selectivity", "control", points=True)
    macro_f1 = interval_series(profile, "macro_f1", "macro-F1", "f1", points=True)
    seen = Series("seen", "f1", profile.column("score_seen"), points=True)
    unseen = Series("unseen", "random", profile.column("score_unseen"), points=True)
    code = Series("task", "score", profile.column("compression"), points=True)
    control_code = Series("control", "control", profile.column("control_compression"), points=True)
    gain = interval_series(profile, "gain", "gain", "control", points=True)
    beside = interval_series(profile, "conditional", "beside", "score", points=True)
    selectivity = replace(selectivity, kind="control")
    magnified = f"{profile.metric}, magnified"
    by_type = f"{profile.metric} by word type"
    # Key, title of the axis, caption, curves, and whether 0 is on the axis.
    looks = [
        ("near", magnified, "The same curve on its own scale", [score], False),
        ("f1", "macro-F1", "Mean F1 over classes", [macro_f1], False),
        ("sel", "selectivity", "Score minus control task", [selectivity], True),
        ("seen", by_type, "Seen or not in training", [seen, unseen], False),
        ("code", "compression", _CODE_CAPTION, [control_code, code], True),
        ("bits", "bits an item", _BITS_CAPTION, [gain, beside], True),
    ]
    out: list[tuple[str, str, list[Series]]] = []
    for key, y_title, caption, curves, zero in looks:
        present = [s for s in curves if any(v is not None for v in s.values)]
        if not present:
            continue
        # Several curves have their names at their ends.
        right = 64.0 if len(present) > 1 else 8.0
        box = Box(290.0, 210.0, left=42.0, right=right, top=26.0, bottom=40.0)
        picture = compose(
            profile,
            box,
            present,
            uid=f"{profile.uid}-{key}",
            title=f"{profile.title}: {y_title} by layer",
            y_title=y_title,
            ends="inside",
            zero=zero,
        )
        out.append((caption, picture, present))
    return out


def readout(profile: Profile, series: Sequence[Series]) -> dict[str, Any]:
    """What the pointer reads at each layer: names, colours and texts, as plain data."""
    rows = []
    for s in reversed(series):
        ends = s.intervals or [None] * len(s.values)
        values = [[number(v), interval(one)] for v, one in zip(s.values, ends, strict=True)]
        rows.append({"name": s.name, "kind": s.kind, "values": values})
    return {"labels": profile.labels, "best": profile.best, "series": rows}


def layer_curves_svg(raw: Mapping[str, Any], property: str) -> str:
    """One property's layer curves as an SVG file of its own, on a light background.

    Args:
        raw: the content of a probe run's results.json.
    Raises:
        LookupError: the run has no such property; the message names those it has.
    """
    results = from_json(Results, raw)
    profiles = gather(results)
    profile = next((one for one in profiles if one.name == property), None)
    if profile is None:
        known = ", ".join(dict.fromkeys(one.name for one in profiles)) or "none"
        raise UnknownName(f"no property {property!r} in this run; it has: {known}")
    model = model_name(results.provenance)
    n_test = profile.highest.n_test
    about = (
        f"{profile.metric} of linear probes on the residual stream"
        if "hook_resid" in profile.family
        else profile.family
    )
    about += f", band: 95% interval over sentences, {plural(n_test, 'test item')}"
    box = Box(920.0, 520.0, left=74.0, right=196.0, top=112.0, bottom=62.0)
    head = [
        f'<style>{standalone_style()}</style><rect class="paper" width="920" height="520"/>',
        (
            '<text class="title" x="28" '
            f'y="38">{escape(f"{profile.name}, layer by layer in {model}")}</text>'
        ),
        f'<text class="name" x="28" y="61">{escape(about)}</text>',
    ]
    return compose(
        profile,
        box,
        all_series(profile),
        all_rules(profile),
        uid="curves",
        title=f"{profile.title} in {model}: {profile.metric} by layer, with its controls",
        y_title="",
        extra=head,
        attrs=' xmlns="http://www.w3.org/2000/svg" width="920" height="520"',
    )
