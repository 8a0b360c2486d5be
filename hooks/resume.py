"""Resume: a forward recorded block by block, continued from any block for many edited copies at once.

What stands before an edit is not computed again, several edited copies share one batch, and only the positions that a
metric reads are projected to the vocabulary. The parts are called as the model calls them, with what the model gave
them; that their sum is the model is measured on the recorded forward before it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooks.anatomy import anatomy

TOLERANCE = 1e-5
"""Largest difference, relative to the largest logit, between the parts' logits and the model's."""


class Resume:
    """One forward of a model, kept so that it can be continued from the input of any block.

    Args:
        model: a transformers model whose sites are known, in evaluation mode.
        inputs: the forward's keyword arguments.
        positions: for each text the position whose logits are read, or ``reads 2`` pairs of text and position, any
            number for a text; None reads all.

    Attributes:
        logits: the model's own, ``batch vocab`` (or ``reads vocab``) at the positions, or ``batch pos vocab``.
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
    ) -> None:
        self.model, self.inputs = model, dict(inputs)
        if positions is not None and positions.ndim == 1:
            positions = torch.stack([torch.arange(len(positions), device=positions.device), positions], dim=1)
        self.positions = positions
        places = anatomy(model).places
        self.n_layers = anatomy(model).n_layers
        paths = [places[f"blocks.{layer}.hook_resid_pre"].path for layer in range(self.n_layers)]
        self._blocks = [model.get_submodule(path) for path in paths]
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        final = places.get("ln_final.hook_normalized")
        self._norm = model.get_submodule(final.path) if final is not None else None
        with torch.no_grad():
            whole, last = self._record()
            self.batch = len(whole)
            self.logits = self._read(whole)
            self._finish = self._tail(self._read(last))
        self.exact = self._finish is not None

    def residual(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """The recorded input of a block."""
        args, kwargs = self._calls[layer]
        return args[0] if args else kwargs["hidden_states"]

    def run(
        self, layer: int, residual: Float[Tensor, "copies pos d_model"], order: Sequence[int] | None = None
    ) -> Float[Tensor, "*read vocab"]:
        """Logits (at the positions) when this is the input of block ``layer``; ``copies`` is a multiple of ``batch``.

        Args:
            order: the blocks to run, instead of all from ``layer`` on: skipped, repeated, swapped or shuffled.

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
        for at in range(layer, self.n_layers) if order is None else order:
            residual = self.block(at, residual)
        return self._finish(self._read(residual, copies))

    def block(self, layer: int, residual: Float[Tensor, "copies pos d_model"]) -> Float[Tensor, "copies pos d_model"]:
        """One block on another input, everything else as it was recorded."""
        copies = len(residual) // self.batch
        args, kwargs = self._calls[layer]
        more = {k: self._repeat(v, copies) for k, v in kwargs.items() if k != "hidden_states"}
        out = self._blocks[layer](residual, *self._repeat(args[1:], copies), **more)
        return out if isinstance(out, Tensor) else out[0]

    def _record(self) -> tuple[Tensor, Tensor]:
        """Run the model; keep what each block is called with. Returns its logits and the last block's output."""
        ends: list[Any] = []
        handles = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls.append((args, dict(kwargs)))

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
        logits = getattr(out, "logits", None)
        if logits is None:
            raise ValueError(f"{type(self.model).__name__} gives no logits: expected a language model with its head")
        return logits, ends[-1]

    def _caches(self) -> bool:
        return getattr(self.model.config, "use_cache", None) is not None

    def _read(self, values: Tensor, copies: int = 1) -> Tensor:
        """The values at the positions that are read."""
        if self.positions is None:
            return values
        texts, positions = self.positions.to(values.device).unbind(1)
        rows = (torch.arange(copies, device=values.device)[:, None] * self.batch + texts).flatten()
        return values[rows, positions.repeat(copies)]

    def _tail(self, last: Tensor) -> Callable[[Tensor], Tensor] | None:
        """From the last block's output to logits: the final norm and the head, if that is what the model does."""
        body = getattr(self.model, getattr(self.model, "base_model_prefix", ""), None)
        heads = [m for m in self.model.children() if m is not body and next(m.parameters(), None) is not None]
        if body is None or len(heads) != 1:
            return None
        config: Any = self.model.config
        cap, up, down = (getattr(config, k, None) for k in ("final_logit_softcapping", "logit_scale", "logits_scaling"))

        def tail(x: Tensor) -> Tensor:
            logits = heads[0](self._norm(x) if self._norm is not None else x)
            logits = logits * up if up else logits / down if down else logits
            return cap * torch.tanh(logits / cap) if cap else logits

        try:
            error = float((tail(last) - self.logits).abs().max())
        except (RuntimeError, TypeError):
            return None
        return tail if error <= TOLERANCE * float(self.logits.abs().max()) else None

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
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == self.batch:
            return value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, tuple | list):
            return type(value)(self._repeat(v, copies) for v in value)
        return value
