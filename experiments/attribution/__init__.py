"""Attribution: which words of a text caused the answer of a model.

>>> from layerscope.experiments.attribution import attribute  # doctest: +SKIP
>>> text = "The keys to the cabinet"
>>> scores = attribute(subject, text, target=" are", method="kernel-shap")  # doctest: +SKIP
>>> dict(zip(scores.units, scores.scores))  # doctest: +SKIP

A name is imported when it is first used, so the command line can read the table of methods quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerscope.lazy import lazy

from .methods import METHODS, Method, method_named

if TYPE_CHECKING:
    from .asking import ask as ask
    from .game import REMOVALS as REMOVALS
    from .game import Game as Game
    from .options import Options as Options
    from .question import Question as Question
    from .question import Target as Target
    from .result import Attribution as Attribution
    from .result import MethodScores as MethodScores
    from .scorer import Cost as Cost
    from .scorer import Scorer as Scorer
    from .single_text import attribute as attribute
    from .single_text import explain as explain
    from .units import LEVELS as LEVELS
    from .units import AttributionError as AttributionError
    from .units import Units as Units
    from .units import find_units as find_units

_MODULES = {
    "asking": ("ask",),
    "game": ("REMOVALS", "Game"),
    "options": ("Options",),
    "question": ("Question", "Target"),
    "result": ("Attribution", "MethodScores"),
    "scorer": ("Cost", "Scorer"),
    "single_text": ("attribute", "explain"),
    "units": ("LEVELS", "AttributionError", "Units", "find_units"),
}
_LAZY, __getattr__, __dir__ = lazy(__name__, _MODULES)
__all__ = ["METHODS", "Method", "method_named", *_LAZY]  # pyright: ignore[reportUnsupportedDunderAll]
