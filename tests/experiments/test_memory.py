"""What captures and studies hold: a batch, then one layer,
however many layers and sentences there are; and no more than told.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as hf
from processes import PROCESSES

from experiments import cli
from experiments.corpus import read_conllu
from experiments.features.layout import FeatureError, Layout, extract
from experiments.features.memory import as_bytes
from experiments.features.sites import study_sites
from experiments.runs.folder import RunError, peak_memory
from experiments.subject import Subject, load
from hooks import ActivationStore

LAYERS, WIDTH = 30, 128
FEW, MANY, WORDS = 60, 1000, 10


def conllu(count: int, mark: str) -> str:
    rng, lines = random.Random(mark), []
    for i in range(count):
        words = [f"w{rng.randint(3, 92)}" for _ in range(WORDS)]
        lines += [f"# sent_id = {mark}{i}", f"# text = {' '.join(words)}"]
        lines += [
            f"{j}\t{w}\t{w}\tX\tX\t_\t{min(j - 1, 1)}\tdep\t_\t_" for j, w in enumerate(words, 1)
        ]
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    ids = {"vocab_size": tiny.VOCAB, "bos_token_id": 1, "eos_token_id": 2, "n_inner": 8}
    tiny.save(
        hf.GPT2Model(hf.GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=2, n_positions=64, **ids)),
        folder / "model",
    )
    for name, count in (("few", FEW), ("many", MANY)):
        (folder / f"{name}.conllu").write_text(conllu(count, name), encoding="utf-8")
    lines = [
        "".join(f"w{random.Random(i * 100 + j).randint(3, 92)} " for j in range(12))
        for i in range(700)
    ]
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def nothing() -> None: ...


def _report(there: Connection, run: Callable[[], Any], warm: Callable[[], object]) -> None:
    warm()
    before = peak_memory()
    found = run()
    there.send((peak_memory() - before, found))


def apart(run: Callable[[], Any], warm: Callable[[], object] = nothing) -> tuple[int, Any]:
    """Bytes by which a process of its own rises above what it begins with,
    or holds once it is warm; what it returns.
    """
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_report, args=(there, run, warm))
    process.start()
    there.close()
    assert here.poll(300), "the process did not answer"
    found = here.recv()
    process.join()
    return found


def features(base: Path, name: str, everything: bool) -> None:
    subject = load(base / "model")
    places = study_sites(subject, "hook_resid_post")
    store = ActivationStore(base / f"{name}-{everything}", {"run": name})
    extract(
        subject,
        Layout.of(subject, read_conllu(base / f"{name}.conllu").sentences),
        places,
        store,
        batch_tokens=512,
    )
    held = []
    for site in places:
        values = store.read(site)
        held = [*held, values] if everything else [values]


def test_one_layer_is_held_at_a_time(base: Path) -> None:
    layer = MANY * WORDS * WIDTH * 4
    everything = (LAYERS + 1) * layer  # 159 MB
    # Reading makes the next layer while the last is held; the rest is tokens, labels and the
    # allocator's.
    layers, _ = apart(partial(features, base, "many", False), partial(features, base, "few", False))
    assert layers < 3 * layer + 35e6 < everything / 3
    held, _ = apart(partial(features, base, "many", True), partial(features, base, "few", True))
    assert held > 0.8 * everything  # the allocator finds room for some of it


def fill(count: int) -> int:
    return len(bytearray(b"x") * count)


def test_peak_memory_is_this_processs_own() -> None:
    before = peak_memory()
    grown, _ = apart(partial(fill, 200_000_000))
    assert 190e6 < grown < 260e6
    assert peak_memory() - before < 100e6


def capture(base: Path, out: Path, *more: object) -> list[str]:
    given = [
        "capture",
        "--model",
        base / "model",
        "--text",
        base / "lines.txt",
        "--site",
        "hook_resid_post",
    ]
    return [str(word) for word in [*given, "--batch-tokens", 8000, "--out", out, *more]]


def run(command: list[str], limit: int | None = None) -> tuple[int, int, int]:
    """Exit status, peak, and the most that was allowed:
    so much above what the process begins with.
    """
    allowed = 0
    if limit is not None:
        allowed = peak_memory() + limit
        command = [*command, "--max-ram", str(allowed)]
    return cli.main(command), peak_memory(), allowed


def test_the_most_memory_is_kept_to(base: Path, tmp_path: Path) -> None:
    # what loading and the libraries take once
    warm = partial(run, capture(base, tmp_path / "warm", "--limit", 20))
    _, (code, peak, allowed) = apart(
        partial(run, capture(base, tmp_path / "kept"), 150_000_000), warm
    )
    assert code == 0
    assert peak <= allowed
    said = json.loads((tmp_path / "kept" / "results.json").read_text())["provenance"]["resources"][
        "memory"
    ]
    assert 16 <= said["batch_tokens"] < 2000
    free, _ = apart(partial(run, capture(base, tmp_path / "free")), warm)
    assert free > 1.5 * 150e6  # what is not told does take more
    kept, whole = (ActivationStore(tmp_path / name / "store") for name in ("kept", "free"))
    site = f"blocks.{LAYERS - 1}.hook_resid_post"
    torch.testing.assert_close(kept.read(site), whole.read(site), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_kept_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (
        (("--max-ram", "100MB"), "--max-ram 95.4 MiB: expected at least"),
        (("--max-ram", "much"), "--max-ram 'much': expected a size such as 2GB"),
        (("--max-disk", "10MB"), "--max-disk 9.5 MiB: the rows need about 1"),
    ):
        assert cli.main(capture(base, tmp_path / more[1], *more)) == 2
        assert message in capsys.readouterr().err
    assert [as_bytes(t, "") for t in ("2GB", "1.5 GiB", "7", "3e6", "20k")] == [
        2e9,
        1.5 * 2**30,
        7,
        3e6,
        2e4,
    ]
    with pytest.raises(RunError):
        as_bytes("2 apples", "")


def test_a_batch_without_memory_is_halved(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, forward = Subject.forward, Subject.forward
    subject = load(base / "model")
    layout = Layout.of(subject, read_conllu(base / "few.conllu").sentences)
    places = study_sites(subject, "hook_resid_post")[:3]

    def short(self: Subject, batch: object, **more: object) -> object:
        if len(batch) > 8:  # type: ignore[arg-type]
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )
        return forward(self, batch, **more)  # type: ignore[arg-type]

    stores = [ActivationStore(tmp_path / name, {}) for name in ("whole", "halves")]
    assert extract(subject, layout, places, stores[0], batch_tokens=320).halved == 0
    monkeypatch.setattr(Subject, "forward", short)
    # 29 + 29 + 2 texts: 3 cuts each
    assert extract(subject, layout, places, stores[1], batch_tokens=320).halved == 6
    for place in places:
        torch.testing.assert_close(
            stores[0].read(place), stores[1].read(place), rtol=1e-4, atol=1e-5
        )

    def none(self: Subject, batch: object, **more: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Subject, "forward", none)
    with pytest.raises(FeatureError, match="memory does not suffice for the one text"):
        extract(subject, layout, places, ActivationStore(tmp_path / "none", {}))
    monkeypatch.setattr(Subject, "forward", whole)


WIDE, TAGS = 1024, ("NOUN", "VERB", "ADJ", "ADV", "DET")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of wide vectors, a corpus whose tags its words tell, and a store of both:
    100 MB a site.
    """
    folder = tmp_path_factory.mktemp("wide")
    ids = {"vocab_size": tiny.VOCAB, "bos_token_id": 1, "eos_token_id": 2, "n_inner": 8}
    tiny.save(
        hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=1, n_embd=WIDE, n_head=2, n_positions=64, **ids)),
        folder / "model",
    )
    rng, lines = random.Random(0), []
    for i in range(2500):
        words = [rng.randint(3, 92) for _ in range(WORDS)]
        lines += [f"# sent_id = {i}", f"# text = {' '.join(f'w{w}' for w in words)}"]
        for j, w in enumerate(words, 1):
            lines.append(f"{j}\tw{w}\tw{w}\t{TAGS[w % 5]}\tX\t_\t{min(j - 1, 1)}\tdep\t_\t_")
        lines.append("")
    (folder / "corpus.conllu").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "w3 w4 w5 w6"}\n{"prompt": "w9 w8 w7 w6 w5"}\n', encoding="utf-8"
    )
    given = [
        "capture",
        "--model",
        folder / "model",
        "--corpus",
        folder / "corpus.conllu",
        "--site",
        "hook_resid_post",
    ]
    given += ["--site", "blocks.0.hook_resid_pre", "--out", folder / "acts"]
    assert cli.main([str(word) for word in given]) == 0
    return folder


def study(command: str, wide: Path, out: Path, *more: object) -> list[str]:
    given = [
        command,
        "--model",
        wide / "model",
        "--corpus",
        wide / "corpus.conllu",
        "--property",
        "upos",
        "--l2",
        100,
    ]
    return [str(word) for word in [*given, "--store", wide / "acts", "--out", out, *more]]


def test_probes_of_vectors_that_memory_does_not_hold(wide: Path, tmp_path: Path) -> None:
    more = ("--control-seeds", 1, "--random-models", 0)
    _, (code, peak, allowed) = apart(
        partial(run, study("probe", wide, tmp_path / "kept", *more), 560_000_000)
    )
    assert code == 0
    assert peak <= allowed
    _, (code, free, _) = apart(partial(run, study("probe", wide, tmp_path / "free", *more)))
    assert code == 0
    assert free > allowed  # what is not told does take more
    kept, whole = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("kept", "free")
    )
    assert kept["provenance"]["resources"]["memory"]["hold"] > 0
    assert whole["provenance"]["resources"]["memory"]["hold"] is None
    for one, other in zip(kept["records"], whole["records"], strict=True):
        assert one["converged"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-3)
        assert one["control"] == pytest.approx(other["control"], abs=5e-3)
    left = {p.name for p in (tmp_path / "kept").iterdir()}
    assert left == {
        "config.json", "run.toml", "probes", "records.csv", "report.html", "results.json",
    }  # fmt: skip


def test_usage_of_vectors_that_memory_does_not_hold(wide: Path, tmp_path: Path) -> None:
    more = ("--prompts", wide / "prompts.jsonl", "--null", 1)
    _, (code, peak, allowed) = apart(
        partial(run, study("usage", wide, tmp_path / "kept", *more), 600_000_000)
    )
    assert code == 0
    assert peak <= allowed
    assert cli.main(study("usage", wide, tmp_path / "free", *more)) == 0
    given = study("usage", wide, tmp_path / "live", *more)
    del given[given.index("--store") : given.index("--store") + 2]
    assert cli.main(given) == 0
    kept, *others = (
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("kept", "free", "live")
    )
    assert kept["provenance"]["resources"]["memory"]["hold"] > 0
    # vectors on disk, in memory, and of the running model: one code, one answer
    for other in others:
        for one, two in zip(kept["records"], other["records"], strict=True):
            assert one["site"] == two["site"]
            for key in ("decodable", "effect", "erased_linear", "erased_change", "null"):
                assert one[key] == pytest.approx(two[key], abs=5e-3), key


def test_what_probes_need_at_least_is_said(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = (
        (("--max-ram", "100MB"), "with the vectors on disk"),
        (
            ("--max-ram", "100MB", "--scalar-mix", "--information"),
            "--information and --scalar-mix hold vectors in memory",
        ),
        (("--max-ram", "100MB", "--code-length"), "--code-length hold vectors"),
        (("--max-ram", "few"), "expected a size such as 2GB"),
    )
    for number, (more, message) in enumerate(wanted):
        given = study("probe", wide, tmp_path / str(number), "--random-models", 0, *more)
        assert cli.main(given) == 2
        assert message in " ".join(capsys.readouterr().err.split())
