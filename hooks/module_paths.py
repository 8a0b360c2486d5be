"""Sites that are a module's input or output, named by its path:
``module:encoder.layer.*.output:output``.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from typing import cast

from torch import nn

from layerscope.errors import InputError

from .rows import End, Place
from .sites import Index, Site, UnknownSite, braces
from .stacks import submodule

_MODULE = re.compile(r"^module:(?P<path>.*?):(?P<end>input|output)(?:\[(?P<item>[\w]+)\])?$")


def raw_places(model: nn.Module, site: Site) -> dict[Site, Place]:
    """The modules that a path stands for, in the model's order."""
    match = _MODULE.match(site.name)
    if match is None:
        raise InputError(
            f"site {str(site)!r}: expected 'module:PATH:input' or 'module:PATH:output', "
            "with [0] for a tuple and a second [...] for a selection"
        )
    end, item = cast(End, match["end"]), match["item"]
    number = int(item) if item is not None and re.fullmatch(r"\d{1,9}", item) else item
    places: dict[Site, Place] = {}
    for pattern in braces(match["path"]):
        paths = _matching(model, pattern)
        if not paths:
            raise UnknownSite(_no_such_module(model, pattern))
        for path in paths:
            one, place = _site_and_place(path, end, number, site.select)
            places[one] = place
    return places


@functools.lru_cache(maxsize=10_000)
def _site_and_place(
    path: str, end: End, item: int | str | None, select: Index | None
) -> tuple[Site, Place]:
    """Remembered, because the same modules are often entered again."""
    name = f"module:{path}:{end}" + (f"[{item}]" if item is not None else "")
    return Site(name, select), Place(path, end, item=item)


def _matching(model: nn.Module, pattern: str) -> list[str]:
    """The paths of a model's modules that a pattern stands for, name by name;
    ``-1`` is the last.
    """
    if submodule(model, pattern) is not None:
        return [pattern]
    reached: list[tuple[str, nn.Module]] = [("", model)]
    for part in pattern.split("."):
        below = []
        for path, module in reached:
            names = [name for name, child in module._modules.items() if child is not None]
            if re.fullmatch(r"-\d{1,9}", part):
                chosen = names[int(part) :][:1] if int(part) >= -len(names) else []
            else:
                chosen = fnmatch.filter(names, part)
            below += [(f"{path}.{name}".lstrip("."), module._modules[name]) for name in chosen]
        reached = below
    return [path for path, _ in reached]


def _no_such_module(model: nn.Module, path: str) -> str:
    paths = [name for name, _ in model.named_modules()]
    near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"no module {path!r} in {type(model).__name__}{hint}"
