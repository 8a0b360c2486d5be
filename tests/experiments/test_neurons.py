"""A study of neurons, on a model with one neuron that copies a label: it is found, named,
and missed.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import detector
import numpy as np
import pytest
import tiny
import torch
from naive import naive

from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.metrics.metrics import get_metric
from experiments.report.schema import Interval
from experiments.studies.neurons.options import NeuronsOptions
from experiments.studies.neurons.sets import ALONE, RANDOM, NeuronSet
from experiments.studies.neurons.summary import set_records
from experiments.subject import load
from experiments.sweep.components import Component
from experiments.sweep.records import Mean
from hooks import Site
from probes.rankings import RANKINGS
from probes.sparse import BAND

PLURAL, SINGULAR, SAID = (4, 6, 8, 10), (3, 5, 7, 12), detector.SAID
SITE = "blocks.0.mlp.hook_post"


def planted() -> Any:
    """The detector's neuron fires at every plural word and says what follows it;
    the others read positions and write nothing.
    """
    made = detector.model()
    with torch.no_grad():
        weight = made.transformer.h[0].mlp.c_fc.weight
        weight[detector.TOKEN] = 0
        weight[[t - detector.FIRST for t in PLURAL], detector.NEURON] = 1.0
    return made


def conllu(count: int) -> str:
    """Words at random, each followed by w9 if plural and by w11 if singular."""
    rng, out = np.random.default_rng(0), []
    for number in range(count):
        words = []
        for token in rng.choice([*PLURAL, *SINGULAR], size=3):
            plural = token in PLURAL
            words += [
                (f"w{token}", "Number=Plur" if plural else "Number=Sing"),
                (f"w{SAID if plural else 11}", "_"),
            ]
        lines = [f"# sent_id = s{number}", "# text = " + " ".join(form for form, _ in words)]
        for i, (form, feats) in enumerate(words, 1):
            lines.append(
                f"{i}\t{form}\t{form}\tNOUN\t_\t{feats}\t{i - 1}\t{'root' if i == 1 else 'dep'}\t_\t_"
            )
        out.append("\n".join(lines) + "\n\n")
    return "".join(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("neurons")
    tiny.save(planted(), home / "model")
    (home / "words.conllu").write_text(conllu(130), encoding="utf-8")
    return home


def command(folder: Path, out: str, **more: Any) -> list[str]:
    given = {
        "model": folder / "model",
        "corpus": folder / "words.conllu",
        "property": "feats:Number",
        "bos": "always",
        "random": 2,
        "rotations": 0,
        "show": 1,
        "limit": 12,
        "out": folder / out,
        **more,
    }
    return [
        "neurons",
        "--k",
        "2",
        *(word for name, value in given.items() for word in (f"--{name}", str(value))),
    ]


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    assert cli.main([*command(folder, "run", translate=2), "--gradient"]) == 0
    return json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))


def test_the_planted_neuron_is_first_in_every_ranking_and_the_only_one_missed(
    found: dict[str, Any],
) -> None:
    sets = [r for r in found["records"] if r["component"] == "sets" and r["value"] == "mean"]
    assert {r["ranking"] for r in sets} == {*RANKINGS, "gradient"}
    assert {r["n"] for r in sets} == {6}  # the gradient ranked on the other half
    for r in sets:
        assert r["neurons"][0] == detector.NEURON
        assert r["accuracy"] > 0.99
        assert r["effect"] > 0.05
        assert r["effect_interval"]["low"] > 0
    one = next(r for r in sets if r["k"] == 1)
    two = [r for r in sets if r["k"] == 2]
    assert two[0]["effect"] == pytest.approx(one["effect"], abs=1e-6)  # the second writes nothing
    assert (
        -1e-6 < one["null_interval"]["low"] <= one["null_interval"]["high"] < one["effect"] + 1e-6
    )
    assert one["null_p"] == pytest.approx(1 / 3)  # neither of two random neurons does as much
    assert one["beyond_interval"]["low"] > 0
    for r in found["records"]:
        assert r["beyond_interval"]["low"] <= r["beyond"] <= r["beyond_interval"]["high"]
        assert r["beyond"] == pytest.approx(r["effect"] - r["null"])
    alone = [r for r in found["records"] if r["component"] == "neurons"]
    assert [r["index"] for r in alone] == [detector.NEURON]
    towards = {
        r["value"]: r["effect"]
        for r in found["records"]
        if r["k"] == 1 and r["value"].startswith("translate")
    }
    assert set(towards) == {"translate Plur", "translate Sing"}
    (neuron,) = found["neurons"]
    assert neuron["ranks"] == dict.fromkeys([*RANKINGS, "gradient"], 1)
    assert neuron["classes"]["Plur"] > 0 > neuron["classes"]["Sing"]
    assert {w["words"][w["index"]] for w in neuron["words"] if w["deviations"] > 1} <= {
        f"w{t}" for t in PLURAL
    }
    assert all(w["label"] == "Plur" for w in neuron["words"] if w["deviations"] > 1)
    assert f"{SITE}[{detector.NEURON}]" in found["findings"][0]["text"]


def effect(folder: Path, items: list[str], change: Any) -> float:
    """Mean change of the loss from whole forwards of single texts,
    with a plain PyTorch hook at the neurons.
    """
    one = load(folder / "model", bos="always")
    before = [naive(one, "loss", Prompt(text, "")) for text in items]
    handle = one.model.transformer.h[0].mlp.act.register_forward_hook(
        lambda module, inputs, out: change(out)
    )
    after = [naive(one, "loss", Prompt(text, "")) for text in items]
    handle.remove()
    return float(np.mean(np.subtract(after, before)))


def test_effects_are_those_of_whole_forwards(folder: Path, found: dict[str, Any]) -> None:
    prompts = folder / "texts.jsonl"
    texts = [
        " ".join(f"w{t}" for t in line)
        for line in ((4, 9, 3, 11), (12, 11, 8, 9), (5, 11, 6, 9, 10, 9))
    ]
    prompts.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8"
    )
    assert (
        cli.main(command(folder, "zero", value="zero", ranking="f", prompts=prompts, translate=2))
        == 0
    )
    results = json.loads((folder / "zero" / "results.json").read_text(encoding="utf-8"))
    assert any("rotations" in note["text"] for note in results["notes"])
    records = {(r["value"], r["k"]): r for r in results["records"] if r["component"] == "sets"}
    record = records["zero", 2]

    def zeroed(out: torch.Tensor) -> torch.Tensor:
        new = out.clone()
        new[:, 1:, record["neurons"]] = 0  # not the BOS
        return new

    assert record["effect"] == pytest.approx(effect(folder, texts, zeroed), abs=1e-5)
    assert abs(record["effect"]) > 0.05

    # Towards the plural the neuron fires everywhere, and w9 is said in vain; towards the singular
    # it is said nowhere.
    fires, silent = (activation(folder, f"w{token}") for token in (PLURAL[0], SINGULAR[0]))
    towards = {"Plur": 2 * (fires - silent), "Sing": 2 * (silent - fires)}
    for label, move in towards.items():
        shift = torch.zeros(detector.NEURONS).index_fill_(0, torch.tensor(detector.NEURON), move)
        expected = effect(
            folder, texts, lambda out, by=shift: torch.cat([out[:, :1], out[:, 1:] + by], 1)
        )
        assert records[f"translate {label}", 1]["effect"] == pytest.approx(expected, abs=1e-4)
        assert expected > 0.05


def activation(folder: Path, text: str) -> float:
    """The planted neuron's at the end of a text, from a forward with a plain hook."""
    one, seen = load(folder / "model", bos="always"), []
    handle = one.model.transformer.h[0].mlp.act.register_forward_hook(
        lambda module, inputs, out: seen.append(out)
    )
    with torch.no_grad():
        one.model(torch.tensor([one.encode([text])[0].ids]))
    handle.remove()
    return float(seen[0][0, -1, detector.NEURON])


def test_the_null_is_that_of_as_many_random_neurons_of_the_same_site() -> None:
    at, other = "blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"
    sets = [NeuronSet(at, "f", (3,)), NeuronSet(at, "f", (3, 4)), NeuronSet(at, ALONE, (7,))]
    sets += [NeuronSet(at, RANDOM, (i,)) for i in range(4)] + [
        NeuronSet(at, RANDOM, (1, 2)),
        NeuronSet(other, RANDOM, (1,)),
    ]
    prompts = np.array([-1.0, 0.0, 1.0])
    means = [3.0, 0.5, 0.25, -3.5, 1.0, 2.0, 0.0, 9.0, 99.0]
    effects = np.array([mean + prompts * (i == 0) for i, mean in enumerate(means)])
    parts = [Component("sets", 0, i, Site(s.site)) for i, s in enumerate(sets)]
    options = NeuronsOptions(model="m", corpus=Path("c"), property="upos")
    baseline = Mean(value=5.0, interval=Interval(4.0, 6.0), n_clusters=3)
    metric, clean = get_metric("loss"), prompts + 5
    made = set_records(options, sets, parts, effects, clean, np.arange(3), metric, "mean", baseline)
    one, two, alone = made
    assert [r.component for r in made] == ["sets", "sets", "neurons"]
    # -3.5 is as large
    assert (one.null, one.null_p, one.beyond) == pytest.approx((-0.125, 2 / 5, 3.125))
    assert astuple(one.null_interval) == pytest.approx(np.quantile([-3.5, 1, 2, 0], BAND))
    assert one.beyond_interval is not None
    assert one.beyond_interval.low < 3.125 < one.beyond_interval.high
    assert (two.null, two.null_p, two.beyond) == pytest.approx((9, 1, -8.5))
    assert alone.null_p == pytest.approx(4 / 5)
    assert alone.beyond_interval == Interval(0.375, 0.375)
    (grouped, *_) = set_records(
        options, sets, parts, effects, clean, np.zeros(3, int), metric, "mean", baseline
    )
    assert (grouped.beyond, grouped.beyond_interval) == (pytest.approx(3.125), None)


def test_translations_move_the_first_neuron_most(folder: Path, found: dict[str, Any]) -> None:
    from experiments.studies.neurons.sets import Means, NeuronSet, translated

    X = torch.tensor([[0.0, 0.0, 5.0], [2.0, 4.0, 5.0], [4.0, 0.0, 5.0]])
    means = Means.over(X, np.array(["a", "b", "c"]))
    edit = translated("b", 2.0)(NeuronSet("x", "f", (1, 0)), means)
    moved = edit(torch.zeros(1, 2, 3))
    assert moved[0, 0].tolist() == [1.0 * (2 - 2), 2.0 * (4 - 0), 0.0]
    towards = translated("c", 2.0)(NeuronSet("x", "f", (1, 0)), means)(torch.zeros(1, 1, 3))
    assert towards[0, 0].tolist() == [1.0 * (4 - 1), 2.0 * (0 - 2), 0.0]
    heads = translated("b", 2.0)(NeuronSet("x", "f", (1,)), means)(torch.zeros(1, 2, 3, 1))
    assert heads[0, 0, :, 0].tolist() == [0.0, 8.0, 0.0]


def test_it_resumes_and_says_what_is_wrong(
    folder: Path, found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "run" / "report.html").stat().st_mtime_ns
    assert cli.main([*command(folder, "run", translate=2), "--gradient"]) == 0
    # finished: nothing is computed again
    assert (folder / "run" / "report.html").stat().st_mtime_ns == before
    for more, message in (
        ({"property": "depth"}, "--property depth: expected one with a class for each word"),
        ({"ranking": "best"}, "--ranking best: expected mean_difference, "),
        ({"layer": 3}, "--layer 3: expected 0"),
        ({"metric": "pair_difference"}, "metric pair_difference needs --pairs"),
    ):
        assert cli.main(command(folder, "x", **more)) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "x").exists()
