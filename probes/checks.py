"""What an estimator takes: as scikit-learn checks it, and finite by our own check,
which says where it is not.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from layerscope.arguments import check_parameters
from layerscope.errors import InputError

from .design import as_features, check_dense, check_finite
from .labels import refuse_text
from .moments import Moments


def fitted_features(estimator: BaseEstimator, X: Any) -> np.ndarray:
    """Finite features of the width that the fitted estimator knows."""
    check_is_fitted(estimator)
    X = _checked(estimator, X, reset=False)
    check_finite(as_features(X))
    return X


def features_and_classes(
    estimator: BaseEstimator, X: Any, y: Any, reset: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Features and one label per row; whether they are finite is for the solver to say.

    Args:
        reset: the first rows, which tell the width; else they must have the width of those before.
    """
    X, y = _checked(estimator, X, y, reset=reset)
    with _one_line():
        check_classification_targets(y)
    return X, y


def features_and_numbers(
    estimator: BaseEstimator, X: Any, y: Any, reset: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The same with numbers [n] or [n t]."""
    if not isinstance(y, Tensor) and y is not None:
        refuse_text(y, "y")
    return _checked(estimator, X, y, reset=reset, multi_output=True, y_numeric=True)


def as_array(values: Any) -> Any:
    """A tensor as an array: on the CPU, without its gradient, half precision as float32; anything
    else as it is.

    Raises:
        InputError: a tensor without values (``meta``), or a sparse one.
    """
    if not isinstance(values, Tensor):
        return values
    check_dense(values)
    tensor = values.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy()


def more_rows(
    estimator: Any,
    X: Any,
    y: Any,
    checked: Callable[..., tuple[np.ndarray, np.ndarray]] = features_and_classes,
) -> tuple[np.ndarray, np.ndarray]:
    """Further rows for the estimator's ``moments_``, checked against those before; the first ones
    begin the statistics.

    Raises:
        ValueError: for an estimator read from a file, which does not hold them.
    """
    first = not hasattr(estimator, "moments_")
    # A file holds what the rows gave, not their moments, from which further rows could go on.
    if first and (hasattr(estimator, "coef_") or hasattr(estimator, "left_")):
        raise InputError(
            f"partial_fit: expected a {type(estimator).__name__} fitted here, "
            "got one read from a file"
        )
    X, y = checked(estimator, X, y, reset=first)
    if first:
        estimator.moments_ = Moments()
    return X, y


def _checked(estimator: BaseEstimator, *given: Any, reset: bool = True, **settings: Any) -> Any:
    if reset:
        check_parameters(estimator)
    given = tuple(as_array(values) for values in given)
    types = [np.float64, np.float32]
    with _one_line():
        return validate_data(
            estimator, *given, reset=reset, dtype=types, ensure_all_finite=False, **settings
        )


class WrongKind(InputError, TypeError):
    """Features or labels of a kind for which scikit-learn's contract asks for a ``TypeError``."""


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What scikit-learn refuses, as an `InputError` of one line without the values."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = " ".join(_VALUES.sub(". ", str(error)).split())
        kind = WrongKind if isinstance(error, TypeError) else InputError
        raise kind(text) from None


_VALUES = re.compile(r" instead:\s*array=.*?\.\n", re.DOTALL)
