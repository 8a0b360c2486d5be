"""Every command of ``layerscope`` as a function with the same name and options.

    import layerscope as ls

    corpus = "en_ewt-ud-train.conllu"
    results = ls.probe(model="openai-community/gpt2", corpus=corpus, property="upos")
    results.frame, results.plot(), results.report("upos.html")

Pass a model in memory with its tokenizer: ``ls.probe(model=(model, tokenizer), ...)``. A name is
imported when it is first used.
"""

from __future__ import annotations

if __name__ == "experiments":  # by its short name: the same modules as layerscope.experiments
    from layerscope.rooms import same_modules

    same_modules("experiments")

from typing import TYPE_CHECKING, Any

from .studies import STUDIES

if TYPE_CHECKING:
    from .api import make_dataset as make_dataset
    from .explorer.command import explore as explore
    from .results import Picture as Picture
    from .results import Results as Results
    from .results import compare as compare

_RESULTS = ("Picture", "Results", "compare")
__all__ = [*_RESULTS, "explore", "make_dataset", *STUDIES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _RESULTS:
        from . import results

        return getattr(results, name)
    if name == "explore":
        from .explorer.command import explore

        return explore
    if name == "make_dataset":
        from .api import make_dataset

        return make_dataset
    if name in STUDIES:
        from .api import FUNCTIONS

        return FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
