"""Encoders of sound, and pairs that write down what is heard."""

from __future__ import annotations

from dataclasses import replace

from .encoder_decoders import PEGASUS
from .llama import LLAMA_INSIDE
from .row import RESIDUAL, Family, mlp, multihead, qkvo, same, within
from .vision import VIT

# Whisper's encoder alone, and its pair.
WHISPER = PEGASUS

# Encoders of speech; the larger ones have their norms in front.
WAV2VEC2 = Family(
    "encoder.layers",
    {},
    {
        **RESIDUAL,
        "hook_resid_mid": "layer_norm:input",
        "hook_attn_out": "dropout:output",
        "hook_mlp_out": "feed_forward:output",
        **qkvo("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
        **mlp("feed_forward.intermediate_dense", "feed_forward.output_dense"),
    },
    "attention",
    when=lambda config: not getattr(config, "do_stable_layer_norm", False),
)

WAV2VEC2_PRE_NORM = replace(
    WAV2VEC2,
    outside={"ln_final.hook_normalized": "encoder.layer_norm:output"},
    inside={**WAV2VEC2.inside, "hook_resid_mid": "final_layer_norm:input"},
    when=lambda config: config.do_stable_layer_norm,
)

# Its attention is one function of PyTorch on the projections' weights.
WAVLM, WAVLM_PRE_NORM = (
    row.but(multihead("attn", "attention")) for row in (WAV2VEC2, WAV2VEC2_PRE_NORM)
)

# Convolution and two half MLPs in a block.
CONFORMER = Family(
    "encoder.layers",
    {},
    {
        **RESIDUAL,
        "attn.hook_q": "self_attn.linear_q:output|heads",
        "attn.hook_k": "self_attn.linear_k:output|heads",
        "attn.hook_v": "self_attn.linear_v:output|heads",
        "attn.hook_z": "self_attn.linear_out:input|heads",
        "hook_attn_out": "self_attn_dropout:output",
        "hook_resid_mid": "self_attn_layer_norm:input",
        "mlp.hook_pre": "ffn2.intermediate_dense:output",
        "mlp.hook_post": "ffn2.output_dense:input",
    },
    "self_attn",
    missing={"hook_mlp_out": "a block has two MLPs and halves each before adding it"},
).without(
    "attention lies between two half MLPs, so the stream before it is not the input of a block",
    "hook_resid_mid",
    "hook_attn_out",
)

MOONSHINE = Family(
    "encoder.layers",
    within("encoder", {"ln_final.hook_normalized": "layer_norm:output"}),
    {**LLAMA_INSIDE, "hook_resid_mid": "post_attention_layernorm:input"},
    "self_attn",
    decoder=Family(
        "decoder.layers",
        within(
            "decoder",
            {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
        ),
        {
            **LLAMA_INSIDE,
            "mlp.hook_pre": "mlp.fc1:output|halves:1",
            "hook_resid_mid": "post_attention_layernorm:input",
            **{
                f"cross_attn.hook_{part}": f"encoder_attn.{part}_proj:output|heads"
                for part in "qkv"
            },
            "cross_attn.hook_z": "encoder_attn.o_proj:input|heads",
            "hook_cross_attn_out": "encoder_attn:output",
            "hook_resid_mid_cross": "final_layernorm:input",
        },
        "self_attn",
        cross="encoder_attn",
    ),
)

# Whisper's encoder as the tower of another model.
SOUND_TOWER = replace(
    PEGASUS,
    blocks="layers",
    outside={"ln_final.hook_normalized": "layer_norm:output"},
    decoder=None,
)

# It takes the mean of two positions at a time before its last norm, which is of no block's output.
QWEN2_AUDIO_TOWER = replace(SOUND_TOWER, outside={})

#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    "whisper": (WHISPER,),
    "speech_to_text": (PEGASUS,),
    "moonshine": (MOONSHINE,),
    "audio-spectrogram-transformer": (VIT,),
    **same(
        "wav2vec2 hubert data2vec-audio unispeech unispeech-sat sew", WAV2VEC2, WAV2VEC2_PRE_NORM
    ),
    "wavlm": (WAVLM, WAVLM_PRE_NORM),
    **same("wav2vec2-bert wav2vec2-conformer", CONFORMER),
    "qwen2_audio_encoder": (QWEN2_AUDIO_TOWER,),
    "voxtral_encoder": (SOUND_TOWER,),
}
