"""Sources and targets: what an encoder-decoder reads as one row of token ids.

The encoder reads the source (a text to translate), the decoder the target behind its start token
(teacher forcing). A row holds the source's ids and then the decoder's, each of these moved past
`TARGET`: what removes, masks and counts the tokens of a row needs to know nothing of the two, and
`cut_row` finds the border wherever it has moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...hooks.configuration import setting
from .errors import SubjectError
from .word_spans import Encoded

if TYPE_CHECKING:
    from .subject import Subject

TARGET = 1 << 40
"""Added to the id of a token that the decoder reads; above every vocabulary."""


def in_target(token: int) -> bool:
    """Whether an id of a row is the decoder's; ids below 0 name vectors."""
    return abs(token) >= TARGET


def as_target(token: int) -> int:
    """The id of a row for a token that the decoder reads."""
    return token + TARGET if token >= 0 else token - TARGET


def plain(token: int) -> int:
    """The id itself."""
    if not in_target(token):
        return token
    return token - TARGET if token >= 0 else token + TARGET


def cut_row(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """The source's and the target's ids."""
    source = [token for token in ids if not in_target(token)]
    return source, [plain(token) for token in ids if in_target(token)]


def joined(source: Encoded, target: Encoded) -> Encoded:
    """A row of both; offsets are in both texts, a line each."""
    shift = len(source.text) + 1
    n_source = len(source)
    moved = []
    for (start, end), special in zip(target.offsets, target.special, strict=True):
        moved.append((start, end) if special else (start + shift, end + shift))
    return replace(
        source,
        text=f"{source.text}\n{target.text}" if target.text else source.text,
        ids=(*source.ids, *map(as_target, target.ids)),
        offsets=(*source.offsets, *moved),
        special=(*source.special, *target.special),
        prefixes=(*source.prefixes, *(n_source + at for at in target.prefixes)),
        unknown=(*source.unknown, *(n_source + at for at in target.unknown)),
    )


def decoder_start(subject: Subject) -> int:
    """The token that opens every target: as generation begins, else as the model shifts its labels.

    Raises:
        SubjectError: the model names none, or one that it does not have.
    """
    token = _declared_start(subject)
    if token is None:
        token = setting(subject.config, "pad_token_id")  # T5's kind begins with the padding
    rows = len(subject.model.get_output_embeddings().weight)  # type: ignore[operator]
    if not isinstance(token, int) or not 0 <= token < rows:
        raise SubjectError(
            f"{subject.name}: expected decoder_start_token_id, "
            f"a token id below {rows} that opens every target, got {token}"
        )
    return token


def source_of(row: Encoded) -> Encoded:
    """The source of a row, as the encoder reads it."""
    n_source = sum(not in_target(token) for token in row.ids)
    text = row.text.partition("\n")[0] if n_source < len(row) else row.text
    return replace(
        row,
        text=text,
        ids=row.ids[:n_source],
        offsets=row.offsets[:n_source],
        special=row.special[:n_source],
        prefixes=tuple(at for at in row.prefixes if at < n_source),
        unknown=tuple(at for at in row.unknown if at < n_source),
    )


def _declared_start(subject: Subject) -> int | None:
    """What the settings of generation or the configuration name,
    else what the model shifts labels by.
    """
    generation: Any = getattr(subject.model, "generation_config", None)
    for config in (generation, subject.config):
        token = getattr(config, "decoder_start_token_id", None)
        if isinstance(token, int):
            return token
    shift: Any = getattr(subject.model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        return None
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return int(shift(labels=torch.zeros(1, 2, dtype=torch.long))[0, 0])
    return None
