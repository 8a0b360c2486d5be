"""What every command does around its own work: the run's folder, what decides its numbers, where they come from.

run = Run("ablate", config)
finished = run.open(subject, {"prompts.jsonl": sha256})
...
return run.finish(results, data=[...])
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from ..hooks import UnsoundModel
from . import terminal
from .engine import Engine, Local, engine_of
from .options import as_call, as_command, as_toml, as_values
from .run_config import EngineConfig
from .run_folder import (
    SCHEMA,
    RunFolder,
    file_sha256,
    machine,
    now,
    peak_memory,
    plain,
    versions,
    write_text,
)  # fmt: skip
from .subject import Subject, load

_PLANNING: ContextVar[bool] = ContextVar("planning", default=False)


@contextmanager
def planning() -> Iterator[None]:
    """Inside, a study says its plan and stops: `Run.plan` gives it, and nothing is written."""
    before = _PLANNING.set(True)
    try:
        yield
    finally:
        _PLANNING.reset(before)


def data_record(split: str, path: Path, size: int) -> dict[str, Any]:
    """What provenance says of one file of data: ``size`` texts."""
    return {"split": split, "path": str(path), "sha256": file_sha256(path), "sentences": size}


class Run:
    """One run of a command, from its configuration to its report.

    Args:
        command: the command's name, which is also the results' kind.
        config: its configuration; it has at least ``model, out, dtype, device, bos, seed, trust_remote_code``.
    """

    def __init__(self, command: str, config: Any) -> None:
        self.command, self.config = command, config
        self._started, self._clock = now(), time.perf_counter()
        self.doctor: dict[str, Any] = {}
        self.engine: Engine = engine_of(config) if isinstance(config, EngineConfig) else Local()
        weakref.finalize(self, self.engine.close)  # also of a run that fails

    def load(self, body_only: bool = False, classifier: bool = False) -> Subject:
        """The model that the configuration names, or holds."""
        config = self.config
        if isinstance(config.model, Subject):
            return config.model
        return load(
            config.model,
            dtype=config.dtype,
            device=config.device,
            bos=config.bos,
            body_only=body_only,
            trust_remote_code=config.trust_remote_code,
            classifier=classifier,
        )

    def open(
        self,
        subject: Subject | None,
        hashes: Mapping[str, str],
        examine: bool = True,
    ) -> dict[str, Any] | None:
        """Make the run's folder or continue it; returns its results if it is finished already.

        Otherwise the quick part of the doctor runs first.

        Args:
            subject: the model; None for a run that has none.
            hashes: name -> sha256 of all data that is read.
            examine: whether the doctor comes first.

        Raises:
            RunError: the folder holds another run.
            UnsoundModel: the doctor finds something WRONG, and ``force`` was not given.
        """
        self.subject = subject
        self.identity = {
            **as_values(self.config, deciding=True),
            "model_sha256": subject.sha256 if subject else None,
            "data_sha256": dict(hashes),
            "layerscope": versions()["layerscope"],
        }
        if subject is not None:
            about = f"{type(subject.model).__name__}, {subject.n_layers} layers, width {subject.d_model}, on {subject.device}"
            terminal.detail(f"model: {subject.name}: {about}; {subject.bos_reason}")
        self.folder = RunFolder(self.config.out, self.identity, make=not _PLANNING.get())
        if (finished := self.folder.results) is not None:
            terminal.say(f"{self.config.out} holds this run already, finished: nothing is computed again")
            return finished
        if not _PLANNING.get():
            write_text(self.config.out / "run.toml", as_toml(self.command, self.config))
        if examine and subject is not None:
            self._examine(subject)
        return None

    def plan(
        self,
        text: str,
        *,
        held: int = 0,
        disk: int = 0,
        seconds: Callable[[], float] | None = None,
        besides: str = "",
    ) -> dict[str, Any] | None:
        """Say what is about to be done; returns the plan as results without records if that is all that was asked.

        Args:
            text: the plan in words.
            held: bytes that the study holds at a time beside the model and a batch.
            disk: bytes that it writes, at most.
            seconds: times a few forwards and predicts the whole; None where that cannot be known.
            besides: what takes time that ``seconds`` leaves out.
        """
        from .report.words import duration, size

        if not _PLANNING.get():
            terminal.say(f"plan: {text}")
            return None
        took = None if seconds is None else round(seconds(), 1)
        memory, kept = peak_memory() + held, self.folder.kept_cells  # after the forwards: their memory is in it
        found = {"text": text, "out": str(self.config.out), "seconds": took, "not_in_seconds": besides or None}
        found |= {"memory_bytes": memory, "disk_bytes": disk, "kept_cells": kept}
        on_top = f"; {besides} on top" if besides else ""
        lines = [
            "time: not predicted"
            if took is None
            else f"time: about {duration(took)} of forwards, from some timed here{on_top}",
            f"memory: about {size(memory)} of this process at its peak",
            f"disk: {f'about {size(disk)}' if disk else 'little'} in {self.config.out}",
            *([f"{kept} parts of it are done already"] if kept else []),
        ]
        findings = [{"property": "plan", "text": line} for line in (text, *lines)]
        return {"schema": SCHEMA, "kind": self.command, "plan": found, "records": [], "findings": findings, "notes": []}

    def _examine(self, subject: Subject) -> None:
        """The quick part of the doctor: a study does not start on a model whose sites are not what they are called."""
        from .examination import examine, summary

        verdict = examine(subject, quick=True)
        self.doctor = summary(verdict)
        if not verdict.wrong:
            terminal.say(f"doctor: {len(verdict.checks())} quick checks in {verdict.seconds:.1f} s, {verdict.line()}")
        elif getattr(self.config, "force", False):
            terminal.say(f"doctor: {verdict.line()}; going on, as --force says")
        else:
            raise UnsoundModel(
                f"{subject.name} is not what its sites say: {verdict.line()} ('layerscope doctor' shows all; --force "
                "goes on and brands the report)"
            )

    def finish(self, results: Mapping[str, Any], data: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """Write ``report.html`` and ``results.json``; returns what the latter holds.

        Args:
            results: records, findings, notes and what else this kind has.
            data: split, path, sha256 and size of what was read.
            more: further provenance; ``memory`` is completed by the peak.
        """
        from .report import write_report

        self.engine.close()
        subject = self.subject
        forced = [f"forced past the doctor: {text}" for text in self.doctor.get("wrong", ())]
        notes = [
            *({"kind": "wrong", "text": text} for text in forced),
            *results["notes"],
            *({"kind": "info", "text": note} for note in (subject.notes if subject else [])),
        ]
        provenance = {
            "command": (as_call if isinstance(self.config.model, Subject) else as_command)(self.command, self.config),
            "config": plain(as_values(self.config)),
            "model": subject.describe() if subject else None,
            "data": list(data),
            "versions": versions(),
            "machine": machine(subject.device if subject else torch.device("cpu")),
            "seed": self.config.seed,
            "started": self._started,
            "finished": now(),
            "seconds": round(time.perf_counter() - self._clock, 1),
            **({"doctor": self.doctor} if self.doctor else {}),
            **more,
            "memory": {**more.get("memory", {}), "peak_rss_bytes": peak_memory()},
        }
        whole = {"schema": SCHEMA, "kind": self.command, "provenance": provenance, **results, "notes": notes}
        write_report(whole, self.config.out / "report.html")
        self.folder.finish(whole)
        took = "; ".join(f"{name} {value} s" for name, value in more.get("timings", {}).items())
        terminal.detail(f"{provenance['seconds']} s in all{': ' if took else ''}{took}")
        return whole
