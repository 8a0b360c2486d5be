"""Models, text, hooks and probes together: every command of ``layerscope`` as a function of the same name and options.

    from . import probe
    results = probe(model="openai-community/gpt2", corpus="en_ewt-ud-train.conllu", property="upos")
    results.frame, results.plot(), results.report("upos.html")

A model in memory is given with its tokenizer: ``probe(model=(model, tokenizer), ...)``. Nothing heavy is imported before a
name is used.
"""

from __future__ import annotations

if __name__ == "experiments":  # by its short name: the same modules as layerscope.experiments
    from layerscope.rooms import same_modules

    same_modules("experiments")

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import Picture, Results, compare
    from .studies import (
        ablate,
        ask,
        attend,
        attribute,
        calibrate,
        capture,
        doctor,
        geometry,
        neurons,
        patch,
        probe,
        prune,
        usage,
    )  # fmt: skip

__all__ = [
    "Picture",
    "Results",
    "ablate",
    "ask",
    "attend",
    "attribute",
    "calibrate",
    "capture",
    "compare",
    "doctor",
    "geometry",
    "neurons",
    "patch",
    "probe",
    "prune",
    "usage",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import results, studies

    return getattr(results if hasattr(results, name) else studies, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
