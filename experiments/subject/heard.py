"""A sound before what is written of it: how a speech model hears it, with spans of time in it
there or silent.

The sound is cut into spans of the file itself, so that nothing needs to be known of how an
extractor frames, scales or pads it. A row of token ids holds a cell for each span and then the
decoder's tokens (`experiments.subject.targets`). A span that is absent has samples of zero.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus.prompts import Prompt
from .batches import Batch
from .cells import as_cell
from .errors import SubjectError
from .medium import KEPT, Medium, absent_cells, equal_cells
from .spoken import Sound, SpokenSubject
from .targets import plain
from .word_spans import Encoded


class HeardSound(Medium):
    """One sound that a model hears.

    Args:
        path: of the file.
        subject: the model, which prepares its samples.
        seconds: length of a span, about: the spans are equal and fill the sound.

    Attributes:
        times: start and end of each span, in seconds.

    Raises:
        SubjectError: a file that is no sound, one that is too long, spans shorter than a sample.
    """

    kind, cell, absent_cell = "sound", "span", "silent"

    def __init__(self, path: Path | str, subject: SpokenSubject, seconds: float = 0.25) -> None:
        self.path, self.subject = str(path), subject
        self.samples = subject.samples(self.path)
        self.seconds = len(self.samples) / subject.rate
        if seconds * subject.rate < 1:
            raise SubjectError(
                f"expected spans of at least one sample ({1 / subject.rate:g} s), got {seconds:g} s"
            )
        self.times = equal_cells(self.seconds, seconds)
        self._versions = functools.lru_cache(maxsize=KEPT)(self._heard)

    @property
    def n_cells(self) -> int:
        return len(self.times)

    def cell_names(self) -> list[str]:
        """The spans' times."""
        return [f"{start:.2f}-{end:.2f} s" for start, end in self.times]

    def words_of(self, prompt: Prompt) -> str:
        """What the decoder has written before the answer."""
        return prompt.target_prefix or ""

    def encode(self, text: str) -> Encoded:
        """The cells, and the decoder's tokens up to the end of a text; the file's name is the
        first line of what is returned.
        """
        # What the subject makes of this sound and text, its positions replaced by the cells.
        row = self.subject.encode_row(self.path, text)
        if row.cut is not None:
            limit = self.subject.max_length
            raise SubjectError(f"{self.path}: what is written is longer than {limit} tokens")
        n_positions, n_cells = self._versions(frozenset()).n_positions, self.n_cells
        name = Path(self.path).name
        moved = len(name) - len(self.path)
        offsets = []
        for start, end in row.offsets[n_positions:]:
            offsets.append((start + moved, end + moved) if end else (0, 0))
        shift = n_cells - n_positions
        return replace(
            row,
            text=name + row.text[len(self.path) :],
            ids=(*map(as_cell, range(n_cells)), *row.ids[n_positions:]),
            offsets=(*((0, 0) for _ in range(n_cells)), *offsets),
            special=(*(True for _ in range(n_cells)), *row.special[n_positions:]),
            prefixes=tuple(at + shift for at in row.prefixes),
            unknown=tuple(at + shift for at in row.unknown),
            sound=None,
        )

    def words_begin(self, encoded: Encoded) -> int:
        """Behind the file's name."""
        return len(encoded.text.partition("\n")[0])

    def answer(self, encoded: Encoded, text: str, answer: str) -> tuple[int, ...]:
        """The answer's tokens behind what was written before.

        Raises:
            SubjectError: the tokens of the text change when the answer follows.
        """
        whole = self.encode(text + answer).ids
        if whole[: len(encoded)] != encoded.ids:
            raise SubjectError(
                f"the tokens of {text[-20:]!r} change when {answer!r} follows: "
                "begin the answer where a token begins (often with its space)"
            )
        return tuple(map(plain, whole[len(encoded) :]))

    def without(self, absent: frozenset[int]) -> Float[np.ndarray, " sample"]:
        """The samples with some spans silent."""
        samples = self.samples.copy()
        for cell in absent:
            start, end = (round(time * self.subject.rate) for time in self.times[cell])
            samples[start:end] = 0
        return samples

    def loudness(self, count: int) -> list[float]:
        """Largest size of a sample in each of so many equal stretches, for a drawing."""
        stretches = np.array_split(np.abs(self.samples), min(count, len(self.samples)))
        return [float(stretch.max()) for stretch in stretches]

    # -- what the model is given

    def processed(self, absent: frozenset[int] = frozenset()) -> Tensor:
        """The extracted features with some spans silent."""
        return self._versions(absent).features

    def given(self, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """The batch with each row's sound; nothing beside it."""
        sounds = []
        for row in batch.input_ids.tolist():
            sound = self._versions(absent_cells(row))
            if self.forced_values is not None:
                sound = Sound(self.forced_values, sound.n_positions, sound.name)
            sounds.append(sound)
        return replace(batch, sounds=tuple(sounds)), {}

    def _heard(self, absent: frozenset[int]) -> Sound:
        # Kept for later, where gradients may be asked for: no tensors of inference.
        with torch.inference_mode(False):
            return self.subject.heard(self.without(absent))
