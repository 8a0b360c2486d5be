"""Scores and weights computed beside a fused kernel, against the kernel itself."""

import math

import pytest
import torch
from torch.nn import functional as F

from hooks.attention import AttentionWatch, _weights, sdpa_scores
from hooks.flex import flex_scores


@pytest.mark.parametrize("scores", [sdpa_scores, flex_scores])
@pytest.mark.parametrize("scale", [None, 0.01])
def test_scores_that_float16_holds_do_not_overflow_on_the_way(scores, scale):
    """23 * 23 * 128 is beyond float16's 65504; by the scale it is far below."""
    query = torch.full((1, 1, 2, 128), 23.0, dtype=torch.float16)
    query[..., 1, :] = -23.0
    found = scores(query, query, scale=scale)
    expected = 23.0**2 * 128 * (scale or 128**-0.5)
    torch.testing.assert_close(
        found[0, 0], expected * torch.tensor([[1.0, -1], [-1, 1]]).half(), rtol=2e-3, atol=0
    )
    value = torch.eye(2, dtype=torch.float16).expand(1, 1, 2, 2)
    torch.testing.assert_close(
        _weights(found), F.scaled_dot_product_attention(query, query, value, scale=scale)
    )


def test_a_query_with_nothing_to_see_attends_nowhere_and_other_nans_are_seen():
    scores = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf], [math.inf, 0.0]])
    found = _weights(scores)
    assert found[:2].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert found[2].isnan().any()


def test_a_nan_that_an_edit_of_the_scores_makes_is_not_hidden():
    class Breaks:
        in_graph = False

        def scores(self, scores):
            return scores * math.inf

        def pattern(self, pattern):
            return pattern

    query = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    with AttentionWatch() as watch:
        watch.touches.append(Breaks())
        out = F.scaled_dot_product_attention(query, query, query)
    assert out.isnan().any()
