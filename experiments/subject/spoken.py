"""A model that writes what it hears (Whisper): the face of an encoder-decoder whose source is a
sound.

A source is the path of a file. It has an id for each position of the encoder, the same for the same
sound, so that what counts, compares and batches the tokens of a source does the same with a sound;
the model is given what the extractor makes of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks import capture
from ...hooks.configuration import setting
from ...hooks.padding import Padding, Policy, Side
from .batches import Batch
from .cells import is_cell
from .encoding import TextEncoder
from .errors import SubjectError, reading
from .identity import settings_sha256
from .media import EMBEDDING, read_sound, seconds_of
from .subject import Subject, require_eval
from .word_spans import Encoded

SOUND = 1 << 35
"""Id of the first position of the first sound: above every vocabulary and every cell of a picture,
below targets.
"""
MOST_POSITIONS = 1 << 14
"""Positions of an encoder, at most: ids of one sound end before those of the next."""
INPUTS = ("input_features", "input_values")
"""What a model that hears may call its input: features by frame, or samples."""


class SpokenSubject(Subject):
    """A speech model with its head, its tokenizer and its extractor, none of which is ever changed.

    Args:
        model: a transformers encoder-decoder in evaluation mode that takes ``input_features`` or
            ``input_values``.
        tokenizer: of what it writes.
        extractor: of what it hears.

    Attributes:
        longest: seconds to which the extractor brings every sound; 0 where sounds keep their own
            length, and then only those of one length share a batch.

    Raises:
        SubjectError: a model in training mode.
    """

    unit = "item"

    def __init__(  # a text's decisions (BOS, padding) have no place in a sound
        self, model: nn.Module, tokenizer: Any, extractor: Any, **named: Any
    ) -> None:
        require_eval(model)
        self._hold(model, tokenizer, **named)
        self.extractor = extractor
        self._sounds: dict[str, Encoded] = {}
        self._n_positions: dict[tuple[int, ...], int] = {}
        self.rate = int(extractor.sampling_rate)
        self.longest = float(getattr(extractor, "chunk_length", None) or 0)
        unpadded = Policy(bool(self.longest), why="sounds keep their own length")
        self.padding = Padding(unpadded, unpadded, causal=False)
        self.causal, self.bos = False, None
        self.bos_reason = "a sound has no token in front"
        places = ("max_target_positions", "max_position_embeddings")
        self.max_length = int(setting(self.config, *places, default=10**6))
        self._encoder = TextEncoder(self._tokenizer, (), self.max_length)  # of targets

    @property
    def reads_text(self) -> bool:
        return False

    @functools.cached_property
    def tokenizer_sha256(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Hash of the tokenizer and the extractor."""
        text = Subject.tokenizer_sha256.func(self)
        return settings_sha256([text, self.extractor.to_dict()])

    def of_model(
        self, model: nn.Module, *, name: str | None = None, random_seed: int | None = None
    ) -> SpokenSubject:
        """Another model with the same tokenizer and extractor."""
        named = {"name": name or self.name, "random_seed": random_seed}
        return SpokenSubject(model, self.tokenizer, self.extractor, **named)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Sounds by their paths.

        Raises:
            SubjectError: no sound, or one that is longer than the model hears.
        """
        return [self._heard(path) for path in texts]

    def batches(
        self, encoded: Sequence[Encoded], tokens: int = 8192, side: Side = "right"
    ) -> Iterator[Batch]:
        """Rows of similar length; one of cells counts with the positions that its sound has."""
        if encoded and is_cell(encoded[0].ids[0]) and self._n_positions:
            of_cells = max(map(len, encoded))
            tokens = tokens * of_cells // (of_cells + max(self._n_positions.values()))
        return super().batches(encoded, tokens, side)

    def _heard(self, path: str) -> Encoded:
        """One sound, which is read once however many targets it has."""
        if path in self._sounds:
            return self._sounds[path]
        samples = self.samples(path)
        # The same sound has the same ids, whatever its file is called.
        digest = int(hashlib.sha256(samples.tobytes()).hexdigest()[:5], 16)
        sound = self.heard(samples)
        first, n = SOUND + digest * MOST_POSITIONS, sound.n_positions
        ids = tuple(range(first, first + n))
        self._sounds[path] = Encoded(path, ids, ((0, 0),) * n, (False,) * n, sound=sound)
        return self._sounds[path]

    def samples(self, path: str) -> Float[np.ndarray, " sample"]:
        """A file's samples at the rate of the extractor.

        Raises:
            SubjectError: no sound, or one that is longer than the model hears.
        """
        seconds = seconds_of(path)
        if self.longest and seconds > self.longest:
            raise SubjectError(
                f"{path}: expected a sound of at most {self.longest:g} s, "
                f"got {seconds:.1f} s: cut it"
            )
        return read_sound(path, self.rate)

    def heard(self, samples: Float[np.ndarray, " sample"]) -> Sound:
        """What the model is given of some samples."""
        with reading(self.extractor, "the sound"):
            made = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        name = next(name for name in INPUTS if name in made)
        features = made[name].to(self.device, self.dtype)
        return Sound(features, self._positions_of(features), name)

    def _positions_of(self, features: Float[Tensor, "1 *frame"]) -> int:
        """Positions of the encoder's first block; they depend on the shape alone."""
        shape = tuple(features.shape)
        if shape not in self._n_positions:
            with torch.inference_mode(), capture(self.model, EMBEDDING, stop=True) as acts:
                self.body(features)
            self._n_positions[shape] = int(acts[EMBEDDING].shape[1])
        if self._n_positions[shape] > MOST_POSITIONS:
            raise SubjectError(
                f"expected a sound of at most {MOST_POSITIONS} positions of the encoder, "
                f"got {self._n_positions[shape]}: cut it"
            )
        return self._n_positions[shape]


class Sound:
    """What a model is given of one sound.

    Args:
        features: as the extractor makes them.
        n_positions: that the encoder has of it.
        name: what the model calls them.
    """

    def __init__(self, features: Float[Tensor, "1 *frame"], n_positions: int, name: str) -> None:
        self.features, self.n_positions, self.name = features, n_positions, name

    @property
    def shape(self) -> tuple[int, ...]:
        """Sounds of one shape can share a batch."""
        return tuple(self.features.shape)


def writes_what_it_hears(model: Any) -> bool:
    """Whether a model is a pair with its head, whose source is a sound."""
    is_pair = getattr(model.config, "is_encoder_decoder", False)
    has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    return bool(is_pair and has_head and getattr(model, "main_input_name", "") in INPUTS)


def read_extractor(name: str | Path, **where: Any) -> Any:
    """A speech model's extractor of features."""
    import transformers as t

    return t.AutoFeatureExtractor.from_pretrained(name, **where)
