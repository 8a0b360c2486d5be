"""What a model folder or a GGUF file says of itself is bounded by the bytes that it has."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny

from experiments.subject import SubjectError, load
from experiments.subject.claims import check_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.save(tiny.model("llama"), path)
    return path


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        (
            "num_hidden_layers",
            10**9,
            "num_hidden_layers is 1000000000, and model.safetensors holds",
        ),
        ("num_hidden_layers", -1, "num_hidden_layers is -1"),
        ("num_hidden_layers", 10**400, "a number of 401 digits"),
        ("num_hidden_layers", 500, "describes 500 layers"),
        ("num_labels", 10**9, "num_labels is 1000000000"),
        ("text_config", {"num_local_experts": 10**9}, "num_local_experts is 1000000000"),
        ("vocab_size", 10**9, "other shapes than its config.json"),
        ("hidden_size", 10**9, "other shapes than its config.json"),
    ],
)
def test_a_configuration_that_asks_for_more_than_there_is(folder, tmp_path, setting, value, said):
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(SubjectError, match=said) as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


def test_layers_that_share_their_weights_are_no_lie(tmp_path):
    model = tiny.model("albert")
    model.config.num_hidden_layers = 40
    tiny.save(model, tmp_path)
    assert load(tmp_path).n_layers == 40


def _gguf(path: Path) -> bytes:
    """A small sound file; its format is written by the package and not by us."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_array("tokens", ["a", "b"])
    writer.add_array("scores", [0.5, 1.5])
    writer.add_tensor("blk.0.x.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _number(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<Q", value) + data[at + 8 :]


def test_the_header_of_a_gguf_file_is_bounded_by_its_size(tmp_path):
    path = tmp_path / "m.gguf"
    whole = _gguf(path)
    check_gguf(path)
    block_count = whole.index(b"llama.block_count") + len("llama.block_count") + 4
    tokens = whole.index(b"tokens") + len("tokens") + 8
    hostile = {
        "tensors": _number(whole, 8, 10**18),
        "settings": _number(whole, 16, 10**18),
        "a text": _number(whole, 24, 2**60),
        "an array": _number(whole, tokens, 10**18),
        "block_count?": whole[:block_count] + struct.pack("<I", 10**9) + whole[block_count + 4 :],
        "bytes of them": _number(whole, whole.index(b"blk.0.x.weight") + 14 + 4, 10**15),
    }
    for said, data in hostile.items():
        path.write_bytes(data)
        with pytest.raises(SubjectError, match=said.replace("block_count?", "block is 1000000000")):
            check_gguf(path)


def test_a_gguf_file_that_was_cut_is_one_line(tmp_path):
    path = tmp_path / "m.gguf"
    whole = _gguf(path)
    header = whole.index(b"blk.0.x.weight") + 14 + 4 + 16 + 12
    for length in range(header):
        path.write_bytes(whole[:length])
        with pytest.raises(SubjectError, match=r"m\.gguf"):
            check_gguf(path)
