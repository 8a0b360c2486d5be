"""The store: what is written is what is read, by row and by word; what is damaged is named;
what is killed goes on.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from made import contents
from processes import killed

from hooks import ActivationStore, StoreError, capture, sites
from hooks.shards import INDEX, Image

ABOUT = {"model": "m", "data_sha256": "d"}


def index(rows):
    """Two words a sentence, of one and of two tokens, after a BOS."""
    return torch.tensor([[r, r // 2, r % 2, 1 + r % 2, 2 + 2 * (r % 2)] for r in rows])


def filled(folder, dtype=None, seal=True):
    whole = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with ActivationStore(folder, ABOUT, dtype=dtype) as store:
        for shard, rows in enumerate(([4, 0, 2], [1, 5, 3])):
            store.write(shard, index(rows), {"a": whole[rows], "b": -whole[rows]})
        if seal:
            store.seal(2, 6)
    return whole


@pytest.mark.parametrize("where", ["local", "memory"])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_rows_come_back_in_order(tmp_path, where, dtype):
    folder = tmp_path / "s" if where == "local" else f"memory://{tmp_path.name}-{dtype}/s"
    whole = filled(folder, dtype).to(dtype or torch.float32)
    store = ActivationStore(folder)
    assert torch.equal(store.read("a"), whole)
    assert torch.equal(store.read("b"), -whole)
    assert torch.equal(store.read("b", torch.tensor([5, 0, 5])), -whole[[5, 0, 5]])
    assert (store.n_shards, store.n_rows, store.sites, store.sealed) == (2, 6, ["a", "b"], True)
    assert store.about == ABOUT | ({} if dtype is None else {"dtype": str(dtype)[6:]})
    assert store.has(1)
    assert not store.has(2)
    parts = list(store.shards("a"))
    assert torch.equal(
        torch.cat([v for _, v in parts]), whole[torch.cat([at for at, _ in parts])[:, 0]]
    )
    assert store.largest("a") == float(whole.abs().max())
    assert not store.problems()


def test_rows_are_found_by_sentence_word_and_token(tmp_path):
    filled(tmp_path / "s")
    store = ActivationStore(tmp_path / "s", ABOUT)
    assert store.rows(1).tolist() == [2, 3]
    assert store.rows(2, word=1).tolist() == [5]
    assert store.rows(0, token=1).tolist() == [0]
    assert store.rows(0, token=2).tolist() == store.rows(0, token=3).tolist() == [1]
    assert store.rows(0, token=0).tolist() == []  # the BOS has no row


def test_a_shard_is_a_safetensors_file_that_says_what_it_is(tmp_path):
    whole = filled(tmp_path / "s", torch.float16)
    path = tmp_path / "s" / "shard-000001.safetensors"
    found = safetensors.torch.load_file(path)
    assert torch.equal(found["a"], whole[[1, 5, 3]].half())
    assert torch.equal(found[INDEX], index([1, 5, 3]))
    with safetensors.safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["layerscope"])
    assert said["about"] == {**ABOUT, "dtype": "float16"}
    assert said["largest"]["a"] == float(whole[[1, 5, 3]].half().abs().max())


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        filled(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_site_is_read_without_the_others(tmp_path):
    whole = filled(tmp_path / "s")
    path = tmp_path / "s" / "shard-000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last byte belongs to b
    path.write_bytes(data)
    store = ActivationStore(tmp_path / "s")
    assert torch.equal(store.read("a"), whole)
    with pytest.raises(StoreError, match=r"shard-000000.safetensors is damaged \(checksum of b\)"):
        store.read("b")
    assert len(store.problems()) == 1


def test_what_is_wrong_with_a_shard_is_named(tmp_path):
    filled(tmp_path / "s")
    with pytest.raises(StoreError, match=r"shard-000000.*another model.*\(model differ\)"):
        ActivationStore(tmp_path / "s", {**ABOUT, "model": "other"}).has(0)
    path = tmp_path / "s" / "shard-000000.safetensors"
    whole = path.read_bytes()
    for data, message in (
        (whole[:-8], "half written"),
        (whole + b"more", "damaged"),
        (whole[:4], "damaged"),
        (b"nothing of the kind", "damaged"),
        (safetensors.torch.save({"x": torch.zeros(2)}), "foreign"),
    ):
        path.write_bytes(data)
        with pytest.raises(StoreError, match=f"shard-000000.safetensors is {message}"):
            ActivationStore(tmp_path / "s").has(0)
    path.unlink()
    with pytest.raises(StoreError, match=r"1 shards are missing, the first is shard-000000"):
        ActivationStore(tmp_path / "s").read("a")
    path.write_bytes(whole)
    # the last one: only the seal knows of it
    (tmp_path / "s" / "shard-000001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"1 shards are missing, the first is shard-000001"):
        ActivationStore(tmp_path / "s").read("a")
    filled(tmp_path / "t")
    with pytest.raises(StoreError, match="expected site 'c', it holds"):
        ActivationStore(tmp_path / "t").read("c")


def test_values_that_do_not_fit_their_type_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"a: .*NaN or infinity in float16: .*store bfloat16"):
        with ActivationStore(tmp_path / "s", ABOUT, dtype=torch.float16) as store:
            store.write(0, index([0]), {"a": torch.full((1, 4), 1e5)})
    with pytest.raises(StoreError, match=r"a: expected floating-point values, got torch\.int64"):
        Image().fill(index([0]), {"a": torch.full((1, 4), 4097)}, torch.float16)
    filled(tmp_path / "u", torch.bfloat16)
    with pytest.raises(StoreError, match=r"holds bfloat16, got dtype torch.float16"):
        ActivationStore(tmp_path / "u", dtype=torch.float16).write(
            2, index([6]), {"a": torch.zeros(1, 4)}
        )


@pytest.mark.parametrize("rows", [None, torch.arange(4)])
@pytest.mark.parametrize(
    "other", [torch.zeros(1, 2, 4, dtype=torch.bfloat16), torch.zeros(1, 2, 3).half()]
)
def test_shards_of_another_type_or_width_are_not_read_as_the_first(tmp_path, other, rows):
    with ActivationStore(tmp_path / "s") as store:
        store.append({"a": torch.ones(1, 2, 4).half()})
        store.append({"a": other})
    got = f"{str(other.dtype)[6:]} [{other.shape[-1]}]"
    with pytest.raises(
        StoreError,
        match=re.escape(f"shard-000001.safetensors: expected a in float16 [4], got {got}"),
    ):
        store.read("a", rows)


def test_a_store_that_holds_nothing_says_so(tmp_path):
    store = ActivationStore(tmp_path / "s")
    for ask in (
        lambda: store.width("a"),
        lambda: store.read("a"),
        lambda: store.read("a", torch.arange(0)),
    ):
        with pytest.raises(StoreError, match="expected shards, it holds none"):
            ask()


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda s: s.n_rows, 2),
        (lambda s: s.sites, ["a"]),
        (lambda s: s.size() > 0, True),
        (lambda s: s.width("a"), 4),
        (lambda s: s.largest("a"), 3.0),
        (lambda s: s.shard(0, "a")[1].sum(), 24.0),
    ],
)
def test_what_a_store_says_of_itself_counts_what_is_still_being_written(
    tmp_path, monkeypatch, ask, answer
):
    write = Image.write

    def late(*args):
        time.sleep(0.1)
        return write(*args)

    monkeypatch.setattr(Image, "write", late)
    with ActivationStore(tmp_path / "s") as store:
        store.append({"a": torch.full((1, 2, 4), 3.0)})
        assert ask(store) == answer


def test_a_shard_that_is_written_again_is_read_as_it_is_now(tmp_path):
    store = ActivationStore(tmp_path / "s")
    # as many bytes, in another order
    for rows, values in (([0, 1], [[1.0], [2.0]]), ([1, 0], [[2.0], [3.0]])):
        store.write(0, index(rows), {"a": torch.tensor(values)})
        assert store.read("a")[rows].tolist() == values
    store.close()


def test_a_store_that_was_deleted_begins_anew(tmp_path):
    store = ActivationStore(tmp_path / "s")
    for _ in range(2):
        store.append({"a": torch.zeros(1, 2, 4)})
    store.delete()
    assert store.append({"a": torch.ones(1, 2, 4)}) == 0
    assert torch.equal(store.read("a"), torch.ones(2, 4))
    store.close()


def test_a_store_goes_on_behind_a_forward_of_padding_alone(tmp_path):
    for value, keep in ((1.0, 1), (2.0, 0), (3.0, 1)):
        with ActivationStore(tmp_path / "s") as store:  # each opens it again
            store.append({"a": torch.full((1, 2, 4), value)}, torch.full((1, 2), keep))
    store = ActivationStore(tmp_path / "s")
    assert store.read("a")[:, 0].tolist() == [1, 1, 3, 3]
    assert store.index[:, :2].tolist() == [[0, 0], [1, 0], [2, 1], [3, 1]]


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    filled(tmp_path / "s", seal=False)
    store = ActivationStore(tmp_path / "s", ABOUT)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hooks.folders.os.replace", full)
    store.write(2, index([6]), {"a": torch.zeros(1, 4)})
    with pytest.raises(StoreError, match=r"shard-000002.*No space left.*kept"):
        store.flush()
    assert sorted(contents(tmp_path / "s")) == [
        "shard-000000.safetensors",
        "shard-000001.safetensors",
    ]


def test_two_writers_are_kept_apart(tmp_path):
    filled(tmp_path / "s", seal=False)
    with ActivationStore(tmp_path / "s", ABOUT) as one:
        one.write(2, index([6]), {"a": torch.zeros(1, 4)})
        with pytest.raises(StoreError, match="another process is writing there"):
            ActivationStore(tmp_path / "s", ABOUT).write(3, index([7]), {"a": torch.zeros(1, 4)})
        worker = ActivationStore(tmp_path / "s", ABOUT, shared=True)  # an engine's worker is let in
        worker.write(3, index([7]), {"a": torch.zeros(1, 4)})
        worker.close()
    with ActivationStore(tmp_path / "s", ABOUT) as two:  # and after the first has gone, another
        two.write(4, index([8]), {"a": torch.zeros(1, 4)})
        assert two.n_shards == 5
    two.delete()
    assert not (tmp_path / "s").exists()


def test_capture_writes_each_forward_as_it_ends(tmp_path):
    model, ids = tiny.model("gpt2"), tiny.ids(3, 5)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    places = sites(model, "blocks.*.hook_resid_post", "blocks.*.attn.hook_z")
    store = ActivationStore(tmp_path / "s", ABOUT)
    wanted = []
    for seed in range(3):
        ids = tiny.ids(3, 5, seed)
        with torch.no_grad(), capture(model, *places) as acts:
            model(ids, attention_mask=mask)
        wanted.append({site: acts[site][mask.bool()] for site in places})
    with torch.no_grad(), capture(model, *places, to=store) as acts:
        for seed in range(2):  # two forwards in one block, one in another with stop
            model(tiny.ids(3, 5, seed), attention_mask=mask)
            assert len(acts) == 0
    with torch.no_grad(), capture(model, *places, to=store, stop=True):
        model(tiny.ids(3, 5, 2), attention_mask=mask)
    for site in places:
        assert torch.equal(store.read(site), torch.cat([w[site] for w in wanted]))
    assert store.read("blocks.1.attn.hook_z").shape == (39, 4, 8)
    assert store.rows(1).tolist() == [5, 6, 7]  # two positions of the second text are padding
    assert store.rows(8, token=4).tolist() == [38]
    again = ActivationStore(tmp_path / "s", ABOUT)  # a loop that starts anew goes on where it was
    assert [again.has(i) for i in range(4)] == [True, True, True, False]
    store.close()
    with torch.no_grad(), capture(model, *places, to=again):
        model(ids)
    assert again.rows(9).tolist() == [39, 40, 41, 42, 43]
    with pytest.raises(ValueError, match="one row a position"):
        capture(model, "blocks.0.attn.hook_pattern", to=store)


def write_forty(folder: Path) -> None:
    with ActivationStore(folder, ABOUT) as store:
        for shard in range(40):
            if not store.has(shard):
                write_one(store, shard)
        store.seal(40, 2000)


def write_one(store: ActivationStore, shard: int) -> None:
    rows, generator = range(shard * 50, shard * 50 + 50), torch.Generator().manual_seed(shard)
    store.write(
        shard, index(rows), {f"s{i}": torch.randn(50, 999, generator=generator) for i in range(4)}
    )


def test_threads_write_into_one_store(tmp_path):
    write_forty(tmp_path / "whole")
    with ActivationStore(tmp_path / "both", ABOUT) as store, ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(write_one, store, shard) for shard in range(40)]:
            done.result()
        store.seal(40, 2000)
    assert contents(tmp_path / "both") == contents(tmp_path / "whole")


def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path):
    write_forty(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    # in the middle of whatever it does
    folder = killed(write_forty, tmp_path, goals=[1, 3, 8, 17, 31], whole=40)
    assert 31 <= len(contents(folder)) < 41
    write_forty(folder)
    assert contents(folder) == whole
    assert not ActivationStore(folder).problems()
