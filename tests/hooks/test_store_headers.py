"""Shards whose headers are not what was written: one clear error,
never a traceback of another kind, never wrong data.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooks import ActivationStore, StoreError

ABOUT = {"model": "m"}
WHOLE = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
INDEX = torch.stack([torch.arange(5)] * 5, dim=1)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-9, 99), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
QUICK = settings(max_examples=150)


@pytest.fixture(scope="module")
def shard() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with ActivationStore(folder, ABOUT) as store:
            store.write(0, INDEX, {"a": WHOLE, "b": -WHOLE})
        return (Path(folder) / "shard-000000.safetensors").read_bytes()


def taken_apart(shard: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8 : 8 + size])
    header["__metadata__"]["layerscope"] = json.loads(header["__metadata__"]["layerscope"])
    return header, shard[8 + size :]


def put_together(header: dict, data: bytes) -> bytes:
    said = header.get("__metadata__")
    if isinstance(said, dict) and "layerscope" in said and not isinstance(said["layerscope"], str):
        header = {**header, "__metadata__": {**said, "layerscope": json.dumps(said["layerscope"])}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in a header, leaves and inner ones."""
    found = [path] if path else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def judge(look, folder: str) -> None:
    """What is read is what was written, or a StoreError of one line that names the file."""
    try:
        found = look(folder)
    except StoreError as error:
        found = error
    if isinstance(found, StoreError):
        assert folder in str(found)
        assert "\n" not in str(found)
    else:
        assert found is None or torch.equal(found, WHOLE)


LOOKS = (
    lambda folder: ActivationStore(folder).read("a"),
    lambda folder: ActivationStore(folder).read("a", torch.arange(5)),
    lambda folder: torch.cat([values for _, values in ActivationStore(folder).shards("a")]),
    lambda folder: (ActivationStore(folder, ABOUT).has(0), None)[1],
    lambda folder: (ActivationStore(folder).largest("a"), None)[1],
)


def judge_shard(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shard-000000.safetensors").write_bytes(data)
        for look in LOOKS:
            judge(look, folder)
        # which names what is wrong, and raises nothing
        assert isinstance(ActivationStore(folder).problems(), list)


@QUICK
@given(data=st.data())
def test_a_header_with_another_value(shard, data):
    header, rest = taken_apart(shard)
    path = data.draw(st.sampled_from(places(header)))
    at = header
    for key in path[:-1]:
        at = at[key]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[path[-1]]
    else:
        at[path[-1]] = data.draw(LEAVES)
    judge_shard(put_together(header, rest))


@QUICK
@given(at=st.integers(0, 10**9), value=st.integers(0, 255))
def test_a_byte_that_has_changed(shard, at, value):
    changed = bytearray(shard)
    changed[at % (len(shard) - 5 * 3 * 8)] = (
        value  # not in the values themselves: `read` compares those, `shards` does not
    )
    judge_shard(bytes(changed))


@QUICK
@given(st.binary(max_size=200))
def test_bytes_that_are_no_shard(data):
    judge_shard(data)


@QUICK
@given(cut=st.integers(0, 10**9), more=st.binary(max_size=9))
def test_a_shard_that_is_cut_or_goes_on(shard, cut, more):
    judge_shard(shard[: cut % len(shard)])
    judge_shard(shard + more)


@QUICK
@given(
    st.one_of(LEAVES.map(lambda v: json.dumps(v).encode()), st.binary(max_size=60)),
    st.sampled_from(["shards", "rows", "about", "format"]),
    LEAVES,
)
def test_a_plan_that_is_not_one(shard, data, key, value):
    with tempfile.TemporaryDirectory() as folder:
        with ActivationStore(folder, ABOUT) as store:
            store.write(0, INDEX, {"a": WHOLE})
            store.seal(1, 5)
        plan = Path(folder) / "store.json"
        known = json.loads(plan.read_bytes())
        for content in (data, json.dumps({**known, key: value}).encode()):
            plan.write_bytes(content)
            judge(LOOKS[0], folder)
