"""Attention seen where PyTorch computes it, without leaving the model's own implementation.

Between the pre-hook and the post-hook of an attention module, a `TorchFunctionMode` watches for the
one call that turns scores into weights: `scaled_dot_product_attention` (sdpa) or a `softmax` over
``batch head query key`` (eager); flex attention is met where transformers calls it (`hooks.flex`).
Under sdpa and flex the scores and the pattern are computed beside the fused kernel from the very
tensors that it was given, and unless they are edited the kernel's own output goes on unchanged.
Modules that are not watched pay nothing, and no configuration is touched.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .block import BlockHook, depth
from .flex import flex_calls, flex_scores, uses_flex, with_asked, with_heads
from .multihead import Multihead, arguments
from .transforms import is_wrapped

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
FAR = 9e3
"""Below a row's largest score by more than this is masked: the first GPT and CTRL add -10,000."""


@runtime_checkable
class AttentionTouch(Protocol):
    """One party's interest in one attention module; see `hooks.taps`."""

    in_graph: bool

    def scores(self, scores: Float[Tensor, "batch head query key"]) -> Tensor:
        """Called with what the softmax reads: scaled, biased, soft-capped;
        forbidden positions hold -inf or the dtype's minimum.
        """
        ...

    def pattern(self, pattern: Float[Tensor, "batch head query key"]) -> Tensor:
        """Called with what the softmax gave."""
        ...

    def part(self, name: str, value: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        """Called with ``query``, ``key``,
        ``value`` and the ``mixed`` values where one function computes them all.
        """
        ...


@runtime_checkable
class SomeHeads(AttentionTouch, Protocol):
    """A party that may ask for some heads alone."""

    reads_scores: bool

    def heads(self, count: int) -> list[int] | None:
        """Which of so many heads are asked for; None for all."""
        ...

    def hold(self, heads: list[int], count: int) -> None:
        """Called before `scores` and `pattern` where these are of some heads of so many."""
        ...


class AttentionWatch(TorchFunctionMode):
    """Watches one attention module's forward and shows its scores and pattern to all who asked, in
    their order.

    What they return unchanged leaves the model's own kernel at work. Where one returns another
    tensor, or wants gradients (``in_graph``), the output is computed from the pattern; it then
    equals the fused kernel's to rounding.

    Args:
        module: the attention module.
        size: positions that it is called with, where they are known.
    """

    def __init__(self, module: nn.Module | None = None, size: int | None = None) -> None:
        super().__init__()
        self.touches: list[AttentionTouch] = []
        self._depth = depth()
        self._size, self._groups = size, int(getattr(module, "num_key_value_groups", 1))
        self._sinks = getattr(module, "sinks", None)
        self._flex_calls = None
        if module is not None and uses_flex(module):
            self._flex_calls = flex_calls(self._flex)

    def __enter__(self) -> Any:
        # The compiler traces a mode that it meets: beside flex attention there is none.
        return super().__enter__() if self._flex_calls is None else self._flex_calls.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        if self._flex_calls is None:
            return super().__exit__(*raised)
        return self._flex_calls.__exit__(*raised)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # a forward that a function runs which was shown a value of this one
        if depth() != self._depth:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._sdpa(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self._multihead(func, args, kwargs)
        if func in _SOFTMAX and _is_attention(args, kwargs):
            return self._softmax(func, args, kwargs)
        return func(*args, **kwargs)

    def _softmax(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        options = {name: value for name, value in kwargs.items() if name != "input"}
        given = args[0] if args else kwargs["input"]

        def softmax(scores: Tensor) -> Tensor:
            return func(scores, *args[1:], **options)

        has_sinks = isinstance(self._sinks, Tensor) and self._sinks.numel() == given.shape[1]
        if has_sinks:
            return self._beside_sinks(given, softmax)
        return self._through(given, softmax)[0]

    def _beside_sinks(self, given: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        """Scores whose last column is no key but a learned number of each head,
        which takes its share of the softmax.
        """
        assert isinstance(self._sinks, Tensor)
        sinks = self._sinks.view(1, -1, 1, 1).to(given)
        # the model subtracts each row's maximum before
        scores = given[..., :-1] + (sinks - given[..., -1:])
        whole = softmax(given)

        def without_sinks(scores: Tensor) -> Tensor:
            column = sinks.expand(*scores.shape[:-1], 1)
            return softmax(torch.cat([scores, column], dim=-1))[..., :-1]

        pattern, changed = self._through(scores, without_sinks)
        if not changed:
            return whole
        rest = 1 - pattern.sum(-1, keepdim=True)
        return torch.cat([pattern, rest], dim=-1)

    def _sdpa(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        # The function is called by position and by name; both become names.
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query = given["query"]
        # one new token: transformers lays the query heads of a key head along the query axis
        is_packed = self._size == 1 and 1 < query.shape[2] == self._groups
        heads = None if is_packed else self._heads(query.shape[1])
        scores = sdpa_scores(**(given if heads is None else _of_heads(given, heads)))
        if is_packed:
            # batch kv_head group key -> batch head 1 key
            scores = scores.flatten(1, 2)[:, :, None]
        pattern, changed = self._through(scores, self._weights_of(scores))
        if not changed:
            return func(*args, **kwargs)
        # Dropout is the model's own, behind the pattern that is shown.
        dropped = F.dropout(pattern, given.get("dropout_p", 0.0))
        if is_packed:
            dropped = dropped.squeeze(2).unflatten(1, (-1, self._groups))
        if heads is None:
            return dropped @ _repeat_heads(given["value"], dropped.shape[1])
        # The other heads keep the kernel's output.
        of_heads = dropped @ _of_heads(given, heads)["value"]
        index = torch.tensor(heads, device=of_heads.device)
        return func(*args, **kwargs).index_copy(1, index, of_heads)

    def _multihead(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = arguments(args, kwargs)
        if given is None:
            return func(*args, **kwargs)
        call = Multihead(given)
        parts = call.projections()
        after_edits = {name: self._part(name, value) for name, value in parts.items()}
        scores = call.scores(after_edits["query"], after_edits["key"])
        pattern, changed = self._through(scores, _weights)
        mixed = call.mixed(pattern, after_edits["value"])
        seen = self._part("mixed", mixed)
        edited = seen is not mixed or any(after_edits[name] is not parts[name] for name in parts)
        # Where nothing was edited the model's own kernel runs, so that looking changes no bit.
        if not changed and not edited:
            return func(*args, **kwargs)
        return call.returned(seen, pattern)

    def _part(self, name: str, value: Tensor) -> Tensor:
        for touch in self.touches:
            value = touch.part(name, value)
        return value

    def _heads(self, count: int) -> list[int] | None:
        """The heads that all who look ask for together; None for all."""
        touches = [cast(SomeHeads, touch) for touch in self.touches if hasattr(touch, "heads")]
        # One that looks at the whole pattern makes all heads necessary.
        if len(touches) < len(self.touches):
            return None
        together: set[int] = set()
        for touch in touches:
            heads = touch.heads(count)
            if heads is None:
                return None
            together.update(heads)
        in_order = sorted(together)
        for touch in touches:
            touch.hold(in_order, count)
        return in_order

    def _weights_of(self, scores: Tensor) -> Callable[[Tensor], Tensor]:
        """The softmax; where nobody looks at the scores, in their memory."""
        for touch in self.touches:
            if touch.in_graph or getattr(touch, "reads_scores", True):
                return _weights
        can_overwrite = not (scores.requires_grad or is_wrapped(scores))
        is_cpu = scores.device.type == "cpu"
        return _weights_in_place if can_overwrite and is_cpu else _weights

    def _flex(
        self, func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, **kwargs: Any
    ) -> Any:
        if depth() != self._depth:
            return func(query, key, value, **kwargs)
        given = {name: kwargs.get(name) for name in ("score_mod", "block_mask", "scale")}
        parts = {"query": query, "key": key, "value": value}
        heads = self._heads(query.shape[1])
        head_parts = _of_heads(parts, list(range(query.shape[1])) if heads is None else heads)
        scores = flex_scores(head_parts["query"], head_parts["key"], **given, heads=heads)
        pattern, changed = self._through(scores, _weights)
        if not changed:
            return func(query, key, value, **kwargs)
        output = with_asked(pattern @ head_parts["value"], scores, kwargs)
        if heads is None:
            return output
        return with_heads(func(query, key, value, **kwargs), output, heads)

    def _through(self, scores: Tensor, softmax: Callable[[Tensor], Tensor]) -> tuple[Tensor, bool]:
        """The pattern that goes on, and whether the fused kernel can no longer give the output."""
        in_graph = any(touch.in_graph for touch in self.touches)
        if in_graph and torch.is_grad_enabled() and not scores.requires_grad:
            # the parameters are frozen: the graph starts here
            scores = scores.detach().requires_grad_()
        given = scores
        for touch in self.touches:
            edited = touch.scores(scores)
            scores = scores if edited is scores else _as_masked(edited, given)
        weights = softmax(scores)
        if scores is not given:  # an edit may leave a query nothing to see
            weights = _nowhere(weights, scores)
        pattern = weights
        for touch in self.touches:
            pattern = touch.pattern(pattern)
        is_edited = scores is not given or pattern is not weights
        return pattern, in_graph or is_edited


class _Watches(threading.local):
    """The watches that are on in this thread, by module and depth:
    a second party joins the first one's.
    """

    def __init__(self) -> None:
        self.by_module: dict[tuple[int, int], AttentionWatch] = {}


_watches = _Watches()


def watch_attention(
    stack: ExitStack,
    module: nn.Module,
    is_watched: Callable[[], bool],
    at_call: Callable[[], AttentionTouch | None],
    after: Callable[[], None],
) -> None:
    """Watch one attention module: from its pre-hook to its post-hook, whatever happens between.

    Args:
        stack: closing it removes the hooks.
        is_watched: whether a call is to be watched at all: not where another thread runs the
            module.
        at_call: called at every call of the module; who is interested in this call, if anyone.
        after: called when the call is over.
    """
    active: list[tuple[AttentionTouch, tuple[int, int]]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_watched():
            return
        touch = at_call()
        if touch is None:
            return
        key = id(module), depth()
        watch = _watches.by_module.get(key)
        if watch is None:
            watch = _watches.by_module[key] = AttentionWatch(module, _size(args, kwargs))
            watch.__enter__()
        # Parties join one watch: each sees what the one before it left.
        watch.touches.append(touch)
        active.append((touch, key))

    def leave() -> None:
        while active:
            touch, key = active.pop()
            watch = _watches.by_module[key]
            watch.touches.remove(touch)
            if not watch.touches:
                del _watches.by_module[key]
                watch.__exit__(None, None, None)

    def finish(*_: Any) -> None:
        if is_watched():
            leave()
            after()

    # a Ctrl-C ends the forward without calling even the hooks that are always called
    stack.callback(leave)
    stack.callback(module.register_forward_pre_hook(BlockHook(before), with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(BlockHook(finish), always_call=True).remove)


def sdpa_scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "batch head query key"]:
    r"""The scores that `scaled_dot_product_attention` puts through its softmax.

    .. math:: S = s \, Q K^\top + M, \qquad s = 1/\sqrt{d_{head}} \text{ by default}

    Forbidden positions (a False in a boolean mask, above the diagonal when causal) hold -inf.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    # float16 would overflow before
    scores = (query * scale) @ _repeat_heads(key, query.shape[1]).transpose(-2, -1)
    # then a mask needs no copy of all scores
    can_overwrite = not (scores.requires_grad or is_wrapped(scores))
    hide = scores.masked_fill_ if can_overwrite else scores.masked_fill
    if is_causal:
        is_later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores = hide(is_later, -math.inf)
    if attn_mask is None:
        return scores
    if attn_mask.dtype != torch.bool:
        return scores + attn_mask
    hide = scores.masked_fill_ if can_overwrite else scores.masked_fill
    return hide(~attn_mask, -math.inf)


def _of_heads(given: dict[str, Any], heads: list[int]) -> dict[str, Any]:
    """The arguments of `scaled_dot_product_attention`, of some query heads."""
    count = given["query"].shape[1]
    chosen = {"query": given["query"][:, heads]}
    for name in ("key", "value"):
        group = count // given[name].shape[1]
        chosen[name] = given[name][:, [head // group for head in heads]]
    mask = given.get("attn_mask")
    if mask is not None and mask.ndim == 4 and mask.shape[1] == count:
        chosen["attn_mask"] = mask[:, heads]
    return {**given, **chosen}


def _weights(scores: Tensor) -> Tensor:
    return _nowhere(torch.softmax(scores, dim=-1), scores)


def _weights_in_place(scores: Tensor) -> Tensor:
    nothing = scores.amax(dim=-1, keepdim=True).isneginf()
    return torch.softmax(scores, dim=-1, out=scores).masked_fill_(nothing, 0.0)


def _nowhere(weights: Tensor, scores: Tensor) -> Tensor:
    """A query with nothing to see attends nowhere, as in the fused kernels;
    any other NaN stays to be seen. The weights are fresh: they may be changed in place.
    """
    nothing = scores.amax(dim=-1, keepdim=True).isneginf()
    can_overwrite = not (weights.requires_grad or is_wrapped(weights))
    return (weights.masked_fill_ if can_overwrite else weights.masked_fill)(nothing, 0.0)


def is_forbidden(scores: Float[Tensor, "*heads query key"]) -> Bool[Tensor, "*heads query key"]:
    """What the model's mask hides, however it wrote it: -inf, the dtype's minimum,
    or a number far below the row's largest.
    """
    # A model in double precision may make its mask in single precision.
    kind = torch.float32 if scores.dtype == torch.float64 else scores.dtype
    return (scores <= torch.finfo(kind).min / 2) | (scores <= scores.amax(-1, keepdim=True) - FAR)


def forbid(scores: Tensor) -> Tensor:
    """Masked entries as -inf, however the model wrote its mask (eager
    attention adds the dtype's minimum).
    """
    return scores.masked_fill(is_forbidden(scores), -math.inf)


def _as_masked(edited: Tensor, given: Tensor) -> Tensor:
    """Edited scores behind the mask that the model put on them;
    a query with nothing to see keeps what it had.
    """
    forbidden = is_forbidden(given)
    edited = edited.masked_fill(forbidden, -math.inf)
    return torch.where(forbidden.all(-1, keepdim=True), given, edited)


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Positions of the residual stream that a module is called with."""
    stream = kwargs.get("hidden_states", args[0] if args else None)
    return stream.shape[1] if isinstance(stream, Tensor) and stream.ndim == 3 else None


def _repeat_heads(states: Tensor, n_heads: int) -> Tensor:
    n_given = states.shape[1]
    if n_given == n_heads:
        return states
    return states.repeat_interleave(n_heads // n_given, dim=1)


def _is_attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    scores = args[0] if args else kwargs.get("input")
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return isinstance(scores, Tensor) and scores.ndim == 4 and dim in (-1, 3)
