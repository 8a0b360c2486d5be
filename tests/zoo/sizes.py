"""Small sizes for a configuration of any family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: A size's name in configurations -> the small one.
SIZES: dict[str, Any] = {
    **_IDS,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "emb_dim"), 32
    ),
    **dict.fromkeys(("word_embed_proj_dim", "vision_output_dim", "projection_dim"), 32),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "num_layers",
            "n_layer",
            "n_layers",
            "encoder_layers",
            "decoder_layers",
        ),
        2,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4
    ),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "ffn_dim", "ffn_hidden_size", "hidden_dim", "d_inner"), 64
    ),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "intermediate_size_mlp"), 64),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 100),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"), 64
    ),
    **dict.fromkeys(
        ("d_kv", "kv_channels", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "image_size": 16,
    "patch_size": 8,
    "sliding_window": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_kv_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

#: Sizes that are set only where a family's default sets them.
WHERE_SET = (
    "sliding_window",
    "head_dim",
    "n_group",
    "topk_group",
    "q_lora_rank",
    "kv_lora_rank",
    "n_inner",
)


def small(kind: type, flags: Mapping[str, Any]) -> Any:
    """A configuration with its defaults, small sizes, and these flags on top;
    those inside it alike.
    """
    takes = set(inspect.signature(kind.__init__).parameters)
    given = kind()
    values = given.to_dict()
    names = takes | set(vars(given))
    heads = next(
        (values[n] for n in ("num_attention_heads", "n_head") if values.get(n) is not None), None
    )
    made: dict[str, Any] = {}
    for name, size in SIZES.items():
        was = values.get(name)
        if (
            name not in names
            or name in getattr(kind, "attribute_map", {})
            or (name in WHERE_SET and not was)
        ):
            continue
        made[name] = 4 if name in ("num_key_value_heads", "num_kv_heads") and was == heads else size
    for name in getattr(kind, "sub_configs", {}):
        part = getattr(given, name, None)
        if part is not None:
            made[name] = small(type(part), flags.get(name, {}))
    inside = set(getattr(kind, "sub_configs", {}))
    return kind(**{**made, **{name: value for name, value in flags.items() if name not in inside}})
