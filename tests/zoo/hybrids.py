"""State spaces, and hybrids of them and attention."""

from __future__ import annotations

from typing import Any

#: Linear attention in three layers of four.
LINEAR_ATTENTION: dict[str, Any] = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

FLAGS: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "num_hidden_layers": 4,
        "attn_layer_indices": [1, 3],
    },
    "BailingHybridForCausalLM": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "FalconH1ForCausalLM": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
    "FalconMambaForCausalLM": {"state_size": 8},
    "GraniteMoeHybridForCausalLM": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention"] * 2,
    },
    "JambaForCausalLM": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
        "mamba_d_state": 8,
    },
    "KimiLinearForCausalLM": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_experts_per_token": 2,
        "num_expert_group": 1,
        "topk_group": 1,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "qk_rope_head_dim": 8,
    },
    "Lfm2ForCausalLM": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "Lfm2MoeForCausalLM": {
        "num_hidden_layers": 4,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"] * 2,
    },
    "MambaForCausalLM": {"state_size": 8},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "MiniMaxForCausalLM": {"num_hidden_layers": 4},
    "NemotronHForCausalLM": {
        "num_hidden_layers": 4,
        "hybrid_override_pattern": "M*-E",
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
    },
    "OlmoHybridForCausalLM": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "Qwen3_5ForCausalLM": LINEAR_ATTENTION,
    "Qwen3_5MoeForCausalLM": LINEAR_ATTENTION,
    "Qwen3NextForCausalLM": LINEAR_ATTENTION,
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "lru_width": 32},
    "RwkvForCausalLM": {"num_hidden_layers": 8},
    # Its cache rounds widths up to a multiple of 64, its layers do not.
    "xLSTMForCausalLM": {"hidden_size": 128},
    "ZambaForCausalLM": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "Zamba2ForCausalLM": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_d_state": 8,
    },
}
