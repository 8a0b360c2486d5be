"""Rankings and probes crossed, on data whose neurons are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probes import cross_table
from probes.rankings import RANKINGS

RNG = np.random.default_rng(0)
Y = np.array(["no", "yes"])[RNG.integers(0, 2, 600)]
X = RNG.normal(size=(600, 12))
X[:, 4] += 3.0 * (Y == "yes")


def test_every_ranking_puts_the_planted_neuron_first_and_bands_stand_apart() -> None:
    found = cross_table(
        X[:400], Y[:400], X[400:], Y[400:], np.arange(200), tuple(RANKINGS), (1, 12), 20, 2
    )
    assert {order[0] for order in found.orders.values()} == {4}
    assert {r["probe"] for r in found.records} == {"logistic", "lda", "mean_difference", "balanced"}
    assert len(found.records) == len(RANKINGS) * 4 * 2
    for r in found.records:
        if r["k"] == 1:
            assert r["accuracy"] > 0.9
            assert r["low"] < r["accuracy"] < r["high"]
            assert r["random"] < 0.75  # most neurons say nothing
            assert r["rotated"] < r["accuracy"]
        else:
            # all neurons, in another order
            assert r["random"] == pytest.approx(r["accuracy"], abs=0.01)
            assert found.whole[r["probe"]] == pytest.approx(r["accuracy"], abs=0.01)
    Z = (X[:, [4]] - X[:400, 4].mean()) / X[:400, 4].std()
    best = LogisticRegression(C=2.0, tol=1e-8).fit(Z[:400], Y[:400]).score(Z[400:], Y[400:])
    (mine,) = [
        r for r in found.records if (r["ranking"], r["probe"], r["k"]) == ("f", "logistic", 1)
    ]
    assert mine["accuracy"] == pytest.approx(best, abs=1e-9)
    assert found.unconverged == 0


def test_random_labels_are_read_by_no_pair() -> None:
    drawn = np.array(["a", "b", "c"])[np.random.default_rng(3).integers(0, 3, 600)]
    found = cross_table(
        X[:400], drawn[:400], X[400:], drawn[400:], np.arange(200), ("f",), (2,), 3, 0
    )
    assert {r["probe"] for r in found.records} == {"logistic", "lda", "mean_difference"}
    values, counts = np.unique(drawn[:400], return_counts=True)
    assert found.majority == np.mean(drawn[400:] == values[counts.argmax()])
    for r in found.records:
        assert r["accuracy"] < 0.46
        assert r["rotated"] is None
