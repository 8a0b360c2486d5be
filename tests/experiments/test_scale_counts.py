"""What a batch costs beside its forward: indices made, answers waited for, copies packed.

Counted, not timed.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.features.layout import Layout, vectors
from experiments.metrics.metrics import METRICS
from experiments.runs.execute import with_device
from experiments.studies.probe.options import ProbeOptions
from experiments.subject import Subject, modes
from experiments.subject.modes import Modes
from experiments.subject.word_spans import Pooler
from experiments.sweep.components import components
from experiments.sweep.sweep import READ_BYTES, Sweep, chunks
from hooks import edits, sites
from tools import command_grid, scale_costs


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(tiny.model("llama"), tiny.tokenizer(), bos="never")


def test_one_index_and_one_answer_for_all_sites(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []
    asked: list[torch.Size] = []
    indices, answer = Pooler._indices, torch.Tensor.__bool__

    def counted(self: Pooler, length: int) -> Any:
        made.append(length)
        return indices(self, length)

    def heard(self: torch.Tensor) -> bool:
        asked.append(self.shape)
        return answer(self)

    layout = Layout.of_tokens(subject, ["w5 w6 w7", "w8 w9"])
    (batch,) = subject.batches(layout.encoded)
    places = list(sites(subject.model, "blocks.*.hook_resid_*", "blocks.*.hook_mlp_out"))
    counts = []
    for some in (places[:1], places):
        made.clear()
        asked.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Pooler, "_indices", counted)
            patched.setattr(torch.Tensor, "__bool__", heard)
            vectors(subject, layout, batch, some, "mean")
        counts.append((len(made), len(asked)))
    assert counts[0] == counts[1]  # as many for eight sites as for one
    assert counts[1][0] == 1


def test_packs_are_capped_by_the_logits_that_are_made(subject: Subject):
    prompts = [Prompt("w5 w6", " w7", wrong=" w8"), Prompt("w9 w6", " w7", wrong=" w8")]
    at_once = {}
    for name in ("logit_difference", "log_probability"):
        metric = METRICS[name]
        (chunk,) = chunks(subject, metric.reads(subject, prompts), 512)
        sweep = Sweep(subject, metric, chunk)
        at_once[name] = READ_BYTES // sweep._read_bytes
        made = sweep.resume.logits.shape[-1] if name == "log_probability" else 2
        n_read = len(chunk.reads.positions)
        assert sweep._read_bytes == 4 * n_read * (subject.d_model + made)
        parts = [(part, edits.zero()) for part in components(subject.model, "heads", chunk.batch)]
        assert sweep.effects(parts).shape == (len(parts), 2)
    assert at_once["logit_difference"] > 3 * at_once["log_probability"]


def test_weights_are_read_to_their_device_and_probes_run_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(modes, "exists", lambda device: True)
    assert Modes(device="cuda:1").to_read()["device_map"] == {"": "cuda:1"}
    model: Any = SimpleNamespace(device=torch.device("cuda:1"))
    assert with_device(ProbeOptions(model="m"), model).device == "cuda:1"
    assert with_device(ProbeOptions(model="m", device="cpu"), model).device == "cpu"


def test_one_random_model_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch):
    drawn: list[weakref.ref[Any]] = []
    alive: list[int] = []
    draw = Subject.random_twin

    def counted(self: Subject, seed: int) -> Subject:
        gc.collect()
        alive.append(sum(ref() is not None for ref in drawn))
        twin = draw(self, seed)
        drawn.append(weakref.ref(twin.model))
        return twin

    monkeypatch.setattr(Subject, "random_twin", counted)
    line = "probe --model model --corpus corpus.conllu --property upos --l2 10 --control-seeds 0"
    with command_grid.workplace("LlamaForCausalLM"):
        assert cli.main(f"{line} --random-models 3 --device cpu --out out --quiet".split()) == 0
    assert alive == [0, 0, 0]


def test_the_page_says_what_the_script_prints(capsys: pytest.CaptureFixture[str]):
    scale_costs.main()
    page = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in page
