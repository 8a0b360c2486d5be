"""A model that writes what it hears (Whisper): the face of an encoder-decoder whose source is a
sound.

A source is the path of a file. It has an id for each position of the encoder, the same for the same
sound, so that what counts, compares and batches the tokens of a source does the same with a sound;
the model is given what the extractor makes of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks import capture
from ...hooks.padding import Padding, Policy
from . import Subject, require_eval
from .encoding import TextEncoder
from .errors import SubjectError, reading
from .identity import settings_sha256
from .media import EMBEDDING, read_sound, seconds_of
from .word_spans import Encoded

SOUND = 1 << 35
"""Id of the first position of the first sound: above every vocabulary and every cell of a picture,
below targets.
"""
MOST_POSITIONS = 1 << 12
"""Positions of an encoder, at most: ids of one sound end before those of the next."""
FEATURES = "input_features"


class SpokenSubject(Subject):
    """A speech model with its head, its tokenizer and its extractor, none of which is ever changed.

    Args:
        model: a transformers encoder-decoder in evaluation mode that takes ``input_features``.
        tokenizer: of what it writes.
        extractor: of what it hears; it brings every sound to one length.

    Raises:
        SubjectError: a model in training mode, or whose extractor keeps sounds at their own length.
    """

    unit = "item"

    def __init__(  # a text's decisions (BOS, padding) have no place in a sound
        self, model: nn.Module, tokenizer: Any, extractor: Any, **named: Any
    ) -> None:
        require_eval(model)
        self._hold(model, tokenizer, **named)
        self.extractor = extractor
        self._sounds: dict[str, Encoded] = {}
        self.longest = float(getattr(extractor, "chunk_length", None) or 0)
        if not self.longest:
            raise SubjectError(
                f"{self.name}: expected an extractor that brings every sound to one length "
                f"(Whisper's), got {type(extractor).__name__}"
            )
        unpadded = Policy(True)  # all sounds are of one length
        self.padding = Padding(unpadded, unpadded, causal=False)
        self.causal, self.bos = False, None
        self.bos_reason = "a sound has no token in front"
        self.max_length = int(self.config.max_target_positions)
        self._encoder = TextEncoder(self._tokenizer, (), self.max_length)  # of targets
        silence = torch.zeros(round(self.longest * extractor.sampling_rate)).numpy()
        with torch.inference_mode(), capture(self.model, EMBEDDING, stop=True) as acts:
            self.body(self._features(silence))
        self.n_positions = int(acts[EMBEDDING].shape[1])

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

    def _heard(self, path: str) -> Encoded:
        """One sound, which is read once however many targets it has."""
        if path in self._sounds:
            return self._sounds[path]
        seconds = seconds_of(path)
        if seconds > self.longest:
            raise SubjectError(
                f"{path}: expected a sound of at most {self.longest:g} s, "
                f"got {seconds:.1f} s: cut it"
            )
        samples = read_sound(path, self.extractor.sampling_rate)
        # The same sound has the same ids, whatever its file is called.
        digest = int(hashlib.sha256(samples.tobytes()).hexdigest()[:5], 16)
        first, n = SOUND + digest * MOST_POSITIONS, self.n_positions
        sound = Sound(self._features(samples))
        ids = tuple(range(first, first + n))
        self._sounds[path] = Encoded(path, ids, ((0, 0),) * n, (False,) * n, sound=sound)
        return self._sounds[path]

    def _features(self, samples: Any) -> Float[Tensor, "1 mel frame"]:
        with reading(self.extractor, "the sound"):
            made = self.extractor(
                samples, sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
            )
        return made[FEATURES].to(self.device, self.dtype)


class Sound:
    """What a model is given of one sound.

    Args:
        features: as the extractor makes them.
    """

    def __init__(self, features: Float[Tensor, "1 mel frame"]) -> None:
        self.features = features


def writes_what_it_hears(model: Any) -> bool:
    """Whether a model is a pair with its head, whose source is a sound."""
    is_pair = getattr(model.config, "is_encoder_decoder", False)
    has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    return bool(is_pair and has_head and getattr(model, "main_input_name", "") == FEATURES)


def read_extractor(name: str | Path, **where: Any) -> Any:
    """A speech model's extractor of features."""
    import transformers as t

    return t.AutoFeatureExtractor.from_pretrained(name, **where)
