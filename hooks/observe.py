"""observe: pass the values of sites to a function while a model runs, and keep none of them.

Use it to reduce large values, such as the attention patterns of a corpus, to small statistics.
`capture` keeps values until the forward pass ends; `observe` drops each value as soon as the
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

from layerscope.arguments import checked

from .anatomy import Place, locate
from .attention import forbid
from .sites import Site, SiteLike
from .tap import Tap, read
from .taps import Taps


@checked
@contextmanager
def observe(
    model: nn.Module, *sites: SiteLike, see: Callable[[Site, Tensor], None]
) -> Iterator[None]:
    """Call ``see(site, value)`` for every site, in the order of the forward pass.

    Args:
        model: any `nn.Module`; its outputs are bit-identical with and without `observe`.
        sites: as for `hooks.capture`.
        see: receives the detached value; it must not change it, and must copy what it keeps.

    Raises:
        UnknownSite: before any hook is attached; the message suggests the nearest names.
        SiteNeverFired: on exit, if a forward pass ran and a site did not fire.
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
        with self._taps.touching:
            self.see(site, forbid(value) if place.end == "scores" else value)
        return raw
