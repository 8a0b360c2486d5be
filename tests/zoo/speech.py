"""Encoders of sound, and pairs that write down what is heard."""

from __future__ import annotations

from typing import Any

#: A small front of convolutions.
FRAMES: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}

FLAGS: dict[str, dict[str, Any]] = {
    "ASTModel": {"max_length": 32, "num_mel_bins": 16},
    "Wav2Vec2Model": FRAMES,
    "Wav2Vec2ForCTC": FRAMES,
    "HubertModel": FRAMES,
    "Wav2Vec2Model pre-norm": {
        **FRAMES,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
    "WavLMModel": FRAMES,
    "Data2VecAudioModel": FRAMES,
    "UniSpeechModel": FRAMES,
    "UniSpeechSatModel": FRAMES,
    "SEWModel": {
        "conv_dim": (16,) * 13,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    },
    "Wav2Vec2BertModel": {},
    "Wav2Vec2ConformerModel": FRAMES,
    "WhisperForCausalLM": {},
    "Qwen2AudioEncoder": {"max_source_positions": 12, "num_mel_bins": 8},
    "WhisperModel": {"max_source_positions": 12, "max_target_positions": 64, "num_mel_bins": 8},
    "WhisperForConditionalGeneration": {
        "max_source_positions": 12,
        "max_target_positions": 64,
        "num_mel_bins": 8,
    },
    "Speech2TextForConditionalGeneration": {},
    "MoonshineForConditionalGeneration": {},
}
