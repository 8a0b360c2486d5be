"""What a screen may ask for: a name and plain values in, plain values out.

The same for the server and the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from layerscope.errors import InputError, LayerscopeError

from . import grids, views
from .bench import Bench
from .out import as_commands, as_python, saved_page
from .session import View

Message = dict[str, Any]


def _page(bench: Bench, view: View) -> Message:
    """The view as a page, with what can be made of it at once."""
    messages: list[Message] = []
    makers = [
        lambda: views.look(bench, view),
        lambda: views.lens(bench, view),
        lambda: [grids.heads(bench, view)],
        lambda: grids.attribution(bench, view),
    ]
    for make in makers:
        try:
            messages += make()
        except LayerscopeError as error:
            messages.append({"part": "problem", "text": str(error)})
    about = views.about(bench)
    return {"part": "page", "html": saved_page(about, view, iter(messages))}


ASKS: Mapping[str, Callable[..., Message | Iterator[Message]]] = {
    "look": views.look,
    "lens": views.lens,
    "cell": views.cell,
    "probes": views.probes,
    "generate": views.generate,
    "heads": grids.heads,
    "measure": grids.measure,
    "pattern": grids.pattern,
    "attribution": grids.attribution,
    "python": lambda bench, view: {"part": "python", "text": as_python(bench, view)},
    "command": lambda bench, view: {"part": "command", "text": as_commands(bench, view)},
    "page": _page,
}
"""Name -> function of the bench and the view, with further plain values by name."""
VALUES: Mapping[str, type] = {
    "kind": str,
    "by": str,
    "method": str,
    "token": int,
    "layer": int,
    "position": int,
    "head": int,
    "first": int,
    "length": int,
}
"""Further values, and the type of each."""
TAKES = {
    "lens": {"kind", "first"},
    "cell": {"kind", "layer", "position"},
    "generate": {"length"},
    "heads": {"by", "token"},
    "pattern": {"layer", "head"},
    "attribution": {"method"},
}
REPLACES = {"look"}
"""Requests that make everything that was asked before out of date."""


def answered(bench: Bench, given: Mapping[str, Any]) -> Iterable[Message]:
    """The messages that answer a request.

    Raises:
        LayerscopeError: a request that is not understood, or that this model or text does not
            allow.
    """
    name = given.get("do")
    if not isinstance(name, str) or name not in ASKS:
        raise InputError(f"request {name!r:.40}: expected {', '.join(ASKS)}")
    view = given.get("view")
    if not isinstance(view, Mapping):
        raise InputError(f"view: expected a text and its edits, got {view!r:.60}")
    values = {key: value for key, value in given.items() if key not in ("do", "view", "id")}
    for key, value in values.items():
        if key not in TAKES.get(name, set()):
            raise InputError(f"request {name}: no value {key!r:.40}")
        if not isinstance(value, VALUES[key]) or isinstance(value, bool):
            raise InputError(f"{key}: expected {VALUES[key].__name__}, got {value!r:.60}")
    answer = ASKS[name](bench, View.parse(view), **values)
    return [answer] if isinstance(answer, dict) else answer
