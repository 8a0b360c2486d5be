"""From an anecdote to evidence: a study over a file of prompts, as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerscope.errors import InputError

from ..runs.folder import file_name
from ..studies import STUDIES

RUNNABLE = {"ablate": "--prompts", "patch": "--clean", "attribute": "--prompts"}
"""Study -> its option for a file of prompts."""
MOST_RUNS = 4
"""At a time."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Runner:
    """Starts studies with the command line, one process each; their folders and pages are known by
    a number.

    Args:
        model: what ``--model`` is given; None where the model is in memory alone.
        prompts: the file that studies read where the screen gives no lines.
        pairs: minimal pairs, for ``ablate`` where there are no prompts.
    """

    def __init__(
        self, model: str | None, prompts: Path | None = None, pairs: Path | None = None
    ) -> None:
        self.model, self.prompts, self.pairs = model, prompts, pairs
        self._folder: Path | None = None
        self._running: list[subprocess.Popen[str]] = []
        self.folders: list[Path] = []

    def start(self, name: str, lines: str, send: Callable[[dict[str, Any]], None]) -> None:
        """Write the prompts and start the study; ``send`` is told of its progress and its end.

        Raises:
            InputError: an unknown study, no prompts, a model in memory, too many runs.
        """
        if name not in RUNNABLE or name not in STUDIES:
            raise InputError(f"run: expected {', '.join(RUNNABLE)}, got {name!r:.40}")
        if self.model is None:
            raise InputError(
                "run: this model is in memory alone; copy as Python and call the study"
            )
        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= MOST_RUNS:
            raise InputError(f"run: {MOST_RUNS} studies run already; wait for one of them")
        number = len(self.folders)
        if self._folder is None:
            Path("runs").mkdir(exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="explore-", dir="runs"))
        out = self._folder / f"{file_name(name)}-{number}"
        source = self._source(name, lines, self._folder / f"prompts-{number}.jsonl")
        words = ["-m", "layerscope", name, "--model", self.model, *source, "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._running.append(process)
        self.folders.append(out)
        command = " ".join(["layerscope", *words[2:]])
        send({"part": "run", "number": number, "state": "started", "text": command})
        threading.Thread(target=self._watch, args=(process, number, send), daemon=True).start()

    def _source(self, name: str, lines: str, path: Path) -> list[str]:
        if lines.strip():
            path.write_text(lines.strip() + "\n", encoding="utf-8")
            return [RUNNABLE[name], str(path)]
        if self.prompts is not None:
            return [RUNNABLE[name], str(self.prompts)]
        if self.pairs is not None and name == "ablate":
            return ["--pairs", str(self.pairs)]
        raise InputError("run: enter prompts, one JSON object a line, or start with --prompts FILE")

    def _watch(
        self,
        process: subprocess.Popen[str],
        number: int,
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        last = ""
        assert process.stderr is not None
        with process.stderr as messages:
            for line in messages:
                if text := _COLOURS.sub("", line).strip():
                    last = text
                    send({"part": "run", "number": number, "state": "running", "text": text[:400]})
        code = process.wait()
        state = "finished" if code == 0 and self.page(number) is not None else "failed"
        text = str(self.folders[number]) if state == "finished" else last[:400]
        send({"part": "run", "number": number, "state": state, "text": text})

    def page(self, number: int) -> Path | None:
        """The page of a run; None before it is there."""
        if not 0 <= number < len(self.folders):
            return None
        path = self.folders[number] / "report.html"
        return path if path.exists() else None

    def close(self) -> None:
        """End what still runs; it goes on when its command is repeated."""
        for process in self._running:
            if process.poll() is None:
                process.terminate()
