"""A probing page of several properties: one figure first, a headline a section,
details on demand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded import make

from experiments.report.parts import Fold, Heat, Picture
from experiments.report.schema import Interval
from experiments.report.words import number
from experiments.studies import STUDIES
from experiments.studies.probe.curves import gather
from experiments.studies.probe.joint import KINDS, joint_pictures
from experiments.studies.probe.page import page
from experiments.studies.probe.records import Results

RESULTS: Results = STUDIES["probe"].read(make.recorded("probe"))


def with_properties(count: int, lowest: float = 0.0) -> Results:
    """The recorded accuracies under so many names,
    and an R² of which one layer may be far below 0.
    """
    upos = [record for record in RESULTS.records if record.property == "upos"]
    depth = [record for record in RESULTS.records if record.property == "depth"]
    records = [replace(r, property=f"p{k}") for k in range(count) for r in upos]
    records += [replace(r, score=min(r.score, lowest) if r.layer < 0 else r.score) for r in depth]
    return replace(RESULTS, records=records, mixes=[], trees=[])


@pytest.mark.parametrize("count", [len(KINDS) - 1, len(KINDS) + 2])
def test_every_score_is_in_the_joint_figure(count: int) -> None:
    results = with_properties(count)
    data: dict = {"charts": {}, "heats": {}}
    (part,) = joint_pictures(gather(results), data)
    expected = {
        (record.property, "emb" if record.layer < 0 else str(record.layer)): number(record.score)
        for record in results.records
    }
    if count < len(KINDS):
        assert isinstance(part, Picture)
        (chart,) = data["charts"].values()
        found = {
            (series["name"], label): value
            for series in chart["series"]
            for label, (value, _) in zip(chart["labels"], series["values"], strict=True)
        }
    else:
        assert isinstance(part, Heat)
        (heat,) = data["heats"].values()
        found = {tuple(name.split(", layer ")): value for name, value, _ in heat["tips"]}
        outlined = sum(record.best for record in results.records)
        assert part.drawing.count("m-clear") == outlined
    assert found == expected


def test_scores_without_a_common_scale_have_a_figure_each() -> None:
    assert len(joint_pictures(gather(with_properties(2, lowest=-40.0)), {})) == 2


def test_a_section_has_a_headline_and_folds_its_details_beside_others() -> None:
    several = [s for s in page(with_properties(1)).sections if s.headline]
    assert (
        several[0].headline
        == "p0 peaks at layers 2, 3 (accuracy 0.916); random weights reach 0.326"
    )
    folds = [part for section in several for part in section.parts if isinstance(part, Fold)]
    assert folds
    assert not any(fold.open for fold in folds)
    alone = replace(with_properties(1), records=with_properties(1).records[:6])
    (section,) = [s for s in page(alone).sections if s.headline]
    assert all(part.open for part in section.parts if isinstance(part, Fold))


def test_a_headline_claims_no_more_than_the_interval() -> None:
    records = [
        replace(record, score_interval=Interval(record.majority - 0.1, 1.0))
        for record in RESULTS.records
        if record.property == "upos"
    ]
    (profile,) = gather(replace(RESULTS, records=records))
    assert profile.headline == "upos is not decoded better than the most frequent class (0.223)"
