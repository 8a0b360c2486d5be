"""The fields of a run's provenance, checked when results are read: every part may be absent,
none may be of another type.
"""

from __future__ import annotations

from typing import Any

# pydantic reads typing's own TypedDict only from Python 3.12 on
from typing_extensions import TypedDict

Plain = str | int | float | bool | None


class Model(TypedDict, total=False):
    """The model: see `experiments.subject.Subject.describe`."""

    name: str
    architecture: str | None
    n_layers: int | None
    d_model: int | None
    n_parameters: int | None
    sha256: str | None
    dtype: str | None
    bos: str | None
    bos_id: int | None
    bos_reason: str | None
    attention: str | None
    causal: bool | None
    max_length: int | None
    tokenizer: str | None
    tokenizer_sha256: str | None
    device: str | None
    random_seed: int | None
    notes: list[str]


class Data(TypedDict, total=False):
    """One file that was read."""

    split: str
    path: str
    sha256: str
    sentences: int
    words: int
    used_words: int


class Resources(TypedDict, total=False):
    """What differs from run to run: dates, seconds, speeds and bytes."""

    started: str
    finished: str
    seconds: float
    parts: dict[str, float]
    speed: dict[str, float | dict[str, float] | None]
    memory: dict[str, float | None]


class Doctor(TypedDict, total=False):
    """What the quick checks found before the run."""

    status: str
    checks: int
    findings: int
    wrong: list[str]


class Provenance(TypedDict, total=False):
    """Where the numbers come from."""

    command: str
    config: dict[str, Any]
    model: Model | None
    data: list[Data]
    versions: dict[str, str]
    machine: dict[str, Plain]
    seed: int | None
    resources: Resources
    doctor: Doctor
