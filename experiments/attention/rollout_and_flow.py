r"""Attention through all layers: rollout and flow.

Both read :math:`\hat A_l = \tfrac12 \bar A_l + \tfrac12 I`, the mean over heads with the residual
stream as an attention to oneself. Rollout multiplies the layers, so its rows sum to 1; flow is the
largest flow from a token of the last layer to an input token when every :math:`\hat A_l` is a
capacity, so a bottleneck counts once. Neither knows values or MLPs. Source: Abnar & Zuidema 2020,
sections 3 and 4.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

UNIT = 1_000_000
"""Flows are found in whole numbers of a millionth."""


def _with_residual(
    patterns: Float[np.ndarray, "layer head query key"],
) -> Float[np.ndarray, "layer query key"]:
    return 0.5 * patterns.mean(1) + 0.5 * np.eye(patterns.shape[-1])


def rollout(patterns: Float[np.ndarray, "layer head query key"]) -> Float[np.ndarray, "query key"]:
    """How much of each input token reaches each token of the last layer,
    if tokens were mixed by attention alone.
    """
    mixed = np.eye(patterns.shape[-1])
    for step in _with_residual(patterns):
        mixed = step @ mixed
    return mixed


def flow(patterns: Float[np.ndarray, "layer head query key"]) -> Float[np.ndarray, "query key"]:
    """The largest flow from each token of the last layer to each input token;
    rows do not sum to 1.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    layers = np.round(UNIT * _with_residual(patterns)).astype(np.int32)
    depth, n, _ = layers.shape
    from_layer, query, key = np.nonzero(layers)
    # Node (l, i) is token i after l layers; edges run downwards.
    edges = ((from_layer + 1) * n + query, from_layer * n + key)
    graph = csr_array((layers[from_layer, query, key], edges), shape=((depth + 1) * n,) * 2)
    flows = np.zeros((n, n))
    for query in range(n):
        for key in range(n):
            flows[query, key] = maximum_flow(graph, depth * n + query, key).flow_value / UNIT
    return flows
