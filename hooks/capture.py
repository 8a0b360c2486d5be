"""capture: read activations, attention and gradients of chosen sites while a model runs.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> size = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
>>> model = GPT2Model(GPT2Config(**size)).eval()
>>> with capture(model, "blocks.*.hook_resid_post") as acts:
...     out = model(torch.tensor([[1, 2, 3]]))
>>> acts["blocks.1.hook_resid_post"].shape
torch.Size([1, 3, 8])
"""

from __future__ import annotations

import functools
import warnings
from contextlib import ExitStack
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from layerscope.arguments import checked
from layerscope.errors import InputError, UseError

from .activations import Activations
from .anatomy import Place, locate
from .attention import forbid
from .forwards import Forward
from .placement import cut_gradients
from .positions import Seen, Where
from .sites import Site, SiteLike
from .store import ActivationStore
from .tap import Tap, read
from .taps import Taps
from .transforms import is_wrapped, unwrapped


class _Stop(Exception):
    """Ends a forward early; raised by the last site's hook and
    swallowed by the capture that asked for it.
    """

    def __init__(self, owner: object) -> None:
        super().__init__("the forward was stopped by capture(stop=True)")
        self.owner = owner


class ValuesOverflowed(UserWarning):
    """Some activations are too large for the data type in which they are stored."""


class capture(Tap):  # noqa: N801  (a context manager, used as a verb)
    """Capture sites of a model while it runs: ``with capture(model, *sites) as acts:
    model(**batch)``.

    Ordinary PyTorch hooks are attached on entry and removed on every exit. They apply to forward
    passes of the thread that entered the block. Model outputs are bit-identical with and without
    hooks; the only exception is ``grad=True`` on an attention site under sdpa, which recomputes
    that layer, equal to rounding. Inside `torch.func.vmap`, the mapped axis is the first axis of
    each value.

    Args:
        model: any `nn.Module`.
        sites: names, globs, selections, pairs or ``module:`` paths; see `hooks.sites`.
        grad: also record d loss / d site at each backward pass in the block, in ``acts.grad``; also
            works for frozen models.
        stop: end the forward pass as soon as every site has fired; the body of the with block ends
            there too.
        dtype: floating-point type of stored values; None keeps that of the model. The largest
            float16 value is 65,504. Whole numbers, such as token ids, and complex values keep their
            own type.
        device: device of stored values; None keeps that of the model.
        clone: copy values, for models that change tensors in place. Without it, reading a changed
            value raises an error.
        to: a store to which each forward pass is written as one shard, once the last site has
            fired: one row for each position with a token of the text. ``acts`` is then empty.

    Raises:
        UnknownSite: before any hook is attached; the message suggests the nearest names.
        SiteNeverFired: on exit, if a forward pass ran and a site did not fire.
        UseError: ``grad=True`` with autograd switched off or inside `torch.func`, or with layers
            that are packed for inference and let no gradient through.
        PositionsUnknown: with ``to``, if the positions of the tokens cannot be determined.

    Warns:
        ValuesOverflowed: on exit, naming the sites with values too large for ``dtype``.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *sites: SiteLike,
        grad: bool = False,
        stop: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        clone: bool = False,
        to: ActivationStore | None = None,
    ) -> None:
        if not sites:
            raise InputError("capture needs at least one site, such as 'blocks.*.hook_resid_post'")
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype: expected a floating-point type, got {dtype}")
        self.model = model
        self._places = locate(model, *sites)
        pairs = [
            str(site) for site, place in self._places.items() if place.end in ("scores", "pattern")
        ]
        if grad and (why := cut_gradients(model)):
            raise UseError(why)
        if to is not None and (pairs or grad):
            raise InputError(
                "to: expected values with one row a position and no gradients, "
                f"got {pairs or 'grad=True'}"
            )
        self._store_in, self._stored = to, 0
        self._grad = grad
        self._stop = stop
        self._dtype, self._device = dtype, device
        self._overflowed: dict[Site, Tensor] = {}
        self._clone = clone
        self._taps = Taps(model, self._places, in_graph=grad, of_blocks=grad or to is not None)
        self._forward = Forward()
        self._waiting: set[Site] = set(self._places)
        self._stack = ExitStack()
        self.acts = Activations(list(self._places))

    def __enter__(self) -> Activations:
        self._stack = self._taps.attach(self)
        return self.acts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        self._stack.close()
        self.acts._raw.clear()
        if isinstance(error, _Stop) and error.owner is self:
            return True
        if kind is None:
            self._taps.require([site for site in self._places if self._is_silent(site)])
            # Asked at the end, once: each answer waits for the GPU.
            above = [str(site) for site, overflowed in self._overflowed.items() if bool(overflowed)]
            if above:
                largest = (
                    f"{self._dtype} holds at most "
                    f"{torch.finfo(cast(torch.dtype, self._dtype)).max:g}"
                )
                warnings.warn(
                    f"values at {', '.join(above[:5])} became infinite: {largest}",
                    ValuesOverflowed,
                    stacklevel=2,
                )
        return False

    def begin(self) -> None:
        """Wait for all sites again: an earlier forward may have ended half-way."""
        self._waiting = set(self._places)

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Record a site; what goes on is the same tensor, or one at which the graph starts."""
        if self._grad:
            raw = self._in_graph(site, raw)
        if self._taps.repeating:
            return raw
        if self._grad:
            forward = len(self.acts._values.get(site, []))
            view = functools.partial(self._view, site, place, shape=shape)
            add = self.acts.grad._add

            def keep(gradient: Tensor | None) -> None:
                if gradient is None:  # a function behind this site gives none
                    return
                add(site, forward, self._store(site, view(gradient.detach())))

            # Hooks of tensors outlive the block where a graph does: they go with it.
            self._stack.callback(raw.register_hook(keep).remove)
            self.acts._raw[site].append((raw, view))
        self._forward = self._taps.forwards.now
        value = self._view(site, place, raw, shape=shape).detach()
        stored = self._store(site, forbid(value) if place.end == "scores" else value)
        self.acts._add(site, unwrapped(stored), watched=stored is value)
        self._waiting.discard(site)
        return raw

    def _in_graph(self, site: Site, raw: Tensor) -> Tensor:
        """The raw tensor, or where the parameters are frozen another one,
        at which the graph starts.
        """
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise UseError(
                f"{site}: grad=True needs autograd; leave torch.no_grad() "
                "/ inference_mode(), and checkpoint with use_reentrant=False"
            )
        if is_wrapped(raw):
            raise UseError(
                f"{site}: grad=True cannot be used within torch.func, "
                "which takes the gradients itself"
            )
        if raw.requires_grad or not raw.is_floating_point():
            return raw
        return raw.detach().requires_grad_()

    def after(self) -> None:
        """Once every site has fired: hand the forward to the store and end it,
        if that was asked for.
        """
        if self._waiting or self._taps.repeating:
            return
        if self._store_in is not None:
            values = {str(site): self.acts.all(site)[-1] for site in self._places}
            # The last call's alone: a store takes each forward as it comes.
            at = self.positions(next(iter(values.values())))
            self._store_in.append(
                values, positions=at, goes_on=self._forward.start > self._forward.virtual
            )
            self.acts._clear()
            self._stored += 1
        if self._stop or self._store_in is not None:
            self._waiting = set(self._places)
        if self._stop:
            raise _Stop(self)

    def positions(self, value: Tensor) -> Int[Tensor, "batch pos"]:
        """Text positions of a value of the last forward; -1 where no token stands.

        Raises `PositionsUnknown`.
        """
        return (
            Where.of(self._forward, next(iter(self._places)), {}, Seen())
            .positions(value)
            .expand(len(value), -1)
        )

    def _is_silent(self, site: Site) -> bool:
        if self._store_in is None:
            return site not in self.acts._values
        return site in self._waiting and (
            not self._stored or len(self._waiting) < len(self._places)
        )

    @staticmethod
    def _view(site: Site, place: Place, raw: Tensor, *, shape: torch.Size | None) -> Tensor:
        return read(site, place, raw, shape)

    def _store(self, site: Site, value: Tensor) -> Tensor:
        """A detached value as it is to be held;
        the value itself where it may share the model's memory.
        """
        stored = value
        if self._dtype not in (None, value.dtype) and value.is_floating_point():
            stored = stored.to(self._dtype)
            if torch.finfo(self._dtype).max < torch.finfo(value.dtype).max:
                overflows = (stored.isinf() & value.isfinite()).any()
                self._overflowed[site] = overflows | self._overflowed.get(site, False)
        if self._device is not None:
            stored = stored.to(self._device)
        # A slice would keep its whole tensor alive, so selections are always copied.
        is_part = site.select is not None and not _fills_memory(value)
        must_copy = self._clone or is_part
        return stored.clone() if must_copy and stored is value else stored


def _fills_memory(value: Tensor) -> bool:
    """Whether a tensor is all of the memory that it keeps alive."""
    return (
        not is_wrapped(value)
        and value.untyped_storage().nbytes() == value.numel() * value.element_size()
    )
