"""observe: show sites' values to a function while a model runs, and keep none of them.

What a corpus needs of its patterns (an entropy, a mean distance) is small; the patterns are not.
`capture` holds a forward's values until the forward is over; here each is gone as soon as the
function returns.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> size = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
>>> model = GPT2Model(GPT2Config(**size)).eval()
>>> def see(site, value):
...     print(site, tuple(value.shape))
>>> with observe(model, "blocks.*.attn.hook_pattern", see=see):
...     out = model(torch.tensor([[1, 2, 3]]))
blocks.0.attn.hook_pattern (1, 2, 3, 3)
blocks.1.attn.hook_pattern (1, 2, 3, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .anatomy import Place, locate
from .attention import forbid
from .sites import Site, SiteLike
from .taps import Tap, Taps, read


@contextmanager
def observe(
    model: nn.Module, *sites: SiteLike, see: Callable[[Site, Tensor], None]
) -> Iterator[None]:
    """Call ``see(site, value)`` for every site that a forward inside the block reaches, in the
    forward's order.

    Args:
        model: any `nn.Module`; its outputs are the same, bit for bit.
        sites: as for `hooks.capture`.
        see: gets the value detached; it must copy what it wants to keep, and change nothing.

    Raises:
        UnknownSite: before any hook attaches, with the nearest names that exist.
        SiteNeverFired: on exit, if a forward ran and a site did not fire.
    """
    places = locate(model, *sites)
    taps = Taps(model, places, of_blocks=False)
    seer = _Seer(see, taps)
    with taps.attach(seer):
        yield
    taps.require([site for site in places if site not in seer.seen])


class _Seer(Tap):
    """The tap: it looks, and lets the same tensor go on."""

    def __init__(self, see: Callable[[Site, Tensor], None], taps: Taps) -> None:
        self.see, self._taps = see, taps
        self.seen: set[Site] = set()

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        if self._taps.repeating:
            return raw
        self.seen.add(site)
        value = read(site, place, raw, shape).detach()
        self.see(site, forbid(value) if place.end == "scores" else value)
        return raw
