"""Online code: noise does not compress, structure does,
and the sum is the one of the definition.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes import fit_many, online_code
from probes.codelength import L2

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4000, 8)).astype(np.float32)
LABELS = (X @ RNG.normal(size=(8, 4))).argmax(1)
NOISE = RNG.integers(0, 4, 4000)
SENTENCES = np.arange(4000) // 8


def test_structure_compresses_and_noise_does_not() -> None:
    found = online_code(X, {"linear": LABELS, "noise": NOISE}, SENTENCES)
    assert found["linear"].compression > 4
    assert 0.9 < found["noise"].compression <= 1
    assert found["linear"].uniform == 8000
    assert found["linear"].unpaid == 0


def test_labels_that_cannot_be_read_cost_their_entropy() -> None:
    """Wide features, few rows, a skewed and a flat distribution: no probe beats the class
    frequencies, and none is paid for.
    """
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(1500, 60)).astype(np.float32)
    skewed = rng.choice(4, 1500, p=[0.7, 0.1, 0.1, 0.1])
    found = online_code(
        rows, {"skewed": skewed, "flat": rng.integers(0, 8, 1500)}, np.arange(1500) // 5
    )
    share = np.bincount(skewed) / 1500
    entropy = -(share * np.log2(share)).sum()
    assert found["skewed"].bits == pytest.approx(1500 * entropy, rel=0.05)
    assert 0.95 < found["flat"].compression <= 1


def test_the_code_is_the_sum_of_its_definition() -> None:
    """One block coded by hand: the same shuffle, the same probe, the same escape."""
    (found,) = online_code(
        X, {"y": LABELS}, SENTENCES, fractions=(0.25, 1.0), l2=3.0, tol=1e-8
    ).values()
    turn = np.random.default_rng(0).permutation(500)
    order = np.concatenate([np.flatnonzero(s == SENTENCES) for s in turn])
    assert found.ends == [1000, 4000]
    fit = fit_many(X[order[:1000]], {"y": LABELS[order[:1000]]}, l2=3.0, tol=1e-8)["y"]
    p = fit.predict_proba(X[order[1000:]]).numpy()[np.arange(3000), LABELS[order[1000:]]]
    expected = -np.log2((1 - 1 / 1001) * p + 1 / 1001 / 4).sum()
    assert found.blocks[0] == 2000
    assert found.bits == pytest.approx(2000 + expected, rel=1e-6)
    kbit, compression = found.published()
    assert kbit == pytest.approx((2000 + expected * np.log(2)) / 1024, rel=1e-6)
    assert compression == pytest.approx(8000 / (kbit * 1024))


def test_sentences_stay_whole() -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 300)
    owners = np.repeat(np.arange(300), lengths)
    rows = np.random.default_rng(2).normal(size=(len(owners), 3))
    (found,) = online_code(rows, {"y": (rows[:, 0] > 0).astype(int)}, owners, l2=1.0).values()
    turn = np.random.default_rng(0).permutation(300)
    assert set(found.ends) <= set(lengths[turn].cumsum().tolist())


def test_a_label_that_comes_late_costs_what_the_escape_says() -> None:
    """One class only in what has been sent: the first other label costs log2(K (t + 1)) bits,
    the others next to nothing.
    """
    labels = np.zeros(64, dtype=int)
    last = np.random.default_rng(0).permutation(64)[-1]
    labels[last] = 1
    rows = np.zeros((64, 2)) + np.arange(64)[:, None]
    (found,) = online_code(
        rows, {"y": labels}, np.arange(64), fractions=(0.5, 1.0), l2=1.0
    ).values()
    known = -np.log2(1 - 1 / 33 + 1 / 66)
    assert found.blocks[1] == pytest.approx(np.log2(2 * 33) + 31 * known)


def test_dev_labels_are_said_to_be_unpaid() -> None:
    dev = (X[:200], {"y": LABELS[:200]})
    (found,) = online_code(X[200:], {"y": LABELS[200:]}, SENTENCES[200:], dev=dev).values()
    assert found.unpaid == 400
    assert found.compression > 4
    tensors = (X[:200], {"y": torch.from_numpy(LABELS[:200])})
    assert (
        online_code(X[200:], {"y": LABELS[200:]}, SENTENCES[200:], dev=tensors)["y"].l2 == found.l2
    )
    assert max(found.l2) < max(L2)  # chosen, and not the strongest for want of labels


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="expected shares that rise to 1"):
        online_code(X, {"y": LABELS}, SENTENCES, fractions=(0.5, 0.25, 1.0))
    with pytest.raises(
        ValueError, match="target 'y': expected at least 2 classes, got one class: 'a'"
    ):
        online_code(X, {"y": ["a"] * 4000}, SENTENCES)
    with pytest.raises(ValueError, match=r"target 'y' has no dev labels, got them for \['z'\]"):
        online_code(X, {"y": LABELS}, SENTENCES, dev=(X, {"z": LABELS}))
    with pytest.raises(ValueError, match="expected at least 2 sentences, got 1"):
        online_code(X, {"y": LABELS}, np.zeros(4000, dtype=int))
    with pytest.raises(ValueError, match="expected a sentence for each of 4000 rows, got 3"):
        online_code(X, {"y": LABELS}, [1, 2, 3])
