"""Structural probes on a code that is the tree, on noise, and scores by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from probes.structural import (
    depth_spearman,
    distance_spearman,
    published,
    structural_many,
    tree_depths,
    tree_distances,
    tree_edges,
    tree_roots,
)


def trees(count: int, seed: int, short: int = 5, long: int = 9) -> list[list[int]]:
    """Random trees: every word hangs on one that was placed before it."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        n = int(rng.integers(short, long + 1))
        order = rng.permutation(n)
        heads = [0] * n
        for place in range(1, n):
            heads[order[place]] = int(order[rng.integers(place)]) + 1
        out.append(heads)
    return out


def perfect(heads: list[int], width: int = 16) -> torch.Tensor:
    """Every edge an axis of its own, a word the sum of the axes on its way to the root."""
    code = np.zeros((len(heads), width))
    for word in range(len(heads)):
        at = word
        while heads[at]:
            code[word, at] = 1
            at = heads[at] - 1
    return torch.from_numpy(code).float()


def test_the_perfect_code_has_perfect_scores() -> None:
    found = trees(40, 0)
    codes = [perfect(heads).numpy() for heads in found]
    for heads, code in zip(found, codes, strict=True):
        np.testing.assert_array_equal(
            ((code[:, None] - code[None]) ** 2).sum(2), tree_distances(heads)
        )
        np.testing.assert_array_equal((code**2).sum(1), tree_depths(heads))
    distances, depths = (
        [((c[:, None] - c[None]) ** 2).sum(2) for c in codes],
        [(c**2).sum(1) for c in codes],
    )
    assert tree_edges(distances, found).tolist() == [[len(heads) - 1] * 2 for heads in found]
    assert tree_roots(depths, found).tolist() == [1.0] * len(found)
    assert distance_spearman(distances, found) == pytest.approx(1.0)
    assert depth_spearman(depths, found) == pytest.approx(1.0)


def test_probes_of_all_layers_and_ranks_are_learned_at_once() -> None:
    """One layer holds the tree, turned and scaled; the other is noise."""
    train, dev = trees(300, 0), trees(60, 1)
    rng = np.random.default_rng(2)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(16, 16)))[0]).float() * 3
    layers = [
        {
            "tree": [perfect(h) @ turn for h in part],
            "noise": [torch.from_numpy(rng.normal(size=(len(h), 16))).float() for h in part],
        }
        for part in (train, dev)
    ]
    fits = structural_many(layers[0], train, layers[1], dev, "distance", ranks=(2, 16))
    assert set(fits) == {("tree", 2), ("tree", 16), ("noise", 2), ("noise", 16)}
    said = {key: [fit.predict(words) for words in layers[1][key[0]]] for key, fit in fits.items()}
    uuas = {key: np.divide(*tree_edges(distances, dev).sum(0)) for key, distances in said.items()}
    assert uuas["tree", 16] > 0.97
    assert fits["tree", 16].stationary
    assert fits["tree", 16].dev_loss < 5e-3  # the code's optimum has loss 0
    # gold distances tie, learned ones never do
    assert distance_spearman(said["tree", 16], dev) > 0.94
    assert uuas["tree", 2] < uuas["tree", 16] - 0.1
    chance = np.mean([2 / len(h) for h in dev])
    assert uuas["noise", 16] == pytest.approx(chance, abs=0.12)
    assert fits["tree", 2].projection.shape == (2, 16)

    brief = dataclasses.replace(published("hewitt2019"), epochs=3)
    alone = structural_many(
        {"tree": layers[0]["tree"]},
        train,
        {"tree": layers[1]["tree"]},
        dev,
        ranks=(16,),
        schedule=brief,
    )
    both = structural_many(layers[0], train, layers[1], dev, ranks=(2, 16), schedule=brief)
    assert not alone["tree", 16].stationary
    assert np.isnan(alone["tree", 16].apart)
    # Of two trainings the better one is kept; how far the other ended is told.
    longer = dataclasses.replace(brief, rate=1e-2, epochs=12)
    two = structural_many(layers[0], train, layers[1], dev, ranks=(16,), schedule=[brief, longer])
    kept = two["tree", 16]
    assert kept.dev_loss < alone["tree", 16].dev_loss
    assert kept.apart == pytest.approx(alone["tree", 16].dev_loss / kept.dev_loss - 1, rel=1e-4)
    torch.testing.assert_close(
        alone["tree", 16].projection, both["tree", 16].projection, atol=1e-5, rtol=1e-4
    )

    depths = structural_many(layers[0], train, layers[1], dev, "depth", ranks=(16,))
    found = [depths["tree", 16].predict(words) for words in layers[1]["tree"]]
    assert tree_roots(found, dev).mean() > 0.95
    assert depth_spearman(found, dev) > 0.9


def test_scores_by_hand() -> None:
    heads = [2, 0, 2, 3, 4]  # 1-2-3-4-5, a chain
    chain = np.abs(np.arange(5)[:, None] - np.arange(5)[None]).astype(float)
    assert tree_edges([chain], [heads]).tolist() == [[4, 4]]
    # all hang on the first word
    star = np.ones((5, 5)) + (np.arange(5) > 0)[None] * (np.arange(5) > 0)[:, None]
    np.fill_diagonal(star, 0)
    assert tree_edges([star], [heads]).tolist() == [[1, 4]]
    # Without the last word the chain has three edges, of which the star has one.
    assert tree_edges([star], [heads], [[True, True, True, True, False]]).tolist() == [[1, 3]]
    assert tree_roots([np.array([1.0, 0, 1, 2, 3])], [heads]) == [1]
    assert tree_roots([np.array([0.0, 1, 1, 2, 3])], [heads]) == [0]
    assert tree_roots(
        [np.array([0.0, 1, 1, 2, 3])], [heads], [[False, True, True, True, True]]
    ) == [1]
    assert np.isnan(distance_spearman([np.zeros((2, 2))], [[0, 1]]))  # shorter than 5 words


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="compat: expected 'hewitt2019', got 'hewitt2020'"):
        published("hewitt2020")
    with pytest.raises(ValueError, match=r"expected heads that form a tree, got \[0, 0\]"):
        tree_distances([0, 0])
    words = {"a": [torch.zeros(2, 3)]}
    with pytest.raises(ValueError, match="sentence 0: expected a vector for each of 3 words"):
        structural_many(words, [[0, 1, 1]], words, [[0, 1, 1]])
    with pytest.raises(ValueError, match=r"expected layers of one width, got \[3, 4\]"):
        structural_many({**words, "b": [torch.zeros(2, 4)]}, [[0, 1]], words, [[0, 1]])
    bad = {"a": [torch.zeros(2, 3), torch.full((2, 3), torch.nan)]}
    with pytest.raises(
        ValueError,
        match="layer 'a', sentence 1, must be finite, got NaN or infinity in 2 of 2 rows",
    ):
        structural_many(bad, [[0, 1]] * 2, words, [[0, 1]])
