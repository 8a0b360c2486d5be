"""The model of a study with its tokenizer, read from a hub id, a folder or a file."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

from .errors import SubjectError
from .identity import hash_files
from .loading import Loaded, Parts, read_model
from .modes import Modes
from .subject import Subject

__all__ = ["Subject", "SubjectError", "load"]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    tokenizer: Any = None,
    bos: str | int = "auto",
    body_only: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    classifier: bool = False,
    speech: bool = False,
    device_map: str | dict[str, Any] | None = None,
    load_in: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    attention: str | None = None,
) -> Subject:
    """A subject from a hub id, a local folder or a GGUF file.

    Args:
        name_or_path: hub id, folder with config.json and .safetensors, .gguf file or its folder.
        dtype: of the weights in memory; by default the checkpoint's own.
        device: the GPU by default where there is one.
        tokenizer: another tokenizer, or where to read it.
        bos: see `Subject`.
        body_only: leave out a language-model head.
        allow_pickle: also read .bin weights, which can run code of their author's.
        trust_remote_code: run model code that comes with the weights.
        classifier: keep the head of a model that classifies texts.
        speech: a model that writes what it hears.
        device_map, load_in, adapter, revision, attention: see `experiments.subject.modes.Modes`.

    Raises:
        SubjectError: one line with what was tried and what to do.

    Example:
        >>> subject = load("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
    """
    modes = Modes(
        dtype=dtype,
        device=device,
        device_map=device_map,
        load_in=load_in,
        adapter=adapter,
        revision=revision,
        attention=attention,
    )
    parts = Parts(
        body_only=body_only,
        classifier=classifier,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    loaded = read_model(name_or_path, tokenizer, modes, parts)
    hasher = functools.partial(hash_files, loaded.weight_files) if loaded.weight_files else None
    named: dict[str, Any] = {"name": loaded.name, "notes": loaded.notes, "hasher": hasher}
    if speech:
        return _spoken(loaded, named, trust_remote_code)
    subject = Subject(loaded.model, loaded.tokenizer, bos=bos, **named)
    if body_only:
        subject.model = subject.body
    return subject


def _spoken(loaded: Loaded, named: dict[str, Any], trust_remote_code: bool) -> Subject:
    """A model that writes what it hears, with its extractor.

    Raises:
        SubjectError: another model.
    """
    from .spoken import SpokenSubject, read_extractor, writes_what_it_hears

    if not writes_what_it_hears(loaded.model):
        raise SubjectError(
            f"{loaded.name} ({type(loaded.model).__name__}): "
            "prompts with audio need a speech recognition model (Whisper)"
        )
    extractor = read_extractor(loaded.name, trust_remote_code=trust_remote_code)
    return SpokenSubject(loaded.model, loaded.tokenizer, extractor, **named)
