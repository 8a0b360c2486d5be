"""Run a study: everything that is the same for all of them, from the options to ``results.json``.

    prepare    the texts and the model are read; bad input ends here
    folder     a finished run is returned; a run of another configuration is refused
    doctor     the quick checks of the model's sites
    cost       the plan, with its memory and disk
    measure    the study's own work; what is done is kept in the folder, so that an interrupted run
               goes on
    save       results.json, with where the numbers come from

Pages are not made here: the command line and Python's functions do that when the results are saved.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from layerscope.errors import LayerscopeError

from ...hooks import UnsoundModel
from ...hooks.intervene import edits_on
from ..corpus.files import parsed_sha256
from ..report.schema import SCHEMA, as_json
from ..report.words import size
from ..subject import Subject, load
from ..subject.checks import examine, summary
from ..subject.media import Kind, load_media
from ..subject.soundness import blaming_model
from . import collector, console
from .engine import Engine, Local, engine_of
from .folder import (
    RunFolder,
    digest,
    machine,
    now,
    peak_memory,
    plain,
    versions,
    write_text,
)
from .options import as_call, as_command, as_toml, as_values
from .ranks import own_folder
from .shared_options import EngineOptions, RunOptions
from .study import Study

FINGERPRINT_TEXT = "The cat that she saw in 1999 sat on the mat, because it was tired."
Load = Callable[..., Subject]
"""load(body_only=False, classifier=False): the model that the options name, or hold."""


@dataclass(frozen=True)
class DataFile:
    """One file of data that a run reads.

    Args:
        split: what it is to the study: train, dev, test, prompts, reference, ...
        size: texts in it that are used.
        facts: further facts for the provenance.
    """

    split: str
    path: str
    sha256: str
    size: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, split: str, path: Path, size: int) -> DataFile:
        """A file that was read: its hash is that of the bytes as they were parsed."""
        return cls(split, str(path), parsed_sha256(path), size)

    @classmethod
    def of_model(cls, split: str, subject: Subject) -> DataFile:
        """Another model that a run reads: all that decides its numbers, hashed."""
        return cls(split, subject.name, digest(subject.identity), 0)

    @property
    def record(self) -> dict[str, Any]:
        """What the provenance holds of it."""
        return {
            "split": self.split,
            "path": self.path,
            "sha256": self.sha256,
            "sentences": self.size,
            **self.facts,
        }


@dataclass(kw_only=True)
class Inputs:
    """What a study has read before it measures anything; each study adds its own.

    Args:
        options: those of the run.
        subject: the model (`Subject`); None where there is none.
        data: every file that was read.
        examined: whether the quick doctor looks at the model first.
    """

    options: Any
    subject: Any
    data: Sequence[DataFile] = ()
    examined: bool = True


@dataclass(frozen=True)
class Cost:
    """What a study is about to do.

    Args:
        text: the plan in words.
        memory: bytes that it holds at a time beside the model and a batch.
        disk: bytes that it writes, at most.
    """

    text: str
    memory: int = 0
    disk: int = 0


@dataclass
class Run:
    """What ``measure`` gets beside its inputs.

    Attributes:
        key: a hash of everything that decides the numbers.
        seconds: time of the parts of the work, by name; see `timed`.
        memory: facts about memory.
        speed: figures that differ from run to run: tokens a second, ...

    Seconds, memory and speed go to ``provenance.resources``, the one place of the results in which
    two runs of the same configuration differ. No record, finding or note holds a time.
    """

    study: Study
    options: Any
    folder: RunFolder
    engine: Engine
    key: str
    doctor: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of a part of the work."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.seconds[name] = round(spent, 1)


def execute(study: Study, options: Any) -> dict[str, Any]:
    """Run or continue a study; returns what ``results.json`` holds.

    Raises:
        LayerscopeError, OSError: bad input, each one clear line.
    """
    engine = engine_of(options) if isinstance(options, EngineOptions) else Local()
    load_model = _Loading(options)
    try:
        with blaming_model(lambda: load_model.subject):
            return _execute(study, options, engine, load_model)
    finally:
        engine.close()


def planned(study: Study, options: Any) -> dict[str, Any]:
    """What `execute` would do: the plan, as results without records. Nothing is written."""
    load_model = _Loading(options)
    with blaming_model(lambda: load_model.subject):
        return _planned(study, options, load_model)


def _planned(study: Study, options: Any, load_model: Load) -> dict[str, Any]:
    inputs = study.work.prepare(options, load_model)
    collector.resume()
    folder = RunFolder(options.out, identity_of(inputs), make=False)
    if (finished := folder.results) is not None:
        study.read(finished, str(folder.path / "results.json"))  # a person may have edited it
        return finished
    cost = study.work.cost(inputs)
    memory = peak_memory() + cost.memory
    plan = {
        "text": cost.text,
        "out": str(options.out),
        "memory_bytes": memory,
        "disk_bytes": cost.disk,
        "kept_cells": folder.kept_cells,
    }
    disk = f"about {size(cost.disk)}" if cost.disk else "little"
    lines = [
        cost.text,
        f"memory: about {size(memory)} of this process at its peak",
        f"disk: {disk} in {options.out}",
    ]
    if folder.kept_cells:
        lines.append(f"{folder.kept_cells} parts of it are done already")
    return {
        "schema": SCHEMA,
        "kind": study.name,
        "plan": plan,
        "records": [],
        "findings": [{"property": "plan", "text": line} for line in lines],
        "notes": [],
    }


def _execute(study: Study, options: Any, engine: Engine, load_model: Load) -> dict[str, Any]:
    started, clock = now(), time.perf_counter()
    inputs = study.work.prepare(options, load_model)
    collector.resume()
    subject = inputs.subject
    if subject is not None:
        size_of = f"{subject.n_layers} layers, width {subject.d_model}, on {subject.device}"
        console.detail(
            f"model: {subject.name}: {type(subject.model).__name__}, {size_of}; "
            f"{subject.bos_reason}"
        )
    out = own_folder(options.out)
    if out != options.out:
        options = dataclasses.replace(options, out=out)
        inputs = dataclasses.replace(inputs, options=dataclasses.replace(inputs.options, out=out))
    # The identity is known only when the data and the model are read: a folder is refused or
    # continued by it.
    identity = identity_of(inputs)
    folder = RunFolder(options.out, identity)
    finished = folder.results
    if finished is not None:
        study.read(finished, str(folder.path / "results.json"))  # a person may have edited it
        console.say(f"{options.out} holds this run already, finished: nothing is computed again")
        return finished
    with folder.locked():
        run = Run(study, options, folder, engine, digest(identity))
        return _measured(run, inputs, started, clock)


def _measured(run: Run, inputs: Inputs, started: str, clock: float) -> dict[str, Any]:
    """Doctor, plan, the study's own work, and the results in the folder."""
    study, options, folder = run.study, run.options, run.folder
    write_text(options.out / "run.toml", as_toml(study.name, options))
    edited = _edits_of(inputs)
    if edited:
        # The doctor compares what a model does with what its sites say, and under edits they differ
        # on purpose.
        console.say(f"doctor: not asked, the model runs under edits: {', '.join(edited)}")
    elif inputs.subject is not None and inputs.examined:
        with run.timed("doctor"):
            run.doctor = _examined(inputs.subject, getattr(options, "force", False))
    console.say(f"plan: {study.work.cost(inputs).text}")
    measured = {"findings": [], "notes": [], **as_json(study.work.measure(inputs, run))}
    seconds = round(time.perf_counter() - clock, 1)
    # What a reader must not miss stands first, what is known of the model last.
    notes = []
    for text in run.doctor.get("wrong", ()):
        notes.append({"kind": "wrong", "text": f"forced past the doctor: {text}"})
    if edited:
        notes.append({"kind": "warning", "text": f"measured under edits: {', '.join(edited)}"})
    notes += measured["notes"]
    if inputs.subject:
        notes += [{"kind": "info", "text": note} for note in inputs.subject.notes]
    results = {
        "schema": SCHEMA,
        "kind": study.name,
        "provenance": _provenance(run, inputs, started, seconds),
        **measured,
        "notes": notes,
    }
    # Saved before any page is made: a page that fails loses nothing.
    results = folder.finish(results)
    parts = "; ".join(f"{name} {value} s" for name, value in run.seconds.items())
    console.detail(f"{seconds} s in all{': ' if parts else ''}{parts}")
    return results


class _Loading:
    """`load_subject` of a run's options.

    Attributes:
        subject: the model, once it is loaded: what fails later may be its fault.
    """

    def __init__(self, options: Any) -> None:
        self.options = options
        self.subject: Subject | None = None

    def __call__(self, **how: Any) -> Subject:
        self.subject = load_subject(self.options, **how)
        return self.subject


def load_subject(
    options: Any,
    body_only: bool = False,
    classifier: bool = False,
    media: Kind | None = None,
    speech: bool = False,
) -> Subject:
    """The model that the options name, or hold.

    Args:
        media: what it reads, where that is not text.
        speech: it writes what it hears.
    """
    if isinstance(options.model, Subject):
        return options.model
    if media is not None:
        return load_media(
            options.model,
            media,
            adapter=options.adapter,
            revision=options.revision,
            **modes_of(options),
        )
    return load(
        options.model,
        bos=options.bos,
        body_only=body_only,
        classifier=classifier,
        speech=speech,
        adapter=options.adapter,
        revision=options.revision,
        **modes_of(options),
    )


def with_device(options: RunOptions, subject: Subject) -> Any:
    """The options with the model's device, where none was given: what is fitted on its activations
    runs there too.

    Ray's workers without a GPU of their own keep to the CPU.
    """
    is_remote = getattr(options, "engine", "local") != "local"
    if options.device is not None or (is_remote and not getattr(options, "num_gpus", 0)):
        return options
    return dataclasses.replace(options, device=str(subject.device))


def modes_of(options: RunOptions) -> dict[str, Any]:
    """How every model of a run is held in memory;
    the adapter and the revision are those of ``--model`` alone.
    """
    return {
        "dtype": options.dtype,
        "device": options.device,
        "device_map": options.device_map,
        "load_in": options.load_in,
        "attention": options.attn,
        "trust_remote_code": options.trust_remote_code,
    }


def identity_of(inputs: Inputs) -> dict[str, Any]:
    """Everything that decides a number: a folder whose run differs in it is another run's."""
    identity = as_values(inputs.options, deciding=True)
    if inputs.subject:
        for name, value in inputs.subject.identity.items():
            identity[f"model: {name}"] = value
        if edited := _edits_of(inputs):
            identity["edits"] = [*edited, _fingerprint(inputs.subject)]
    hashes: dict[str, list[str]] = {}
    for data in inputs.data:
        hashes.setdefault(data.split, []).append(data.sha256)
    for split, of_files in hashes.items():  # several pictures, or the two files of a lens
        identity[f"data: {split}"] = " ".join(of_files)
    # Another version may compute another number.
    identity["layerscope"] = versions()["layerscope"]
    return identity


def _edits_of(inputs: Inputs) -> list[str]:
    """Sites and edits of the interventions that the study runs in."""
    if not isinstance(inputs.subject, Subject):
        return []
    return [name for names in edits_on(inputs.subject.model).values() for name in names]


def _fingerprint(subject: Subject) -> str:
    """What tells the edits that a model runs under from others of their names: a hash of what it
    gives for a short text.

    Where they do not fit that text, the entry of the intervention stands for them: such a run is
    never continued.
    """
    (batch,) = subject.batches(subject.encode([FINGERPRINT_TEXT]))
    try:
        hidden = subject.forward(batch)[0]
    except LayerscopeError:
        return ", ".join(edits_on(subject.model))
    return digest(hidden.float().cpu().numpy().tobytes().hex())


def _examined(subject: Subject, force: bool) -> dict[str, Any]:
    """The quick part of the doctor: a study does not start on a model whose sites are not what they
    are called.

    Raises:
        UnsoundModel: something is WRONG, and ``force`` was not given.
    """
    verdict = examine(subject, quick=True)
    if not verdict.wrong:
        console.say(
            f"doctor: {len(verdict.checks())} quick checks in {verdict.seconds:.1f} s, "
            f"{verdict.line()}"
        )
    elif force:
        console.say(f"doctor: {verdict.line()}; going on, as --force says")
    else:
        raise UnsoundModel(
            f"{subject.name} is not what its sites say: {verdict.line()} ('layerscope "
            "doctor' shows all; --force goes on and brands the report)"
        )
    return summary(verdict)


def _provenance(run: Run, inputs: Inputs, started: str, seconds: float) -> dict[str, Any]:
    """Where the numbers come from."""
    options, subject = run.options, inputs.subject
    # A model in memory cannot be named on a command line.
    is_in_memory = isinstance(options.model, Subject)
    as_text = as_call if is_in_memory else as_command
    about = {
        "command": as_text(run.study.name, options),
        "config": plain(as_values(options)),
        "model": subject.describe() if subject else None,
        "data": [data.record for data in inputs.data],
        "versions": versions(),
        "machine": machine(subject.device if subject else torch.device("cpu")),
        "seed": options.seed,
        "resources": {
            "started": started,
            "finished": now(),
            "seconds": seconds,
            "parts": run.seconds,
            "speed": run.speed,
            "memory": {**run.memory, "peak_rss_bytes": peak_memory()},
        },
    }
    return {**about, "doctor": run.doctor} if run.doctor else about
