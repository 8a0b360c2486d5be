"""capture: read activations, attention and gradients of chosen sites while a model runs.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)).eval()
>>> with capture(model, "blocks.*.hook_resid_post") as acts:
...     out = model(torch.tensor([[1, 2, 3]]))
>>> acts["blocks.1.hook_resid_post"].shape
torch.Size([1, 3, 8])
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from layerscope.errors import InputError, UseError

from .activations import Activations, select
from .anatomy import Place, locate
from .attention import forbid
from .forwards import Forward
from .positions import Seen, Where
from .sites import Site, SiteLike
from .store import ActivationStore
from .taps import Taps, as_site


class _Stop(Exception):
    """Ends a forward early; raised by the last site's hook and swallowed by the capture that asked for it."""

    def __init__(self, owner: object) -> None:
        super().__init__("the forward was stopped by capture(stop=True)")
        self.owner = owner


class capture:  # noqa: N801  (a context manager, used as a verb)
    """Capture sites of a model while it runs: ``with capture(model, *sites) as acts: model(**batch)``.

    Plain PyTorch hooks attach on entry and are gone on every exit; they see the forwards of the thread that entered. The
    model's outputs are the same, bit for bit, with and without them (only ``grad=True`` on an attention site under sdpa
    recomputes that layer, equal to rounding).

    Args:
        model: any `nn.Module`.
        sites: names, globs, selections, pairs or ``module:`` paths; see `hooks.sites`.
        grad: also record d loss / d site at each backward inside the block, in ``acts.grad``. Works for frozen models.
        stop: end the forward as soon as every site has fired; the body of the with block ends there too.
        dtype: what to store values in; None keeps the model's.
        device: where to store values; None leaves them where they are.
        clone: copy values, for models that change tensors in place (which is noticed when a value is read).
        to: a store that takes each forward's values when its last site has fired, as one shard: a row for each position
            that holds a token of a text. ``acts`` then holds nothing.

    Raises:
        UnknownSite: before any hook attaches, with the nearest names that exist.
        SiteNeverFired: on exit, if a forward ran and a site did not fire.
        RuntimeError: ``grad=True`` where autograd is off.
        PositionsUnknown: with ``to``, in a forward that does not tell where its tokens stand.
    """

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
        self.model = model
        self._places = locate(model, *sites)
        pairs = [str(site) for site, place in self._places.items() if place.end in ("scores", "pattern")]
        if to is not None and (pairs or grad):
            raise InputError(
                f"to: expected values with one row a position and no gradients, got {pairs or 'grad=True'}"
            )
        self._store_in, self._stored = to, 0
        self._grad = grad
        self._stop = stop
        self._to: dict[str, Any] = {"dtype": dtype, "device": device}
        self._clone = clone
        self._taps = Taps(model, self._places, in_graph=grad)
        self._forward = Forward()
        self._waiting: set[Site] = set(self._places)
        self._stack = ExitStack()
        self.acts = Activations(list(self._places))

    def __enter__(self) -> Activations:
        self._stack = self._taps.attach(self)
        return self.acts

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._stack.close()
        self.acts._raw.clear()
        if isinstance(error, _Stop) and error.owner is self:
            return True
        if kind is None:
            self._taps.require([site for site in self._places if self._is_silent(site)])
        return False

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Record a site; what goes on is the same tensor, or one at which the graph starts."""
        if self._grad:
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                raise UseError(f"{site}: grad=True needs autograd; leave torch.no_grad() / inference_mode()")
            if not raw.requires_grad and raw.is_floating_point():
                raw = raw.detach().requires_grad_()
            view = functools.partial(self._view, site, place, shape=shape)
            add = self.acts.grad._add
            self._stack.callback(raw.register_hook(lambda g: add(site, self._store(view(g)))).remove)
            self.acts._raw[site] = (raw, view)
        self._forward = self._taps.forwards.now
        value = self._view(site, place, forbid(raw) if place.end == "scores" else raw, shape=shape).detach()
        stored = self._store(value, owned=site.select is not None)
        self.acts._add(site, stored, watched=stored.data_ptr() == value.data_ptr())
        self._waiting.discard(site)
        return raw

    def after(self) -> None:
        """Once every site has fired: hand the forward to the store and end it, if that was asked for."""
        if self._waiting:
            return
        if self._store_in is not None:
            values = {str(site): self.acts.all(site)[-1] for site in self._places}
            at = self.positions(next(iter(values.values())))
            self._store_in.append(values, positions=at, goes_on=self._forward.start > self._forward.virtual)
            self.acts._clear()
            self._stored += 1
        if self._stop or self._store_in is not None:
            self._waiting = set(self._places)
        if self._stop:
            raise _Stop(self)

    def positions(self, value: Tensor) -> Int[Tensor, "batch pos"]:
        """Text positions of a value of the last forward; -1 where no token stands. Raises `PositionsUnknown`."""
        return Where.of(self._forward, next(iter(self._places)), {}, Seen()).positions(value).expand(len(value), -1)

    def _is_silent(self, site: Site) -> bool:
        if self._store_in is None:
            return site not in self.acts._values
        return site in self._waiting and (not self._stored or len(self._waiting) < len(self._places))

    @staticmethod
    def _view(site: Site, place: Place, raw: Tensor, *, shape: torch.Size | None) -> Tensor:
        return select(as_site(place, raw, shape), site)

    def _store(self, value: Tensor, owned: bool = False) -> Tensor:
        stored = value.detach().to(**{k: v for k, v in self._to.items() if v is not None})
        # A slice would keep its whole tensor alive, so selections are always copied.
        return stored.clone() if (self._clone or owned) and stored.data_ptr() == value.data_ptr() else stored
