"""The command line, the TOML file and Python say the same; what a person is told is true."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import shlex
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import experiments
from experiments import Results, cli, probe
from experiments.demo import demo_paths
from experiments.explorer.options import ExploreOptions
from experiments.runs.folder import RunError
from experiments.runs.options import (
    OptionError,
    _kind,
    as_toml,
    as_values,
    from_arguments,
    from_values,
    read_toml,
)
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from experiments.studies.capture.options import CaptureOptions
from experiments.studies.geometry.options import GeometryOptions
from experiments.studies.probe.options import ProbeOptions
from layerscope.errors import UseError

ROOT = Path(__file__).resolve().parents[2]
PATHS = demo_paths()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict:
    """Options of a small study."""
    corpus = tmp_path_factory.mktemp("text") / "some.conllu"
    corpus.write_text("\n\n".join(PATHS.dev.read_text().split("\n\n")[:60]) + "\n\n")
    more = {"control_seeds": 0, "random_models": 0, "l2": [10.0]}
    return {"model": str(PATHS.model), "corpus": str(corpus), "property": ["upos"], **more}


def words(given: dict, *more: object) -> list[str]:
    """The flags of some options."""
    pairs = [(k, one) for k, v in given.items() for one in (v if isinstance(v, list) else [v])]
    return [w for k, v in pairs for w in ("--" + k.replace("_", "-"), str(v))] + [
        str(m) for m in more
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory, study) -> Path:
    """A study by its flags."""
    out = tmp_path_factory.mktemp("face") / "flags"
    assert cli.main(["probe", *words(study, "--out", out)]) == 0
    return out


def records(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["records"]


# -- one reading


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    TEXT.filter(bool),
    st.lists(TEXT, min_size=1, max_size=3),
    st.floats(0, 2.0**63, exclude_min=True, exclude_max=True),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_a_configuration_comes_back_from_its_file(name, several, number, whole, yes):
    config = ProbeOptions(
        model=name,
        corpus=Path("a b"),
        property=tuple(several),
        tol=number,
        seed=whole,
        information=yes,
        out=Path("x"),
    )
    found = tomllib.loads(as_toml("probe", config))
    assert found.pop("command") == "probe"
    assert from_values(ProbeOptions, found) == config


def test_plain_values_become_the_fields_types():
    config = from_values(
        ProbeOptions, {"model": "m", "corpus": "c", "property": "upos", "l2": 1, "sample": 5}
    )
    assert (config.corpus, config.property, config.l2, config.dev) == (
        Path("c"),
        ("upos",),
        (1.0,),
        None,
    )
    assert isinstance(config.l2[0], float)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"model": "m"}, "missing required options: corpus, property"),
        (
            {"model": "m", "corpus": "c", "property": "upos", "poolng": "mean"},
            "no option poolng: the nearest is pooling",
        ),
        (
            {"model": "m", "corpus": "c", "property": "upos", "seed": "one"},
            "seed: expected a whole number, got 'one'",
        ),
        (
            {"model": "m", "corpus": "c", "property": "upos", "seed": True},
            "seed: expected a whole number, got True",
        ),
        ({"model": "m", "corpus": 3, "property": "upos"}, "corpus: expected a path, got 3"),
        (
            {"model": "m", "corpus": "c", "property": "upos", "dtype": "int8"},
            "dtype: expected one of float32",
        ),
        (
            {"model": "m", "corpus": "c", "property": "upos", "information": 1},
            "information: expected true or false",
        ),
        (
            {"model": "m", "corpus": "c", "property": "upos", "out": None},
            "out: expected a path, got None",
        ),
        ({"sample": 0}, "sample: expected a whole number of at least 1, got 0"),
        ({"random_models": -1}, "random_models: expected a whole number of at least 0, got -1"),
        ({"tol": math.nan}, "tol: expected a number above 0, got nan"),
        ({"l2": [1.0, math.inf]}, "l2: expected a number above 0, got inf"),
    ],
)
def test_a_value_that_does_not_fit_is_named(given_, message):
    with pytest.raises(OptionError, match=message):
        from_values(ProbeOptions, given_)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'command = "ablate"\nmodel = "m"\npairs = "p.jsonl"\nvalue = "mean"\nbatch-tokens = 7\n'
    )
    parsed = cli.make_parser().parse_args(["ablate", "--config", str(path), "--value", "zero"])
    config = from_arguments(AblateOptions, parsed, read_toml(path, "ablate"))
    assert (config.value, config.model, config.pairs, config.batch_tokens) == (
        "zero",
        "m",
        Path("p.jsonl"),
        7,
    )
    with pytest.raises(
        OptionError, match=r"expected options of layerscope patch, it holds those of ablate"
    ):
        read_toml(path, "patch")
    path.write_text("model = ")
    with pytest.raises(OptionError, match="expected TOML"):
        read_toml(path, "ablate")
    with pytest.raises(OptionError, match="No such file"):
        read_toml(tmp_path / "none.toml", "ablate")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 1979-05-27", "model: expected a text, a number"),
        ("[model]\na = 1", "model: expected a text, a number"),
        (f"limit = {'9' * 5000}", "expected TOML"),
        ("text = [[[", "expected TOML"),
    ],
)
def test_a_file_of_options_holds_texts_numbers_and_lists(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_toml(path, "ablate")


@pytest.mark.parametrize(
    "words", [["report", "caf\udce9"], ["make", "\ud800"], ["\ud800"], ["doctor", "--x\udce9"]]
)
def test_words_that_no_file_can_hold_are_one_line(capsys, words):
    """As they come from names of files in another encoding."""
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected characters, got half of one" in error
    with pytest.raises(OptionError, match="corpus: expected a path"):
        from_values(ProbeOptions, {"model": "m", "corpus": words[-1], "property": "upos"})


def test_options_that_change_no_number_do_not_make_another_run():
    config = ProbeOptions(model="m", corpus=Path("c"), property=("upos",), out=Path("a"))
    other = dataclasses.replace(config, out=Path("b"), force=True, keep_features=True)
    assert as_values(config, deciding=True) == as_values(other, deciding=True)
    assert "to" not in as_values(CaptureOptions(model="m", site=("x",)), deciding=True)
    assert as_values(config, deciding=True) != as_values(
        dataclasses.replace(config, seed=1), deciding=True
    )


@pytest.mark.parametrize("name", STUDIES)
def test_every_example_is_a_command_that_is_understood(name):
    study = STUDIES[name]
    assert 2 <= len(study.examples) <= 3
    for line in study.examples:
        first, *rest = shlex.split(line)
        assert first == name
        given_ = as_values(
            from_arguments(study.options, cli.make_parser().parse_args([first, *rest]))
        )
        for word, following in itertools.pairwise([*rest, ""]):
            if (
                word.startswith("--")
                and (value := given_.get(word[2:].replace("-", "_"), True)) is not True
            ):
                assert following in map(str, value if isinstance(value, tuple) else (value,))


def test_an_option_word_takes_one_kind_of_value_in_every_command():
    """And an old name of an option is no other option's name in the same command."""
    commands = {name: study.options for name, study in STUDIES.items()} | {
        "explore": ExploreOptions
    }
    kinds: dict[str, dict[type, str]] = {}
    for command, options in commands.items():
        hints = typing.get_type_hints(options)
        fields = dataclasses.fields(options)
        names = {field.name for field in fields}
        for field in fields:
            kind, _ = _kind(hints[field.name])
            kinds.setdefault(field.name, {})[kind] = command
            assert not names & set(field.metadata.get("aliases", ())), field.name
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_help_shows_examples_and_what_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "usage: layerscope probe --model M --corpus FILE --property PROPERTY [options]" in shown
    assert shown.count("  layerscope probe --model") == 3


def test_every_help_names_values_and_defaults_in_one_way():
    commands = next(a for a in cli.make_parser()._actions if a.dest == "command").choices
    for name, command in commands.items():
        if name in STUDIES:
            assert command.usage.startswith(f"layerscope {name} ")
            assert command.usage.endswith(" [options]")
        for action in command._actions:
            if action.help == argparse.SUPPRESS:
                continue
            where, text = f"{name} {action.option_strings}", action.help
            assert text.count("default: ") <= 1, where
            assert ") (" not in text, where
            assert "(default: )" not in text, where
            if action.type is int and action.option_strings:
                assert action.metavar is not None, where


# -- the same run, three ways


def test_the_file_that_a_run_leaves_repeats_it(run, tmp_path, capsys):
    assert (
        cli.main(
            [
                "probe",
                "--config",
                str(run / "run.toml"),
                "--out",
                str(tmp_path / "again"),
                "--quiet",
                "--json",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert said.err == ""
    printed = json.loads(said.out)
    assert printed["records"] == records(tmp_path / "again") == records(run)
    assert (printed["kind"], printed["out"]) == ("probe", str(tmp_path / "again"))


def test_python_gives_the_records_of_the_command(run, study, tmp_path):
    found = probe(**study, out=tmp_path / "path")
    assert found.records == records(run)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(PATHS.model).eval(),
        AutoTokenizer.from_pretrained(PATHS.model),
    )
    held = probe(**{**study, "model": (model, tokenizer)}, out=tmp_path / "held")
    assert held.records == found.records
    assert held.provenance["command"].startswith(f"layerscope.probe(model=<{PATHS.model}>, ")
    assert "model was given in memory" in (tmp_path / "held" / "run.toml").read_text()
    assert not any(module._forward_hooks for module in model.modules())


def test_results_are_a_table_a_picture_and_a_page(run, tmp_path):
    found = Results.load(run)
    frame = found.frame
    assert frame.shape[0] == len(found.records)
    assert frame["score"].tolist() == [r["score"] for r in found.records]
    picture = found.plot()
    assert picture.title == "upos: values by layer"
    assert picture.save(tmp_path / "p.svg").read_text().startswith("<svg ")
    shown = found._repr_html_()
    assert shown.count("<iframe ") == 1
    assert f"{found.records[0]['score']:.3f}" in shown
    assert found.report(tmp_path / "page.html").read_text() == (run / "report.html").read_text()
    copied = Results.load(found.save(tmp_path / "copy"))
    assert copied.raw == found.raw
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {p.name for p in run.iterdir()}
    bare = Results(found.raw).save(tmp_path / "bare")
    assert Results.load(bare / "results.json").records == found.records
    for wrong, message in (
        (lambda: found.save(run), "holds files"),
        (lambda: found.plot(99), "no picture 99"),
    ):
        with pytest.raises(RunError, match=message):
            wrong()
    for where in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="expected a finished run's folder"):
            Results.load(where)


def test_report_makes_a_page_again_or_of_several_runs(run, tmp_path, capsys):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == before
    assert cli.main(["report", str(run), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert "2 runs side by side" in (tmp_path / "both.html").read_text()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "expected a finished run's folder" in capsys.readouterr().err
    assert cli.main(["report", str(run), str(run), "--out", ""]) == 2
    assert "expected the name of a file to write" in capsys.readouterr().err


def test_every_command_is_a_function_of_its_options():
    for name, one in STUDIES.items():
        function = getattr(experiments, name)
        assert list(function.__signature__.parameters) == [
            item.name for item in dataclasses.fields(one.options)
        ]
        assert "Args:" in function.__doc__


# -- what is said


def test_a_dry_run_writes_nothing_and_its_bytes_are_those_written(study, tmp_path, capsys):
    out = tmp_path / "dry"
    assert cli.main(["probe", *words(study, "--out", out, "--dry-run")]) == 0
    shown = capsys.readouterr()
    assert not out.exists()
    assert "memory: about" in shown.out
    assert "\x1b" not in shown.out + shown.err  # no terminal, no colours
    plan = probe.plan(**study, out=out).raw["plan"]
    assert not out.exists()
    found = probe(**study, keep_features=True, out=out)
    written = sum(f.stat().st_size for f in out.glob("features/*/*.safetensors"))
    assert plan["disk_bytes"] <= written < 1.2 * plan["disk_bytes"]
    assert found.provenance["resources"]["memory"]["disk_bytes"] == plan["disk_bytes"]
    # it is finished: these are its results
    assert probe.plan(**study, out=out).records == found.records


def test_pruning_passes_over_a_number_of_heads_that_transformers_cannot_save(tmp_path):
    """The demo model has 4 heads of width 128 in all: with 3 it is no Llama to transformers."""
    (tmp_path / "texts.jsonl").write_text(
        '{"prompt": "The singer posts their copy."}\n{"prompt": "Two guards play."}\n'
    )
    given = {"model": PATHS.model, "prompts": tmp_path / "texts.jsonl", "random": 0}
    assert cli.main(["prune", *words(given, "--out", tmp_path / "cut")]) == 0
    found = json.loads((tmp_path / "cut" / "results.json").read_text())
    assert [record["heads"] for record in found["records"]] == [4, 2, 1]
    assert {len(record["removed"]) // 4 for record in found["records"][1:]} == {2, 1}
    (note,) = [note["text"] for note in found["notes"] if "cannot save" in note["text"]]
    assert note.startswith("transformers cannot save this model with 3 heads per layer")
    for step, heads in ((1, 2), (2, 1)):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut" / "models" / f"step-{step}")
        assert model.config.num_attention_heads == heads


def test_an_interrupted_run_says_the_command_that_goes_on(study, tmp_path, capsys, monkeypatch):
    from experiments.studies.probe import study as module

    calls, score = [], module.score_cell

    def second_stops(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    monkeypatch.setattr(module, "score_cell", second_stops)
    assert cli.main(["probe", *words(study, "--out", tmp_path / "cut")]) == 130
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("layerscope: interrupted; ")
    again = shlex.split(line.partition("To go on: ")[2])
    assert again[:2] == ["layerscope", "probe"]
    assert cli.main([*again[1:], "--dry-run"]) == 0
    kept = len(list((tmp_path / "cut" / "cells").iterdir()))
    assert kept > 0
    assert f"{kept} parts of it are done already" in capsys.readouterr().out
    assert cli.main(again[1:]) == 0
    assert len(calls) == 2 + len(records(tmp_path / "cut")) - 1


def test_bad_options_are_one_line(tmp_path, capsys):
    for more, message in (
        (["probe", "--model", "m"], "missing required options: --corpus, --property"),
        (["probe", "--config", str(tmp_path / "x.toml")], "No such file"),
        (
            ["ablate", "--modle", "m"],
            "layerscope: ablate has no option --modle: did you mean --model?",
        ),
    ):
        assert cli.main(more) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert len(said.splitlines()) == 1


# -- start-up and shells


def test_help_and_completion_import_nothing_heavy():
    code = (
        "import sys\nfrom experiments.cli import main\nfor words in (['--help'], ['probe', "
        "'--help'], ['--version'], ['completion', 'zsh'], ['probe']):\n    try: "
        "main(words)\n    except SystemExit: pass\nheavy = {'torch', 'numpy', "
        "'transformers', 'pandas', 'jinja2'}\nsys.exit(', '.join(heavy & "
        "set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_help_of_all_commands_reads_no_options_and_a_command_only_its_own():
    code = (
        "import sys\nfrom experiments.cli import main\ndef read():\n    return [n for n in "
        "sys.modules if n.startswith('layerscope.') and n.endswith('.options')]\ndef "
        "run(words):\n    try: main(words)\n    except SystemExit: pass\n    return "
        "read()\nprint(run(['--help']), run(['patch', '--help']), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    studies = "layerscope.experiments.studies"
    expected = f"[] ['layerscope.experiments.runs.options', '{studies}.patch.options']"
    assert done.stderr.strip() == expected


def test_bash_completes_commands_options_and_choices(tmp_path, capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "layerscope.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*typed: str) -> set[str]:
        line = (
            shlex.join(["layerscope", *typed])
            if typed[-1]
            else f"layerscope {shlex.join(typed[:-1])} ''"
        )
        asked = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(typed)}; "
            "$(complete -p layerscope | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, check=True, env={**os.environ}
        )
        return set(done.stdout.split())

    assert completed("ab") == {"ablate"}
    assert {"--dry-run", "--dtype", "--device", "--dev"} & completed("probe", "--d") == {
        "--dry-run", "--dtype", "--device", "--dev",
    }  # fmt: skip
    assert completed("ablate", "--component", "h") == {"heads"}
    (tmp_path / "texts.jsonl").touch()
    assert completed("ablate", "--prompts", str(tmp_path / "te")) == {str(tmp_path / "texts.jsonl")}


def test_the_default_folder_is_named_after_the_run():
    a = GeometryOptions(model="org/gpt2", corpus=Path("c"))
    assert str(a.out).startswith("runs/geometry-gpt2-")
    assert GeometryOptions(model="org/gpt2", corpus=Path("d")).out != a.out


def test_options_without_their_names_are_refused():
    with pytest.raises(
        OptionError, match=r"^doctor: expected options by name, such as model=\.\.\., got 'gpt2'$"
    ):
        experiments.doctor("gpt2")


def test_records_in_memory_are_the_same_data_as_their_file(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    prompts = [
        {"prompt": f"The {noun} near the garden", "answer": " answers", "wrong": " answer"}
        for noun in ("guard", "teacher", "student")
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    given = {"model": PATHS.model, "component": "layers", "null_draws": 0}
    from_file = experiments.ablate(prompts="prompts.jsonl", out="a", **given)
    from_list = experiments.ablate(prompts=prompts, out="b", **given)
    again = experiments.ablate(prompts=pandas.DataFrame(prompts), out="b", **given)
    assert from_file.records == from_list.records == again.records
    assert len(list(Path("runs/inputs").iterdir())) == 1


def test_the_tidy_frame_is_a_chart_to_restyle(run, monkeypatch):
    found = Results.load(run)
    monkeypatch.setitem(sys.modules, "altair", None)  # as where it is not installed
    with pytest.raises(UseError, match="altair is not installed"):
        found.altair()
    monkeypatch.undo()
    chart = found.altair(x="layer:O", y="score:Q").to_dict()
    assert chart["encoding"]["y"]["field"] == "score"
    (rows,) = chart["datasets"].values()
    assert [row["score"] for row in rows] == [record["score"] for record in found.records]
    assert found.altair().to_dict()["encoding"]["x"]["field"] == "layer"
