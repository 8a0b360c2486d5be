r"""From a layer's residual stream to the one behind the last block.

    logit           h                                              (nostalgebraist 2020)
    least-squares   A h + b = argmin sum ||h_L - A h - b||^2        (Din et al. 2023)
    tuned           A h + b = argmin E KL(p_L || U N(A h + b))
                    (Belrose et al. 2023), from the least squares
    jacobian        J h,  J = E_text [ 1/|V| sum_{t in V} sum_{t' in V, t' >= t} dh_L,t' / dh_t ]
                    (Gurnee et al. 2026)

N is the model's final norm, U its head. V are the positions of a text without the first ones (16,
as published) and the last. A position that only holds a BOS is left out of the fits: its values are
hundreds of times larger than all others'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .streams import LensError

if TYPE_CHECKING:
    from sklearn.preprocessing import FunctionTransformer

KINDS = ("logit", "least-squares", "tuned", "jacobian")
Advance: TypeAlias = Callable[[int], object]
"""Called with how much more is done."""


@dataclass(frozen=True)
class Lens:
    """One kind, at every layer; layer n is the stream in front of block n, so 0 is the embedding.

    Args:
        weight: None for the identity.
        bias: None for none.
        about: what it was fitted on and how.
        missing: layers that it has no matrix for; a published Jacobian lens has none for the
            embedding.
    """

    kind: str
    weight: Float[Tensor, "layer d_model d_model"] | None = None
    bias: Float[Tensor, "layer d_model"] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    missing: frozenset[int] = frozenset()

    def __call__(
        self, layer: int, stream: Float[Tensor, "*places d_model"]
    ) -> Float[Tensor, "*places d_model"]:
        """The stream of a layer as it would be behind the last block; the last layer's is left as
        it is.

        Raises:
            LensError: a layer that it has no matrix for.
        """
        if layer in self.missing:
            raise LensError(f"the {self.kind} lens has no matrix for layer {layer}")
        if self.weight is None or layer >= len(self.weight):
            return stream
        moved = stream.float() @ self.weight[layer].T
        if self.bias is not None:
            moved = moved + self.bias[layer]
        return moved.to(stream.dtype)

    def shuffled(self) -> Lens:
        """Every layer with the translator of a layer half a model away:
        what the layers have in common.
        """
        if self.weight is None:
            return self
        layers = len(self.weight)
        half = layers // 2
        bias = None if self.bias is None else self.bias.roll(half, 0)
        missing = {layer for layer in range(layers) if (layer - half) % layers in self.missing}
        return replace(
            self, weight=self.weight.roll(half, 0), bias=bias, missing=frozenset(missing)
        )

    def transformer(self, layer: int) -> FunctionTransformer:
        """One layer as a scikit-learn transformer: a probe behind it reads the translated stream.

        >>> lens = Lens("least-squares", 2 * torch.eye(2)[None])
        >>> lens.transformer(0).fit_transform(np.ones((1, 2), dtype=np.float32)).tolist()
        [[2.0, 2.0]]
        """
        from sklearn.preprocessing import FunctionTransformer

        return FunctionTransformer(functools.partial(_translated, lens=self, layer=layer))


def _translated(X: np.ndarray, *, lens: Lens, layer: int) -> np.ndarray:
    """Rows through one layer of a lens."""
    device = None if lens.weight is None else lens.weight.device
    rows = torch.as_tensor(np.asarray(X), device=device)
    return lens(layer, rows).cpu().numpy()
