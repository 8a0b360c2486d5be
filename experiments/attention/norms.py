r"""What a head moves, not only where it looks: the size of each attended token's contribution.

A head adds :math:`\sum_k A_{qk}\, v_k W_O` to the residual stream. A weight on a token whose
:math:`v_k W_O` is close to 0 (a BOS, a full stop) moves nothing, so beside the weight stands
:math:`A_{qk} \lVert v_k W_O \rVert`. Source: Kobayashi et al. 2020, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ...hooks import anatomy, sites
from ...hooks.placement import weight_of

VALUE, OUTPUT = "attn.hook_v", "attn.hook_z"


def output_weights(model: nn.Module, layer: int) -> Float[Tensor, "head d_head d_model"] | None:
    r"""Each head's rows of the output projection, so that ``attn_out`` is :math:`\sum_h z_h W_O^h`
    (+ bias).

    None where there is no linear projection, or no ``attn.hook_z``.
    """
    known = anatomy(model)
    place = known.places.get(f"blocks.{layer}.{OUTPUT}")
    # Heads are the input of the projection: where the site is another place, its weight is not what
    # follows the heads.
    if place is None or place.end != "input":
        return None
    weight = weight_of(model.get_submodule(place.path))
    return None if weight is None else weight.unflatten(0, (known.n_heads, -1))


def gram(weights: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head d_head d_head"]:
    r""":math:`W_O W_O^\top` of each head, float32:
    :math:`\lVert v W_O \rVert^2 = v W_O W_O^\top v^\top`.
    """
    wide = weights.float()
    return wide @ wide.transpose(1, 2)


def grams_of(
    model: nn.Module, layers: Sequence[int]
) -> list[Float[Tensor, "head d_head d_head"]] | None:
    """The `gram` of each of these blocks;
    None where the values or the output projection of one cannot be read.
    """
    grams = [gram(weights) for n in layers if (weights := output_weights(model, n)) is not None]
    has_values = set(sites(model)).issuperset(f"blocks.{n}.{VALUE}" for n in layers)
    return grams if has_values and len(grams) == len(layers) else None


def norms(
    states: Float[Tensor, "batch pos any_head d_head"], grams: Float[Tensor, "head d_head d_head"]
) -> Tensor:
    """‖states W_O‖ of each head, ``batch head pos``;
    values of grouped heads are read by every head of the group.
    """
    n_heads = len(grams)
    wide = states.float().transpose(1, 2)
    if wide.shape[1] != n_heads:
        wide = wide.repeat_interleave(n_heads // wide.shape[1], dim=1)
    return ((wide @ grams) * wide).sum(-1).clamp(min=0).sqrt()
