"""Batches: of texts, padded the way that `hooks.padding` found for the model, and of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ...hooks.padding import Policy, Side
from .cells import cell_of, is_cell
from .targets import cut_row, in_target
from .word_spans import Encoded


@dataclass(frozen=True)
class TargetBatch:
    """What the decoder reads in each row of a batch, padded on the right, where it sees no padding.

    Attributes:
        ids, mask: token ids and 1 at real tokens.
        sources: tokens of each row's source, behind which the row's target begins.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    sources: tuple[int, ...]

    def part(self, rows: slice) -> TargetBatch:
        """Some of the rows."""
        return TargetBatch(self.ids[rows], self.mask[rows], self.sources[rows])


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded to one.

    Attributes:
        input_ids, attention_mask: token ids and 1 at real tokens.
        position_ids: the position of every real token in its own text, or None where the model
            counts for itself.
        rows: which of the encoded texts each row is.
        shifts: how many pad positions stand before each row's first token.
        target: what a decoder reads beside them, where the texts are sources.
        absent: of texts with a picture, the cells of it that are grey in each row.
        n_cells: how many cells stand in front of each row's tokens.
        pictures: of the rows, where the model is to be shown them
            (`experiments.subject.pictures.Picture`).
        sounds: of the rows, where these are the sources (`experiments.subject.spoken.Sound`).
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"] | None
    rows: tuple[int, ...]
    shifts: tuple[int, ...]
    target: TargetBatch | None = None
    absent: tuple[frozenset[int], ...] | None = None
    n_cells: int = 0
    pictures: tuple[Any, ...] = ()
    sounds: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[Batch, Batch]:
        """The same rows in two batches."""
        middle = len(self) // 2
        first, second = (
            Batch(
                self.input_ids[part],
                self.attention_mask[part],
                None if self.position_ids is None else self.position_ids[part],
                self.rows[part],
                self.shifts[part],
                None if self.target is None else self.target.part(part),
                sounds=self.sounds[part],
            )
            for part in (slice(0, middle), slice(middle, None))
        )
        return first, second

    @property
    def n_before(self) -> tuple[int, ...]:
        """Of each row what stands before the positions whose logits the model gives: its source,
        or its picture's cells.
        """
        return (self.n_cells,) * len(self) if self.target is None else self.target.sources

    @property
    def n_positions(self) -> int:
        """Positions of all rows, padding and targets included."""
        return self.input_ids.numel() + (self.target.ids.numel() if self.target else 0)

    def mask_of(self, site: str) -> Int[Tensor, "batch pos"]:
        """1 at the real tokens that a site has values of: the target's in a decoder, the source's
        at the keys that it reads there.
        """
        reads_source = site.partition("cross_attn.")[2] in ("hook_k", "hook_v")
        if self.target is None or not site.startswith("decoder_") or reads_source:
            return self.attention_mask
        return self.target.mask

    def inputs(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """What a model's forward is given."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        inputs |= {"position_ids": self.position_ids} if self.position_ids is not None else {}
        if self.sounds:
            heard = torch.cat([sound.features for sound in self.sounds])
            inputs = {self.sounds[0].name: heard}
        if self.target is not None:
            inputs["decoder_input_ids"] = self.target.ids
            inputs["decoder_attention_mask"] = self.target.mask
        if self.pictures:
            shown = [
                picture.inputs_of(row, absent)
                for picture, row, absent in zip(
                    self.pictures, self.input_ids, self.absent or (), strict=True
                )
            ]
            inputs |= {name: torch.cat([one[name] for one in shown]) for name in shown[0]}
        return {name: value.to(device) for name, value in inputs.items()}

    def sources(self) -> Batch:
        """What the encoder reads of it."""
        return replace(self, target=None)

    def spans(self, spans: Sequence[Sequence[slice | None]]) -> list[list[slice | None]]:
        """The word spans of this batch's rows, moved past their padding.

        Args:
            spans: the spans of all encoded texts, in their order.
        """
        return [
            [None if s is None else slice(s.start + shift, s.stop + shift) for s in spans[row]]
            for row, shift in zip(self.rows, self.shifts, strict=True)
        ]


@dataclass(frozen=True)
class FileBatch:
    """Pictures, or sounds of one length, that a model reads without padding.

    Attributes:
        paths: of the files.
        rows: which of the encoded files each is.
    """

    paths: tuple[str, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[FileBatch, FileBatch]:
        """The same files in two batches."""
        middle = len(self) // 2
        return (
            FileBatch(self.paths[:middle], self.rows[:middle]),
            FileBatch(self.paths[middle:], self.rows[middle:]),
        )

    def spans(self, spans: Sequence[Sequence[slice | None]]) -> list[list[slice | None]]:
        """The spans of this batch's files, as they are: nothing is padded."""
        return [list(spans[row]) for row in self.rows]


AnyBatch = Batch | FileBatch


def make_batches(
    encoded: Sequence[Encoded], policy: Policy, pad_id: int, tokens: int, side: Side
) -> Iterator[Batch]:
    """Batches by falling length; only texts of one length together where padding is impossible."""
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
    while order:
        length = len(encoded[order[0]])
        fit = max(1, tokens // length)
        has_picture = is_cell(encoded[order[0]].ids[0])
        if encoded[order[0]].sound is not None and not policy.possible:
            fit = 1  # sounds of other lengths may have as many positions
        if has_picture or not policy.possible:
            fit = min(fit, sum(len(encoded[i]) == length for i in order))
        rows, order = order[:fit], order[fit:]
        if in_target(encoded[rows[0]].ids[-1]):
            yield from _with_targets([encoded[i] for i in rows], tuple(rows), policy, pad_id)
            continue
        if has_picture:
            yield _with_pictures([encoded[i] for i in rows], tuple(rows))
            continue
        padded = policy.pad([encoded[i].ids for i in rows], pad_id, side)
        shifts = tuple(length - len(encoded[i]) if side == "left" else 0 for i in rows)
        sounds = tuple(encoded[i].sound for i in rows if encoded[i].sound is not None)
        yield Batch(*padded, rows=tuple(rows), shifts=shifts, sounds=sounds)


def _with_pictures(encoded: Sequence[Encoded], rows: tuple[int, ...]) -> Batch:
    """Rows of cells and tokens, all of one length: nothing is padded,
    and the model counts positions for itself.
    """
    texts, absent = [], []
    for row in encoded:
        texts.append([token for token in row.ids if not is_cell(token)])
        cells = [cell_of(token) for token in row.ids if is_cell(token)]
        absent.append(frozenset(cell for cell, is_absent in cells if is_absent))
    tokens = torch.tensor(texts)
    pictures = tuple(row.picture for row in encoded)
    return Batch(
        tokens,
        torch.ones_like(tokens),
        None,
        rows,
        shifts=(0,) * len(rows),
        absent=tuple(absent),
        n_cells=len(encoded[0]) - len(texts[0]),
        pictures=pictures if all(picture is not None for picture in pictures) else (),
    )


def _with_targets(
    encoded: Sequence[Encoded], rows: tuple[int, ...], policy: Policy, pad_id: int
) -> Iterator[Batch]:
    """Rows of sources and targets; those of one source length alone share a batch where sources
    cannot be padded.
    """
    cut = [cut_row(row.ids) for row in encoded]
    sounds = [row.sound for row in encoded if row.sound is not None]
    groups: dict[object, list[int]] = {}
    for i, (source, _) in enumerate(cut):
        # Sounds of other lengths may have as many positions.
        shape = sounds[i].shape if sounds else len(source)
        groups.setdefault(None if policy.possible else shape, []).append(i)
    for group in groups.values():
        sources, targets = zip(*(cut[i] for i in group), strict=True)
        padded = policy.pad(sources, pad_id, "right")
        target_ids, target_mask, _ = Policy(True).pad(targets, pad_id, "right")
        target = TargetBatch(target_ids, target_mask, tuple(map(len, sources)))
        yield Batch(
            *padded,
            rows=tuple(rows[i] for i in group),
            shifts=(0,) * len(group),
            target=target,
            sounds=tuple(sounds[i] for i in group) if sounds else (),
        )
