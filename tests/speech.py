"""Tiny speech models that write, in a folder with sounds; and what they are given, by SciPy and
their own extractors.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from scipy.io import wavfile

from tools.command_grid import tokenizer

RATE = 16_000
SOUNDS = (("low", 300, 0.4), ("high", 2400, 0.7), ("long", 300, 1.5))
"""Name, pitch in Hz and seconds."""
_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES: dict[str, Any] = {
    **_IDS,
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_target_positions": 64,
    "decoder_start_token_id": 1,
    "init_std": 0.3,
}


def whisper(folder: Path) -> Path:
    """A Whisper that hears one second."""
    config = hf.WhisperConfig(
        **_SIZES,
        num_mel_bins=8,
        max_source_positions=50,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return _saved(
        folder,
        hf.WhisperForConditionalGeneration,
        config,
        hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    )


def moonshine(folder: Path) -> Path:
    """A Moonshine, which hears samples of any length."""
    config = hf.MoonshineConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        decoder_start_token_id=1,
        initializer_range=0.3,
        **_IDS,
    )
    return _saved(
        folder,
        hf.MoonshineForConditionalGeneration,
        config,
        hf.Wav2Vec2FeatureExtractor(do_normalize=False),
    )


def _saved(folder: Path, kind: Any, config: Any, extractor: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    for name, pitch, seconds in SOUNDS:
        time = np.arange(round(RATE * seconds)) / RATE
        # Louder towards its end, so that no two stretches are alike.
        wave = (2**14 * (0.2 + 0.8 * time / seconds) * np.sin(2 * math.pi * pitch * time)).astype(
            np.int16
        )
        wavfile.write(folder / f"{name}.wav", RATE, wave)
    return folder


def samples(folder: Path, name: str) -> np.ndarray:
    """A sound's samples from -1 to 1."""
    rate, values = wavfile.read(folder / name)
    assert rate == RATE
    return values.astype(np.float32) / 2**15


def features(folder: Path, values: np.ndarray) -> dict[str, torch.Tensor]:
    """Samples as the extractor makes them, by the name of the model's input."""
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder / "model")
    made = extractor(values, sampling_rate=RATE, return_tensors="pt")
    return {name: made[name] for name in ("input_features", "input_values") if name in made}
