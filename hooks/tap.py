"""Tap: what is done with the raw tensor of a place, and how a site is read off that tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .activations import select
from .anatomy import Place
from .sites import Site


class Tap:
    """What is done at a place.

    Attributes:
        by_step: whether a recurrence is shown step by step, for what is put in a step's place is
            read by the next one.
    """

    by_step = False

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Called with the raw tensor of every site that is reached; returns it, or what replaces
        it.

        Args:
            raw: the module's own tensor (`as_site` reads the site off it); scores or pattern,
                ``batch head query key``, where ``place.end`` says so.
            shape: ``(batch, pos)`` where the module runs on ``(batch pos)`` rows, else None.
        """
        raise NotImplementedError

    def after(self) -> None:
        """Called when a module's sites have all been touched."""

    def begin(self) -> None:
        """Called when a forward of the model begins."""


def read(site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
    """A site's tensor, its selection taken, read off the raw one."""
    whole = as_site(place, raw, shape)
    return whole if site.select is None else select(whole, place.within(site))


def as_site(place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
    """A site's tensor, read off the raw one."""
    if shape is not None and raw.ndim <= 2:
        raw = raw.unflatten(0, shape)
    return place.view(raw)
