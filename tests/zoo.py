"""Tiny models of many families with each family's own flags: a configuration's defaults, only its sizes made small."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import transformers as hf
from torch import nn

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

#: Group -> class of transformers, and a variant -> what its checkpoints set beside the defaults, and sizes with names of their own.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "decoders": {
        "ApertusForCausalLM": {},
        "ArceeForCausalLM": {},
        "BioGptForCausalLM": {},
        "BitNetForCausalLM": {},
        "BloomForCausalLM": {},
        "CodeGenForCausalLM": {"rotary_dim": 4},
        "CohereForCausalLM": {},
        "Cohere2ForCausalLM": {},
        "CTRLLMHeadModel": {},
        "CwmForCausalLM": {},
        "DiffLlamaForCausalLM": {},
        "DogeForCausalLM": {},
        "Ernie4_5ForCausalLM": {},
        "Exaone4ForCausalLM": {},
        "FalconForCausalLM": {},
        "GemmaForCausalLM": {},
        "Gemma2ForCausalLM": {},
        "Gemma3ForCausalLM": {},
        "Gemma3nForCausalLM": {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 0,
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "intermediate_size": [64, 64, 64, 64],
            "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0],
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
        },
        "Gemma4ForCausalLM": {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "global_head_dim": 16,
            "num_global_key_value_heads": 1,
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
        },
        "GlmForCausalLM": {},
        "Glm4ForCausalLM": {},
        "GPT2LMHeadModel": {},
        "GPTBigCodeForCausalLM": {},
        "GPTNeoForCausalLM": {
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        "GPTNeoXForCausalLM sequential": {"use_parallel_residual": False},
        "OPTForCausalLM post-norm": {"do_layer_norm_before": False},
        "FalconForCausalLM grouped": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "FalconForCausalLM alibi": {"alibi": True, "multi_query": False, "parallel_attn": False},
        "GPTNeoXForCausalLM": {},
        "GPTNeoXJapaneseForCausalLM": {},
        "GPTJForCausalLM": {"rotary_dim": 4},
        "GraniteForCausalLM": {},
        "HeliumForCausalLM": {},
        "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
        "HyperCLOVAXForCausalLM": {},
        "Jais2ForCausalLM": {},
        "LlamaForCausalLM": {},
        "MiniCPM3ForCausalLM": {},
        "MinistralForCausalLM": {"head_dim": 8},
        "Ministral3ForCausalLM": {},
        "MistralForCausalLM": {},
        "ModernBertDecoderForCausalLM": {},
        "MptForCausalLM": {},
        "NanoChatForCausalLM": {},
        "NemotronForCausalLM": {},
        "OlmoForCausalLM": {},
        "Olmo2ForCausalLM": {},
        "Olmo3ForCausalLM": {},
        "OpenAIGPTLMHeadModel": {},
        "OPTForCausalLM": {},
        "PersimmonForCausalLM": {},
        "PhiForCausalLM": {},
        "Phi3ForCausalLM": {},
        "Qwen2ForCausalLM": {},
        "Qwen3ForCausalLM": {},
        "SeedOssForCausalLM": {},
        "SmolLM3ForCausalLM": {},
        "StableLmForCausalLM": {},
        "Starcoder2ForCausalLM": {},
        "VaultGemmaForCausalLM": {},
        "XGLMForCausalLM": {},
        "YoutuForCausalLM": {},
    },
    "mixtures of experts": {
        "AfmoeForCausalLM": {},
        "Cohere2MoeForCausalLM": {},
        "DeepseekV2ForCausalLM": {"first_k_dense_replace": 1},
        "DeepseekV3ForCausalLM": {"first_k_dense_replace": 1, "n_group": 2},
        "DeepseekV32ForCausalLM": {"first_k_dense_replace": 1},
        "DeepseekV4ForCausalLM": {},
        "Dots1ForCausalLM": {"n_shared_experts": 1, "first_k_dense_replace": 1},
        "Ernie4_5_MoeForCausalLM": {},
        "ExaoneMoeForCausalLM": {},
        "FlexOlmoForCausalLM": {},
        "Glm4MoeForCausalLM": {"first_k_dense_replace": 1},
        "Glm4MoeLiteForCausalLM": {"first_k_dense_replace": 1},
        "GlmMoeDsaForCausalLM": {},
        "GptOssForCausalLM": {},
        "GraniteMoeForCausalLM": {},
        "GraniteMoeSharedForCausalLM": {},
        "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
        "JetMoeForCausalLM": {},
        "LagunaForCausalLM": {},
        "Llama4ForCausalLM": {"num_hidden_layers": 4, "interleave_moe_layer_step": 2},
        "LongcatFlashForCausalLM": {},
        "MellumForCausalLM": {},
        "MiMoV2FlashForCausalLM": {},
        "MiniMaxM2ForCausalLM": {},
        "Mistral4ForCausalLM": {
            "num_key_value_heads": 4,
            "rope_parameters": {
                "type": "yarn",
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 64,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale_all_dim": 1.0,
                "mscale": 1.0,
                "llama_4_scaling_beta": 0.1,
                "partial_rotary_factor": 0.5,
            },
            "head_dim": 16,
        },
        "MixtralForCausalLM": {},
        "OlmoeForCausalLM": {},
        "PhimoeForCausalLM": {},
        "Qwen2MoeForCausalLM": {},
        "Qwen3MoeForCausalLM mixed": {"mlp_only_layers": [0]},
        "Qwen3MoeForCausalLM": {},
        "SolarOpenForCausalLM": {},
    },
    "state spaces and hybrids": {
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
            "layer_types": [
                "linear_attention",
                "full_attention",
                "linear_attention",
                "full_attention",
            ],
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
            "layer_types": ["mamba", "attention", "mamba", "attention"],
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
            "layer_types": [
                "linear_attention",
                "full_attention",
                "linear_attention",
                "full_attention",
            ],
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
        "Lfm2ForCausalLM": {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
        "Lfm2MoeForCausalLM": {
            "num_hidden_layers": 4,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
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
            "layer_types": [
                "linear_attention",
                "full_attention",
                "linear_attention",
                "full_attention",
            ],
        },
        "Qwen3_5ForCausalLM": {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "Qwen3_5MoeForCausalLM": {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "Qwen3NextForCausalLM": {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "lru_width": 32},
        "RwkvForCausalLM": {"num_hidden_layers": 8},
        "xLSTMForCausalLM": {},
        "ZambaForCausalLM": {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        },
        "Zamba2ForCausalLM": {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_headdim": 8,
            "n_mamba_heads": 8,
            "mamba_d_state": 8,
        },
    },
    "encoders": {
        "AlbertForMaskedLM": {},
        "BertForMaskedLM": {},
        "BigBirdForMaskedLM": {},
        "CamembertForMaskedLM": {},
        "ConvBertForMaskedLM": {},
        "Data2VecTextForMaskedLM": {},
        "DebertaForMaskedLM": {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "max_relative_positions": -1,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "DebertaV2ForMaskedLM": {
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "max_relative_positions": -1,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "DistilBertForMaskedLM": {},
        "ElectraForMaskedLM": {},
        "ErnieForMaskedLM": {},
        "EsmForMaskedLM": {
            "position_embedding_type": "rotary",
            "token_dropout": True,
            "mask_token_id": 4,
            "vocab_size": 33,
        },
        "EuroBertForMaskedLM": {},
        "FlaubertWithLMHeadModel": {},
        "FNetForMaskedLM": {},
        "JinaEmbeddingsV3ForMaskedLM": {},
        "LayoutLMForMaskedLM": {},
        "MegatronBertForMaskedLM": {},
        "MobileBertForMaskedLM": {},
        "ModernBertForMaskedLM": {"num_hidden_layers": 4, "local_attention": 4},
        "MPNetForMaskedLM": {},
        "NomicBertForMaskedLM": {},
        "RemBertForMaskedLM": {},
        "RobertaForMaskedLM": {},
        "RobertaPreLayerNormForMaskedLM": {},
        "RoFormerForMaskedLM": {},
        "SqueezeBertForMaskedLM": {},
        "XLMRobertaForMaskedLM": {},
        "XLMRobertaXLForMaskedLM": {},
        "XLNetLMHeadModel": {},
        "XmodForMaskedLM": {"languages": ["en_XX"], "default_language": "en_XX"},
        "GteForMaskedLM": {},
    },
    "encoder-decoders": {
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
        "MarianMTModel": {},
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
        "T5EncoderModel gated": {"feed_forward_proj": "gated-gelu"},
        "T5EncoderModel": {},
        "BartForCausalLM": {},
        "TrOCRForCausalLM": {},
        "MarianForCausalLM": {},
    },
    "vision": {
        "ViTModel": {},
        "ViTForImageClassification": {},
        "DeiTModel": {},
        "Dinov2Model": {},
        "Dinov2WithRegistersModel": {},
        "DINOv3ViTModel": {},
        "CLIPVisionModel": {},
        "CLIPTextModel": {},
        "SiglipVisionModel": {},
        "SiglipTextModel": {},
        "Siglip2VisionModel": {},
        "BeitModel": {},
        "Data2VecVisionModel": {},
        "ViTMSNModel": {},
        "IJepaModel": {},
        "SwinModel": {
            "depths": [2, 2],
            "num_heads": [2, 4],
            "embed_dim": 16,
            "window_size": 2,
            "image_size": 16,
            "patch_size": 2,
        },
        "Swinv2Model": {
            "depths": [2, 2],
            "num_heads": [2, 4],
            "embed_dim": 16,
            "window_size": 2,
            "image_size": 16,
            "patch_size": 2,
        },
        "ConvNextModel": {
            "image_size": 32,
            "depths": [1, 1],
            "hidden_sizes": [8, 16],
            "patch_size": 2,
            "num_stages": 2,
        },
        "ResNetModel": {"image_size": 32, "depths": [1, 1], "hidden_sizes": [8, 16]},
    },
    "sound": {
        "ASTModel": {"max_length": 32, "num_mel_bins": 16},
        "Wav2Vec2Model": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "Wav2Vec2ForCTC": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "HubertModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "Wav2Vec2Model pre-norm": {
            "do_stable_layer_norm": True,
            "feat_extract_norm": "layer",
            "conv_dim": (16,) * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "WavLMModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "Data2VecAudioModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "UniSpeechModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "UniSpeechSatModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "SEWModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "Wav2Vec2BertModel": {},
        "Wav2Vec2ConformerModel": {
            "conv_dim": (16, 16, 16, 16, 16, 16, 16),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        "WhisperModel": {"max_source_positions": 12, "max_target_positions": 64, "num_mel_bins": 8},
        "WhisperForConditionalGeneration": {
            "max_source_positions": 12,
            "max_target_positions": 64,
            "num_mel_bins": 8,
        },
        "Speech2TextForConditionalGeneration": {},
        "MoonshineForConditionalGeneration": {},
    },
    "vision-language and sound-language": {
        "CLIPModel": {},
        "SiglipModel": {},
        "Siglip2Model": {},
        "LlavaForConditionalGeneration": {},
        "LlavaNextForConditionalGeneration": {},
        "LlavaOnevisionForConditionalGeneration": {},
        "Qwen2VLForConditionalGeneration": {
            "text_config": {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [1, 1, 2],
                }
            }
        },
        "Qwen2_5_VLForConditionalGeneration": {
            "text_config": {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [1, 1, 2],
                }
            }
        },
        "Qwen3VLForConditionalGeneration": {},
        "Qwen3VLMoeForConditionalGeneration": {},
        "Qwen3_5ForConditionalGeneration": {
            "text_config": {
                "num_hidden_layers": 4,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            }
        },
        "Gemma3ForConditionalGeneration": {},
        "Gemma4ForConditionalGeneration": {
            "text_config": {
                "num_hidden_layers": 4,
                "head_dim": 8,
                "global_head_dim": 16,
                "num_global_key_value_heads": 1,
                "layer_types": [
                    "sliding_attention",
                    "full_attention",
                    "sliding_attention",
                    "full_attention",
                ],
                "hidden_size_per_layer_input": 8,
                "num_kv_shared_layers": 0,
            }
        },
        "PaliGemmaForConditionalGeneration": {},
        "SmolVLMForConditionalGeneration": {},
        "Idefics3ForConditionalGeneration": {},
        "Mistral3ForConditionalGeneration": {},
        "InternVLForConditionalGeneration": {},
        "Llama4ForConditionalGeneration": {
            "text_config": {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}
        },
        "BlipModel": {},
        "Qwen2AudioForConditionalGeneration": {},
        "AyaVisionForConditionalGeneration": {},
        "Glm4vForConditionalGeneration": {
            "text_config": {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [1, 1, 2],
                    "partial_rotary_factor": 1.0,
                }
            }
        },
        "MllamaForConditionalGeneration": {},
        "VoxtralForConditionalGeneration": {},
        "ViltModel": {},
    },
}
FLAGS = {name: flags for group in GROUPS.values() for name, flags in group.items()}


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
    """A configuration with its defaults, small sizes, and these flags on top; those inside it alike."""
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


def build(name: str, seed: int = 0, std: float = 0.1) -> Any:
    """A class of transformers (its variant behind a space) with small random weights, none of them zero, ready to run."""
    kind = getattr(hf, name.partition(" ")[0])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model: nn.Module = kind(small(kind.config_class, FLAGS.get(name, {}))).eval()
        with torch.no_grad():
            for part, weight in model.named_parameters():
                if weight.ndim > 1 and "A_log" not in part and "conv" not in part:
                    weight.normal_(0, std)
                elif not weight.any():
                    weight.normal_(0, 0.1)
    return model
