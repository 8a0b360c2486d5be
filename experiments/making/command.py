"""``layerscope make`` and ``layerscope.make_dataset``: write a data set for one model."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from layerscope.errors import InputError, UnknownName

from ..metrics.metrics import get_metric
from ..metrics.reads import ItemError
from ..runs import collector
from ..subject import Subject, load
from .items import KINDS, Candidate, Record
from .options import DATASETS, MakeOptions

TRIES = 200
"""Candidates drawn per requested item before the word lists count as exhausted."""


@dataclass(frozen=True)
class Made:
    """The records for a model, and the number of rejected candidates per reason."""

    records: list[Record]
    left_out: Counter[str]
    model: str = ""


def make(name: str, options: MakeOptions) -> str:
    """Write the data set to a file and return the message to print.

    Raises:
        InputError: a file that exists already, or a model for which no item is suitable.
    """
    path = options.out or Path(f"{name}.jsonl")
    made = made_for(name, replace(options, out=path))
    lines = [f"{path}: {len(made.records)} items for {made.model}, seed {options.seed}"]
    if len(made.records) < options.n:
        lines.append(f"  the word lists give only this many; --n was {options.n}")
    count = made.left_out.total()
    if count:
        reason, times = made.left_out.most_common(1)[0]
        lines.append(f"  {count} candidates left out; most frequent reason ({times}): {reason}")
    example = KINDS[name].example.format(model=options.model, file=path)
    return "\n".join([*lines, f"next: layerscope {example}"])


def made_for(name: str, options: MakeOptions) -> Made:
    """Make the data set for ``options.model``, and write it to ``options.out`` if given.

    Raises:
        UnknownName: a data set that does not exist.
        InputError: a file that exists already, or a model for which no item is suitable.
    """
    if name not in DATASETS:
        raise UnknownName(f"no data set {name!r}: expected one of {', '.join(DATASETS)}")
    path = options.out
    # Checked before the model is loaded, which takes longest.
    if path is not None and path.exists():
        raise InputError(f"{path} exists already: delete it, or give another --out FILE")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    subject = _subject_of(options)
    collector.resume()
    made = drawn(name, subject, options.n, options.seed)
    if not made.records:
        reason = made.left_out.most_common(1)[0][0]
        raise InputError(f"no item of {name} is suitable for {subject.name}: {reason}")
    if path is not None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in made.records)
        path.write_text(text, encoding="utf-8")
    return replace(made, model=subject.name)


def _subject_of(options: MakeOptions) -> Subject:
    """Return ``options.model``, loading it unless it is already in memory."""
    if isinstance(options.model, Subject):
        return options.model
    return load(options.model, bos=options.bos, trust_remote_code=options.trust_remote_code)


def drawn(name: str, subject: Subject, n: int, seed: int) -> Made:
    """Draw distinct records that suit a model.

    Stops at ``n`` records, or after ``TRIES * n`` candidates.
    """
    made = Made([], Counter())
    seen: set[str] = set()
    length = None
    candidates = KINDS[name].draw(random.Random(seed))
    for _ in range(TRIES * n):
        candidate = next(candidates)
        key = json.dumps(candidate.record, sort_keys=True)
        key = key if name != "questions" else str(candidate.record["question"])
        if key in seen:
            continue
        seen.add(key)
        why = unsuited(subject, candidate)
        if why is None and candidate.aligned:
            n_tokens = len(subject.encode([candidate.equal[0]])[0].ids)
            length = length or n_tokens
            if n_tokens != length:
                why = "another number of tokens than the first item, so that positions do not align"
        if why is None:
            made.records.append(candidate.record)
        else:
            made.left_out[why] += 1
        if len(made.records) == n:
            break
    return made


def unsuited(subject: Subject, candidate: Candidate) -> str | None:
    """Explain why a model cannot measure a candidate; None if it can."""
    difference, pairs = get_metric("logit_difference"), get_metric("pair_difference")
    try:
        for prompt in candidate.prompts:
            difference.reads(subject, [prompt])
        for pair in candidate.pairs:
            pairs.reads(subject, [pair])
    except ItemError as error:
        return error.why
    lengths = (
        {len(encoded.ids) for encoded in subject.encode(candidate.equal)}
        if candidate.equal
        else set()
    )
    if len(lengths) > 1:
        return "the two texts have different numbers of tokens"
    return None
