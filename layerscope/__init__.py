"""Find out what a PyTorch model encodes, where it encodes it, and whether it uses it.

    import layerscope as ls

    with ls.capture(model, "blocks.*.hook_resid_post") as acts:
        model(**batch)
    results = ls.probe(model="openai-community/gpt2", corpus="en_ewt-ud-train.conllu",
    property="upos")

The package has three parts: ``layerscope.hooks`` reads and edits activations,
``layerscope.probes`` trains probes on arrays, and ``layerscope.experiments`` has the studies. A
name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layerscope.errors import LayerscopeError as LayerscopeError
from layerscope.rooms import ROOMS, install

install()

if TYPE_CHECKING:
    from experiments import *  # noqa: F403
    from experiments import capture as capture_to_store  # noqa: F401
    from hooks import *  # noqa: F403  # capture is the context manager
    from probes import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name == "__all__":  # of ``from layerscope import *``; the rooms' names may be a user's own
        return sorted(set(__dir__()).difference(ROOMS))
    if not name.startswith("_"):
        if name in ROOMS:
            return importlib.import_module(f"layerscope.{name}")
        # the command capture as a function; ls.capture is the context manager
        if name == "capture_to_store":
            return importlib.import_module("layerscope.experiments").capture
        for room in ROOMS:
            module = importlib.import_module(f"layerscope.{room}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    public = {
        name for room in ROOMS for name in importlib.import_module(f"layerscope.{room}").__all__
    }
    return sorted({"LayerscopeError", "capture_to_store", *ROOMS, *public})
