"""Labelled texts that a classifier is asked about: its probabilities, as `predictions` of any
classifier.

A record has ``text`` (or ``sentence``) and ``label``; perhaps ``text_pair``, ``group`` (rows that
are resampled together), ``split`` (``validation`` for rows that scalings are fitted on), and any
column that rows are compared by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ...hooks.configuration import setting
from ..corpus.prompts import COLA, Prompt, labelled_text
from ..corpus.records import Unusable, read_lines_as
from ..metrics.class_metrics import check_classifier, label_place
from ..metrics.reads import ItemError
from ..subject import Subject
from ..sweep.effects import clusters_of
from .predictions import PredictionError, Predictions, column_of


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of a file, which of them are validation rows,
    and the columns that they are compared by.
    """

    texts: list[Prompt]
    validation: list[bool]
    by: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class _Row:
    """A line of the file."""

    text: Prompt
    is_validation: bool
    by: Mapping[str, str]
    line: int | None = None


def read_labelled_texts(
    path: Path, limit: int | None, by: Sequence[str], unusable: list[Unusable] | None = None
) -> LabelledTexts:
    """Read a file of labelled texts.

    Args:
        unusable: is given the lines without text, label or one of the columns; without it, the
            first one is an error.

    Raises:
        PromptError: a file that cannot be read, no line that can be used.
    """

    def make(record: Mapping[str, Any]) -> _Row:
        columns = {name: column_of(record, name) for name in by}
        text = labelled_text(record)
        if "group" in by:  # compared, and so not resampled together
            text = replace(text, group=None)
        return _Row(text, record.get("split") == "validation", columns)

    rows = read_lines_as(path, limit, make, unusable, (COLA,))
    columns = {name: tuple(row.by[name] for row in rows) for name in by}
    texts = [replace(row.text, line=row.line) for row in rows]
    return LabelledTexts(texts, [row.is_validation for row in rows], columns)


def with_known_labels(
    subject: Subject, labelled: LabelledTexts, unusable: list[Unusable]
) -> LabelledTexts:
    """The texts whose label is a class of the model; the others are added to ``unusable``.

    Raises:
        MetricError: no classifier; see `class_metrics.check_classifier`.
    """
    check_classifier(subject, "class_accuracy")
    known = []
    for text in labelled.texts:
        try:
            label_place(subject, text.label)
        except ItemError as error:
            unusable.append(Unusable(text.line, error.why))
            known.append(False)
        else:
            known.append(True)
    if all(known):
        return labelled
    by = {name: tuple(compress(values, known)) for name, values in labelled.by.items()}
    return LabelledTexts(
        list(compress(labelled.texts, known)), list(compress(labelled.validation, known)), by
    )


def predicted(
    subject: Subject, labelled: LabelledTexts, probabilities: Float[np.ndarray, "n c"]
) -> Predictions:
    """A classifier's probabilities beside the texts' labels."""
    return Predictions(
        probabilities,
        np.array([label_place(subject, text.label) for text in labelled.texts]),
        subject.classes,
        clusters_of(labelled.texts),
        np.array(labelled.validation),
        tuple(text.prompt for text in labelled.texts),
        by=labelled.by,
    )


def class_probabilities(
    subject: Subject, texts: Sequence[Prompt], batch_tokens: int
) -> Float[np.ndarray, "n c"]:
    """p(class | text) of every text, which is cut where it is longer than the model takes."""
    out = np.empty((len(texts), len(subject.classes)))
    # Pairs have token types, which the batches of single texts have not: one at a time.
    single = [number for number, text in enumerate(texts) if text.pair is None]
    encoded = subject.encode([texts[number].prompt for number in single])
    for batch in subject.batches(encoded, tokens=batch_tokens):
        out[[single[row] for row in batch.rows]] = _softmax(
            subject.forward(batch, logits=True).logits
        )
    for number, text in enumerate(texts):
        if text.pair is not None:
            out[number] = _of_pair(subject, text)
    return out


def _of_pair(subject: Subject, text: Prompt) -> Float[np.ndarray, " c"]:
    """A pair of texts by itself, with its token types where the model reads any."""
    encoded, types = subject.encode_pair(text.prompt, text.pair or "")
    if encoded.cut is not None:
        raise PredictionError(
            f"a pair of texts is longer than the model's {subject.max_length} tokens: "
            f"{text.prompt[:40]!r}"
        )
    (batch,) = subject.batches([encoded])
    arguments: dict[str, Any] = {}
    if setting(subject.config, "type_vocab_size", default=1) > 1:
        arguments["token_type_ids"] = torch.tensor([types], device=subject.device)
    return _softmax(subject.forward(batch, logits=True, **arguments).logits)[0]


def _softmax(logits: torch.Tensor) -> Float[np.ndarray, "n c"]:
    return torch.softmax(logits.double(), dim=-1).cpu().numpy()


def n_cut(subject: Subject, texts: Sequence[Prompt]) -> int:
    """How many texts are longer than the model takes."""
    single = [text.prompt for text in texts if text.pair is None]
    return sum(encoded.cut is not None for encoded in subject.encode(single))
