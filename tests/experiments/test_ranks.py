"""A run in several processes that share a model, against the same run in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layerscope.experiments import cli

from tools import command_grid

ABLATE = "ablate --model model --prompts prompts.jsonl --component layers --value mean"
PROBE = "probe --model model --corpus corpus.conllu --property upos --l2 10 --control-seeds 1"
ROOT = Path(__file__).resolve().parents[2]


def numbers(folder: Path) -> list[list[float]]:
    """Every number of a run's records."""
    records = json.loads((folder / "results.json").read_text())["records"]
    kinds = (int, float)
    return [[v for v in r.values() if isinstance(v, kinds)] for r in records]


@pytest.mark.slow
@pytest.mark.parametrize("command", [ABLATE, f"{PROBE} --random-models 1"])
def test_two_processes_with_half_a_model_each_measure_what_one_does(command: str) -> None:
    two = "--out two --device-map tensor-parallel"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with command_grid.workplace("LlamaForCausalLM"):
        assert cli.main(f"{command} --out one --device cpu".split()) == 0
        process = subprocess.run(
            [*launch, "-m", "layerscope", *command.split(), *two.split()],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert process.returncode == 0, process.stderr[-2000:]
        assert process.stdout.count("report: two/report.html") == 1  # the first process alone
        one, two_ = numbers(Path("one")), numbers(Path("two"))
    assert len(one) == len(two_) > 0
    for expected, found in zip(one, two_, strict=True):
        assert found == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_layers_of_a_model_without_attention_are_ablated(capsys: pytest.CaptureFixture[str]):
    with command_grid.workplace("MambaForCausalLM"):
        assert cli.main(f"{ABLATE} --out layers --device cpu --quiet".split()) == 0
        heads = ABLATE.replace("layers", "heads")
        assert cli.main(f"{heads} --out heads --device cpu --quiet".split()) == cli.BAD_INPUT
    assert "MambaForCausalLM: it has no attention" in capsys.readouterr().err


def test_neurons_of_experts_are_named_where_there_are_no_others(
    capsys: pytest.CaptureFixture[str],
):
    line = "neurons --model model --corpus corpus.conllu --property upos --layer 1 --device cpu"
    with command_grid.workplace("MixtralForCausalLM"):
        assert cli.main(f"{line} --out all --quiet".split()) == cli.BAD_INPUT
        refusal = capsys.readouterr().err
        assert "are mixtures of experts" in refusal
        assert "--site mlp.experts.0.hook_post" in refusal  # which then works
        few = "--site mlp.experts.0.hook_post --limit 4 --null-draws 1 --rotations 0"
        assert cli.main(f"{line} {few} --show 0 --k 1 --out one --quiet".split()) == 0
