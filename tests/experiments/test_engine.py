"""Engines: here and on Ray the same bytes and the same tables, whatever is killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from experiments import cli
from experiments.demo import demo_paths
from experiments.runs.engine import Local, OnRay, _worker_errors, engine_of, tree
from experiments.runs.folder import RunError
from experiments.studies.capture.options import CaptureOptions
from hooks import ActivationStore

MODEL = demo_paths().model
ROOT = Path(__file__).resolve().parents[2]
on_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (layerscope[ray])"
)
MOST_ABORTS = 3
RAY_ABORTS = "You have likely discovered a bug in Ray"
"""Rarely Ray itself ends the process whose worker died ("an unexpected system state", in
task_manager.cc), with status 1 or a signal: so nothing here runs on Ray in the process of the
tests.
"""


def until_not_aborted(run: Callable[[Path], int | None]) -> tuple[int | None, str]:
    """Exit status and errors of a process, run again where Ray aborts it; ``run`` is given the
    file for the errors, in a folder of each attempt.
    """
    for _ in range(MOST_ABORTS):
        with tempfile.TemporaryDirectory() as folder:
            errors = Path(folder) / "errors"
            status = run(errors)
            said = errors.read_text("utf-8")
        if status == 0 or RAY_ABORTS not in said:
            break
    return status, said


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name, path, count in (("train", demo_paths().dev, 150), ("test", demo_paths().test, 30)):
        found[name] = folder / f"{name}.conllu"
        found[name].write_text(
            "\n\n".join(path.read_text("utf-8").split("\n\n")[:count]) + "\n\n", encoding="utf-8"
        )
    found["prompts"] = folder / "prompts.jsonl"
    texts = ("The dog runs .", "The dogs run home .", "A cat sees the old house .")
    found["prompts"].write_text(
        "\n".join(json.dumps({"prompt": text}) for text in texts), encoding="utf-8"
    )
    return found


def joined(left: str, right: str) -> str:
    return f"({left}{right})"


def letter(number: int) -> str:
    return chr(ord("a") + number)


def test_a_tree_keeps_the_order_and_holds_few() -> None:
    whole = tree(map(letter, range(11)), joined)
    assert whole.replace("(", "").replace(")", "") == "abcdefghijk"
    assert whole == "((((ab)(cd))((ef)(gh)))((ij)k))"
    assert Local().reduce(letter, range(11), joined) == whole
    assert tree([7], joined) == 7  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one value to merge"):
        tree([], joined)


def test_options_of_ray_want_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    base: dict[str, Any] = {"model": "m", "out": Path("o"), "site": ()}
    assert isinstance(engine_of(CaptureOptions(**base)), Local)
    with pytest.raises(RunError, match="--workers is for workers of Ray"):
        engine_of(CaptureOptions(**base, workers=2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"layerscope\[ray\]"):
        engine_of(CaptureOptions(**base, engine="ray"))


def test_a_worker_of_another_version_is_one_line() -> None:
    errors = pytest.importorskip("ray.exceptions", reason="Ray is not installed")
    unreadable = errors.RaySystemError("No module named 'layerscope.other'", "a traceback")
    with pytest.raises(RunError, match=r"No module named 'layerscope.other'.*the same packages"):
        with _worker_errors(SimpleNamespace(exceptions=errors)):
            raise errors.RayTaskError("work", "a traceback", unreadable)


def cells_and_a_death(errors: Path) -> None:
    """What the engine gives, one of whose workers dies; what goes wrong is written to a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    folder = errors.parent
    engine = OnRay(workers=2, num_cpus=1)

    def work(cell: int, advance: Any) -> int:
        advance(cell)
        if cell == 2 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return cell**2

    steps: list[int] = []
    found = list(engine.map(work, range(6), steps.append))
    assert sorted(found) == [(i, i**2) for i in range(6)]
    assert sum(steps) == 15  # the cell that was done twice is counted once
    assert (folder / "died").exists()
    assert engine.reduce(letter, range(11), joined) == Local().reduce(letter, range(11), joined)

    def bad(cell: int, advance: Any) -> int:
        raise RunError(f"cell {cell} is not what was expected")

    with pytest.raises(RunError, match=r"^cell 0 is not what was expected$"):
        list(engine.map(bad, [0]))
    engine.close()


@on_ray
def test_the_same_cells_whoever_computes_them(tmp_path: Path) -> None:
    from processes import PROCESSES  # here: workers of Ray, which import this module, find it not

    def run(errors: Path) -> int | None:
        process = PROCESSES.Process(target=cells_and_a_death, args=(errors,))
        process.start()
        process.join(240)
        return process.exitcode

    status, said = until_not_aborted(run)
    assert status == 0, said


def command(name: str, out: Path, *more: object, engine: str) -> list[str]:
    given = [name, "--model", MODEL, "--out", out, *more]
    given += ["--engine", "ray", "--workers", 2, "--num-cpus", 1] if engine == "ray" else []
    return [str(word) for word in given]


def kill_a_worker(driver: subprocess.Popen[bytes], folder: Path, shards: int) -> bool:
    """Kill one of a capture's workers once some shards are there; whether there was one."""
    while len(list(folder.glob("*.safetensors"))) < shards:
        assert driver.poll() is None, "the capture ended early"
        time.sleep(0.005)
    for process in psutil.Process(driver.pid).children(recursive=True):
        if (process.cmdline() or [""])[0].startswith("ray::MapWorker"):
            process.kill()
            return True
    return False


def run_on_ray(
    words: list[str], started: Callable[[subprocess.Popen[bytes]], object] = lambda driver: None
) -> tuple[int | None, str]:
    """Exit status and errors of a command in a process of its own, called again as one would
    where Ray aborts it.
    """

    def run(errors: Path) -> int:
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "layerscope", *words], cwd=ROOT, stderr=stream
            )
        started(process)
        return process.wait(timeout=240)

    return until_not_aborted(run)


@on_ray
def test_capture_writes_the_same_bytes_with_a_worker_killed(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    more = (
        "--corpus",
        files["train"],
        "--batch-tokens",
        48,
        "--site",
        "hook_resid_post",
        "--store-as",
        "float16",
    )
    assert cli.main(command("capture", tmp_path / "local", *more, engine="local")) == 0
    killed: list[bool] = []

    def kill(driver: subprocess.Popen[bytes]) -> None:
        if not killed:
            killed.append(kill_a_worker(driver, tmp_path / "ray" / "store", 3))

    words = command("capture", tmp_path / "ray", *more, engine="ray")
    status, said = run_on_ray(words, kill)
    assert status == 0, said
    assert killed == [True]
    from made import contents  # here: as above

    local, ray = contents(tmp_path / "local" / "store"), contents(tmp_path / "ray" / "store")
    assert len(local) > 20
    assert ray == local
    found = [
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("local", "ray")
    ]
    assert found[0]["records"] == found[1]["records"]
    # What goes wrong in a worker is one line here.
    (tmp_path / "ray" / "results.json").unlink()
    path = tmp_path / "ray" / "store" / "shard-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    status, said = run_on_ray(words)
    assert status == 2, said
    (said,) = [line for line in said.splitlines() if line.startswith("layerscope: ")]
    assert "shard-000003.safetensors is half written" in said
    assert not ActivationStore(tmp_path / "local" / "store").problems()


@on_ray
def test_studies_give_the_same_tables(tmp_path: Path, files: dict[str, Path]) -> None:
    probe = (
        "--corpus",
        files["train"],
        "--test",
        files["test"],
        "--property",
        "upos",
        "--sample",
        60,
    )
    probe += (
        "--l2",
        100,
        "--site",
        "blocks.4.hook_resid_post",
        "--control-seeds",
        1,
        "--random-models",
        0,
    )
    ablate = ("--prompts", files["prompts"], "--metric", "loss", "--batch-tokens", 8)
    for name, more in (("probe", probe), ("ablate", ablate)):
        assert cli.main(command(name, tmp_path / f"{name}-local", *more, engine="local")) == 0
        status, said = run_on_ray(command(name, tmp_path / f"{name}-ray", *more, engine="ray"))
        assert status == 0, said
        local, ray = (
            json.loads((tmp_path / f"{name}-{engine}" / "results.json").read_text())
            for engine in ("local", "ray")
        )
        assert local["records"] == ray["records"]
        assert local["findings"] == ray["findings"]
    saved = [
        sorted((tmp_path / f"probe-{engine}" / "probes").rglob("*.safetensors"))
        for engine in ("local", "ray")
    ]
    assert [p.read_bytes() for p in saved[0]] == [p.read_bytes() for p in saved[1]]
    assert len(saved[0]) == 2
