"""What every command does around its own work: the run's folder, what decides its numbers, where they come from.

run = Run("ablate", config)
finished = run.open(subject, {"prompts.jsonl": sha256})
...
return run.finish(results, data=[...])
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments import screen
from experiments.config import as_command
from experiments.results import SCHEMA, RunFolder, file_sha256, machine, now, peak_memory, plain, versions
from experiments.subject import Subject, load
from hooks import UnsoundModel


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

    def load(self, body_only: bool = False, classifier: bool = False) -> Subject:
        """The model that the configuration names."""
        config = self.config
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
        undecided: Sequence[str] = ("out", "force"),
        examine: bool = True,
    ) -> dict[str, Any] | None:
        """Make the run's folder or continue it; returns its results if it is finished already.

        Otherwise the quick part of the doctor runs first.

        Args:
            subject: the model; None for a run that has none.
            hashes: name -> sha256 of all data that is read.
            undecided: options that do not change a number.
            examine: whether the doctor comes first.

        Raises:
            RunError: the folder holds another run.
            UnsoundModel: the doctor finds something WRONG, and ``force`` was not given.
        """
        self.subject = subject
        self.identity = {
            **{k: v for k, v in dataclasses.asdict(self.config).items() if k not in undecided},
            "model_sha256": subject.sha256 if subject else None,
            "data_sha256": dict(hashes),
            "layerscope": versions()["layerscope"],
        }
        self.folder = RunFolder(self.config.out, self.identity)
        if (finished := self.folder.results) is not None:
            screen.say(f"{self.config.out} holds this run already, finished: nothing is computed again")
        elif examine and subject is not None:
            self._examine(subject)
        return finished

    def _examine(self, subject: Subject) -> None:
        """The quick part of the doctor: a study does not start on a model whose sites are not what they are called."""
        from experiments.doctor import examine, summary

        verdict = examine(subject, quick=True)
        self.doctor = summary(verdict)
        if not verdict.wrong:
            screen.say(f"doctor: {len(verdict.checks())} quick checks in {verdict.seconds:.1f} s, nothing is WRONG")
        elif getattr(self.config, "force", False):
            screen.say(f"doctor: {verdict.line()}; going on, as --force says")
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
        from experiments.report import write_report

        subject = self.subject
        forced = [f"forced past the doctor: {text}" for text in self.doctor.get("wrong", ())]
        notes = [
            *({"kind": "wrong", "text": text} for text in forced),
            *results["notes"],
            *({"kind": "info", "text": note} for note in (subject.notes if subject else [])),
        ]
        provenance = {
            "command": as_command(self.command, self.config),
            "config": plain(dataclasses.asdict(self.config)),
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
        return whole
