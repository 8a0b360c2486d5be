"""Whether a model's weights and outputs are numbers that can be computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from layerscope.errors import LayerscopeError

from .errors import SubjectError

LARGEST = 1e18
"""A value above it has no square in float32."""
SHORT_TEXTS = ("The cat sat on the mat.", "Nobody knew why 12 dogs barked.")


@contextmanager
def blaming_model(subject_of: Callable[[], Any]) -> Iterator[None]:
    """Make one line of an error that a model without usable numbers leads to; with any other model
    it stays a bug.

    A weight that is NaN, infinite or 0 everywhere ends in a different error in every study: a
    matrix without an inverse, a test without variance, a number that JSON does not have. Nothing is
    looked at unless there is an error.

    Args:
        subject_of: gives the model; None where none is loaded.

    Raises:
        SubjectError: what of the model is no number.
    """
    try:
        yield
    except (LayerscopeError, OSError):
        raise
    except Exception as error:
        fault = fault_of(subject_of())
        if fault is None:
            raise
        raise SubjectError(f"{fault} (this ends in a {type(error).__name__})") from error


def fault_of(subject: Any) -> str | None:
    """What of a model is no number to compute with, in one line; None where all is well,
    or where there is no model.
    """
    model = getattr(subject, "model", None)
    if not isinstance(model, nn.Module):
        return None
    reason = _fault_of_weights(model) or _fault_of_outputs(subject)
    return reason and f"{subject.name}: expected a model with finite, varying values, {reason}"


def _fault_of_weights(model: nn.Module) -> str | None:
    largest_of_all = 0.0
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        largest = float(weight.detach().abs().amax())
        # NaN is not below anything
        if not largest < LARGEST:
            return f"{name} holds {largest:.3g}"
        largest_of_all = max(largest_of_all, largest)
    return None if largest_of_all else "all its weights are 0"


def _fault_of_outputs(subject: Any) -> str | None:
    if not getattr(subject, "reads_text", False):
        return None
    for batch in subject.batches(subject.encode(SHORT_TEXTS)):
        hidden = subject.forward(batch)[0]
        if not bool(torch.isfinite(hidden).all()):
            return "its outputs on a short text are not"
        if not bool((hidden - hidden[:, :1]).any()):
            return "its outputs are the same at every token of a short text"
    return None
