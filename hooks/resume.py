"""Resume: a forward recorded block by block, continued from any block for many edited copies at once.

What stands before an edit, in depth and in a causal model also in the text, is not computed again, several edited copies
share one batch, and only the positions that a metric reads are projected to the vocabulary. The parts are called as the
model calls them, with what the model gave them; that their sum is the model is measured on the recorded forward before
it is used, and that earlier positions do not change, on a disturbed one.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooks.anatomy import anatomy

TOLERANCE = 1e-5
"""Largest difference, relative to the largest logit, between the parts' logits and the model's."""


@dataclass(frozen=True)
class Readout:
    """What reads the residual stream in place of the model's own end, such as a probe.

    Args:
        layer: the block whose output is read; the blocks behind it are not run.
        of: from that output, or some of its positions, to logits.
    """

    layer: int
    of: Callable[[Float[Tensor, "*places d_model"]], Float[Tensor, "*places classes"]]


class Resume:
    """One forward of a model, kept so that it can be continued from the input of any block.

    Args:
        model: a transformers model whose sites are known, in evaluation mode.
        inputs: the forward's keyword arguments.
        positions: for each text the position whose logits are read, or ``reads 2`` pairs of text and position, any
            number for a text; None reads all.
        readout: what gives the logits; None is the model's own final norm and head.

    Attributes:
        logits: without an edit, ``batch vocab`` (or ``reads vocab``) at the positions, or ``batch pos vocab``.
        error: largest difference between the parts' logits and the model's, relative to the largest logit; None where the
            parts cannot be put together.
        exact: whether the parts give the model's logits to ``TOLERANCE``; if not, `run` uses the whole model.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)).eval()
    >>> clean = Resume(model, {"input_ids": torch.tensor([[1, 2, 3]])}, positions=torch.tensor([2]))
    >>> clean.exact, torch.allclose(clean.run(1, clean.residual(1)), clean.logits, atol=1e-6)
    (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        positions: Int[Tensor, " batch"] | Int[Tensor, "reads 2"] | None = None,
        readout: Readout | None = None,
    ) -> None:
        self.model, self.inputs, self._readout = model, dict(inputs), readout
        if positions is not None and positions.ndim == 1:
            positions = torch.stack([torch.arange(len(positions), device=positions.device), positions], dim=1)
        self.positions = positions
        places = anatomy(model).places
        self.n_layers = anatomy(model).n_layers
        paths = [places[f"blocks.{layer}.hook_resid_pre"].path for layer in range(self.n_layers)]
        self._blocks = [model.get_submodule(path) for path in paths]
        self._stop = self.n_layers if readout is None else readout.layer + 1
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        takes = inspect.signature(self._blocks[0].forward).parameters.values()
        self._named = [p.name for p in takes if p.kind is p.POSITIONAL_OR_KEYWORD]
        self._cache = next((name for name in ("past_key_values", "layer_past") if name in self._named), None)
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        final = places.get("ln_final.hook_normalized")
        self._norm = model.get_submodule(final.path) if final is not None else None
        self.error: float | None = None
        with torch.no_grad():
            whole, self._end = self._record()
            self.batch = len(whole)
            self.logits = self._read(whole)
            self._finish = self._tail(self._read(self._end))
        self.exact = self._finish is not None

    def residual(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """The recorded input of a block."""
        args, kwargs = self._calls[layer]
        return args[0] if args else kwargs["hidden_states"]

    @functools.cached_property
    def causal(self) -> bool:
        """Whether `run` may start within the text: measured on the recorded forward with its second half disturbed."""
        clean = self.residual(0)
        start = clean.shape[1] // 2
        if self._finish is None or self._cache is None or not start:
            return False
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean) * clean.std()
        noise[:, :start] = 0
        whole = clean + noise
        part = whole[:, start:]
        with torch.no_grad():
            try:
                for at in range(self._stop):
                    whole, part = self.block(at, whole), self.block(at, part, start)
            except (RuntimeError, TypeError, ValueError, AttributeError):
                return False  # the block takes its cache in a way of its own
        error = max(float((whole[:, start:] - part).abs().max()), float((whole - self._end)[:, :start].abs().max()))
        return error <= TOLERANCE * float(whole.abs().max())

    def run(
        self,
        layer: int,
        residual: Float[Tensor, "copies pos d_model"],
        order: Sequence[int] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*read vocab"]:
        """Logits (at the positions) when this is the input of block ``layer``; ``copies`` is a multiple of ``batch``.

        Args:
            order: the blocks to run, instead of all from ``layer`` on: skipped, repeated, swapped or shuffled.
            start: the first position of ``residual``, in a `causal` model; all before it is as it was recorded.

        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=10, n_positions=8)).eval()
        >>> clean = Resume(model, {"input_ids": torch.tensor([[1, 2, 3]])})
        >>> with torch.no_grad():
        ...     swapped = clean.run(0, clean.residual(0), order=[0, 2, 1])
        """
        copies = len(residual) // self.batch
        if copies * self.batch != len(residual):
            raise ValueError(f"expected copies of {self.batch} texts, got {len(residual)} rows")
        if order is not None and not all(0 <= at < self.n_layers for at in order):
            raise ValueError(f"expected blocks below {self.n_layers}, got {list(order)}")
        if self._finish is None:
            if order is not None:
                raise ValueError(
                    f"{type(self.model).__name__} has a tail that is not known: it runs in its own order only"
                )
            return self._whole(layer, residual, copies)
        if start and (order is not None or not self.causal):
            raise ValueError(f"{type(self.model).__name__} cannot start at position {start} here: give the whole text")
        for at in range(layer, self._stop) if order is None else order:
            residual = self.block(at, residual, start)
        if not start:
            return self._finish(self._read(residual, copies))
        if self.positions is None:
            before = self.logits[:, :start].repeat(copies, 1, 1)
            return torch.cat([before, self._finish(residual)], dim=1)
        logits, late = self.logits.repeat(copies, 1), self.positions[:, 1] >= start
        where = late.repeat(copies).to(logits.device)
        logits[where] = self._finish(self._read(residual, copies, self.positions[late] - torch.tensor([0, start])))
        return logits

    def block(
        self, layer: int, residual: Float[Tensor, "copies pos d_model"], start: int = 0
    ) -> Float[Tensor, "copies pos d_model"]:
        """One block on another input, from position ``start`` on, everything else as it was recorded."""
        copies = len(residual) // self.batch
        args, kwargs = self._calls[layer]
        more = {k: self._repeat(v, copies) for k, v in kwargs.items() if k != "hidden_states"}
        rest = self._repeat(args[1:], copies)
        if start:
            length = self.residual(layer).shape[1]
            rest = _late(rest, start, length)
            more = {k: v if k == "attention_mask" and _is_rows(v) else _late(v, start, length) for k, v in more.items()}
            if more.get("attention_mask") is None:
                more["attention_mask"] = _causal_mask(residual, start, length)
            more[self._cache or ""] = _Prefix(self._before(layer), start, copies)
        out = self._blocks[layer](residual, *rest, **more)
        return out if isinstance(out, Tensor) else out[0]

    def _before(self, layer: int) -> tuple[Tensor, Tensor]:
        """The recorded keys and values of a block, ``batch head pos d_head`` each."""
        if layer not in self._held:
            args, kwargs = self._calls[layer]
            recorder = _Prefix()
            self._blocks[layer](*args, **{**kwargs, self._cache or "": recorder})
            self._held[layer] = recorder.held
        return self._held[layer]

    def _record(self) -> tuple[Tensor, Tensor]:
        """Run the model; keep what each block is called with. Returns its logits and the last block's output."""
        ends: list[Any] = []
        handles = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = dict(zip(self._named[1:], args[1:], strict=False))
            self._calls.append((args[:1] + args[1 + len(named) :], {**named, **kwargs}))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ends.append(output if isinstance(output, Tensor) else output[0])

        for block in dict.fromkeys(self._blocks):
            handles += [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
            ]
        try:
            out = self.model(**{**self.inputs, "use_cache": False} if self._caches() else self.inputs)
        finally:
            for handle in handles:
                handle.remove()
        if len(self._calls) != self.n_layers:
            raise ValueError(f"expected {self.n_layers} calls of blocks in one forward, got {len(self._calls)}")
        if self._readout is not None:
            return self._readout.of(ends[self._readout.layer]), ends[self._readout.layer]
        logits = getattr(out, "logits", None)
        if logits is None:
            raise ValueError(f"{type(self.model).__name__} gives no logits: expected a language model with its head")
        return logits, ends[-1]

    def _caches(self) -> bool:
        return getattr(self.model.config, "use_cache", None) is not None

    def _read(self, values: Tensor, copies: int = 1, positions: Tensor | None = None) -> Tensor:
        """The values at the positions that are read."""
        wanted = self.positions if positions is None else positions
        if wanted is None:
            return values
        texts, positions = wanted.to(values.device).unbind(1)
        rows = (torch.arange(copies, device=values.device)[:, None] * self.batch + texts).flatten()
        return values[rows, positions.repeat(copies)]

    def _tail(self, last: Tensor) -> Callable[[Tensor], Tensor] | None:
        """From the last block's output to logits: the final norm and the head, if that is what the model does."""
        if self._readout is not None:
            return self._readout.of
        head = language_head(self.model)
        if head is None:
            return None

        def tail(x: Tensor) -> Tensor:
            return head(self._norm(x) if self._norm is not None else x)

        try:
            self.error = float((tail(last) - self.logits).abs().max()) / float(self.logits.abs().max())
        except (RuntimeError, TypeError):
            return None
        return tail if self.error <= TOLERANCE else None

    def _whole(self, layer: int, residual: Tensor, copies: int) -> Tensor:
        from hooks.edits import patch
        from hooks.intervene import NothingChanged, intervene

        with warnings.catch_warnings(), intervene(self.model, {f"blocks.{layer}.hook_resid_pre": patch(residual)}):
            warnings.simplefilter("ignore", NothingChanged)  # the recorded input itself may be given
            out = self.model(**{k: self._repeat(v, copies) for k, v in self.inputs.items()})
        return self._read(out.logits, copies)

    def _repeat(self, value: Any, copies: int) -> Any:
        """What belongs to each text, once for every copy; what is shared by all stays."""
        if copies == 1:
            return value
        each = isinstance(value, Tensor) and value.ndim > 1 and len(value) == self.batch
        if each or (
            isinstance(value, Tensor) and value.ndim > 2 and len(value) % self.batch == 0
        ):  # ALiBi: texts x heads
            return value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, tuple | list):
            return type(value)(self._repeat(v, copies) for v in value)
        return value


def language_head(
    model: nn.Module,
) -> Callable[[Float[Tensor, "*places d_model"]], Float[Tensor, "*places vocab"]] | None:
    """From the body's output to logits: the one head beside it, with the scale and the cap that the configuration names.

    None where there are several heads or none. That this is what the model does is for the caller to measure.
    """
    body = getattr(model, getattr(model, "base_model_prefix", ""), None)
    heads = [m for m in model.children() if m is not body and next(m.parameters(), None) is not None]
    if body is None or len(heads) != 1:
        return None
    config: Any = model.config
    cap, up, down = (getattr(config, k, None) for k in ("final_logit_softcapping", "logit_scale", "logits_scaling"))

    def head(x: Tensor) -> Tensor:
        logits = heads[0](x)
        logits = logits * up if up else logits / down if down else logits
        return cap * torch.tanh(logits / cap) if cap else logits

    return head


class _Prefix:
    """What a block takes for its KV cache: keys and values of the recorded positions before ``start``; or a recorder."""

    def __init__(self, held: tuple[Tensor, Tensor] | None = None, start: int = 0, copies: int = 1) -> None:
        self._held, self._start, self._copies = held, start, copies

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        if self._held is None:
            raise ValueError("expected a block that updates its cache")
        return self._held

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions."""
        if self._held is None:
            self._held = keys, values
            return keys, values
        before = [held[:, :, : self._start].repeat(self._copies, 1, 1, 1) for held in self._held]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """Positions that are held."""
        return self._start


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _late(value: Any, start: int, length: int) -> Any:
    """What is given by position, from ``start`` on: masks by query, rotary tables, position ids."""
    if isinstance(value, tuple | list):
        return type(value)(_late(v, start, length) for v in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[-2:] == (length, length):
        return value[:, :, start:]
    if value.ndim == 3 and value.shape[1] == length:
        return value[:, start:]
    return value[..., start:] if value.ndim in (1, 2) and value.shape[-1] == length else value


def _causal_mask(residual: Tensor, start: int, length: int) -> Float[Tensor, "1 1 query key"]:
    """0 where a query may look, the type's lowest number elsewhere."""
    query, key = torch.arange(start, length)[:, None], torch.arange(length)[None, :]
    mask = torch.zeros(1, 1, length - start, length, dtype=residual.dtype, device=residual.device)
    return mask.masked_fill((key > query).to(residual.device), torch.finfo(residual.dtype).min)
