"""What each sentence of a run claims, recomputed from the recorded numbers without the code that
wrote the sentence.

A sentence is known by a pattern; its checker is given the run's results as raw JSON and the
pattern's groups. `held` takes a text apart from its beginning: each part must be known, and true.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attention import ATTEND
from .captions import CAPTIONS as _CAPTIONS
from .confidences import ASK, CONFIDENCE
from .notes import NOTES as _NOTES
from .parts import NEURONS, PRUNE, SWAP
from .probes import PROBE
from .reading import Check, Claim, FalseClaim, Raw, check_agreement, compiled, held_by
from .spaces import GEOMETRY, LENS
from .sweeps import SWEEP
from .texts import ATTRIBUTE, CAPTURE, DOCTOR

__all__ = [
    "CAPTIONS",
    "CLAIMS",
    "NOTES",
    "FalseClaim",
    "check_agreement",
    "held",
    "held_by",
]


def _all(claims: Sequence[tuple[str, Check]]) -> list[Claim]:
    return [(compiled(pattern), check) for pattern, check in claims]


_CLAIMS: dict[str, list[tuple[str, Check]]] = {
    "ablate": SWEEP,
    "patch": SWEEP,
    "usage": SWEEP,
    "calibrate": CONFIDENCE,
    "ask": ASK,
    "attend": ATTEND,
    "attribute": ATTRIBUTE,
    "capture": CAPTURE,
    "doctor": DOCTOR,
    "geometry": GEOMETRY,
    "lens": LENS,
    "neurons": NEURONS,
    "probe": PROBE,
    "prune": PRUNE,
    "swap": SWAP,
}
CLAIMS = {kind: _all(claims) for kind, claims in _CLAIMS.items()}
"""The sentences of each command's findings."""
NOTES = _all(_NOTES)
"""Notes with a number, of all commands."""
CAPTIONS = _all(_CAPTIONS)
"""Captions and texts of pages with a number, of all commands."""


def held(results: Raw, kind: str, text: str, about: str = "") -> None:
    """Raise `FalseClaim` unless every part of a finding is known and true of these results."""
    held_by(CLAIMS[kind], results, text, about)
