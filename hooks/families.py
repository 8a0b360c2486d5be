"""Where each model family keeps its parts: one row a family, read by `hooks.rows`.

A row maps a site to a place in the grammar of raw modules, ``path:end|view if other``:

- ``end`` is ``input`` or ``output``, with ``[i]`` for one element of a tuple
- the view after ``|`` reads the site off the raw tensor (see `hooks.rows`)
- ``if other`` holds only where the block has the module ``other``
- ``one or another``: the first whose modules the block has, so that one row serves the layers of a hybrid

Paths of the sites inside a block are relative to the block; the others to the body (the model without its head). An empty
path is the block itself. Rows for families that TransformerLens describes well are here only when its import (seconds)
would be felt; every other family is read off its adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .views import View

#: ``"path:end|view"``, or the three apart where the view cannot be written as text.
PlaceSpec: TypeAlias = str | tuple[str, Literal["input", "output"], View]


@dataclass(frozen=True)
class Family:
    """One row: where the blocks are, what stands outside them, and what is inside each.

    Args:
        blocks: path of the list of blocks (or of the one shared block, see `shared`).
        outside: site -> place, paths from the body.
        inside: site without its ``blocks.{i}.`` -> place, paths from the block.
        attention: path of the attention module inside the block, where patterns are seen; None when there is none.
        called: site within a block -> how often a forward calls its module, where not once; the first call is the site's.
        shared: True where one block is called again for every layer (ALBERT); the n-th call is layer n.
        when: tells from the configuration whether this row is the right one of its model type.
        missing: site -> why this family has none, in one line.
        cross: path of the attention to another text inside the block.
        decoder: the row of the stack that reads this one's output, in an encoder-decoder.
        calls: site -> which call of its module in one forward is the site's, and of how many, where it is not called once.
    """

    blocks: str
    outside: Mapping[str, PlaceSpec]
    inside: Mapping[str, PlaceSpec]
    attention: str | None
    called: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    when: Callable[[Any], bool] = lambda config: True
    missing: Mapping[str, str] = field(default_factory=dict)
    cross: str | None = None
    decoder: Family | None = None
    calls: Callable[[Any], Mapping[str, tuple[int, int]]] = lambda config: {}

    def without(self, why: str, *parts: str) -> Family:
        """The same row with some sites left out, and why."""
        inside = {part: place for part, place in self.inside.items() if part not in parts}
        return replace(self, inside=inside, missing={**self.missing, **dict.fromkeys(parts, why)})

    def but(self, inside: Mapping[str, PlaceSpec]) -> Family:
        """The same row with other places for some sites."""
        return replace(self, inside={**self.inside, **inside})


RESIDUAL = {"hook_resid_pre": ":input", "hook_resid_post": ":output"}


def _qkvo(q: str, k: str, v: str, o: str) -> dict[str, str]:
    return {
        "attn.hook_q": f"{q}:output|heads",
        "attn.hook_k": f"{k}:output|heads",
        "attn.hook_v": f"{v}:output|heads",
        "attn.hook_z": f"{o}:input|heads",
    }


def _mlp(pre: str, out: str) -> dict[str, str]:
    return {"mlp.hook_pre": f"{pre}:output", "mlp.hook_post": f"{out}:input"}


def _any(*places: str) -> str:
    """The first of several places that a block has."""
    return " or ".join(places)


def _of(paths: str, place: str) -> str:
    """One place under each of several modules."""
    return _any(*(f"{path}.{place}" for path in paths.split()))


_MLPS = "mlp feed_forward mlp_block mixer"
_MLP_PRE = _any(
    *(_of(_MLPS, f"{part}:output") for part in ("gate_proj", "w1", "fc1", "c_fc")),
    _of(_MLPS, "up_proj:output"),
    _of(_MLPS, "gate_up_proj:output|halves:0"),
)
_MLP_POST = _any(*(_of(_MLPS, f"{part}:input") for part in ("down_proj", "w2", "fc2", "c_proj")))
_EXPERTS = "mlp feed_forward block_sparse_moe mixer"
_SHARED = ("shared_experts", "shared_expert", "shared_mlp")
_MOE = {
    "mlp.hook_router_logits": _any(
        _of(_EXPERTS, "gate:output[0]|rows"),
        _of(_EXPERTS, "router.gate:output|rows"),
        _of(_EXPERTS, "router:output[0]|rows"),
    ),
    "mlp.hook_expert_indices": _of(_EXPERTS, "experts:input[1]|rows"),
    "mlp.hook_expert_weights": _of(_EXPERTS, "experts:input[2]|rows"),
    "mlp.experts": _of(_EXPERTS, "experts:neurons"),
    "mlp.shared_experts.hook_pre": _any(
        *(_of(_EXPERTS, f"{part}.gate_proj:output|rows") for part in _SHARED),
        *(_of(_EXPERTS, f"{part}.up_proj:output|rows") for part in _SHARED),
        "shared_mlp.input_linear:output|halves:0",
    ),
    "mlp.shared_experts.hook_post": _any(
        *(_of(_EXPERTS, f"{part}.down_proj:input|rows") for part in _SHARED),
        "shared_mlp.output_linear:input",
    ),
}
_LLAMA_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": _any(
        *(
            f"{norm}:input"
            for norm in (
                "pre_feedforward_layernorm", "pre_mlp_layernorm", "post_attention_layernorm", "pre_ff_layernorm",
                "ffn_norm", "feedforward_layernorm", "channel_pre_norm",
            )
        )
    ),
    "hook_attn_out": "self_attn:output",
    "hook_mlp_out": _any(*(f"{mlp}:output|rows" for mlp in ("mlp", "feed_forward", "mlp_block", "block_sparse_moe"))),
    **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "mlp.hook_pre": _MLP_PRE,
    "mlp.hook_post": _MLP_POST,
    **_MOE,
}  # fmt: skip
_LLAMA_OUTSIDE = {
    "hook_embed": "embed_tokens:output or embeddings:output",
    "ln_final.hook_normalized": _any(
        *(
            f"{norm}:output"
            for norm in (
                "norm",
                "final_layernorm",
                "embedding_norm",
                "norm_f",
                "final_norm",
                "out_norm",
            )
        )
    ),
}

LLAMA = Family("layers", _LLAMA_OUTSIDE, _LLAMA_INSIDE, "self_attn")

# A norm over all heads, or all neurons, stands before each output projection.
BITNET = LLAMA.without(
    "a norm over all of them stands before the output projection: what that reads is no head's and no neuron's own",
    "attn.hook_z", "mlp.hook_post",
)  # fmt: skip

# The block multiplies what a sublayer returns before it adds it.
SCALED = LLAMA.without(
    "the block scales it before adding it: no module returns what is added",
    "hook_attn_out",
    "hook_mlp_out",
)
MINIMAX = replace(
    SCALED.without("the block's norms stand in the stream itself", "hook_resid_mid").but(
        {
            "mixer.hook_in": "self_attn:input if self_attn.qkv_proj",
            "mixer.hook_gate": "self_attn.output_gate:output if self_attn.qkv_proj",
            "mixer.hook_z": "self_attn.out_proj:input if self_attn.qkv_proj",
        }
    ),
    attention="self_attn if self_attn.q_proj",
)
# The last norm is also the one behind the embeddings.
NANOCHAT = replace(LLAMA, calls=lambda config: {"ln_final.hook_normalized": (1, 2)})
# Each head's output is a difference of two, and its values are read twice.
DIFFLLAMA = replace(
    LLAMA.without(
        "an output head is the difference of two attentions over the values of both halves",
        "attn.hook_v", "attn.hook_z", "attn.hook_attn_scores", "attn.hook_pattern",
    ),
    attention=None,
)  # fmt: skip
NO_EXPERT_NEURONS = "its experts run in a way of their own: no neuron of one expert is seen"
LLAMA4 = LLAMA.without(
    NO_EXPERT_NEURONS, "mlp.experts", "mlp.hook_expert_indices", "mlp.hook_expert_weights"
).but({"mlp.hook_router_logits": "feed_forward.router:output[1]|rows"})
DOGE = SCALED.without("a learned mask over the values of all heads follows it", "attn.hook_v")

# Queries, keys and values from latents: keys are put together of a part of each head's own and one that all heads share.
_LATENT = "attn.hook_k", "attn.hook_v"
MLA = LLAMA.without(
    "a step makes the keys and values of all earlier tokens anew from latents: no module returns the new token's alone",
    *_LATENT,
).but({"attn.hook_q": "self_attn.q_b_proj:output|heads or self_attn.q_proj:output|heads"})
MLA_SCALED = MLA.without(SCALED.missing["hook_attn_out"], "hook_attn_out", "hook_mlp_out")
# Two attentions and two MLPs in one block, and experts beside them.
LONGCAT = replace(
    LLAMA,
    inside={
        **RESIDUAL,
        **{k: v for k, v in _MOE.items() if "shared" not in k and "logits" not in k},
    },
    attention=None,
    missing=dict.fromkeys(
        ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z",
         "hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
        "a block has two attentions and two MLPs, which these names do not tell apart",
    ),
)  # fmt: skip

# The output of attention is multiplied by a gate before its projection.
AFMOE = LLAMA.but(
    {
        "hook_attn_out": "post_attention_layernorm:output",
        "hook_mlp_out": "post_mlp_layernorm:output",
        "attn.hook_gate": "self_attn.gate_proj:output|heads",
    }
)
LAGUNA = LLAMA.but({"attn.hook_gate": "self_attn.g_proj:output"})

# Four streams that each sublayer mixes.
DEEPSEEK_V4 = Family(
    "layers",
    {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
    {
        "attn.hook_q": "self_attn.q_b_proj:output|heads",
        **_MOE,
        "mlp.hook_expert_indices": "mlp.experts:input[1]|rows",
    },
    "self_attn",
    missing={
        **dict.fromkeys(
            ("hook_resid_pre", "hook_resid_mid", "hook_resid_post"),
            "four streams go through a block together, and each sublayer mixes them",
        ),
        **dict.fromkeys(
            ("hook_attn_out", "hook_mlp_out"),
            "it is spread over four streams with weights of its own",
        ),
        **dict.fromkeys(
            ("attn.hook_k", "attn.hook_v"),
            "keys and values are one compressed tensor that all heads share",
        ),
        "attn.hook_z": "the output projection is turned and grouped: what it reads is not a head's weighted values",
    },
)

# State-space, convolutional and linear-attention layers: what the mixer reads, gates with, and adds to the stream.
_MIXERS = "linear_attn mamba conv temporal_block mixer"
_MIXER = {
    "mixer.hook_in": _any(
        *(f"{m}:input if {m}.{part}" for m in _MIXERS.split() for part in ("in_proj", "conv1d", "conv", "conv_1d", "rg_lru"))
    ),
    "mixer.hook_gate": _any(
        "linear_attn.in_proj_z:output", "linear_attn.g_proj:output", "temporal_block.linear_y:output",
        "mixer.in_proj:output|halves:1 if mixer.x_proj", "mamba.in_proj:output|halves:1 if mamba.x_proj",
        "mixer.in_proj:output|first:intermediate_size if mixer.norm", "mamba.in_proj:output|first:intermediate_size if mamba.norm",
    ),
    "mixer.hook_z": _any(
        *(f"{m}.{out}:input" for m in ("linear_attn", "mamba", "conv") for out in ("out_proj", "o_proj")),
        "temporal_block.linear_out:input", "mixer.out_proj:input if mixer.in_proj",
    ),
    "mixer.hook_out": _any(
        *(f"{m}:output" for m in ("linear_attn", "mamba", "conv")),
        "temporal_block:output if temporal_block.linear_x", "mixer:output if mixer.in_proj",
    ),
}  # fmt: skip
_STATE = "the recurrence runs inside one kernel: no module returns its state"
HYBRID = replace(LLAMA, inside={**_LLAMA_INSIDE, **_MIXER}, missing={"mixer.hook_state": _STATE})
LFM2 = HYBRID.but({"attn.hook_z": "self_attn.out_proj:input|heads"})
SCALED_HYBRID = HYBRID.without(
    SCALED.missing["hook_attn_out"], "hook_attn_out", "hook_mlp_out", "mixer.hook_out"
)
FALCON_H1 = SCALED_HYBRID.without("attention reads the same tensor", "mixer.hook_in")
QWEN_NEXT = HYBRID.but(
    {
        "attn.hook_q": "self_attn.q_proj:output|gated:0",
        "attn.hook_gate": "self_attn.q_proj:output|gated:1",
    }
)
OLMO_HYBRID = HYBRID.but(
    {
        "hook_resid_mid": "post_attention_layernorm:input if linear_attn or mlp:input",
        "hook_attn_out": "post_attention_layernorm:output if self_attn",
        "hook_mlp_out": "post_feedforward_layernorm:output or mlp:output",
    }
)
RECURRENT_GEMMA = replace(
    HYBRID.but(
        {
            **_qkvo(*(f"temporal_block.{part}_proj" for part in "qkvo")),
            "hook_attn_out": "temporal_block:output if temporal_block.q_proj",
        }
    ),
    attention="temporal_block if temporal_block.q_proj",
)
# One sublayer a block: its mixer is a state space, an attention, an MLP or experts.
NEMOTRON_H = replace(
    HYBRID.without("a block has one sublayer", "hook_resid_mid").but(
        {
            **_qkvo(*(f"mixer.{part}_proj" for part in "qkvo")),
            "hook_attn_out": "mixer:output if mixer.q_proj",
            "hook_mlp_out": "mixer:output if mixer.down_proj or mixer:output if mixer.experts",
        }
    ),
    attention="mixer if mixer.q_proj",
)
ONE_SUBLAYER = ("hook_resid_mid", "hook_mlp_out", "mlp.hook_pre", "mlp.hook_post")
NO_ATTENTION = (
    "hook_attn_out",
    *(f"attn.hook_{part}" for part in ("q", "k", "v", "attn_scores", "pattern", "z")),
)
MAMBA = Family(
    "layers",
    _LLAMA_OUTSIDE,
    {**RESIDUAL, **_MIXER},
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "it has no attention"),
        **dict.fromkeys(ONE_SUBLAYER, "a block has one sublayer, its state space"),
        "mixer.hook_state": _STATE,
    },
)
RWKV = Family(
    "blocks",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "ln_out:output"},
    {**RESIDUAL, "hook_resid_mid": "ln2:input", "hook_mlp_out": "feed_forward:output", "mixer.hook_in": "attention:input",
     "mixer.hook_z": "attention.output:input", "mixer.hook_out": "attention:output"},
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "its attention is a recurrence without a pattern"),
        "mlp.hook_pre": "its activation is squared between two modules",
        "mixer.hook_state": _STATE,
    },
)  # fmt: skip
XLSTM = Family(
    "blocks",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "out_norm:output"},
    {**RESIDUAL, "hook_resid_mid": "norm_ffn:input", "hook_mlp_out": "ffn:output", "mixer.hook_in": "mlstm_layer:input",
     "mixer.hook_gate": "mlstm_layer.ogate_preact:output", "mixer.hook_z": "mlstm_layer.out_proj:input",
     "mixer.hook_out": "mlstm_layer:output", "mlp.hook_pre": "ffn.proj_up_gate:output", "mlp.hook_post": "ffn.proj_down:input"},
    None,
    missing={**dict.fromkeys(NO_ATTENTION, "it has no attention"), "mixer.hook_state": _STATE},
)  # fmt: skip
# Linear attention in most layers, attention over latents in the others.
KIMI = replace(
    MLA.but(
        {
            "attn.hook_q": _any(
                *(
                    f"self_attn.{part}:output|heads if self_attn.kv_b_proj"
                    for part in ("q_b_proj", "q_proj")
                )
            ),
            "attn.hook_z": "self_attn.o_proj:input|heads if self_attn.kv_b_proj",
            "hook_attn_out": "self_attn:output if self_attn.kv_b_proj",
            "mixer.hook_in": "self_attn:input if self_attn.conv1d",
            "mixer.hook_gate": "self_attn.g_b_proj:output or self_attn.g_proj:output if self_attn.conv1d",
            "mixer.hook_z": "self_attn.o_proj:input if self_attn.conv1d",
            "mixer.hook_out": "self_attn:output if self_attn.conv1d",
        }
    ),
    attention="self_attn if self_attn.kv_b_proj",
    missing={**MLA.missing, "mixer.hook_state": _STATE},
)
# A transformer that several layers share adds to the input of a layer's state space.
_ZAMBA_SHARED = "shared_transf shared_transformer"
ZAMBA = Family(
    "layers",
    _LLAMA_OUTSIDE,
    {
        **RESIDUAL,
        "attn.hook_q": _of(_ZAMBA_SHARED, "self_attn.q_proj:output|heads"),
        "attn.hook_k": _of(_ZAMBA_SHARED, "self_attn.k_proj:output|heads"),
        "attn.hook_v": _of(_ZAMBA_SHARED, "self_attn.v_proj:output|heads"),
        "attn.hook_z": _of(_ZAMBA_SHARED, "self_attn.o_proj:input|heads"),
        "mlp.hook_post": _of(_ZAMBA_SHARED, "feed_forward.down_proj:input"),
        "mixer.hook_z": "mamba.out_proj:input or mamba_decoder.mamba.out_proj:input",
        "mixer.hook_out": "mamba:output or mamba_decoder.mamba:output",
    },
    "shared_transf.self_attn or shared_transformer.self_attn",
    missing={
        **dict.fromkeys(
            ("hook_attn_out", "hook_resid_mid", "hook_mlp_out"),
            "the shared transformer's output goes into the state space, not into the stream",
        ),
        "mlp.hook_pre": "adapters of each layer add to it behind the module",
        "mixer.hook_state": _STATE,
    },
)

# Sandwich norms: what reaches the residual stream is the post-norm's output.
_SANDWICH = {
    "hook_resid_mid": "pre_feedforward_layernorm:input",
    "hook_attn_out": "post_attention_layernorm:output",
    "hook_mlp_out": "post_feedforward_layernorm:output",
}
GEMMA2 = LLAMA.but(_SANDWICH)
# Behind the MLP each layer adds its own embedding of the tokens and scales the stream.
GEMMA4 = GEMMA2.without(
    "the block adds a per-layer embedding behind it and scales the sum", "hook_mlp_out"
).but({"mlp.experts": "experts:neurons", "mlp.hook_router_logits": "router.proj:output|rows",
       "mlp.hook_expert_indices": "experts:input[1]|rows", "mlp.hook_expert_weights": "experts:input[2]|rows"})  # fmt: skip
# Four predictions of the stream go through a block together.
GEMMA3N = replace(GEMMA2, outside={"hook_embed": "embed_tokens:output"}).without(
    "a block predicts and corrects four streams: what it reads is not what it adds to",
    "hook_resid_mid", "hook_attn_out", "hook_mlp_out",
).but(
    {
        "hook_resid_pre": ":input|stream:altup_active_idx",
        "hook_resid_post": ":output|stream:altup_active_idx",
    }
)  # fmt: skip
GLM4 = LLAMA.but(
    {
        "hook_attn_out": "post_self_attn_layernorm:output",
        "hook_mlp_out": "post_mlp_layernorm:output",
    }
)

# Post-norm only: the MLP reads the residual stream directly.
OLMO2 = LLAMA.but({**_SANDWICH, "hook_resid_mid": "mlp:input"})

# Attention and MLP read one norm of the same stream.
PARALLEL = LLAMA.without("attention and MLP read one stream in parallel", "hook_resid_mid")
PHI = PARALLEL.but(
    {
        "attn.hook_z": "self_attn.dense:input|heads",
        "mlp.hook_pre": "mlp.fc1:output",
        "mlp.hook_post": "mlp.fc2:input",
    }
)

_FUSED = {
    f"attn.hook_{part}": f"self_attn.qkv_proj:output|fused:{i}" for i, part in enumerate("qkv")
}
PHI3 = LLAMA.but(_FUSED)
PERSIMMON = LLAMA.but(
    {
        **{
            f"attn.hook_{part}": f"self_attn.query_key_value:output|interleaved:{i}"
            for i, part in enumerate("qkv")
        },
        "attn.hook_z": "self_attn.dense:input|heads",
        "mlp.hook_pre": "mlp.dense_h_to_4h:output",
        "mlp.hook_post": "mlp.dense_4h_to_h:input",
    }
)

GPT2 = Family(
    "h",
    {
        "hook_embed": "wte:output",
        "hook_pos_embed": "wpe:output",
        "ln_final.hook_normalized": "ln_f:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "ln_2:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attn.c_attn:output|thirds:0",
        "attn.hook_k": "attn.c_attn:output|thirds:1",
        "attn.hook_v": "attn.c_attn:output|thirds:2",
        "attn.hook_z": "attn.c_proj:input|heads",
        **_mlp("mlp.c_fc", "mlp.c_proj"),
    },
    "attn",
)

# The first GPT: a norm behind each sum, and none before the head.
OPENAI_GPT = Family(
    "h",
    {"hook_embed": "tokens_embed:output", "hook_pos_embed": "positions_embed:output"},
    {**GPT2.inside, "hook_resid_mid": "ln_1:input"},
    "attn",
)

# Parallel blocks: attention and MLP read the same residual, so there is no resid_mid.
NEOX = Family(
    "layers",
    {"hook_embed": "embed_in:output", "ln_final.hook_normalized": "final_layer_norm:output"},
    {
        **RESIDUAL,
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attention.query_key_value:output|interleaved:0",
        "attn.hook_k": "attention.query_key_value:output|interleaved:1",
        "attn.hook_v": "attention.query_key_value:output|interleaved:2",
        "attn.hook_z": "attention.dense:input|heads",
        **_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    },
    "attention",
    when=lambda config: config.use_parallel_residual,
)

NEOX_SEQUENTIAL = replace(
    NEOX,
    inside={**NEOX.inside, "hook_resid_mid": "post_attention_layernorm:input"},
    when=lambda config: not config.use_parallel_residual,
)

OPT = Family(
    "decoder.layers",
    {
        "hook_embed": "decoder.embed_tokens:output",
        "hook_pos_embed": "decoder.embed_positions:output",
        "ln_final.hook_normalized": "decoder.final_layer_norm:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "final_layer_norm:input|unflatten",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "fc2:output|unflatten",
        **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        # The MLP runs on (batch pos) d_model.
        "mlp.hook_pre": "fc1:output|unflatten",
        "mlp.hook_post": "fc2:input|unflatten",
    },
    "self_attn",
    when=lambda config: config.do_layer_norm_before,
)

OPT_POST_NORM = replace(
    OPT,
    outside={k: v for k, v in OPT.outside.items() if not k.startswith("ln_final")},
    inside={**OPT.inside, "hook_resid_mid": "self_attn_layer_norm:input"},
    when=lambda config: not config.do_layer_norm_before,
)

_FC = {
    **RESIDUAL,
    "hook_attn_out": "self_attn:output",
    "hook_mlp_out": "fc2:output",
    **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    **_mlp("fc1", "fc2"),
}
#: Of a decoder block: attention to the encoder's text, and the sums before and behind it.
_CROSS = {
    **{f"cross_attn.hook_{part}": f"encoder_attn.{part}_proj:output|heads" for part in "qkv"},
    "cross_attn.hook_z": "encoder_attn.out_proj:input|heads",
    "hook_cross_attn_out": "encoder_attn:output",
}
_EMBEDS = {"hook_embed": "embed_tokens:output", "hook_pos_embed": "embed_positions:output"}


def _within(path: str, places: Mapping[str, PlaceSpec]) -> dict[str, PlaceSpec]:
    return {site: f"{path}.{place}" for site, place in places.items()}


def _pair(mid: str, decoder_mid: str, cross_mid: str, end: str | None) -> Family:
    """An encoder and a decoder of BART's modules, their norms in front of the sublayers or behind the sums."""
    final: dict[str, PlaceSpec] = {"ln_final.hook_normalized": f"{end}:output"} if end else {}
    decoder = Family(
        "decoder.layers",
        _within("decoder", {**_EMBEDS, **final}),
        {
            **_FC,
            **_CROSS,
            "hook_resid_mid": f"{decoder_mid}:input",
            "hook_resid_mid_cross": f"{cross_mid}:input",
        },
        "self_attn",
        cross="encoder_attn",
    )
    inside = {**_FC, "hook_resid_mid": f"{mid}:input"}
    return Family(
        "encoder.layers",
        _within("encoder", {**_EMBEDS, **final}),
        inside,
        "self_attn",
        decoder=decoder,
    )


BART = _pair("self_attn_layer_norm", "self_attn_layer_norm", "encoder_attn_layer_norm", None)
PEGASUS = _pair("final_layer_norm", "encoder_attn_layer_norm", "final_layer_norm", "layer_norm")
FOLDED = "its softmax runs on (batch head) query key, where attention is not seen"


def _unseen(family: Family | None) -> Family:
    assert family is not None
    parts = (
        "attn.hook_attn_scores",
        "attn.hook_pattern",
        "cross_attn.hook_attn_scores",
        "cross_attn.hook_pattern",
    )
    return replace(family.without(FOLDED, *parts), attention=None, cross=None)


# Its encoder's attention runs on windows of the text.
LED = replace(
    replace(BART, outside={})
    .without(
        "its softmax runs on windows of the text", "attn.hook_attn_scores", "attn.hook_pattern"
    )
    .but(
        {
            **{
                f"attn.hook_{part}": f"self_attn.longformer_self_attn.{name}:output|heads"
                for part, name in (("q", "query"), ("k", "key"), ("v", "value"))
            },
            "attn.hook_z": "self_attn.output:input|heads",
        }
    ),
    attention=None,
    decoder=_unseen(BART.decoder),
)
FSMT = replace(_unseen(BART), decoder=_unseen(BART.decoder))
TROCR = replace(BART, decoder=_unseen(BART.decoder))
BIOGPT = Family(
    "layers",
    {**_EMBEDS, "ln_final.hook_normalized": "layer_norm:output"},
    {**_FC, "hook_resid_mid": "final_layer_norm:input"},
    "self_attn",
)
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
        **_qkvo("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
        **_mlp("feed_forward.intermediate_dense", "feed_forward.output_dense"),
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

WAVLM, WAVLM_PRE_NORM = (
    replace(
        row.without(
            "its attention is one function of PyTorch on the projections' weights: no module sees a head",
            "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_attn_scores", "attn.hook_pattern",
        ),
        attention=None,
    )
    for row in (WAV2VEC2, WAV2VEC2_PRE_NORM)
)  # fmt: skip
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
    missing={"hook_mlp_out": "a block has two MLPs, each of which it halves before adding"},
).without(
    "attention stands between two half MLPs: the stream before it is no block's input",
    "hook_resid_mid",
    "hook_attn_out",
)

# Post-norm encoders: what is added is the output modules' dense layer's (dropped-out) output; resid_mid is the sum
# resid_pre + attn_out, before its norm, as everywhere else.
_BERT_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": "attention.output.LayerNorm:input",
    "hook_attn_out": "attention.output.dropout:output",
    "hook_mlp_out": "output.dropout:output",
    **_qkvo(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    **_mlp("intermediate.dense", "output.dense"),
}
_BERT_OUTSIDE = {"hook_embed": "embeddings.word_embeddings:output"}

BERT = Family("encoder.layer", _BERT_OUTSIDE, _BERT_INSIDE, "attention.self")

# Norms in front: what a sublayer returns holds the stream already, its dropout's output is what is added.
BERT_PRE_NORM = replace(
    BERT.but(
        {
            "hook_resid_mid": "intermediate.LayerNorm:input or LayerNorm:input or ln:input",
            "hook_mlp_out": "output.dropout:output or output.dense:output",
        }
    ),
    outside={
        **_BERT_OUTSIDE,
        "ln_final.hook_normalized": _any(
            *(
                f"{norm}:output"
                for norm in (
                    "LayerNorm",
                    "encoder.LayerNorm",
                    "encoder.emb_layer_norm_after",
                    "encoder.ln",
                )
            )
        ),
    },
)
MPNET = replace(
    BERT.but(
        {
            **{f"attn.hook_{part}": f"attention.attn.{part}:output|heads" for part in "qkv"},
            "attn.hook_z": "attention.attn.o:input|heads",
            "hook_resid_mid": "attention.LayerNorm:input",
            "hook_attn_out": "attention.dropout:output",
        }
    ),
    attention="attention.attn",
)
# A convolution's output stands beside the heads of attention.
CONVBERT = replace(
    BERT.without(
        "the heads of attention stand beside those of a convolution", "attn.hook_z", "attn.hook_v"
    ),
    attention="attention.self",
)
FNET = Family(
    "encoder.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "fourier.output.LayerNorm:input",
        "mixer.hook_in": "fourier:input",
        "mixer.hook_out": "fourier.self:output",
        "hook_mlp_out": "output.dropout:output",
        **_mlp("intermediate.dense", "output.dense"),
    },
    None,
    missing=dict.fromkeys(
        NO_ATTENTION, "it mixes tokens by a Fourier transform, without attention"
    ),
)
MOBILEBERT = Family(
    "encoder.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        **_qkvo(
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ),
    },
    "attention.self",
    missing=dict.fromkeys(
        ("hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
        "a block works in a bottleneck, with four MLPs in a row",
    ),
)
# BERT's order of sums and norms in Llama's modules.
POST_NORM = Family(
    "layers",
    {"hook_embed": "embeddings.word_embeddings:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "post_attention_layernorm:input",
        "hook_attn_out": "post_attention_dropout:output",
        "hook_mlp_out": "post_mlp_dropout:output",
        **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        "mlp.hook_pre": "mlp.gate_proj:output or mlp.fc1:output",
        "mlp.hook_post": "mlp.down_proj:input or mlp.fc2:input",
    },
    "self_attn",
)
# The stream is position by batch, and its projections are weights of the block, not modules.
XLNET = Family(
    "layer",
    {},
    {"hook_resid_pre": ":input|turned", "hook_resid_post": ":output[0]|turned", "mlp.hook_pre": "ff.layer_1:output|turned",
     "mlp.hook_post": "ff.layer_2:input|turned", "hook_mlp_out": "ff.layer_2:output|turned",
     "hook_resid_mid": "rel_attn.layer_norm:input|turned"},
    None,
    missing=dict.fromkeys(NO_ATTENTION, "its projections are weights that no module holds, and its softmax runs over another axis"),
)  # fmt: skip


def _disentangled(config: Any) -> dict[str, tuple[int, int]]:
    """With shared keys the projections of the words run once more, on the relative positions."""
    if not (config.relative_attention and getattr(config, "share_att_key", False)):
        return {}
    kinds = config.pos_att_type or []
    return {"attn.hook_k": (0, 1 + ("c2p" in kinds)), "attn.hook_q": (0, 1 + ("p2c" in kinds))}


_DEBERTA_QKVO = _qkvo(
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    "attention.output.dense",
)
DEBERTA_V2 = replace(BERT.but(_DEBERTA_QKVO), calls=_disentangled)
DEBERTA = BERT.but(
    {
        f"attn.hook_{part}": f"attention.self.in_proj:output|interleaved:{i}"
        for i, part in enumerate("qkv")
    }
)

# Queries and keys of the relative positions come from the same projections, behind those of the tokens.
DEBERTA_SHARED = replace(
    DEBERTA,
    called={"attn.hook_q": 2, "attn.hook_k": 2},
    when=lambda config: (
        getattr(config, "relative_attention", False) and getattr(config, "share_att_key", False)
    ),
)

DISTILBERT = Family(
    "transformer.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "sa_layer_norm:input",
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "ffn:output",
        **_qkvo("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        **_mlp("ffn.lin1", "ffn.lin2"),
    },
    "attention",
)

ALBERT = Family(
    "encoder.albert_layer_groups.0.albert_layers.0",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "attention.LayerNorm:input",
        "hook_attn_out": "attention.output_dropout:output",
        "hook_mlp_out": "ffn_output:output",
        **_qkvo("attention.query", "attention.key", "attention.value", "attention.dense"),
        **_mlp("ffn", "ffn_output"),
    },
    "attention",
    shared=True,
)

MODERNBERT = Family(
    "layers",
    {
        "hook_embed": "embeddings.tok_embeddings:output",
        "ln_final.hook_normalized": "final_norm:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "mlp_norm:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attn.Wqkv:output|thirds:0",
        "attn.hook_k": "attn.Wqkv:output|thirds:1",
        "attn.hook_v": "attn.Wqkv:output|thirds:2",
        "attn.hook_z": "attn.Wo:input|heads",
        "mlp.hook_pre": "mlp.Wi:output|halves:0",
        "mlp.hook_post": "mlp.Wo:input",
    },
    "attn",
)

_T5_FF = "layer.{i}.DenseReluDense layer.{i}.mlp"
_T5_EXPERTS = "layer.{i}.mlp"


def _t5_block(mlp: int) -> dict[str, str]:
    dense = _T5_FF.format(i=mlp)
    attention = (
        "layer.0.SelfAttention layer.0.LocalSelfAttention layer.0.TransientGlobalSelfAttention"
    )
    return {
        **RESIDUAL,
        "hook_attn_out": "layer.0.dropout:output",
        "hook_resid_mid": "layer.1:input",
        "hook_mlp_out": f"layer.{mlp}.dropout:output",
        **{f"attn.hook_{part}": _of(attention, f"{part}:output|heads") for part in "qkv"},
        "attn.hook_z": _of(attention, "o:input|heads"),
        "mlp.hook_pre": _any(_of(dense, "wi_0:output"), _of(dense, "wi:output")),
        "mlp.hook_post": _of(dense, "wo:input"),
        "mlp.hook_router_logits": f"layer.{mlp}.mlp.router.classifier:output",
    }


_T5_OUTSIDE = {
    "hook_embed": "embed_tokens:output",
    "ln_final.hook_normalized": "final_layer_norm:output",
}
T5_DECODER = Family(
    "decoder.block",
    _within("decoder", _T5_OUTSIDE),
    {
        **_t5_block(2),
        **{
            f"cross_attn.hook_{part}": f"layer.1.EncDecAttention.{part}:output|heads"
            for part in "qkv"
        },
        "cross_attn.hook_z": "layer.1.EncDecAttention.o:input|heads",
        "hook_cross_attn_out": "layer.1.dropout:output",
        "hook_resid_mid_cross": "layer.2:input",
    },
    "layer.0.SelfAttention",
    cross="layer.1.EncDecAttention",
)
T5 = Family(
    "encoder.block",
    _within("encoder", _T5_OUTSIDE),
    _t5_block(1),
    "layer.0.SelfAttention",
    decoder=T5_DECODER,
)
SWITCH = replace(
    T5,
    missing={"mlp.experts": NO_EXPERT_NEURONS},
)
# Its encoder's attention runs on blocks of the text.
LONGT5 = replace(
    T5.without(
        "its softmax runs on blocks of the text", "attn.hook_attn_scores", "attn.hook_pattern"
    ),
    attention=None,
)
_T5GEMMA = {
    **_LLAMA_INSIDE,
    "hook_resid_mid": "pre_feedforward_layernorm:input",
    "hook_attn_out": "post_self_attn_layernorm:output",
    "hook_mlp_out": "post_feedforward_layernorm:output",
}
T5GEMMA = Family(
    "encoder.layers",
    _within(
        "encoder", {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"}
    ),
    _T5GEMMA,
    "self_attn",
    decoder=Family(
        "decoder.layers",
        _within(
            "decoder",
            {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
        ),
        {
            **_T5GEMMA,
            "hook_resid_mid": "pre_cross_attn_layernorm:input",
            **{f"cross_attn.hook_{part}": f"cross_attn.{part}_proj:output|heads" for part in "qkv"},
            "cross_attn.hook_z": "cross_attn.o_proj:input|heads",
            "hook_cross_attn_out": "post_cross_attn_layernorm:output",
            "hook_resid_mid_cross": "pre_feedforward_layernorm:input",
        },
        "self_attn",
        cross="cross_attn",
    ),
)

_IMAGE_QKVO = _qkvo(*(f"attention.{part}_proj" for part in "qkvo"))
VIT = Family(
    "layers",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm_after:input",
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "mlp:output",
        **_IMAGE_QKVO,
        **_mlp("mlp.fc1", "mlp.fc2"),
    },
    "attention",
)
# Learned scales stand between a sublayer and the sum.
BEIT = VIT.without(SCALED.missing["hook_attn_out"], "hook_attn_out", "hook_mlp_out")
DINOV2 = replace(
    VIT.but(
        {
            "hook_resid_mid": "norm2:input",
            "hook_attn_out": "layer_scale1:output",
            "hook_mlp_out": "layer_scale2:output",
            "mlp.hook_pre": "mlp.fc1:output or mlp.gate_proj:output or mlp.up_proj:output or mlp.weights_in:output|halves:0",
            "mlp.hook_post": "mlp.fc2:input or mlp.down_proj:input or mlp.weights_out:input",
        }
    ),
    blocks="encoder.layer",
)
DINOV3 = replace(
    DINOV2,
    blocks="model.layer",
    outside={"hook_embed": "embeddings:output", "ln_final.hook_normalized": "norm:output"},
)
DATA2VEC_VISION = replace(
    BEIT.but(
        {
            **_qkvo(
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
            ),
            **_mlp("intermediate.dense", "output.dense"),
        }
    ),
    blocks="encoder.layer",
    attention="attention.attention",
)
# CLIP's vision tower norms the class token alone at its end.
CLIP_VISION = Family(
    "encoder.layers",
    {"hook_embed": "embeddings:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layer_norm2:input",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "mlp:output",
        **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        **_mlp("mlp.fc1", "mlp.fc2"),
    },
    "self_attn",
)
CLIP_TEXT = replace(
    CLIP_VISION,
    outside={
        "hook_embed": "embeddings.token_embedding:output",
        "hook_pos_embed": "embeddings.position_embedding:output",
        "ln_final.hook_normalized": "final_layer_norm:output",
    },
)
SIGLIP_VISION = replace(
    CLIP_VISION,
    outside={
        "hook_embed": "embeddings:output",
        "ln_final.hook_normalized": "post_layernorm:output",
    },
)
BLIP_VISION = replace(
    CLIP_VISION.but(
        {
            **{
                f"attn.hook_{part}": f"self_attn.qkv:output|thirds:{i}"
                for i, part in enumerate("qkv")
            },
            "attn.hook_z": "self_attn.projection:input|heads",
        }
    )
)
PIXTRAL = replace(
    LLAMA.but(
        {
            **_IMAGE_QKVO,
            "hook_attn_out": "attention:output",
        }
    ),
    blocks="transformer.layers",
    outside={},
    attention="attention",
)
# Shifted windows: attention runs on the positions of each window, several windows a picture.
SWIN = Family(
    "encoder.layers",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm_after:input",
        "hook_mlp_out": "output:output",
        **_mlp("intermediate.dense", "output.dense"),
    },
    None,
    missing={
        **dict.fromkeys(
            NO_ATTENTION, "attention runs on windows: its rows are windows, not pictures"
        ),
        "hook_attn_out": "the windows are put together inside the block's forward",
    },
)
# Its norms stand behind each sublayer: the MLP reads the sum itself.
SWINV2 = SWIN.but(
    {"hook_resid_mid": "intermediate:input", "hook_mlp_out": "layernorm_after:output"}
)
# Whisper's encoder as the tower of another model.
SOUND_TOWER = replace(
    PEGASUS,
    blocks="layers",
    outside={"ln_final.hook_normalized": "layer_norm:output"},
    decoder=None,
)
MOONSHINE = Family(
    "encoder.layers",
    _within("encoder", {"ln_final.hook_normalized": "layer_norm:output"}),
    {**_LLAMA_INSIDE, "hook_resid_mid": "post_attention_layernorm:input"},
    "self_attn",
    decoder=Family(
        "decoder.layers",
        _within(
            "decoder",
            {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
        ),
        {
            **_LLAMA_INSIDE,
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
CTRL = Family(
    "h",
    {"ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm2:input",
        "hook_attn_out": "multi_head_attention:output",
        "hook_mlp_out": "ffn:output",
        **_qkvo(
            "multi_head_attention.Wq",
            "multi_head_attention.Wk",
            "multi_head_attention.Wv",
            "multi_head_attention.dense",
        ),
        **_mlp("ffn.0", "ffn.2"),
    },
    "multi_head_attention",
)
# A bias of its own is added to attention's output inside the block.
NEOX_JAPANESE = replace(
    NEOX_SEQUENTIAL.without("a bias is added to it inside the block's forward", "hook_attn_out"),
    when=lambda config: True,
)
XMOD = BERT.without("adapters of the language follow it", "hook_mlp_out")

#: Hugging Face ``config.model_type`` -> rows; the first whose ``when`` holds is the model's family. A site whose module
#: a block lacks (the MLP sites of a mixture of experts) is not listed for that block.
FAMILIES: dict[str, tuple[Family, ...]] = {
    **dict.fromkeys(
        ("llama", "internlm3", "iquestcoder", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma", "smollm3",
         "helium", "arcee", "cwm", "ernie4_5", "glm", "hunyuan_v1_dense", "jais2", "nemotron", "olmo",
         "seed_oss", "starcoder2", "eurobert", "vaultgemma", "apertus", "mimo_v2_flash", "stablelm",
         "mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "dots1", "ernie4_5_moe", "exaone_moe", "glm4_moe", "gpt_oss",
         "hunyuan_v1_moe", "olmoe", "solar_open", "mellum", "minimax_m2"), (LLAMA,)
    ),
    "bitnet": (BITNET,),
    "nanochat": (NANOCHAT,),
    "diffllama": (DIFFLLAMA,),
    "llama4_text": (LLAMA4,),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "hyperclovax"), (SCALED,)),
    "minimax": (MINIMAX,),
    "doge": (DOGE,),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "mistral4", "youtu"), (MLA,)
    ),
    "minicpm3": (MLA_SCALED,),
    "longcat_flash": (LONGCAT,),
    "afmoe": (AFMOE,),
    "laguna": (LAGUNA,),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), (QWEN_NEXT,)),
    **dict.fromkeys(("jamba", "bamba"), (HYBRID,)),
    **dict.fromkeys(("lfm2", "lfm2_moe"), (LFM2,)),
    "granitemoehybrid": (SCALED_HYBRID,),
    "falcon_h1": (FALCON_H1,),
    "olmo_hybrid": (OLMO_HYBRID,),
    **dict.fromkeys(("kimi_linear", "bailing_hybrid"), (KIMI,)),
    "deepseek_v4": (DEEPSEEK_V4,),
    "recurrent_gemma": (RECURRENT_GEMMA,),
    "nemotron_h": (NEMOTRON_H,),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba"), (MAMBA,)),
    "rwkv": (RWKV,),
    "xlstm": (XLSTM,),
    **dict.fromkeys(("zamba", "zamba2"), (ZAMBA,)),
    **dict.fromkeys(("gemma2", "gemma3_text"), (GEMMA2,)),
    "gemma3n_text": (GEMMA3N,),
    "gemma4_text": (GEMMA4,),
    "glm4": (GLM4,),
    **dict.fromkeys(("olmo2", "olmo3", "flex_olmo", "exaone4"), (OLMO2,)),
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), (PARALLEL,)),
    "phi": (PHI,),
    "phi3": (PHI3,),
    "persimmon": (PERSIMMON,),
    "gpt2": (GPT2,),
    "openai-gpt": (OPENAI_GPT,),
    "gpt_neox": (NEOX, NEOX_SEQUENTIAL),
    "opt": (OPT, OPT_POST_NORM),
    "biogpt": (BIOGPT,),
    **dict.fromkeys(
        ("bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie", "layoutlm", "rembert", "data2vec-text",
         "roformer", "big_bird"), (BERT,)
    ),
    **dict.fromkeys(("esm", "megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"), (BERT_PRE_NORM,)),
    "mpnet": (MPNET,),
    "convbert": (CONVBERT,),
    "fnet": (FNET,),
    "mobilebert": (MOBILEBERT,),
    **dict.fromkeys(("nomic_bert", "jina_embeddings_v3", "gte"), (POST_NORM,)),
    "xlnet": (XLNET,),
    "deberta": (DEBERTA,),
    "deberta-v2": (DEBERTA_V2,),
    **dict.fromkeys(("bart", "marian", "blenderbot-small", "plbart"), (BART,)),
    **dict.fromkeys(("mbart", "pegasus", "blenderbot", "m2m_100"), (PEGASUS,)),
    "led": (LED,),
    "whisper": (WHISPER,),
    **dict.fromkeys(("wav2vec2", "hubert"), (WAV2VEC2, WAV2VEC2_PRE_NORM)),
    "wavlm": (WAVLM, WAVLM_PRE_NORM),
    "wav2vec2-bert": (CONFORMER,),
    "distilbert": (DISTILBERT,),
    "albert": (ALBERT,),
    "modernbert": (MODERNBERT,),
    **dict.fromkeys(("t5", "mt5", "umt5"), (T5,)),
    "longt5": (LONGT5,),
    "switch_transformers": (SWITCH,),
    "t5gemma": (T5GEMMA,),
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text"), (LLAMA,)),
    "glm4v_text": (GLM4,),
    **dict.fromkeys(
        ("vit", "deit", "vit_mae", "vit_msn", "ijepa", "audio-spectrogram-transformer"), (VIT,)
    ),
    "beit": (BEIT,),
    "data2vec-vision": (DATA2VEC_VISION,),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), (DINOV2,)),
    "dinov3_vit": (DINOV3,),
    "clip_vision_model": (CLIP_VISION,),
    **dict.fromkeys(("clip_text_model", "siglip_text_model", "siglip2_text_model"), (CLIP_TEXT,)),
    **dict.fromkeys(
        ("siglip_vision_model", "siglip2_vision_model", "smolvlm_vision", "idefics3_vision"), (SIGLIP_VISION,)
    ),
    **dict.fromkeys(("blip_vision_model", "blip_2_vision_model"), (BLIP_VISION,)),
    "blip_text_model": (BERT,),
    "pixtral": (PIXTRAL,),
    "swin": (SWIN,),
    "swinv2": (SWINV2,),
    **dict.fromkeys(("qwen2_audio_encoder", "voxtral_encoder"), (SOUND_TOWER,)),
    "speech_to_text": (PEGASUS,),
    "moonshine": (MOONSHINE,),
    **dict.fromkeys(("data2vec-audio", "unispeech", "unispeech-sat", "sew"), (WAV2VEC2, WAV2VEC2_PRE_NORM)),
    "wav2vec2-conformer": (CONFORMER,),
    "trocr": (TROCR,),
    "ctrl": (CTRL,),
    "gpt_neox_japanese": (NEOX_JAPANESE,),
    "xmod": (XMOD,),
    "fsmt": (FSMT,),
}  # fmt: skip
