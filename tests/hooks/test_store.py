"""The store: what is written is what is read, and what is damaged is named."""

from __future__ import annotations

import pytest
import torch

from hooks import ActivationStore
from hooks.store import StoreError


def filled(folder, key="k"):
    store = ActivationStore(folder, key)
    whole = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for shard, rows in enumerate(([4, 0, 2], [1, 5, 3])):
        store.write(shard, torch.tensor(rows), {"a": whole[rows], "b": -whole[rows]})
    return store, whole


def test_rows_come_back_in_order(tmp_path):
    store, whole = filled(tmp_path / "s")
    assert torch.equal(store.read("a", 6), whole)
    assert torch.equal(store.read("b", 6), -whole)
    assert store.has(1)
    assert not store.has(2)


def test_a_missing_shard_is_counted(tmp_path):
    store, _ = filled(tmp_path / "s")
    (tmp_path / "s" / "shard-000001.safetensors").unlink()
    with pytest.raises(StoreError, match="3 of 6 rows"):
        store.read("a", 6)


def test_foreign_and_damaged_shards_are_refused(tmp_path):
    filled(tmp_path / "s")
    with pytest.raises(StoreError, match="another model"):
        ActivationStore(tmp_path / "s", "other").has(0)
    path = tmp_path / "s" / "shard-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match="damaged"):
        ActivationStore(tmp_path / "s", "k").read("a", 6)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(StoreError, match="damaged"):
        ActivationStore(tmp_path / "s", "k").has(0)


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    store, whole = filled(tmp_path / "s")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hooks.store.save_file", full)
    with pytest.raises(StoreError, match=r"No space left.*kept"):
        store.write(2, torch.tensor([0]), {"a": whole[:1]})
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "shard-000000.safetensors",
        "shard-000001.safetensors",
    ]
