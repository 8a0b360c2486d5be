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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerscope.arguments import checked
from layerscope.errors import InputError, UseError

from .anatomy import anatomy, locate
from .block import as_layer
from .caches import CACHES, cached_columns
from .configuration import setting
from .forwards import ODD_MASK, Forward, Forwards, belonging_to
from .output_heads import Head, asked_positions, head_of_model
from .prefix import Prefix, causal_mask, is_rows, late
from .reads import Reads
from .recording import Recording, blocks_of, hooks_within, repeat_texts, stream_of
from .shortcuts import is_free, only_positions, parts_of, run_once
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

    @checked
    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        positions: Int[Tensor, " batch"] | Int[Tensor, "reads 2"] | None = None,
        readout: Readout | None = None,
    ) -> None:
        self.model, self.inputs, self._readout = model, dict(inputs), readout
        full_caches = [name for name in CACHES if cached_columns(self.inputs.get(name))]
        if full_caches:
            raise InputError(
                f"expected a text from its start, got {full_caches[0]} that holds tokens"
            )
        if positions is not None and positions.ndim == 1:
            positions = torch.stack(
                [torch.arange(len(positions), device=positions.device), positions], dim=1
            )
        self.positions = positions
        places = anatomy(model).places
        self.n_layers = anatomy(model).n_layers
        self._blocks = blocks_of(model)
        self._reuses_block = len(set(self._blocks)) < self.n_layers
        self._parts = [parts_of(model, places, layer) for layer in range(self.n_layers)]
        self._stop = self.n_layers if readout is None else readout.layer + 1
        self._can_share: dict[str, bool] = {}
        final = places.get("ln_final.hook_normalized")
        norm = model.get_submodule(final.path) if final is not None else None
        with torch.no_grad():
            self.logits = self._record()
            self._end = self._recording.end
            self.error: float | None = None
            self._finish: Head | None = None
            if self._repeats():
                self._finish, self.error = self._tail(norm)
        self.exact = self._finish is not None
        self._few = self.exact and self._reads_few()
        self._recorded_under = hooks_within(self._blocks)

    def _record(self) -> Float[Tensor, "*read vocab"]:
        """Run the model; the logits that are read."""
        inputs = dict(self.inputs)
        if setting(self.model.config, "use_cache") is not None:
            inputs["use_cache"] = False
        # The positions whose logits alone the model is asked for; None for all.
        asked = None
        if self.positions is not None and self._readout is None:
            asked = asked_positions(self.model, self.inputs, self.positions[:, 1])
        if asked is not None:
            inputs["logits_to_keep"] = asked
        self._recording = Recording(self._blocks, self._stop)
        output = self._recording.run(self.model, inputs)
        if self._readout is not None:
            self.batch = len(self._recording.end)
            self._reads = Reads(self.positions, self.batch)
            return self._reads.of(self._readout.of(self._recording.end))
        logits = getattr(output, "logits", None)
        if logits is None:
            raise InputError(
                f"{type(self.model).__name__} gives no logits: "
                "expected a language model with its head"
            )
        self.batch = len(logits)
        self._reads = Reads(self.positions, self.batch)
        if asked is None or logits.shape[1] != len(asked):
            return self._reads.of(logits)
        assert self.positions is not None
        texts, positions = self.positions[:, 0], self.positions[:, 1].contiguous()
        return logits[texts, torch.searchsorted(asked, positions)]

    def residual(self, layer: int) -> Float[Tensor, "*batch pos d_model"]:
        """The recorded input of a block (Gemma 3n has several streams, `streams batch pos
        d_model`).

        That of the block behind the last, at ``n_layers``, is the last one's output.
        """
        if not 0 <= layer <= self._stop:
            raise InputError(f"expected a layer of 0 to {self._stop}, got {layer}")
        return self._recording.residual(layer)

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
        if self._finish is None or self._recording.cache is None or not start:
            return False
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(clean.shape, generator=generator).to(clean) * clean.std()
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
        last = self._stop if until is None else until
        if not 0 <= layer <= last <= self._stop:
            raise InputError(
                f"expected layers of 0 to {self._stop} in order, got {layer} and {last}"
            )
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
            for block in range(layer, last):
                # Before the site that is edited, all copies are equal: they need one run.
                is_first = block == layer and start == 0 and copies > 1
                is_shared = is_first and self._can_share.get(edited, False)
                # Behind the last attention, positions that nobody reads need no run.
                only_read = block == self._stop - 1 and self._few and self._is_free(block)
                shared_before = edited if is_shared else ""
                residual = self._block(block, residual, start, shared_before, only_read)
        if until is not None:
            return residual
        if start == 0:
            read = self._reads.of(residual, copies)
        else:
            read = self._reads.of_late(residual, copies, start, self._end)
        return self._finish(read) if finish else read

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
        if not 0 <= layer < self._stop:
            raise InputError(f"expected a block below {self._stop}, got {layer}")
        return self._block(layer, residual, start)

    def _block(
        self, layer: int, residual: Tensor, start: int = 0, edited: str = "", few: bool = False
    ) -> Tensor:
        """`block`, with what stands before ``edited`` run once,
        and only the positions that are read behind its attention.
        """
        copies = len(residual) // self.batch
        recorded, recorded_by_name = self._recording.arguments(layer)
        args = repeat_texts(recorded, self.batch, copies)
        kwargs = {k: repeat_texts(v, self.batch, copies) for k, v in recorded_by_name.items()}
        with contextlib.ExitStack() as stack:
            if self._reuses_block:
                stack.enter_context(as_layer(layer))
            stack.enter_context(belonging_to(self._forward(copies, start)))
            if edited:
                place = anatomy(self.model).places[f"blocks.{layer}.{edited}"]
                of_one = {id(value): recorded_by_name[name] for name, value in kwargs.items()}
                of_one |= {id(args[i]): value for i, value in enumerate(recorded)}
                parts, at = self._parts[layer], self.model.get_submodule(place.path)
                stack.enter_context(run_once(parts, edited, at, self.batch, copies, of_one))
            if few:
                positions = (self._reads.table - start).clamp(min=0).repeat(copies, 1)
                stack.enter_context(only_positions(self._parts[layer], positions))
            if start:
                length = self.residual(layer).shape[1]
                args = late(args, start, length)
                kwargs = {
                    k: v if k == "attention_mask" and is_rows(v) else late(v, start, length)
                    for k, v in kwargs.items()
                }
                if kwargs.get("attention_mask") is None:
                    kwargs["attention_mask"] = causal_mask(residual, start, length)
                keys_and_values = self._recording.keys_and_values(layer)
                kwargs[self._recording.cache or ""] = Prefix(keys_and_values, start, copies)
            return stream_of(self._blocks[layer](residual, *args, **kwargs))

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

    def share(self, layer: int, edited: str) -> bool:
        """Whether `run` may compute what stands before ``edited`` in its first block once for all
        copies.

        Measured on two copies of what was recorded, the first time a part is asked for; call it
        outside the intervention.

        Raises:
            RuntimeError: hooks are on the blocks that were not there when they were recorded.
            UnknownSite: a block or a part that the model lacks.
        """
        if edited not in self._can_share:
            self._require_as_recorded("share")
            locate(self.model, f"blocks.{layer}.{edited}")
            self._can_share[edited] = self._gives_recorded(layer, copies=2, edited=edited)
        return self._can_share[edited]

    def _require_as_recorded(self, what: str) -> None:
        if added := hooks_within(self._blocks) - self._recorded_under:
            raise UseError(
                f"{what}: expected the blocks as they were recorded, got {len(added)} more "
                "hooks on them: ask for it outside the intervention, or record anew"
            )

    def _reads_few(self) -> bool:
        """Whether the last block may leave out positions: few are read,
        and the recorded values come out the same.
        """
        last = self._stop - 1
        if self.positions is None or 2 * self._reads.table.shape[1] > self.residual(0).shape[1]:
            return False
        return self._is_free(last) and self._gives_recorded(last, few=True)

    def _is_free(self, layer: int) -> bool:
        return is_free(self._blocks[layer], self._parts[layer])

    def _gives_recorded(
        self, layer: int, copies: int = 1, edited: str = "", few: bool = False
    ) -> bool:
        """Whether `_block` gives what was recorded, on copies of what was recorded."""
        given = self.residual(layer).repeat(copies, 1, 1)
        expected = self.residual(layer + 1).repeat(copies, 1, 1)
        with torch.no_grad():
            try:
                output = self._block(layer, given, edited=edited, few=few)
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
                return False  # the block puts its parts together in a way of its own
            if few:
                expected, output = self._reads.of(expected, copies), self._reads.of(output, copies)
            error = float((expected - output).abs().max())
            return error <= TOLERANCE * float(expected.abs().max())

    def _repeats(self) -> bool:
        """Whether a block that is run again gives what it gave, and what the next one was given:
        the first and the last do.
        """
        first = self.residual(0)
        # not several streams, nor a stream with positions first
        by_text = first.ndim == 3 and len(first) == self.batch
        is_chained = by_text and self._recording.is_chained
        return is_chained and all(map(self._gives_recorded, {0, self._stop - 1}))

    def _tail(self, norm: nn.Module | None) -> tuple[Head | None, float | None]:
        """From the last block's output to logits: the final norm and the head, if that is what the
        model does; and how far it is from that.
        """
        if self._readout is not None:
            of = self._readout.of
            return lambda x, tokens=None: of(x) if tokens is None else of(x)[..., tokens], None
        last = self._reads.of(self._end)
        return head_of_model(self.model, norm, last, self.logits, TOLERANCE)

    def _whole(self, layer: int, residual: Tensor, copies: int) -> Tensor:
        from .edits import patch
        from .intervene import NothingChanged, intervene

        inputs = {k: repeat_texts(v, self.batch, copies) for k, v in self.inputs.items()}
        with (
            warnings.catch_warnings(),
            intervene(self.model, {f"blocks.{layer}.hook_resid_pre": patch(residual)}),
        ):
            # the recorded input itself may be given
            warnings.simplefilter("ignore", NothingChanged)
            out = self.model(**inputs)
        return self._reads.of(out.logits, copies)
