"""Tiny random-weight models of many architectures, and the doctor's table of them, ``docs/models.md``.

PYTHONPATH=.:tests python tests/architectures.py          # writes docs/models.md
PYTHONPATH=.:tests python tests/architectures.py gpt2 opt  # prints what is not OK of some
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers as hf
from torch import nn

from hooks import Verdict, verify
from hooks.verify import CHECKS, kind_of

_WIDE, _IDS = tiny._WIDE, tiny._IDS
_DECODER: dict[str, Any] = {**_WIDE, **_IDS, "max_position_embeddings": 64}
_GROUPED: dict[str, Any] = {**_DECODER, "num_key_value_heads": 2}
_MOE: dict[str, Any] = {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SEQ: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "decoder_start_token_id": 2,
    "forced_eos_token_id": 2, **_IDS,
}  # fmt: skip
_T5: dict[str, Any] = {
    "d_model": 32,
    "num_heads": 4,
    "d_kv": 8,
    "num_layers": 2,
    "d_ff": 64,
    "decoder_start_token_id": 0,
}
_IMAGE: dict[str, Any] = {**_WIDE, "image_size": 16, "patch_size": 8}
_SOUND: dict[str, Any] = {
    **_WIDE, "vocab_size": 32, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def _of(model: str, **config: Any) -> Callable[[], nn.Module]:
    """``_of("LlamaForCausalLM", ...)``: the class with its own configuration."""

    def build() -> nn.Module:
        kind = getattr(hf, model)
        return kind(kind.config_class(**config))

    return build


def _tiny(*names: str) -> dict[str, Callable[[], nn.Module]]:
    return {name: tiny.BUILD[name] for name in names}


#: Kind -> architecture -> how to build it.
ARCHITECTURES: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "decoders, heads of their own": {
        **_tiny("gpt2", "gptj", "neox", "neox-sequential", "opt", "bloom"),
        "gpt-neo": _of(
            "GPTNeoForCausalLM", hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, window_size=4,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64, **_IDS,
        ),
        "codegen": _of("CodeGenForCausalLM", n_embd=32, n_head=4, n_layer=2, rotary_dim=4, n_positions=64, **_IDS),
        "openai-gpt": _of("OpenAIGPTLMHeadModel", n_embd=32, n_head=4, n_layer=2, n_positions=64, **_IDS),
        "opt-post-norm": _of(
            "OPTForCausalLM", hidden_size=32, num_attention_heads=4, num_hidden_layers=2, ffn_dim=64,
            word_embed_proj_dim=32, do_layer_norm_before=False, **_IDS,
        ),
        "mpt": _of("MptForCausalLM", d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **_IDS),
        "phi": _of("PhiForCausalLM", **_DECODER),
        "olmo": _of("OlmoForCausalLM", **_DECODER),
        "xglm": _of("XGLMForCausalLM", d_model=32, attention_heads=4, num_layers=2, ffn_dim=64, **_IDS),
        "biogpt": _of("BioGptForCausalLM", **_DECODER),
        "persimmon": _of("PersimmonForCausalLM", **_DECODER),
    },
    "decoders, grouped or shared key-value heads": {
        **_tiny("llama", "falcon", "gemma2", "olmo2", "phi3", "stablelm", "cohere", "granite", "starcoder2"),
        "falcon-grouped": _of(
            "FalconForCausalLM", hidden_size=32, num_attention_heads=4, num_kv_heads=2, num_hidden_layers=2,
            new_decoder_architecture=True, **_IDS,
        ),
        "falcon-alibi": _of(
            "FalconForCausalLM", hidden_size=32, num_attention_heads=4, num_hidden_layers=2, alibi=True,
            new_decoder_architecture=False, multi_query=False, parallel_attn=False, **_IDS,
        ),
        "gpt-bigcode": _of("GPTBigCodeForCausalLM", n_embd=32, n_head=4, n_layer=2, n_positions=64, **_IDS),
        "mistral (window)": _of("MistralForCausalLM", sliding_window=4, **_GROUPED),
        "qwen2": _of("Qwen2ForCausalLM", **_GROUPED),
        "qwen3": _of("Qwen3ForCausalLM", head_dim=8, **_GROUPED),
        "gemma": _of("GemmaForCausalLM", head_dim=8, **_GROUPED),
        "gemma3 (window)": _of("Gemma3ForCausalLM", head_dim=8, sliding_window=4, **_GROUPED),
        "olmo3 (window)": _of("Olmo3ForCausalLM", sliding_window=4, **_GROUPED),
        "cohere2": _of("Cohere2ForCausalLM", sliding_window=4, **_GROUPED),
        "smollm3": _of("SmolLM3ForCausalLM", **_GROUPED),
        "nemotron": _of("NemotronForCausalLM", **_GROUPED),
        "glm": _of("GlmForCausalLM", head_dim=8, **_GROUPED),
        "glm4": _of("Glm4ForCausalLM", head_dim=8, **_GROUPED),
        "exaone4": _of("Exaone4ForCausalLM", sliding_window=4, **_GROUPED),
        "ernie4.5": _of("Ernie4_5ForCausalLM", head_dim=8, **_GROUPED),
        "helium": _of("HeliumForCausalLM", head_dim=8, **_GROUPED),
        "arcee": _of("ArceeForCausalLM", **_GROUPED),
        "apertus": _of("ApertusForCausalLM", **_GROUPED),
        "seed-oss": _of("SeedOssForCausalLM", head_dim=8, **_GROUPED),
        "hunyuan": _of("HunYuanDenseV1ForCausalLM", head_dim=8, **_GROUPED),
        "bitnet": _of("BitNetForCausalLM", **_GROUPED),
        "vaultgemma": _of("VaultGemmaForCausalLM", head_dim=8, **_GROUPED),
        "modernbert-decoder": _of("ModernBertDecoderForCausalLM", cls_token_id=1, sep_token_id=2, **_DECODER),
    },
    "mixtures of experts": {
        **_tiny("mixtral"),
        "qwen2-moe": _of("Qwen2MoeForCausalLM", num_experts=4, shared_expert_intermediate_size=32, **_MOE),
        "qwen3-moe": _of("Qwen3MoeForCausalLM", num_experts=4, head_dim=8, **_MOE),
        "olmoe": _of("OlmoeForCausalLM", num_experts=4, **{**_MOE, "num_key_value_heads": 4}),
        "phimoe": _of("PhimoeForCausalLM", num_local_experts=4, **_GROUPED),
        "granitemoe": _of("GraniteMoeForCausalLM", num_local_experts=4, **_MOE),
        "gpt-oss": _of("GptOssForCausalLM", num_local_experts=4, head_dim=8, sliding_window=4, **_MOE),
        "deepseek-v3": _of(
            "DeepseekV3ForCausalLM", **{**_MOE, "num_key_value_heads": 4}, n_routed_experts=4, n_group=2, topk_group=1,
            q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, first_k_dense_replace=1,
        ),
    },
    "encoders": {
        **_tiny(
            "bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert", "t5-encoder",
            "t5-encoder-gated",
        ),
        "deberta": _of("DebertaModel", **tiny._BERT),
        "camembert": _of("CamembertForMaskedLM", **tiny._BERT),
        "xlm-roberta": _of("XLMRobertaForMaskedLM", **tiny._BERT),
        "mpnet": _of("MPNetForMaskedLM", **tiny._BERT),
        "ernie": _of("ErnieForMaskedLM", **tiny._BERT),
        "esm": _of("EsmForMaskedLM", mask_token_id=4, position_embedding_type="rotary", **tiny._BERT),
    },
    "encoder-decoders (the encoder's sites)": {
        "t5": _of("T5ForConditionalGeneration", vocab_size=tiny.VOCAB, **_T5),
        "mt5": _of("MT5ForConditionalGeneration", vocab_size=tiny.VOCAB, feed_forward_proj="gated-gelu", **_T5),
        "bart": _of("BartForConditionalGeneration", **_SEQ),
        "mbart": _of("MBartForConditionalGeneration", **_SEQ),
        "pegasus": _of("PegasusForConditionalGeneration", **_SEQ),
        "marian": _of("MarianMTModel", **_SEQ),
        "blenderbot": _of("BlenderbotForConditionalGeneration", **_SEQ),
        "m2m100": _of("M2M100ForConditionalGeneration", **_SEQ),
    },
    "vision and speech": {
        "vit": _of("ViTModel", **_IMAGE),
        "deit": _of("DeiTModel", **_IMAGE),
        "wav2vec2": _of("Wav2Vec2Model", **_SOUND),
        "wav2vec2-pre-norm": _of("Wav2Vec2Model", do_stable_layer_norm=True, feat_extract_norm="layer", **_SOUND),
        "hubert": _of("HubertModel", **_SOUND),
        "ast": _of("ASTForAudioClassification", num_mel_bins=16, max_length=32, patch_size=8, **_WIDE),
    },
}  # fmt: skip

#: Kind -> what stands above its table.
ABOUT = {
    "encoder-decoders (the encoder's sites)": (
        "Names stand for the encoder's sites. A decoder block holds two attentions, over its own text and over the encoder's, "
        "and three sums; the identities that prove a map (one pattern, one attention output, two sums) are of one stack, so "
        "`decoder_blocks...` is refused. Its modules are read and edited by raw paths: "
        "`module:decoder.block.0.layer.1.EncDecAttention:output`, `module:model.decoder.layers.0:input`."
    )
}

#: Column -> its checks.
COLUMNS = {
    "sites": ("fires",),
    "sums": ("residual sums", "chain of blocks"),
    "attention": ("attention rows", "attention mask", "pattern x v", "projections"),
    "end": ("norm and head",),
    "batch": ("batched", "padding"),
    "hooks": ("evaluation mode", "same outputs", "hooks gone"),
    "edits": ("edits", "own heads", "own neurons", "head = columns"),
    "gradients": ("gradients",),
    "eager": ("eager attention",),
    "resumed": ("resumed",),
    "cache": ("KV cache",),
    "half": ("bfloat16", "float16"),
}
assert {name for names in COLUMNS.values() for name in names} == {c.name for c in CHECKS} - {"weights"}


def build(name: str) -> Any:
    """One of them, in eval mode; the same weights each time."""
    builders = {key: make for group in ARCHITECTURES.values() for key, make in group.items()}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = builders[name]().eval()
        for part, parameter in model.named_parameters():
            if "token" in part and not parameter.any():  # a class token of zeros, where a norm has no slope
                parameter.data.normal_(0, 0.1)
        return model


def examined(name: str) -> tuple[Verdict, str]:
    """The doctor's verdict, and where the map came from."""
    from hooks import UnknownArchitecture, anatomy

    model = build(name)
    try:
        source = "table" if "table" in anatomy(model).source else "adapter"
    except UnknownArchitecture:
        source = "none"
    return verify(model), source


def table(verdicts: dict[str, tuple[Verdict, str]]) -> str:
    """``docs/models.md``."""
    reasons: dict[str, int] = {}
    lines = [
        "# Models",
        "",
        f"What the [doctor](doctor.md) finds on {len(verdicts)} architectures, built tiny from their configurations with random "
        "weights: this page is written by `tests/architectures.py`. Run `layerscope doctor --model M` for a model of your own.",
        "",
        "ok: every number is within its bound. A number names a reason below why something cannot be had or checked on this "
        "architecture; what else its column stands for is ok. *map*: our own table, or TransformerLens's adapter.",
    ]
    for group, builders in ARCHITECTURES.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}", ""]
        lines += [ABOUT[group], ""] if group in ABOUT else []
        lines += ["| | map | " + " | ".join(COLUMNS) + " |"]
        lines += ["|---" * (len(COLUMNS) + 2) + "|"]
        for name in (n for n in builders if n in verdicts):
            verdict, source = verdicts[name]
            cells = [_cell(verdict, checks, reasons) for checks in COLUMNS.values()]
            lines.append(f"| {name} | {source} | " + " | ".join(cells) + " |")
    lines += ["", "## Why not", "", *(f"{number}. {text}" for text, number in reasons.items()), ""]
    return "\n".join(lines)


def _cell(verdict: Verdict, checks: tuple[str, ...], reasons: dict[str, int]) -> str:
    found = [f for f in verdict if f.check in checks]
    if any(f.status == "WRONG" for f in found):
        return "**WRONG**"
    why: dict[str, None] = {}
    for f in (f for f in found if f.status == "UNSUPPORTED"):
        kind = kind_of(f.site)
        where = "" if not kind else f"`{kind}`: "
        why[where + ("no map is known: raw module paths only" if "neither layerscope's" in f.reason else f.reason)] = (
            None
        )
    numbers = sorted({reasons.setdefault(text, len(reasons) + 1) for text in why})
    good = "ok" if any(f.status == "OK" for f in found) else "–"
    return f"{good} {','.join(map(str, numbers))}".strip()


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or [name for group in ARCHITECTURES.values() for name in group]
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for name in wanted:
        try:
            verdicts[name] = examined(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
            continue
        verdict = verdicts[name][0]
        print(f"{name} {verdict.status} {verdict.seconds:.1f} s", flush=True)
        shown = verdict.wrong if not sys.argv[1:] else [*verdict.wrong, *verdict.unsupported]
        for line in dict.fromkeys(f"{f.status} {f.check} {kind_of(f.site)} {f.reason} {f.measured}" for f in shown):
            print("   ", line, flush=True)
    if not sys.argv[1:]:
        path = Path(__file__).resolve().parents[1] / "docs" / "models.md"
        path.write_text(table(verdicts), encoding="utf-8")
