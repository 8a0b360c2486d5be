"""Encoders of pictures."""

from __future__ import annotations

from dataclasses import replace

from .llama import SCALED
from .row import NO_ATTENTION, RESIDUAL, Family, mlp, qkvo, same

IMAGE_QKVO = qkvo(*(f"attention.{part}_proj" for part in "qkvo"))

VIT = Family(
    "layers",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm_after:input",
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "mlp:output",
        **IMAGE_QKVO,
        **mlp("mlp.fc1", "mlp.fc2"),
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
            "mlp.hook_pre": "mlp.fc1:output or mlp.gate_proj:output or mlp.up_proj:output or "
            "mlp.weights_in:output|halves:0",
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
            **qkvo(
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
            ),
            **mlp("intermediate.dense", "output.dense"),
        }
    ),
    blocks="encoder.layer",
    attention="attention.attention",
)

# Shifted windows: attention runs on the positions of each window, several windows a picture.
SWIN = Family(
    "encoder.layers",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm_after:input",
        "hook_mlp_out": "mlp:output or output:output",
        "mlp.hook_pre": "mlp.fc1:output or intermediate.dense:output",
        "mlp.hook_post": "mlp.fc2:input or output.dense:input",
    },
    None,
    missing={
        **dict.fromkeys(
            NO_ATTENTION, "attention runs on windows, so its rows are windows, not pictures"
        ),
        "hook_attn_out": "the forward method of the block joins the windows",
    },
)

# Its norms stand behind each sublayer: the MLP reads the sum itself.
SWINV2 = SWIN.but(
    {"hook_resid_mid": "intermediate:input", "hook_mlp_out": "layernorm_after:output"}
)


# Convolutions in stages: a place in the picture is a position, and later stages have fewer.
CONVNEXT = Family(
    "encoder.stages",
    {"hook_embed": "embeddings:output|pixels"},
    {
        "hook_resid_pre": ":input|pixels",
        "hook_resid_post": ":output|pixels",
        "mlp.hook_pre": "pwconv1:output|grid",
        "mlp.hook_post": "pwconv2:input|grid",
    },
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "a convolution replaces attention"),
        "hook_resid_mid": (
            "the MLP reads the output of the convolution, which is not added to the stream"
        ),
        "hook_mlp_out": (
            "the block scales it before adding it, so no module returns the added value"
        ),
    },
)
RESNET = Family(
    "encoder.stages",
    {"hook_embed": "embedder:output|pixels"},
    {"hook_resid_pre": ":input|pixels", "hook_resid_post": ":output|pixels"},
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "a block has only convolutions"),
        **dict.fromkeys(
            ("hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
            "a block has only convolutions, and their sum overwrites the output of the last one",
        ),
    },
)

#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same("vit deit vit_mae vit_msn ijepa", VIT),
    "beit": (BEIT,),
    "data2vec-vision": (DATA2VEC_VISION,),
    **same("dinov2 dinov2_with_registers", DINOV2),
    "dinov3_vit": (DINOV3,),
    **same("convnext convnextv2", CONVNEXT),
    "resnet": (RESNET,),
    "swin": (SWIN,),
    "swinv2": (SWINV2,),
}
