"""How a model is held: over devices, quantised, with an adapter, in its own precision;
each against the same model held plainly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as hf
from torch.utils._python_dispatch import TorchDispatchMode

from experiments import cli
from experiments.subject import Subject, SubjectError, load
from experiments.subject.twin import random_twin
from hooks.placement import weight_of

SENTENCE = "w5 w9 w7 w11"
MAP = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "model"
    tiny.save(tiny.model("llama"), path)
    (path.parent / "map.json").write_text(json.dumps(MAP), encoding="utf-8")
    rows = [{"prompt": f"w5 w{n}", "answer": " w7", "wrong": " w8"} for n in range(20, 24)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path.parent / "prompts.jsonl").write_text(lines, encoding="utf-8")
    return path


def logits(subject: Subject) -> torch.Tensor:
    (batch,) = subject.batches(subject.encode([SENTENCE]))
    return subject.forward(batch, logits=True).logits.float().cpu()


@pytest.mark.parametrize("device_map", [MAP, {"": "disk"}])
def test_an_offloaded_model_is_itself(folder: Path, device_map: dict[str, str]):
    plain, spread = load(folder), load(folder, device_map=device_map)
    assert spread.device == torch.device("cpu")
    assert torch.equal(logits(spread), logits(plain))
    # the hash of the tensors, as of a model that was given in memory
    in_memory = [Subject(s.model, s.tokenizer).sha256 for s in (plain, spread)]
    assert in_memory[0] == in_memory[1]


def test_an_ablation_of_an_offloaded_model_is_the_plain_models(folder: Path):
    records = []
    for name, more in (
        ("plain", []),
        ("spread", ["--device-map", str(folder.parent / "map.json")]),
    ):
        out = folder.parent / name
        prompts = str(folder.parent / "prompts.jsonl")
        line = ["ablate", "--model", str(folder), "--prompts", prompts, "--out", str(out), *more]
        assert cli.main(line) == 0
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        records.append(results["records"])
    plain, spread = (
        {(record["site"], name): value for record in of_run for name, value in record.items()}
        for of_run in records
    )
    # Some processors' kernels round by where in memory the numbers lie.
    assert spread == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"device_map": "nowhere"}, "expected auto, balanced"),
        ({"device_map": "tensor-parallel"}, "torchrun"),
        ({"device_map": "auto", "device": "cpu"}, "expected one of them"),
        ({"adapter": "nowhere"}, "adapter_config.json"),
        ({"revision": "main"}, "is on this machine"),
        ({"load_in": "2bit"}, "8bit or 4bit"),
    ],
)
def test_a_mode_that_cannot_be_had_is_one_line(
    folder: Path,
    more: dict[str, Any],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)  # where no such files are
    with pytest.raises(SubjectError, match=expected) as raised:
        load(folder, **more)
    assert "\n" not in str(raised.value)


def test_quantising_without_a_package_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SubjectError, match="needs bitsandbytes or torchao"):
        load(folder, load_in="8bit")


def test_eight_bits_are_close_to_the_plain_model(folder: Path):
    pytest.importorskip("torchao")
    plain, small = load(folder), load(folder, load_in="8bit")
    error = (logits(small) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < 0.05
    assert small.identity["quantisation"] != plain.identity["quantisation"]
    projection = small.model.model.layers[0].self_attn.o_proj
    exact = plain.model.model.layers[0].self_attn.o_proj.weight.T
    found = weight_of(projection)
    assert found is not None
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


def test_an_adapter_is_read_from_its_own_folder_or_beside_its_base(folder: Path):
    peft = pytest.importorskip("peft")
    base = hf.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(target_modules=["q_proj", "o_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(folder.parent / "adapter")
    beside, alone = load(folder, adapter=folder.parent / "adapter"), load(folder.parent / "adapter")
    (batch,) = beside.batches(beside.encode([SENTENCE]))
    with torch.inference_mode():
        expected = adapted(**batch.inputs()).logits
    for subject in (beside, alone):
        assert torch.allclose(logits(subject), expected, atol=1e-6)
    assert beside.sha256 == alone.sha256 != load(folder).sha256
    # the layer's matrix with the adapter in it, against PEFT's own sum of the two
    layer = beside.model.base_model.model.model.layers[0].self_attn.o_proj
    merged = layer.get_base_layer().weight + layer.get_delta_weight("default")
    assert torch.allclose(weight_of(layer), merged.T, atol=1e-6)


def test_a_checkpoint_keeps_its_precision_and_says_so(folder: Path, tmp_path: Path):
    tiny.save(tiny.model("llama").to(torch.bfloat16), tmp_path)
    subject = load(tmp_path)
    assert subject.dtype == torch.bfloat16
    assert any("bfloat16" in note for note in subject.notes)
    assert load(tmp_path, dtype="float32").dtype == torch.float32
    assert not any("float32, as" in note for note in load(folder).notes)


class Made(TorchDispatchMode):
    """Bytes of the floating-point tensors that are made, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_new = func.overloadpacket.__name__ in ("empty", "empty_like", "_to_copy", "zeros")
        if is_new and isinstance(out, torch.Tensor) and out.device.type != "meta":
            size = out.numel() * out.element_size()
            self.bytes[out.dtype] = self.bytes.get(out.dtype, 0) + size
        return out


def test_a_random_twin_is_drawn_in_the_models_type(tmp_path: Path):
    tiny.save(tiny.model("llama").to(torch.bfloat16), tmp_path)
    subject = load(tmp_path)
    with Made() as made:
        drawn = random_twin(subject.model, 1)
    twin = subject.of_model(drawn, random_seed=1)
    weights = sum(p.numel() * p.element_size() for p in twin.model.parameters())
    assert twin.dtype == torch.bfloat16
    # nothing as large as the weights in float32, from which they would have been rounded
    assert made.bytes.get(torch.float32, 0) < weights / 4
    again, other = subject.random_twin(1), subject.random_twin(2)
    assert torch.equal(logits(again), logits(twin))
    assert not torch.equal(logits(other), logits(twin))
