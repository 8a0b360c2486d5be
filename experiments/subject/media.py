"""A model of pictures or sounds with its processor: the same face as a model of text, so that a
study asks it the same.

A text is the path of a file, and a word of it an item: the whole file, or a stretch of a sound
(`experiments.corpus.items`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerscope.errors import LayerscopeError

from ...hooks import capture
from ..corpus.items import MILLISECONDS, WHOLE
from .batches import AnyBatch, FileBatch
from .errors import SubjectError, first_line, one_line, reading
from .identity import hash_files, settings_sha256
from .loading import Parts, read_media_model
from .modes import Modes
from .subject import Subject, require_eval
from .word_spans import Encoded, Pooler, Pooling

Kind = Literal["images", "audio"]
BLANK = 64
"""Pixels on a side of a blank picture, where a model takes any."""
EMBEDDING = "blocks.0.hook_resid_pre"


class MediaSubject(Subject):
    """A vision or sound model and its processor, neither of which is ever changed.

    Args:
        model: a transformers model in evaluation mode that takes ``pixel_values``, ``input_values``
            or ``input_features``.
        processor: its image processor or feature extractor.
        kind: images or audio.

    Attributes:
        n_positions: positions in the first block, of a picture or of a sound of one second.
        n_front: positions in front of the patches (CLS, registers).

    Raises:
        SubjectError: a model in training mode, or one whose sites are not known by name.
    """

    unit = "item"

    def __init__(  # a text model's decisions (BOS, padding) have no place here
        self,
        model: nn.Module,
        processor: Any,
        kind: Kind,
        *,
        name: str = "",
        random_seed: int | None = None,
        notes: Sequence[str] = (),
        hasher: Any = None,
    ) -> None:
        require_eval(model)
        self.model, self.tokenizer, self.processor = model, processor, None
        self.kind: Kind = kind
        # What the model is known to take: sizes of pictures, and the least samples of a sound.
        self._sizes: set[tuple[int, int]] = set()
        self._least_samples = math.inf
        self.config: Any = model.config
        self.name = name or type(model).__name__
        self.random_seed, self.notes, self._hasher = random_seed, list(notes), hasher
        self.padding: Any = None
        self.causal, self.bos, self.max_length = False, None, 10**6
        self.bos_reason = f"{kind} have no token in front"
        blank = self._blank()
        inputs = self._process([blank])
        self.n_positions = self._positions(inputs)
        self.n_front = self.n_positions - self._patches(inputs) if kind == "images" else 0

    # -- what it is

    @property
    def body(self) -> nn.Module:
        return self.model

    @property
    def gives_tokens(self) -> bool:
        return False

    @property
    def reads_text(self) -> bool:
        return False

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        """Hash of the processor's settings."""
        return settings_sha256(self.tokenizer.to_dict())

    def form(self, word: str) -> str:
        """An item's name as it is."""
        return word

    def of_model(
        self, model: nn.Module, *, name: str | None = None, random_seed: int | None = None
    ) -> MediaSubject:
        """Another model with the same processor."""
        return MediaSubject(
            model, self.tokenizer, self.kind, name=name or self.name, random_seed=random_seed
        )

    # -- files in

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """What is known of the files before they are read: their paths,
        and how many positions they take.
        """
        encoded = []
        for path in texts:
            n, cut = self.n_positions, None
            if self.kind == "audio" and not self._padded_to:
                n = max(1, math.ceil(n * seconds_of(path)))
            elif self.kind == "audio" and seconds_of(path) > self._padded_to:
                cut = round(self._padded_to * MILLISECONDS)  # what the extractor drops
            front = [True] * self.n_front + [False] * (n - self.n_front)
            encoded.append(Encoded(path, (0,) * n, ((0, 0),) * n, tuple(front), cut))
        return encoded

    def spans_of(self, encoded: Encoded, words: Sequence[tuple[int, int]]) -> list[slice | None]:
        """An item's place in its file: in milliseconds of a sound; a picture is whole."""
        if self.kind == "images":
            return [slice(0, 1) for _ in words]
        length = round(seconds_of(encoded.text) * MILLISECONDS)
        length = length if encoded.cut is None else encoded.cut
        spans: list[slice | None] = []
        for start, end in words:
            end = length if (start, end) == WHOLE else min(end, length)
            spans.append(slice(start, end) if start < end else None)
        return spans

    def batches(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, encoded: Sequence[Encoded], tokens: int = 8192, side: str = "right"
    ) -> Iterator[FileBatch]:
        """Files of one length together, the longest first."""
        order = sorted(range(len(encoded)), key=lambda i: (-self._length(encoded[i].text), i))
        while order:
            first = encoded[order[0]]
            alike = self._length(first.text)
            fit = max(1, tokens // len(first))
            rows = []
            for row in order[:fit]:
                if self._length(encoded[row].text) != alike:
                    break
                rows.append(row)
            order = order[len(rows) :]
            yield FileBatch(tuple(encoded[row].text for row in rows), tuple(rows))

    def _length(self, path: str) -> int:
        """Samples of a sound; pictures are all brought to one size."""
        return _samples(path)[0] if self.kind == "audio" else 0

    def example(self) -> FileBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A batch of one blank item."""
        return FileBatch(("",), (0,))

    def forward(
        self, batch: AnyBatch, *, logits: bool = False, grad: bool = False, **kwargs: Any
    ) -> Any:
        """Read the batch's files, process them, and run the model."""
        require_eval(self.model)
        if grad:
            self.require_gradients()
        assert isinstance(batch, FileBatch)
        read = read_picture if self.kind == "images" else self._read_sound
        items = [read(path) if path else self._blank() for path in batch.paths]
        try:
            inputs = self._process(items)
            with torch.enable_grad() if grad else torch.inference_mode():
                return self.model(**inputs, **kwargs)
        except ValueError as error:  # such as a size that the model does not take
            if isinstance(error, LayerscopeError):
                raise
            others = f" (or one of the {len(batch) - 1} files with it)" if len(batch) > 1 else ""
            raise SubjectError(f"{batch.paths[0]}{others}: {first_line(error)}") from error

    def check_file(self, path: str) -> None:
        """Read a file as `forward` does: one that cannot be used is found before the first
        forward.

        Raises:
            SubjectError: no picture or sound, or one that the processor or the model refuses.
        """
        if self.kind == "images":
            picture = read_picture(path)
            if picture.size not in self._sizes:
                self._try(path, picture)
                self._sizes.add(picture.size)
            return
        seconds_of(path)  # refuses a sound without samples
        sound = self._read_sound(path)
        # A sound may be too short for a model's convolutions, and hardly too long.
        if len(sound) < self._least_samples:
            self._try(path, sound)
            self._least_samples = len(sound)

    def _try(self, path: str, item: Any) -> None:
        """Give an item to the processor and to the model's first block."""
        try:
            self._positions(self._process([item]))
        except (ValueError, RuntimeError) as error:
            if isinstance(error, LayerscopeError):
                raise
            raise SubjectError(f"{path}: the model refuses it: {first_line(error)[:150]}") from None

    def pooler(
        self, spans: Sequence[Sequence[slice | None]], pooling: Pooling, batch: AnyBatch
    ) -> Callable[[Float[Tensor, "batch pos d"]], Float[Tensor, "n d"]]:
        """From a site's values to a vector for each item, of the positions that it covers at that
        site.

        A site may have fewer positions than the first block (Swin joins patches): the share of the
        file that an item covers is what counts. CLS and register tokens belong to no item.
        """

        @functools.cache
        def of_size(n: int) -> Pooler:
            return Pooler(self._at_site(spans, n, batch), pooling)

        return lambda value: of_size(value.shape[1])(value)

    def _at_site(
        self, spans: Sequence[Sequence[slice | None]], n: int, batch: AnyBatch
    ) -> list[list[slice | None]]:
        """The items' positions at a site that has ``n`` of them."""
        assert isinstance(batch, FileBatch)
        front = self.n_front if n == self.n_positions else 0
        at_site: list[list[slice | None]] = []
        for path, of_file in zip(batch.paths, spans, strict=True):
            length = 1 if self.kind == "images" else self._window(path) * MILLISECONDS
            scale = (n - front) / length
            scaled: list[slice | None] = []
            for span in of_file:
                if span is None:
                    scaled.append(None)
                    continue
                start = min(front + math.floor(span.start * scale), n - 1)
                stop = min(max(front + math.ceil(span.stop * scale), start + 1), n)
                scaled.append(slice(start, stop))
            at_site.append(scaled)
        return at_site

    def _window(self, path: str) -> float:
        """Seconds that the positions cover: the sound's own,
        or what the extractor pads every sound to (Whisper).
        """
        return self._padded_to or seconds_of(path)

    @property
    def _padded_to(self) -> float:
        """Seconds to which the extractor brings every sound; 0 where it does not."""
        return float(getattr(self.tokenizer, "chunk_length", None) or 0)

    def _process(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """The model's inputs."""
        with reading(self.tokenizer, f"the {self.kind}"):
            if self.kind == "images":
                made = self.tokenizer(images=list(items), return_tensors="pt")
            else:
                rate = self.tokenizer.sampling_rate
                made = self.tokenizer(list(items), sampling_rate=rate, return_tensors="pt")
        wanted = {str(self.model.main_input_name)}
        inputs = {}
        for name in wanted & set(made):
            inputs[name] = made[name].to(device=self.device, dtype=self.dtype)
        if not inputs:
            raise SubjectError(
                f"{type(self.model).__name__} takes {', '.join(wanted)}, "
                f"its processor gives {', '.join(made)}: expected a model of {self.kind}"
            )
        return inputs

    def _positions(self, inputs: Mapping[str, Tensor]) -> int:
        with torch.inference_mode(), capture(self.model, EMBEDDING, stop=True) as acts:
            self.model(**inputs)
        return int(acts[EMBEDDING].shape[1])

    def _patches(self, inputs: Mapping[str, Tensor]) -> int:
        """Patches of a picture, of which the positions hold some more in front."""
        size = getattr(self.config, "patch_size", None)
        height, width = inputs[str(self.model.main_input_name)].shape[-2:]
        if not isinstance(size, int):
            return self.n_positions
        return min((height // size) * (width // size), self.n_positions)

    def _blank(self) -> Any:
        if self.kind == "images":
            from PIL import Image

            # Of the size that the model takes: a processor may leave pictures as they are.
            size = getattr(self.config, "image_size", None) or BLANK
            width, height = size if isinstance(size, (list, tuple)) else (size, size)
            return Image.new("RGB", (int(width), int(height)))
        return np.zeros(self.tokenizer.sampling_rate, dtype=np.float32)

    def _read_sound(self, path: str) -> np.ndarray:
        return read_sound(path, self.tokenizer.sampling_rate)


def load_media(
    name_or_path: str | os.PathLike[str],
    kind: Kind,
    *,
    trust_remote_code: bool = False,
    **modes: Any,
) -> MediaSubject:
    """A model of pictures or sounds from a hub id or a local folder, with its processor.

    Args:
        modes: see `experiments.subject.modes.Modes`.

    Raises:
        SubjectError: one line with what was tried and what to do.
    """
    parts = Parts(trust_remote_code=trust_remote_code)
    loaded = read_media_model(name_or_path, kind, Modes(**modes), parts)
    hasher = functools.partial(hash_files, loaded.weight_files) if loaded.weight_files else None
    # The processor prepares a blank item here: its settings may be anything.
    with one_line(loaded.name):
        return MediaSubject(
            loaded.model,
            loaded.tokenizer,
            kind,
            name=loaded.name,
            notes=loaded.notes,
            hasher=hasher,
        )


# -- files


def checker(subject: Subject) -> Callable[[str], object]:
    """What refuses files that a model of pictures or sounds cannot be given."""
    assert isinstance(subject, MediaSubject)
    return subject.check_file


def read_picture(path: str) -> Any:
    """A picture in red, green and blue.

    Raises:
        SubjectError: no such file, or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise SubjectError(f"{path}: expected a picture ({str(error)[:100]})") from None


def _samples(path: str) -> tuple[int, int]:
    """Samples and their rate, from the header."""
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read: {error.strerror}") from None
    return _samples_then(path, changed)


@functools.lru_cache(maxsize=100_000)
def _samples_then(path: str, changed: int) -> tuple[int, int]:
    """Remembered as long as the file stays as it is: what the time of its last change is for."""
    try:
        with wave.open(path, "rb") as sound:
            return sound.getnframes(), sound.getframerate()
    except (wave.Error, EOFError):
        with _as_sound(path) as soundfile:
            info = soundfile.info(path)
            return int(info.frames), int(info.samplerate)
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read: {error.strerror}") from None


def seconds_of(path: str) -> float:
    """Length of a sound.

    Raises:
        SubjectError: one without samples, or of a format that cannot be read.
    """
    samples, rate = _samples(path)
    if not samples:
        raise SubjectError(f"{path}: expected a sound, got one without samples")
    return samples / rate


_WIDTHS = {1: (np.uint8, 128.0, 128.0), 2: (np.int16, 0.0, 2.0**15), 4: (np.int32, 0.0, 2.0**31)}
"""Bytes of a sample of a WAV file: its type, its zero and its largest value."""


def read_sound(path: str, rate: int) -> np.ndarray:
    """One channel in [-1, 1] at this rate.

    Raises:
        SubjectError: no sound, one that is shorter than its header says, or samples that are not
            finite.
    """
    try:
        with wave.open(path, "rb") as sound:
            width, channels, own_rate = (
                sound.getsampwidth(),
                sound.getnchannels(),
                sound.getframerate(),
            )
            n_frames = sound.getnframes()
            raw = sound.readframes(n_frames)
        if width not in _WIDTHS:
            raise SubjectError(f"{path}: expected 8, 16 or 32 bits a sample, got {8 * width}")
        n_read = len(raw) // (width * channels)
        if n_read != n_frames:
            raise SubjectError(
                f"{path}: expected {n_frames} samples, as its header says, got {n_read}"
            )
        kind, zero, largest = _WIDTHS[width]
        samples = (np.frombuffer(raw, kind).astype(np.float32) - zero) / largest
        samples = samples.reshape(-1, channels).mean(1)
    except (wave.Error, EOFError):
        with _as_sound(path) as soundfile:
            read, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
        samples = read.mean(1)
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read: {error.strerror}") from None
    if not np.isfinite(samples).all():
        raise SubjectError(f"{path}: expected samples that are numbers, got NaN or infinity")
    if own_rate == rate:
        return samples
    from scipy.signal import resample_poly

    shared = math.gcd(rate, own_rate)
    return resample_poly(samples, rate // shared, own_rate // shared).astype(np.float32)


@contextlib.contextmanager
def _as_sound(path: str) -> Iterator[Any]:
    """The package that reads other formats; what it cannot read is one line.

    Raises:
        SubjectError: a file that it cannot read, or no such package.
    """
    try:
        import soundfile  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SubjectError(
            f"{path}: expected a WAV file; other formats need the package soundfile: "
            "pip install soundfile"
        ) from None
    try:
        yield soundfile
    except (RuntimeError, OSError) as error:
        raise SubjectError(f"{path}: expected a sound ({first_line(error)[:100]})") from None
