"""A text with some of its units absent: the game whose players are the units, v(kept) = the
question's value.

    delete    the tokens are taken out, and what follows moves up
    mask, pad each token becomes the tokenizer's mask, or the padding
    word:W    the unit becomes the word W
    zero, mean        each token's embedding becomes 0, or the mean of the vocabulary's
    random, noise     ... a vector drawn like the vocabulary's, or the token's own with noise of
                      three standard deviations
    resample          each token becomes one drawn from the vocabulary
    propose           each token becomes one drawn from what the masked model itself proposes there;
                      with ``proposals``, each word one that this other masked model proposes

The last four are drawn; a value is then the mean over ``draws``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..subject import Subject
from ..subject.cells import as_cell, cell_of, is_cell
from ..subject.targets import as_target, in_target, plain
from .lookups import embedding, moments, ordinary_tokens, tables
from .proposals import PROPOSALS, Proposer, own_tokens, spelled
from .question import Part
from .scorer import Row, Scorer
from .units import AttributionError

REMOVALS = (
    "delete",
    "mask",
    "pad",
    "word:W",
    "zero",
    "mean",
    "random",
    "noise",
    "resample",
    "propose",
)
DRAWN = ("random", "noise", "resample", "propose")
NOISE = 3.0
"""Standard deviations of the embedding that ``noise`` adds (Meng et al. 2022)."""


@dataclass(frozen=True)
class _Run:
    """Neighbouring positions of a row that one unit, or none, owns."""

    unit: int | None
    start: int
    ids: tuple[int, ...]
    in_target: bool = False


class Game:
    """Values of a question's text with any of its units absent.

    Args:
        removal: what absent means; by default a mask where the model has one, else deletion where
            something stays, else the mean embedding.
        draws: how many times what is drawn is drawn.
        proposals: the masked model of the removal ``propose``, which then is the default; else the
            model itself.
    """

    def __init__(
        self,
        scorer: Scorer,
        removal: str | None = None,
        seed: int = 0,
        draws: int = 1,
        proposals: Subject | None = None,
    ) -> None:
        self.scorer, self.question = scorer, scorer.question
        self.n = len(self.question.units)
        self.removal = removal or ("propose" if proposals is not None else default_removal(scorer))
        self._proposer = None
        if self.removal == "propose" and proposals is not None:
            text, units = self.question.text, self.question.units

            def new() -> Proposer:
                return Proposer(proposals, scorer.subject, text, units)

            self._proposer = scorer.once(("words of", proposals), new)
        self.draws = draws if self.removal in DRAWN else 1
        # One generator for all parts and draws: the same seed gives the same texts.
        generator = torch.Generator().manual_seed(seed)
        self._plans = [self._plan(part, generator) for part in self.question.parts]

    @property
    def value(self) -> float:
        """The value with everything there."""
        return float(self(np.ones((1, self.n), dtype=bool))[0])

    @property
    def empty(self) -> float:
        """The value with every unit absent."""
        return float(self(np.zeros((1, self.n), dtype=bool))[0])

    def __call__(self, kept: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, " rows"]:
        """The value of each set of units that are kept, the mean over draws."""
        return self.each(kept).mean(0)

    def each(self, kept: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, "draws rows"]:
        """The same for each draw."""
        out = np.zeros((self.draws, len(kept)))
        for part, (runs, fills) in zip(self.question.parts, self._plans, strict=True):
            rows = [self._row(part, runs, fill, keep) for fill in fills for keep in kept]
            out += self.scorer(rows, part).reshape(self.draws, len(kept))
        return out

    def fills(self, part: Part) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Where each unit's tokens begin and what takes their places, one for one,
        in the first draw.
        """
        runs, fills = self._plans[self.question.parts.index(part)]
        for run in runs:
            if run.unit is not None and len(fills[0][run.start]) == len(run.ids):
                yield run.start, fills[0][run.start]

    def _row(
        self, part: Part, runs: Sequence[_Run], fill: dict[int, tuple[int, ...]], keep: Any
    ) -> Row:
        ids: list[int] = []
        moved: dict[int, int] = {}  # where each position is now; -1 where nothing has its place
        for run in runs:
            is_kept = run.unit is None or keep[run.unit]
            new = run.ids if is_kept else fill[run.start]
            has_places = is_kept or len(new) == len(run.ids)
            for offset in range(len(run.ids)):
                moved[run.start + offset] = len(ids) + offset if has_places else -1
            ids += new
        moved[len(part.ids)] = len(ids)
        # With back, what stands before the anchor now, whatever that is.
        reads = tuple(moved[anchor] - part.back for anchor in part.anchors)
        # In a causal model every read must stand on a token; else one is enough.
        telling = (min if part.back else max)(reads, default=0)
        # The encoder must have something to read.
        has_source = not self.question.subject.has_decoder or not in_target(ids[0])
        if not ids or telling < 0 or not has_source:
            raise AttributionError(
                f"removal {self.removal!r} leaves nothing that can be read: choose mask, "
                "pad or mean, or a BOS (--bos)"
            )
        return Row(tuple(ids), reads)

    def _plan(
        self, part: Part, generator: torch.Generator
    ) -> tuple[list[_Run], list[dict[int, tuple[int, ...]]]]:
        """The row cut into runs, and for each draw what takes each run's place."""
        # Each position belongs to one unit at most.
        unit_at = {}
        for unit, places in enumerate(part.tokens):
            unit_at.update(dict.fromkeys(places, unit))
        # Neighbours of one unit are one run, so that a filling word stands once for a whole unit.
        runs: list[_Run] = []
        for at, token in enumerate(part.ids):
            unit = unit_at.get(at)
            if runs and unit is not None and runs[-1].unit == unit:
                runs[-1] = _Run(unit, runs[-1].start, (*runs[-1].ids, token))
            else:
                runs.append(_Run(unit, at, (token,)))
        of_units = [run for run in runs if run.unit is not None]
        filler = self._filler(part, generator)

        def filled(run: _Run) -> tuple[int, ...]:
            if is_cell(run.ids[0]):
                return tuple(as_cell(cell_of(cell)[0], absent=True) for cell in run.ids)
            if not in_target(run.ids[0]):
                return filler(run)
            # What is a token of the decoder's stays one.
            as_in_target = _Run(run.unit, run.start, tuple(map(plain, run.ids)), in_target=True)
            return tuple(map(as_target, filler(as_in_target)))

        fills = [{run.start: filled(run) for run in of_units} for _ in range(self.draws)]
        return runs, fills

    def _filler(self, part: Part, generator: torch.Generator) -> Callable[[_Run], tuple[int, ...]]:
        """What takes a run's place; called once for each draw."""
        kind = self.removal
        if kind == "delete":
            return lambda run: ()
        if kind in ("mask", "pad"):
            token = self._filling_token()
            return lambda run: (token,) * len(run.ids)
        if kind.startswith("word:"):
            word = spelled(self.question.subject, kind.removeprefix("word:"))
            if not word:
                raise AttributionError(f"removal {kind!r}: expected a word with tokens")
            return lambda run: word
        if kind == "resample":
            return self._resampled(generator)
        if kind == "propose":
            return self._proposed(part, generator)
        if kind in ("zero", "mean", "random", "noise"):
            return self._vectors(kind, generator)
        raise AttributionError(f"removal {kind!r}: expected {', '.join(REMOVALS)}")

    def _filling_token(self) -> int:
        """The mask or the padding."""
        subject = self.question.subject
        if self.removal == "mask":
            token = getattr(subject.tokenizer, "mask_token_id", None)
        elif subject.causal and subject.classes:
            raise AttributionError(
                f"removal 'pad': {type(subject.model).__name__} reads the last token that "
                "is no pad: choose delete, zero or mean"
            )
        else:
            token = subject.pad_id
        if token is None:
            raise AttributionError(
                f"removal 'mask': {subject.name} has no mask token: choose delete, pad or mean"
            )
        return int(token)

    def _resampled(self, generator: torch.Generator) -> Callable[[_Run], tuple[int, ...]]:
        """Tokens drawn from the vocabulary."""
        ordinary = torch.tensor(ordinary_tokens(self.question.subject))

        def drawn(run: _Run) -> tuple[int, ...]:
            places = torch.randint(len(ordinary), (len(run.ids),), generator=generator)
            return tuple(ordinary[places].tolist())

        return drawn

    def _proposed(
        self, part: Part, generator: torch.Generator
    ) -> Callable[[_Run], tuple[int, ...]]:
        """Words that the other masked model proposes, or tokens that the model itself does."""
        proposer = self._proposer
        if proposer is not None:
            unit_of_start = {places[0]: unit for unit, places in enumerate(part.tokens)}

            def word(run: _Run) -> tuple[int, ...]:
                # A unit of several runs has its word at the first one.
                unit = unit_of_start.get(run.start)
                return () if unit is None else proposer.draw(unit, generator)

            return word
        likely = self.scorer.once(("tokens for", part), lambda: own_tokens(self.scorer, part))

        def tokens(run: _Run) -> tuple[int, ...]:
            drawn = []
            for at in range(run.start, run.start + len(run.ids)):
                rank = torch.randint(PROPOSALS, (1,), generator=generator)
                drawn.append(int(likely[at][rank]))
            return tuple(drawn)

        return tokens

    def _vectors(self, kind: str, generator: torch.Generator) -> Callable[[_Run], tuple[int, ...]]:
        """Vectors of no token, drawn or always the same one."""
        subject = self.question.subject
        if not tables(subject).are_all:
            raise AttributionError(
                f"removal {kind!r}: {subject.name} also reads the ids of its tokens where no "
                "vector can take their place: choose delete, pad, word:W or resample"
            )
        sides = (False, True) if subject.has_decoder else (False,)
        spreads = {}
        for side in sides:
            spreads[side] = self.scorer.once(("moments", side), partial(moments, subject, side))
        if kind in ("zero", "mean"):
            fixed = {}
            for side, spread in spreads.items():
                mean = spread.mean
                # A vector of the scorer's own: a row may hold it where a token's id stands.
                fixed[side] = self.scorer.vector(torch.zeros_like(mean) if kind == "zero" else mean)
            return lambda run: (fixed[run.in_target],) * len(run.ids)

        def drawn(run: _Run) -> tuple[int, ...]:
            spread = spreads[run.in_target]
            noise = torch.randn(len(run.ids), len(spread.mean), generator=generator)
            noise = noise.to(spread.mean)
            if kind == "random":
                vectors = spread.mean + spread.deviation * noise
            else:
                of_tokens = embedding(subject, torch.tensor(run.ids), run.in_target).float()
                vectors = of_tokens + NOISE * spread.of_table * noise
            return tuple(self.scorer.vector(vector) for vector in vectors)

        return drawn


def default_removal(scorer: Scorer) -> str:
    """The default removal."""
    question = scorer.question
    subject = question.subject
    if not subject.causal and getattr(subject.tokenizer, "mask_token_id", None) is not None:
        return "mask"
    for part in question.parts:
        of_units = {at for places in part.tokens for at in places}
        others = set(range(len(part.ids))) - of_units
        first_other = min(others, default=len(part.ids))
        # Deleted units leave nothing in front to read from, or take away what is read.
        reads_units = not part.back and any(anchor in of_units for anchor in part.anchors)
        if first_other > min(of_units) or reads_units:
            return _with_all_places(subject)
    return "delete"


def _with_all_places(subject: Subject) -> str:
    """The default removal that keeps every position."""
    if tables(subject).are_all:
        return "mean"
    return "resample" if subject.causal and subject.classes else "pad"
