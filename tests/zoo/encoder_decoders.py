"""Encoder-decoders, and their halves alone."""

from __future__ import annotations

from typing import Any

_BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_READING = {"is_decoder": True, "add_cross_attention": True}
FLAGS: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": {"feed_forward_proj": "relu"},
    "MT5ForConditionalGeneration": {},
    "UMT5ForConditionalGeneration": {},
    "LongT5ForConditionalGeneration": {"decoder_start_token_id": 0},
    "SwitchTransformersForConditionalGeneration": {
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "T5GemmaForConditionalGeneration": {},
    "BartForConditionalGeneration": {"decoder_start_token_id": 2},
    "MBartForConditionalGeneration": {},
    "PegasusForConditionalGeneration": {},
    "MarianMTModel": {"decoder_start_token_id": 0},
    "BlenderbotForConditionalGeneration": {},
    "BlenderbotSmallForConditionalGeneration": {},
    "M2M100ForConditionalGeneration": {},
    "LEDForConditionalGeneration": {
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
        "attention_window": 4,
    },
    "PLBartForConditionalGeneration": {},
    "FSMTForConditionalGeneration": {"src_vocab_size": 100, "tgt_vocab_size": 100},
    "EncoderDecoderModel": {"encoder": _BERT, "decoder": {**_BERT, **_READING}},
    "T5EncoderModel gated": {"feed_forward_proj": "gated-gelu"},
    "T5EncoderModel": {},
    "BartForCausalLM": {},
    "BlenderbotForCausalLM": {},
    "MBartForCausalLM": {},
    "PegasusForCausalLM": {},
    "TrOCRForCausalLM": {},
    "MarianForCausalLM": {},
}
