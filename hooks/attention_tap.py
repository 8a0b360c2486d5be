"""The sites of a tap inside one call of an attention module: scores, pattern, and their parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .anatomy import Place
from .site_map import heads_of
from .sites import Site
from .tap import Tap


@dataclass
class AttentionTap:
    """A tap's sites inside one call of one attention module."""

    tap: Tap
    wanted: list[tuple[Site, Place]]
    in_graph: bool

    @property
    def reads_scores(self) -> bool:
        """Whether it looks at scores."""
        return any(place.end == "scores" for _, place in self.wanted)

    def heads(self, count: int) -> list[int] | None:
        """The heads of its sites; None where one has no selection, or one that is not there."""
        if any(site.select is None for site, _ in self.wanted):
            return None
        try:
            return [head for site, _ in self.wanted for head in heads_of(site, count)]
        except IndexError:
            return None

    def hold(self, heads: list[int], count: int) -> None:
        """Scores and pattern will be of these heads."""
        local: list[tuple[Site, Place]] = []
        for site, place in self.wanted:
            indices = [heads.index(head) for head in heads_of(site, count)]
            selection = indices[0] if isinstance(site.select, int) else tuple(indices)
            local.append((site, replace(place, local_selection=selection)))
        self.wanted = local

    def scores(self, scores: Tensor) -> Tensor:
        return self._touch("scores", scores)

    def pattern(self, pattern: Tensor) -> Tensor:
        return self._touch("pattern", pattern)

    def part(self, name: str, value: Tensor) -> Tensor:
        return self._touch(name, value)

    def _touch(self, end: str, raw: Tensor) -> Tensor:
        for site, place in self.wanted:
            if place.end != end:
                continue
            raw = self.tap.touch(site, place, raw, None)
        return raw
