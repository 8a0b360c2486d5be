"""Models, text, hooks and probes together: every command of ``layerscope`` as a function of the
same name and options.

    import layerscope as ls
    results = ls.probe(model="openai-community/gpt2", corpus="en_ewt-ud-train.conllu",
    property="upos") results.frame, results.plot(), results.report("upos.html")

A model in memory is given with its tokenizer: ``ls.probe(model=(model, tokenizer), ...)``. Nothing
heavy is imported before a name is used.
"""

from __future__ import annotations

if __name__ == "experiments":  # by its short name: the same modules as layerscope.experiments
    from layerscope.rooms import same_modules

    same_modules("experiments")

from typing import TYPE_CHECKING, Any

from .studies import STUDIES

if TYPE_CHECKING:
    from .explorer.command import explore as explore
    from .results import Picture as Picture
    from .results import Results as Results
    from .results import compare as compare

_RESULTS = ("Picture", "Results", "compare")
__all__ = [*_RESULTS, "explore", *STUDIES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _RESULTS:
        from . import results

        return getattr(results, name)
    if name == "explore":
        from .explorer.command import explore

        return explore
    if name in STUDIES:
        from .api import FUNCTIONS

        return FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
