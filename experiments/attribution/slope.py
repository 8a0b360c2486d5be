"""A part of a question as a function of one site's value, with its gradient."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ...hooks import NothingChanged, Site, capture, edits, intervene
from ..subject.targets import in_target
from .lookups import (
    EMBED,
    Lookup,
    distinct,
    read_off,
    standing,
    tables,
)
from .question import Part, Question
from .scorer import Cost, Scorer, part_values, row_batch
from .units import AttributionError


@dataclass(frozen=True)
class Slope:
    """A part of a question as a function of one site's value.

    Args:
        site: None for the vectors of the row's tokens in all tables (`lookups`), those of source
            and target behind one another; the shorter ones of the two end in zeros.
    """

    scorer: Scorer
    part: Part
    site: Site | None = None

    @property
    def question(self) -> Question:
        return self.scorer.question

    @property
    def n_source(self) -> int:
        """Tokens of the row's source in an encoder-decoder; else all of them."""
        return sum(not in_target(token) for token in self.part.ids)

    @property
    def is_embedding(self) -> bool:
        """Whether each token has its own vector there."""
        return self.site is None or self.site.name == EMBED

    @property
    def sides(self) -> tuple[tuple[bool, int], ...]:
        """Whether tokens are the target's, and how many they are, in the row's order."""
        n_target = len(self.part.ids) - self.n_source
        return ((False, self.n_source), (True, n_target)) if n_target else ((False, self.n_source),)

    def lookups(self, in_target: bool) -> tuple[Lookup, ...]:
        """The tables of a side."""
        return tables(self.question.subject).of(in_target)

    def vectors_of(self, in_target: bool) -> list[Lookup]:
        """The tables of a side that make a token's vector."""
        return distinct(self.lookups(in_target))

    @property
    def widths(self) -> list[slice]:
        """Columns of the site's value that are of one kind: of the tokens' vectors each table's."""
        of_sides = []
        if self.site is None:
            of_sides = [[one.columns for one in self.vectors_of(side)] for side, _ in self.sides]
        is_alike = bool(of_sides) and all(columns == of_sides[0] for columns in of_sides)
        return of_sides[0] if is_alike else [slice(None)]

    @property
    def width(self) -> int:
        """Numbers of a token's vectors, of the longer ones of source and target."""
        return max(one.columns.stop for side, _ in self.sides for one in self.vectors_of(side))

    def in_width(self, vectors: Float[Tensor, "*ids d_side"]) -> Float[Tensor, "*ids d"]:
        """Vectors of a side, which end in zeros if the other side's are longer."""
        if self.site is not None:
            return vectors
        return pad(vectors, (0, self.width - vectors.shape[-1]))

    def places(self, tokens: Sequence[int]) -> list[int]:
        """Where the site has the values of some positions of the row:
        a stack's site has those of its own text.
        """
        if self.site is None or self.n_source == len(self.part.ids):
            return list(tokens)
        if self.site.name.startswith("decoder_"):
            return [at - self.n_source for at in tokens if at >= self.n_source]
        return [at for at in tokens if at < self.n_source]

    def clean(self) -> Float[Tensor, "pos *site"]:
        """The site's value on the unchanged row."""
        sites = [self.site] if self.site is not None else self._table_sites()
        batch = row_batch(self.question, self.part, 1)
        with capture(self.question.subject.model, *sites, clone=True, stop=True) as acts:
            self.question.forward(batch, logits=self.question.endpoint.whole)
        self.scorer.cost += Cost(forwards=1, tokens=len(self.part.ids))
        if self.site is not None:
            return acts[self.site][0]
        vectors = []
        for side, length in self.sides:
            of_side = self.vectors_of(side)
            of_tables = [acts[one.site][0] for one in of_side]
            vectors.append(self.in_width(read_off(of_side, of_tables, length)))
        return torch.cat(vectors)

    def at_site(self, vectors: Float[Tensor, "*ids d_side"]) -> Float[Tensor, "*ids d"]:
        """Of tokens' vectors what is the site's."""
        if self.site is None:
            return self.in_width(vectors)
        return vectors[..., self.lookups(False)[0].columns]

    def _table_sites(self) -> list[Site]:
        return [lookup.site for side, _ in self.sides for lookup in self.vectors_of(side)]

    def at(
        self, points: Float[Tensor, "points pos *site"]
    ) -> tuple[Float[Tensor, " points"], Tensor]:
        """Values and gradients where the site has these values."""
        values, slopes = [], []
        for batch in points.split(self.batch_size):
            leaf = batch.detach().clone().requires_grad_()
            with torch.enable_grad(), self.put(leaf):
                value = self.value(len(leaf), few=self.is_embedding)
                try:
                    (slope,) = torch.autograd.grad(value.sum(), leaf)
                except RuntimeError as error:
                    raise AttributionError(
                        f"no gradient from the value of {self.question.subject.name} to "
                        f"{self.site or EMBED}: a quantised or in-place model, or a site behind "
                        f"the one that is read; use leave-one-out or kernel-shap ({error})"
                    ) from None
            values.append(value.detach())
            slopes.append(slope)
        n = len(points)
        self.scorer.cost += Cost(n, n, n, n * len(self.part.ids))
        return torch.cat(values), torch.cat(slopes)

    @property
    def batch_size(self) -> int:
        """Copies of the row in one forward."""
        return max(1, self.scorer.batch_tokens // len(self.part.ids))

    def values(self, points: Float[Tensor, "points pos *site"]) -> Float[Tensor, " points"]:
        """Values alone where the site has these values."""
        values = []
        for some_points in points.split(self.batch_size):
            with self.put(some_points):
                batch = row_batch(self.question, self.part, len(some_points))
                few = self.is_embedding
                values.append(part_values(self.question, self.part, batch, few=few))
        n = len(points)
        self.scorer.cost += Cost(n, n, 0, n * len(self.part.ids))
        return torch.cat(values)

    def value(self, rows: int, few: bool = False) -> Float[Tensor, " rows"]:
        """The part's value on copies of its row, in their graph."""
        batch = row_batch(self.question, self.part, rows)
        return part_values(self.question, self.part, batch, grad=True, few=few)

    @contextmanager
    def put(self, points: Tensor) -> Iterator[None]:
        """The site has these values inside the block."""
        model = self.question.subject.model
        with ExitStack() as stack:
            if self.site is not None:
                stack.enter_context(warnings.catch_warnings())
                # the end of a path is what was there
                warnings.simplefilter("ignore", NothingChanged)
                edit = edits.function(lambda old: points, "path")
                stack.enter_context(intervene(model, {self.site: edit}))
            else:
                begin = 0
                for side, length in self.sides:
                    vectors = points[:, begin : begin + length].flatten(0, 1)
                    numbers = torch.arange(len(vectors)).view(-1, length)
                    of_side = self.lookups(side)
                    stack.enter_context(standing(model, of_side, numbers, vectors))
                    begin += length
            yield
