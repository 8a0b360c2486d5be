"""The attribution methods: a row each, from which the command line's help, the docs and the
dispatch are made.

Nothing heavy is imported before a method is called.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Options
    from .result import MethodScores
    from .scorer import Scorer


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        family: what it works on: texts with units removed, gradients, relevance, or values inside
            the model.
        about: what its scores are, in a line.
        module: the module of this package that holds it, and ``function`` there.
        draws: whether its scores depend on the seed whatever its settings.
        on_game: whether it is a function of a text with units absent (`Game`) and not of a
            `Scorer`.
        settings: what tells it from another method of the same function.
    """

    name: str
    family: str
    about: str
    module: str
    function: str
    draws: bool = False
    on_game: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def of_one_stack(self) -> bool:
        """Whether it needs a model of one stack of blocks."""
        return self.family == RELEVANCE or self.name in ("hidden-out", "conductance")

    def __call__(self, scorer: Scorer, options: Options) -> MethodScores:
        """Its scores for a question.

        Raises:
            AttributionError: a method that follows one stack of blocks, and an encoder-decoder.
        """
        if self.of_one_stack and scorer.subject.has_decoder:
            from .units import AttributionError

            able = ", ".join(name for name, method in METHODS.items() if not method.of_one_stack)
            raise AttributionError(
                f"method {self.name} follows one stack of blocks, "
                f"{scorer.subject.name} is an encoder-decoder: expected one of {able}"
            )
        medium = scorer.question.medium
        if medium is not None and not self.on_game:
            from . import medium_gradients
            from .units import AttributionError

            if self.name in medium_gradients.METHODS:
                return medium_gradients.medium_gradients(self.name, scorer, options)
            able = [name for name, method in METHODS.items() if method.on_game]
            named = ", ".join([*medium_gradients.METHODS, *able])
            raise AttributionError(
                f"method {self.name} reads text alone: with a {medium.kind} expected one of {named}"
            )
        function: Callable[..., MethodScores] = getattr(
            importlib.import_module(f".{self.module}", __package__), self.function
        )
        if not self.on_game:
            return function(scorer, options, **self.settings)
        from .game import Game

        return function(
            Game(scorer, options.removal, options.seed, options.draws, options.proposals), options
        )


def _of_game(name: str, about: str, module: str, function: str, draws: bool = False) -> Method:
    return Method(name, REMOVAL, about, module, function, draws, on_game=True)


REMOVAL, GRADIENT, RELEVANCE, INSIDE = "removal", "gradient", "relevance", "inside"

_ROWS = (
    _of_game(
        "leave-one-out", "drop of the value without the unit", "perturbation", "leave_one_out"
    ),
    _of_game(
        "windows",
        "mean drop without the windows that contain the unit",
        "perturbation",
        "windows",
    ),
    _of_game(
        "input-reduction",
        "order of removal, the least important unit first",
        "perturbation",
        "input_reduction",
    ),
    Method(
        "hidden-out",
        INSIDE,
        "drop if a site is replaced at the unit's tokens",
        "hidden",
        "hidden_out",
    ),
    Method(
        "saliency",
        GRADIENT,
        "size of the gradient at the unit, without sign",
        "gradients",
        "saliency",
    ),
    Method("grad-input", GRADIENT, "gradient times input", "gradients", "grad_input"),
    Method(
        "ig",
        GRADIENT,
        "integrated gradients, which sum to the change from a baseline",
        "gradients",
        "integrated",
    ),
    Method(
        "dig",
        GRADIENT,
        "integrated gradients along a path near real words",
        "discretised",
        "discretised",
    ),
    Method(
        "smoothgrad",
        GRADIENT,
        "mean gradient times input over noise",
        "gradients",
        "smoothgrad",
        draws=True,
    ),
    Method(
        "conductance",
        GRADIENT,
        "part of integrated gradients that flows through a site",
        "gradients",
        "conductance",
    ),
    Method(
        "lrp",
        RELEVANCE,
        "layer-wise relevance propagation with rules for attention (AttnLRP)",
        "relevance",
        "lrp",
    ),
    Method(
        "cp-lrp",
        RELEVANCE,
        "relevance with attention weights as constants",
        "relevance",
        "lrp",
        settings={"attention": "cp-lrp"},
    ),
    Method(
        "deep-taylor",
        RELEVANCE,
        "relevance by the z+ rule, with attention weights as constants",
        "relevance",
        "lrp",
        settings={"attention": "cp-lrp", "rule": "zplus"},
    ),
    Method(
        "chefer",
        RELEVANCE,
        "attention times its gradient through all layers, without sign",
        "relevance",
        "chefer",
    ),
    _of_game(
        "lime",
        "coefficients of a sparse linear model around the text",
        "surrogates",
        "lime",
        draws=True,
    ),
    _of_game(
        "tree", "importances of a decision tree around the text", "surrogates", "tree", draws=True
    ),
    _of_game("shapley", "exact Shapley values, up to 12 units", "shapley", "exact"),
    _of_game(
        "kernel-shap",
        "Shapley values by weighted regression on drawn sets",
        "shapley",
        "kernel",
        draws=True,
    ),
    _of_game(
        "leverage-shap",
        "Shapley values to a stated standard error, by a Gaussian process over sets",
        "leverage",
        "leverage",
        draws=True,
    ),
    _of_game(
        "permutation-shap",
        "Shapley values from random orders of the units",
        "shapley",
        "permutations",
        draws=True,
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
"""Every method by its name."""

ELSEWHERE = {
    "integrated-gradients": "ig",
    "discretized-integrated-gradients": "dig",
    "input-x-gradient": "grad-input",
    "feature-ablation": "leave-one-out",
    "occlusion": "leave-one-out",
    "attnlrp": "lrp",
    "shapley-value-sampling": "permutation-shap",
}
"""What papers and other libraries call a method."""


def method_named(name: str) -> Method:
    """A method of `METHODS`.

    Raises:
        AttributionError: there is none of that name.
    """
    if name in METHODS:
        return METHODS[name]
    from .units import AttributionError

    spelled = name.lower().replace("_", "-").replace(" ", "-")
    near = difflib.get_close_matches(spelled, [*METHODS, *ELSEWHERE], n=1, cutoff=0.5)
    hint = f" (did you mean {ELSEWHERE.get(near[0], near[0])}?)" if near else ""
    raise AttributionError(f"method {name!r}: expected one of {', '.join(METHODS)}{hint}")
