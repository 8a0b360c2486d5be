"""Models, text, hooks and probes together: every command of ``layerscope`` as a function of the same name and options.

    from experiments import probe
    results = probe(model="openai-community/gpt2", corpus="en_ewt-ud-train.conllu", property="upos")
    results.frame, results.plot(), results.report("upos.html")

A model in memory is given with its tokenizer: ``probe(model=(model, tokenizer), ...)``. Nothing heavy is imported before a
name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.results import Picture, Results, compare
    from experiments.studies import (
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
    from experiments import results, studies

    return getattr(results if hasattr(results, name) else studies, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
