"""Resume: record a forward pass block by block, and continue it from any block for many edited
copies at once.

Blocks before the edit, and in a causal model also earlier positions, are not computed again. Many
edited copies share one batch, and only the positions that a metric reads are projected to the
vocabulary. Blocks are called with the same arguments as in the model. Before use, the recorded
forward pass checks that this gives the model's logits, and a perturbed one checks that earlier
positions do not change.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerscope.errors import InputError, UseError

from .anatomy import anatomy
from .block import as_layer
from .caches import CACHES, cached_columns
from .configuration import setting
from .flex import is_block_mask, of_copies
from .forwards import ODD_MASK, Forward, Forwards, belonging_to, working_hooks
from .output_heads import Head, asked_positions, class_heads, language_heads
from .prefix import Prefix, causal_mask, is_cache, is_rows, late
from .shortcuts import is_free, only_positions, padded, parts_of, run_once
from .sites import Site

TOLERANCE = 1e-5
"""Largest difference, relative to the largest logit, between the parts' logits and the model's."""


@dataclass(frozen=True)
class Readout:
    """A readout of the residual stream that replaces the end of the model, such as a probe.

    Args:
        layer: the block whose output is read; later blocks are not run.
        of: function from this output, or some of its positions, to logits.
    """

    layer: int
    of: Callable[[Float[Tensor, "*places d_model"]], Float[Tensor, "*places classes"]]


class Resume:
    """A recorded forward pass that can be continued from the input of any block.

    Args:
        model: a transformers model with known sites, in evaluation mode.
        inputs: keyword arguments of the forward pass.
        positions: the position of each text whose logits are read, or ``reads 2`` pairs of text
            and position, any number per text; None reads all positions.
        readout: computes the logits; None uses the model's own final norm and head.

    Attributes:
        logits: without edits: ``batch vocab`` (or ``reads vocab``) at the positions, or ``batch
            pos vocab``.
        error: largest difference between the logits of the blocks and of the model, relative to
            the largest logit; None if the blocks cannot be combined.
        exact: whether the blocks give the model's logits to ``TOLERANCE``; if not, `run` uses the
            whole model.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> size = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
    >>> model = GPT2LMHeadModel(GPT2Config(**size)).eval()
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
        held = [name for name in CACHES if cached_columns(self.inputs.get(name))]
        if held:
            raise InputError(f"expected a text from its start, got {held[0]} that holds tokens")
        if positions is not None and positions.ndim == 1:
            positions = torch.stack(
                [torch.arange(len(positions), device=positions.device), positions], dim=1
            )
        self.positions = positions
        places = anatomy(model).places
        self.n_layers = anatomy(model).n_layers
        self._blocks = _blocks_of(model)
        self._is_shared = len(set(self._blocks)) < self.n_layers
        self._parts = [parts_of(model, places, layer) for layer in range(self.n_layers)]
        self._stop = self.n_layers if readout is None else readout.layer + 1
        self._shared: dict[str, bool] = {}
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        takes = inspect.signature(self._blocks[0].forward).parameters.values()
        self._named = [p.name for p in takes if p.kind is p.POSITIONAL_OR_KEYWORD]
        self._cache = next(
            (name for name in ("past_key_values", "layer_past") if name in self._named), None
        )
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        final = places.get("ln_final.hook_normalized")
        self._norm = model.get_submodule(final.path) if final is not None else None
        self.error: float | None = None
        with torch.no_grad():
            self.logits, self._end = self._record()
            self._finish = self._tail(self._read(self._end)) if self._repeats() else None
        self.exact = self._finish is not None
        self._few = self.exact and self._reads_few()
        self._recorded_under = self._hooks()

    def residual(self, layer: int) -> Float[Tensor, "*batch pos d_model"]:
        """The recorded input of a block (Gemma 3n has several streams, `streams batch pos
        d_model`).

        That of the block behind the last, at ``n_layers``, is the last one's output.
        """
        if layer == self._stop:
            return self._end
        args, kwargs = self._calls[layer]
        return args[0] if args else kwargs["hidden_states"]

    @functools.cached_property
    def causal(self) -> bool:
        """Whether `run` may start within the text: measured on the recorded forward with its second
        half disturbed.

        Measured the first time that it is asked for; ask outside the intervention.

        Raises:
            RuntimeError: hooks are on the blocks that were not there when they were recorded.
        """
        self._require_as_recorded("causal")
        clean = self.residual(0)
        start = clean.shape[1] // 2
        if self._finish is None or self._cache is None or not start:
            return False
        noise = (
            torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
            * clean.std()
        )
        noise[:, :start] = 0
        whole = clean + noise
        part = whole[:, start:]
        with torch.no_grad():
            try:
                for at in range(self._stop):
                    whole, part = self.block(at, whole), self.block(at, part, start)
            except (RuntimeError, TypeError, ValueError, AttributeError):
                return False  # the block takes its cache in a way of its own
        error = max(
            float((whole[:, start:] - part).abs().max()),
            float((whole - self._end)[:, :start].abs().max()),
        )
        return error <= TOLERANCE * float(whole.abs().max())

    def run(
        self,
        layer: int,
        residual: Float[Tensor, "copies pos d_model"],
        order: Sequence[int] | None = None,
        start: int = 0,
        edited: str = "",
        until: int | None = None,
        finish: bool = True,
    ) -> Float[Tensor, "*read vocab"]:
        """Logits (at the positions) when this is the input of block ``layer``; ``copies`` is a
        multiple of ``batch``.

        Args:
            order: the blocks to run, instead of all from ``layer`` on: skipped, repeated, swapped
                or shuffled.
            start: the first position of ``residual``, in a `causal` model; all before it is as it
                was recorded. Before an intervention around this call ask for `causal`.
            edited: the part of block ``layer`` that an intervention around this call edits first,
                such as ``attn.hook_z``, where all copies of ``residual`` are equal: what stands
                before it in the block runs on one of them.
            until: gives the residual stream at the input of this block instead, for a later call.
            finish: False gives the residual stream that `finish` turns into logits, for several
                calls together; like ``until`` only where the parts are `exact`.

        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> size = dict(n_layer=3, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
        >>> model = GPT2LMHeadModel(GPT2Config(**size)).eval()
        >>> clean = Resume(model, {"input_ids": torch.tensor([[1, 2, 3]])})
        >>> with torch.no_grad():
        ...     swapped = clean.run(0, clean.residual(0), order=[0, 2, 1])
        """
        copies = len(residual) // self.batch
        if copies * self.batch != len(residual):
            raise InputError(f"expected copies of {self.batch} texts, got {len(residual)} rows")
        if order is not None and not all(0 <= at < self.n_layers for at in order):
            raise InputError(f"expected blocks below {self.n_layers}, got {list(order)}")
        if self._finish is None:
            if order is not None or until is not None:
                raise InputError(
                    f"{type(self.model).__name__} has a tail that is not known: it runs whole only"
                )
            return self._whole(layer, residual, copies)
        if start and (order is not None or not self.causal):
            raise InputError(
                f"{type(self.model).__name__} cannot start at position {start} here: "
                "give the whole text"
            )
        if order is not None:
            for block in order:
                residual = self._block(block, residual)
        else:
            for block in range(layer, self._stop if until is None else until):
                # Before the site that is edited, all copies are equal: they need one run.
                is_shared = (
                    block == layer and start == 0 and copies > 1 and self._shared.get(edited, False)
                )
                # Behind the last attention, positions that nobody reads need no run.
                only_read = (
                    block == self._stop - 1
                    and self._few
                    and is_free(self._blocks[block], self._parts[block])
                )
                residual = self._block(
                    block, residual, start, edited if is_shared else "", only_read
                )
        if until is not None:
            return residual
        read = (
            self._read(residual, copies)
            if start == 0
            else self._read_behind(residual, copies, start)
        )
        return self._finish(read) if finish else read

    def _read_behind(self, residual: Tensor, copies: int, start: int) -> Tensor:
        """`_read` of a stream that begins at ``start``:
        what is read before it is as it was recorded.
        """
        if self.positions is None:
            recorded = self._end[:, :start].repeat(copies, 1, 1)
            return torch.cat([recorded, residual], dim=1)
        is_behind = self.positions[:, 1] >= start
        positions = self.positions[is_behind] - self.positions.new_tensor([0, start])
        read = self._read(self._end).repeat(copies, 1)
        read[is_behind.repeat(copies).to(read.device)] = self._read(residual, copies, positions)
        return read

    def finish(
        self, residual: Float[Tensor, "*read d_model"], tokens: Int[Tensor, " tokens"] | None = None
    ) -> Float[Tensor, "*read tokens"]:
        """Logits of what `run` gave with ``finish=False``: of all tokens, or only of these."""
        if self._finish is None:
            raise InputError(
                f"{type(self.model).__name__} has a tail that is not known: let run() finish"
            )
        return self._finish(residual, tokens)

    @property
    def width(self) -> int:
        """Numbers of a state that `finish` turns into logits."""
        return self.residual(0).shape[-1]

    def again(
        self, copies: int, layer: int, edited: str, start: int = 0, until: int | None = None
    ) -> Float[Tensor, "*read vocab"]:
        """`run` on so many copies of what was recorded: rows k * batch to (k + 1) * batch are the
        k-th.

        Args:
            edited: the whole name of the site of block ``layer`` that an intervention around this
                call edits.
        """
        residual = self.residual(layer)[:, start:].repeat(copies, 1, 1)
        part = Site(edited).part
        return self.run(layer, residual, start=start, until=until, edited=part)

    def block(
        self, layer: int, residual: Float[Tensor, "copies pos d_model"], start: int = 0
    ) -> Float[Tensor, "copies pos d_model"]:
        """One block on another input, from position ``start`` on,
        everything else as it was recorded.
        """
        return self._block(layer, residual, start)

    def _block(
        self, layer: int, residual: Tensor, start: int = 0, edited: str = "", few: bool = False
    ) -> Tensor:
        """`block`, with what stands before ``edited`` run once,
        and only the positions that are read behind its attention.
        """
        copies = len(residual) // self.batch
        args, kwargs = self._calls[layer]
        more = {k: self._repeat(v, copies) for k, v in kwargs.items() if k != "hidden_states"}
        rest = self._repeat(args[1:], copies)
        with contextlib.ExitStack() as stack:
            if self._is_shared:
                stack.enter_context(as_layer(layer))
            stack.enter_context(belonging_to(self._forward(copies, start)))
            if edited:
                one = {id(value): kwargs[name] for name, value in more.items()}
                one |= {id(value): args[1 + i] for i, value in enumerate(rest)}
                at = self.model.get_submodule(
                    anatomy(self.model).places[f"blocks.{layer}.{edited}"].path
                )
                stack.enter_context(
                    run_once(self._parts[layer], edited, at, self.batch, copies, one)
                )
            if few:
                positions = (self._table - start).clamp(min=0).repeat(copies, 1)
                stack.enter_context(only_positions(self._parts[layer], positions))
            if start:
                length = self.residual(layer).shape[1]
                rest = late(rest, start, length)
                more = {
                    k: v if k == "attention_mask" and is_rows(v) else late(v, start, length)
                    for k, v in more.items()
                }
                if more.get("attention_mask") is None:
                    more["attention_mask"] = causal_mask(residual, start, length)
                more[self._cache or ""] = Prefix(self._before(layer), start, copies)
            out = self._blocks[layer](residual, *rest, **more)
        return out if isinstance(out, Tensor) else out[0]

    def _forward(self, copies: int, start: int) -> Forward:
        """What edits inside a block are told of the forward that it belongs to."""
        mask, at = self.inputs.get("attention_mask"), self.inputs.get("position_ids")
        virtual, _ = Forwards(self.model, ()).virtual()
        if mask is None:
            position_ids = None
            if isinstance(at, Tensor) and at.ndim == 2:
                position_ids = at[:, start:].repeat(copies, 1)
            return Forward(start, None, virtual, position_ids=position_ids)
        if not is_rows(mask):
            return Forward(start, unknown=ODD_MASK)
        # The mask is the text's; an adapter's own columns stand before it.
        columns = torch.cat([mask.new_ones(len(mask), virtual), mask], dim=1)
        return Forward(start, columns.repeat(copies, 1), virtual)

    @functools.cached_property
    def _table(self) -> Int[Tensor, "batch p"]:
        """The positions that are read in each text."""
        rows: list[list[int]] = [[] for _ in range(self.batch)]
        for text, at in sorted(
            {*map(tuple, [] if self.positions is None else self.positions.tolist())}
        ):
            rows[text].append(at)
        return padded(rows)

    def share(self, layer: int, edited: str) -> bool:
        """Whether `run` may compute what stands before ``edited`` in its first block once for all
        copies.

        Measured on two copies of what was recorded, the first time a part is asked for; call it
        outside the intervention.

        Raises:
            RuntimeError: hooks are on the blocks that were not there when they were recorded.
        """
        if edited not in self._shared:
            self._require_as_recorded("share")
            self._shared[edited] = self._same(
                layer, self.residual(layer).repeat(2, 1, 1), edited, False
            )
        return self._shared[edited]

    def _hooks(self) -> set[int]:
        """The hooks on the blocks and within them;
        transformers leaves some there that only look.
        """
        modules = [module for block in self._blocks for module in block.modules()]
        return {hook for module in modules for hooks in working_hooks(module) for hook in hooks}

    def _require_as_recorded(self, what: str) -> None:
        if more := self._hooks() - self._recorded_under:
            raise UseError(
                f"{what}: expected the blocks as they were recorded, got {len(more)} more "
                "hooks on them: ask for it outside the intervention, or record anew"
            )

    def _reads_few(self) -> bool:
        """Whether the last block may leave out positions: few are read,
        and the recorded values come out the same.
        """
        last = self._stop - 1
        if self.positions is None or 2 * self._table.shape[1] > self.residual(0).shape[1]:
            return False
        return is_free(self._blocks[last], self._parts[last]) and self._same(
            last, self.residual(last), "", True
        )

    def _same(self, layer: int, residual: Tensor, edited: str, few: bool) -> bool:
        copies = len(residual) // self.batch
        known = (self.residual(layer + 1) if layer + 1 < self._stop else self._end).repeat(
            copies, 1, 1
        )
        with torch.no_grad():
            try:
                found = self._block(layer, residual, 0, edited, few)
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
                return False  # the block puts its parts together in a way of its own
            if few:
                known, found = self._read(known, copies), self._read(found, copies)
            return float((known - found).abs().max()) <= TOLERANCE * float(known.abs().max())

    def _before(self, layer: int) -> tuple[Tensor, Tensor]:
        """The recorded keys and values of a block, ``batch head pos d_head`` each."""
        if layer not in self._held:
            args, kwargs = self._calls[layer]
            recorder = Prefix()
            self._blocks[layer](*args, **{**kwargs, self._cache or "": recorder})
            self._held[layer] = recorder.held
        return self._held[layer]

    def _record(self) -> tuple[Tensor, Tensor]:
        """Run the model; keep what each block is called with.

        Returns the logits that are read, and the last block's output.
        """
        ends: list[Any] = []
        handles = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = dict(zip(self._named[1:], args[1:], strict=False))
            given = {
                name: None if is_cache(value) else value
                for name, value in {**named, **kwargs}.items()
            }
            self._calls.append((args[:1] + args[1 + len(named) :], given))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ends.append(output if isinstance(output, Tensor) else output[0])

        for block in dict.fromkeys(self._blocks):
            handles += [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
            ]
        inputs = dict(self.inputs)
        if self._caches():
            inputs["use_cache"] = False
        asked_for, of_read = self._logits_to_keep()
        if asked_for is not None:
            inputs["logits_to_keep"] = asked_for
        try:
            out = self.model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        if len(self._calls) != self.n_layers:
            raise InputError(
                f"expected {self.n_layers} calls of blocks in one forward, got {len(self._calls)}"
            )
        self._chained = all(
            map(torch.equal, ends[: self._stop - 1], map(self.residual, range(1, self._stop)))
        )
        if self._readout is not None:
            end = ends[self._readout.layer]
            self.batch = len(end)
            return self._read(self._readout.of(end)), end
        logits = getattr(out, "logits", None)
        if logits is None:
            raise InputError(
                f"{type(self.model).__name__} gives no logits: "
                "expected a language model with its head"
            )
        self.batch = len(logits)
        if asked_for is None or logits.shape[1] != len(asked_for):
            return self._read(logits), ends[-1]
        assert self.positions is not None
        return logits[self.positions[:, 0], of_read], ends[-1]

    def _logits_to_keep(self) -> tuple[Int[Tensor, " kept"] | None, Int[Tensor, " reads"] | None]:
        """The positions whose logits the model is asked for, and where each read is among them;
        None for all.
        """
        if self.positions is None or self._readout is not None:
            return None, None
        kept = asked_positions(self.model, self.inputs, self.positions[:, 1])
        if kept is None:
            return None, None
        return kept, torch.searchsorted(kept, self.positions[:, 1].contiguous())

    def _caches(self) -> bool:
        return setting(self.model.config, "use_cache") is not None

    def _repeats(self) -> bool:
        """Whether a block that is run again gives what it gave, and what the next one was given:
        the first and the last do.
        """
        first = self.residual(0)
        # not several streams, nor a stream with positions first
        by_text = first.ndim == 3 and len(first) == self.batch
        return (
            by_text
            and self._chained
            and all(
                self._same(layer, self.residual(layer), "", False) for layer in {0, self._stop - 1}
            )
        )

    def _read(self, values: Tensor, copies: int = 1, positions: Tensor | None = None) -> Tensor:
        """The values at the positions that are read."""
        wanted = self.positions if positions is None else positions
        if wanted is None:
            return values
        texts, positions = wanted.to(values.device).unbind(1)
        rows = (torch.arange(copies, device=values.device)[:, None] * self.batch + texts).flatten()
        if values.ndim == 2:  # a classifier's logits are of whole texts
            return values[rows]
        return values[rows, positions.repeat(copies)]

    def _tail(self, last: Tensor) -> Head | None:
        """From the last block's output to logits: the final norm and the head,
        if that is what the model does.
        """
        if self._readout is not None:
            of = self._readout.of
            return lambda x, tokens=None: of(x) if tokens is None else of(x)[..., tokens]
        for candidate in (*language_heads(self.model), *class_heads(self.model)):
            tail = self._behind_norm(candidate)
            error = self._error(tail, last)
            if error is not None and (self.error is None or error < self.error):
                self.error = error
            if error is not None and error <= TOLERANCE:
                return tail
        return None

    def _behind_norm(self, head: Head) -> Head:
        """A head that is given the last block's output."""

        def tail(x: Tensor, tokens: Tensor | None = None) -> Tensor:
            return head(self._norm(x) if self._norm is not None else x, tokens)

        return tail

    def _error(self, tail: Head, last: Tensor) -> float | None:
        """How far a tail is from the model's logits, relative to the largest;
        None where it does not run.
        """
        try:
            logits = tail(last)
        except (RuntimeError, TypeError, IndexError):
            return None
        if logits.shape != self.logits.shape:
            return None
        difference, largest = (
            float((logits - self.logits).abs().max()),
            float(self.logits.abs().max()),
        )
        # a model of zeros gives logits of 0
        return difference / largest if largest else difference

    def _whole(self, layer: int, residual: Tensor, copies: int) -> Tensor:
        from .edits import patch
        from .intervene import NothingChanged, intervene

        with (
            warnings.catch_warnings(),
            intervene(self.model, {f"blocks.{layer}.hook_resid_pre": patch(residual)}),
        ):
            # the recorded input itself may be given
            warnings.simplefilter("ignore", NothingChanged)
            out = self.model(**{k: self._repeat(v, copies) for k, v in self.inputs.items()})
        return self._read(out.logits, copies)

    def _repeat(self, value: Any, copies: int) -> Any:
        """What belongs to each text, once for every copy; what is shared by all stays."""
        if copies == 1:
            return value
        if is_block_mask(value):
            return of_copies(value, self.batch, copies)
        each = isinstance(value, Tensor) and value.ndim > 1 and len(value) == self.batch
        if each or (
            isinstance(value, Tensor) and value.ndim > 2 and len(value) % self.batch == 0
        ):  # ALiBi: texts x heads
            return value.repeat(copies, *[1] * (value.ndim - 1))
        if isinstance(value, tuple | list):
            return type(value)(self._repeat(v, copies) for v in value)
        return value


def _blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks, each a module that is given the stream; `InputError` says why there are none."""
    known = anatomy(model)
    places = [known.places.get(f"blocks.{n}.hook_resid_pre") for n in range(known.n_layers)]
    blocks = [
        model.get_submodule(place.path)
        for place in places
        if place is not None and place.end == "input"
    ]
    if len(blocks) < len(places) or not blocks:
        why = known.missing.get(
            "hook_resid_pre", "its blocks are no modules that are given the stream"
        )
        raise InputError(f"{type(model).__name__} cannot be continued from a block: {why}")
    return blocks
