"""Output heads of transformers models: from the end of the residual stream to logits.

`language_heads` and `class_heads` give the ways that a model may go; `head_of_model` measures which
of them is its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .anatomy import body_of
from .configuration import text_config
from .placement import adapted

Head: TypeAlias = "Callable[..., Float[Tensor, '*places tokens']]"
"""From the residual stream to logits: of all tokens, or of those given second."""


def language_head(model: nn.Module) -> Head | None:
    """The first of `language_heads`; None where there are several heads or none."""
    return next(iter(language_heads(model)), None)


def language_heads(model: nn.Module) -> list[Head]:
    """From the body's output to logits: the one head beside it, with the scale and the cap that the
    configuration names.

    A second argument chooses tokens; a plain linear head then multiplies by their rows alone. A
    model of pictures and text may name scale and cap in the text's configuration, and use them or
    not: each way is given. Which is what the model does is for the caller to measure.
    """
    model = adapted(model)
    body, heads = _body_and_beside(model)
    if body is None or len(heads) != 1:
        return []
    config: Any = model.config
    settings = []
    for part in (config, text_config(config)):
        cap = getattr(part, "final_logit_softcapping", None)
        up, down = getattr(part, "logit_scale", None), getattr(part, "logits_scaling", None)
        settings.append((cap, up, down))
    return [functools.partial(_logits, heads[0], *way) for way in dict.fromkeys(settings)]


def _body_and_beside(model: nn.Module) -> tuple[nn.Module | None, list[nn.Module]]:
    """A model's body, and the modules with weights beside it."""
    body = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if body is None:
        body = body_of(model)  # Llama 4 has its body under another name than its prefix
    beside = []
    for module in model.children():
        has_weights = next(module.parameters(), None) is not None
        if module is not body and has_weights:
            beside.append(module)
    return body, beside


def _logits(
    head: Any,
    cap: float | None,
    up: float | None,
    down: float | None,
    x: Tensor,
    tokens: Tensor | None = None,
) -> Tensor:
    """A head's logits of all tokens or of these, scaled and capped."""
    if tokens is None:
        logits = head(x)
    elif _is_plain(head):
        bias = None if head.bias is None else head.bias[tokens]
        logits = nn.functional.linear(x, head.weight[tokens], bias)
    else:
        logits = head(x)[..., tokens]
    if up:
        logits = logits * up
    elif down:
        logits = logits / down
    return cap * torch.tanh(logits / cap) if cap else logits


def head_of_model(
    model: nn.Module,
    norm: nn.Module | None,
    last: Float[Tensor, "*read d_model"],
    logits: Float[Tensor, "*read vocab"],
    tolerance: float,
) -> tuple[Head | None, float | None]:
    """The first head that turns the last block's output into the model's logits.

    Args:
        norm: the final norm, which stands before the head; None where there is none.
        last: the last block's output.
        logits: what the model gives there.
        tolerance: largest difference, relative to the largest logit.

    Returns:
        The head with its norm, None where none gives these logits; and the least difference
        measured, None where no head runs.
    """
    least = None
    for candidate in (*language_heads(model), *class_heads(model)):
        head = _behind_norm(norm, candidate)
        error = _relative_error(head, last, logits)
        if error is None:
            continue
        least = error if least is None else min(least, error)
        if error <= tolerance:
            return head, least
    return None, least


def _behind_norm(norm: nn.Module | None, head: Head) -> Head:
    """A head that is given the last block's output."""

    def tail(x: Tensor, tokens: Tensor | None = None) -> Tensor:
        return head(norm(x) if norm is not None else x, tokens)

    return tail


def _relative_error(head: Head, last: Tensor, logits: Tensor) -> float | None:
    """How far a head is from the model's logits, relative to the largest;
    None where it does not run.
    """
    try:
        computed = head(last)
    except (RuntimeError, TypeError, IndexError):
        return None
    if computed.shape != logits.shape:
        return None
    difference, largest = float((computed - logits).abs().max()), float(logits.abs().max())
    # a model of zeros gives logits of 0
    return difference / largest if largest else difference


def asked_positions(
    model: nn.Module, inputs: Mapping[str, Any], positions: Int[Tensor, " reads"]
) -> Int[Tensor, " kept"] | None:
    """The positions, each once and in order, whose logits alone a model can be asked for, as
    ``logits_to_keep``; None where it cannot.

    A head over 128,000 tokens gives half a megabyte a position: what nobody reads is not computed.
    """
    takes = inspect.signature(model.forward).parameters
    is_open = "logits_to_keep" in takes and "logits_to_keep" not in inputs
    is_from_end = bool((positions < 0).any())
    return positions.unique() if is_open and not is_from_end else None


def class_heads(model: nn.Module) -> list[Head]:
    """Ways from the state that a classifier of texts pools to its logits: its parts one after the
    other.

    The parts are the body's pooler, where there is one, and the modules with weights beside the
    body. Each is given a text of one position, since a pooler takes a text's first. Which way is
    the model's is for the caller to measure.
    """
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return []
    body, beside = _body_and_beside(model)
    pooler = getattr(body, "pooler", None)
    ways = [beside] if pooler is None else [[pooler, *beside], beside]
    return [_in_turn(parts) for parts in ways]


def _in_turn(parts: Sequence[nn.Module]) -> Head:
    """Modules one after the other, on states as texts of one position."""

    def head(x: Tensor, tokens: Tensor | None = None) -> Tensor:
        value = x[:, None]
        for part in parts:
            value = part(value)
        logits = value[:, 0] if value.ndim == 3 else value
        return logits if tokens is None else logits[..., tokens]

    return head


def _is_plain(head: nn.Module) -> bool:
    """Whether a head is its weight and bias and nothing else:
    neither hooked nor kept elsewhere until it is called.
    """
    has_hooks = bool(head._forward_hooks or head._forward_pre_hooks)
    is_replaced = "forward" in vars(head)
    is_linear = type(head) is nn.Linear
    return is_linear and not has_hooks and not is_replaced and not head.weight.is_meta
