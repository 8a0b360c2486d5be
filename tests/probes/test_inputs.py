"""What probes take, whatever its type, and the one line that says what they do not take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layerscope.errors import InputError
from probes import (
    Inlp,
    Leace,
    NonFiniteError,
    SparseProbe,
    fit_many,
    networks_many,
    online_code,
    ridge_many,
    sparse_sweep,
)
from probes.design import as_features, penalties
from probes.mixing import mix_many

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = X[:, 0] + RNG.normal(size=60) > 0
SENTENCES = np.arange(60) // 3
WIDE = X[:6, :3]


def layers(values: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(values.copy()).float()]


@pytest.mark.parametrize(
    "given",
    [
        X[::-1][::-1],
        X[:, ::-1][:, ::-1],
        X.astype(">f8"),
        X.astype(np.longdouble),
        X.astype(object),
        X.tolist(),
        np.broadcast_to(X, X.shape),
        torch.from_numpy(X).T.contiguous().T.requires_grad_(),
    ],
)
def test_features_of_any_layout_are_the_same_numbers(given: object) -> None:
    found = as_features(given)
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), X)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (X.astype(str)[:, :1] + "?", "X must be a matrix .* of numbers"),
        ([[1.0, 2.0], [3.0]], "X must be a matrix .* of numbers"),
        (None, "X must be a matrix"),
        (torch.from_numpy(X).to("meta"), "expected a dense tensor with values, got one on"),
        (torch.from_numpy(X).to_sparse(), "expected a dense tensor with values, got the layout"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_named(given: object, line: str) -> None:
    with pytest.raises(InputError, match=line):
        as_features(given)


def test_features_whose_squares_overflow_are_refused() -> None:
    far = X.copy()
    far[:, 2] *= 1e200
    with pytest.raises(InputError, match=r"squares are finite, .* in column 2"):
        fit_many(far, {"y": Y}, 1.0)


@pytest.mark.parametrize("l2", [np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2.0), [2]])
def test_a_penalty_is_a_number_of_any_type(l2: object) -> None:
    assert penalties(l2) == [2.0]  # type: ignore[arg-type]


@pytest.mark.parametrize("l2", [[], -1.0, [1.0, np.nan]])
def test_other_penalties_are_refused(l2: object) -> None:
    with pytest.raises(InputError, match="l2"):
        penalties(l2, choose=True)
    with pytest.raises(InputError, match="l2"):
        mix_many(layers(X), {"y": Y}, (layers(X), {"y": Y}), l2=l2)
    with pytest.raises(InputError, match="l2"):
        SparseProbe(l2=l2).fit(X, Y)


@pytest.mark.parametrize("labels", [Y[:-1], np.append(Y, True)])
def test_a_label_for_each_row(labels: np.ndarray) -> None:
    line = f"target 'y' has {len(labels)} labels, but X has 60 rows"
    with pytest.raises(InputError, match=line):
        fit_many(X, {"y": labels}, 1.0)
    with pytest.raises(InputError, match=line):
        networks_many(X, {"y": labels})
    with pytest.raises(InputError, match=line):
        online_code(X, {"y": labels}, SENTENCES)
    with pytest.raises(InputError, match=line):
        mix_many(layers(X), {"y": labels}, (layers(X), {"y": Y}))
    with pytest.raises(InputError, match="y: expected a label for each of 60 rows"):
        sparse_sweep(X, labels, X, Y, [1])


def test_a_label_for_each_dev_row() -> None:
    line, dev = "target 'y' has 5 dev labels for 6 rows", {"y": Y[:5]}
    with pytest.raises(InputError, match=line):
        fit_many(X, {"y": Y}, dev=(X[:6], dev))
    with pytest.raises(InputError, match=line):
        networks_many(X, {"y": Y}, dev=(X[:6], dev))
    with pytest.raises(InputError, match=line):
        online_code(X, {"y": Y}, SENTENCES, dev=(X[:6], dev))
    with pytest.raises(InputError, match=line):
        mix_many(layers(X), {"y": Y}, (layers(X[:6]), dev))


def test_dev_of_another_width() -> None:
    line, dev = "dev has 3 features, but X has 4", {"y": Y[:6]}
    with pytest.raises(InputError, match=line):
        fit_many(X, {"y": Y}, dev=(WIDE, dev))
    with pytest.raises(InputError, match=line):
        networks_many(X, {"y": Y}, dev=(WIDE, dev))
    start = fit_many(X[:, :3], {"y": Y}, 1.0)
    with pytest.raises(InputError, match="start: the fit of 'y' has 3 features, but X has 4"):
        fit_many(X, {"y": Y}, 1.0, start=start)


def test_a_label_that_is_nan_is_no_class() -> None:
    for labels in (np.where(Y, 1.0, np.nan), [1 if v else float("nan") for v in Y]):
        row = int(np.flatnonzero(~Y)[0])
        with pytest.raises(InputError, match=f"the label of row {row} is NaN"):
            fit_many(X, {"y": labels}, 1.0)


def test_labels_in_half_precision_and_labels_that_cannot_be_told_apart() -> None:
    expected = fit_many(X, {"y": Y}, 1.0)["y"].objective
    half = torch.from_numpy(Y).to(torch.bfloat16)
    assert fit_many(X, {"y": half}, 1.0)["y"].objective == expected
    with pytest.raises(InputError, match="labels must be hashable"):
        fit_many(X, {"y": [[v] for v in Y]}, 1.0)


def test_a_sweep_of_labels_that_have_no_order() -> None:
    labels = np.where(Y, "yes", None)  # type: ignore[call-overload]
    pairs = [(3,) if v else (1, 2) for v in Y]
    expected = sparse_sweep(X, Y, X, Y, [1, 2], n_random=0, n_rotations=0)
    for given in (labels, pairs):
        assert sparse_sweep(X, given, X, given, [1, 2], n_random=0, n_rotations=0) == expected


def test_rows_that_are_not_finite_are_told_before_anything_is_made_of_them() -> None:
    bad = X.copy()
    bad[57, 2] = np.inf
    for refuses in (
        lambda: online_code(bad, {"y": Y}, SENTENCES),  # also in the last block
        lambda: Inlp().fit(bad, Y),
    ):
        with pytest.raises(NonFiniteError, match="in 1 of 60 rows, first at row 57, column 2"):
            refuses()


@pytest.mark.parametrize("size", ["hidden", "epochs", "batch"])
def test_sizes_of_networks_begin_at_one(size: str) -> None:
    with pytest.raises(InputError, match=f"{size}: expected at least 1, got 0"):
        networks_many(X, {"y": Y}, **{size: 0})


def test_other_options_of_networks_and_sweeps() -> None:
    with pytest.raises(InputError, match="none of its dev labels is in training"):
        networks_many(X, {"y": Y}, dev=(X[:2], {"y": ["a", "b"]}))
    with pytest.raises(InputError, match="ks: expected numbers of neurons from 1"):
        sparse_sweep(X, Y, X, Y, [0])
    assert networks_many(X, {}) == {}
    assert ridge_many(X, {}, 1.0) == {}


def test_erasers_say_that_they_need_labels() -> None:
    for eraser in (Leace(), Inlp()):
        with pytest.raises(ValueError, match="requires y to be passed"):
            eraser.fit(X, None)


@pytest.mark.parametrize("choose", ["accuracy", "bits"])
def test_dev_labels_of_another_kind_choose_no_penalty(choose: Any) -> None:
    """Of labels that training does not have every penalty would be as good as any other."""
    dev = (X, {"y": [f"class {label}" for label in Y]})
    with pytest.raises(InputError, match=r"none of its dev labels is in training.*'class "):
        fit_many(X, {"y": Y}, l2=[0.1, 1.0], dev=dev, choose=choose)
