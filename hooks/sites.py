"""Site: the name of a place inside a model, and the patterns that select several sites.

Names are those of TransformerLens (``blocks.3.attn.hook_z``), with these extensions:

- globs over names: ``blocks.*.hook_resid_post``, ``blocks.{0,5}.attn.hook_z``,
  ``blocks.-1.hook_resid_post``
- selections of heads or neurons: ``blocks.3.attn.hook_z[5]`` is head 5,
  ``blocks.3.mlp.hook_post[1024]`` is a neuron; ``[0,3]`` selects two, ``[0:4]`` a range
- pairs: ``("z", 3)`` is ``blocks.3.attn.hook_z``; ``("resid_post", "*")`` is all layers
- any module by path: ``module:encoder.rnn:output[0]``, where ``[0]`` selects from a tuple and
  ``[name]`` from named values or arguments; ``module:layers.*.mlp:output`` (``*`` is one component
  of the path), ``module:layers.-1:output``
- a second selection along the last axis of a module's tensor: ``module:layers.0:output[0][5]``;
  a list or range needs no first one: ``module:layers.0:output[0:4]``
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from layerscope.errors import InputError, LayerscopeError

#: Short name -> the part of the canonical name that follows ``blocks.{layer}.``
SHORTHAND: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "attn_scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern",
    "pre": "mlp.hook_pre",
    "post": "mlp.hook_post",
    "router_logits": "mlp.hook_router_logits",
}

#: The axis that ``[...]`` selects on: heads where a site has heads, the last axis elsewhere.
HEAD_AXIS: dict[str, int] = {
    "attn.hook_q": 2,
    "attn.hook_k": 2,
    "attn.hook_v": 2,
    "attn.hook_z": 2,
    "attn.hook_gate": 2,
    "attn.hook_attn_scores": 1,
    "attn.hook_pattern": 1,
    "cross_attn.hook_q": 2,
    "cross_attn.hook_k": 2,
    "cross_attn.hook_v": 2,
    "cross_attn.hook_z": 2,
    "cross_attn.hook_attn_scores": 1,
    "cross_attn.hook_pattern": 1,
}


@dataclass(frozen=True, slots=True)
class Span:
    """A range of indices, ``[start:stop:step]``: a slice that can be hashed.

    No tuple, which would be equal to the indices ``[start,stop,step]``.
    """

    start: int | None = None
    stop: int | None = None
    step: int | None = None

    @property
    def as_slice(self) -> slice:
        """What a tensor is indexed with."""
        return slice(self.start, self.stop, self.step)


Index: TypeAlias = int | tuple[int, ...] | Span
_SELECTION = re.compile(r"^(?P<name>.*?)\[(?P<index>[-\d,:\s]+)\]$")
_MODULE_SELECTION = re.compile(
    r"^(?P<name>module:.*?:(?:input|output)(?P<item>\[\w+\])?)\[(?P<index>[-\d,:\s]+)\]$"
)
_LAYER = re.compile(r"^(?P<stack>(?:[a-z]+_)?blocks)\.(?P<layer>\d{1,9})\.(?P<part>.+)$")
_NEGATIVE = re.compile(r"^((?:[a-z]+_)?blocks)\.(-\d{1,9})\.")


class UnknownSite(LayerscopeError, LookupError):
    """No site of this model has this name."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place in a model: a canonical name and, optionally, a selection of heads or neurons.

    >>> Site.parse("blocks.3.attn.hook_z[5]")
    Site(name='blocks.3.attn.hook_z', select=5)
    >>> str(Site.parse(("z", 3)))
    'blocks.3.attn.hook_z'
    """

    name: str
    select: Index | None = None

    def __post_init__(self) -> None:
        is_index = hasattr(self.select, "__index__") or isinstance(self.select, tuple | Span | None)
        if not isinstance(self.name, str) or not is_index or isinstance(self.select, bool):
            raise InputError(
                "Site: expected a name and a number, a tuple of numbers or a Span, "
                f"got {self.name!r:.80} and {self.select!r:.80}"
            )

    @classmethod
    def parse(cls, spec: SiteLike) -> Site:
        """Read one site or pattern; raises `UnknownSite` for an unknown shorthand,
        `ValueError` for bad brackets.
        """
        if isinstance(spec, Site):
            return spec if not spec._has_index_alone() else cls(f"{spec.name}[0]", spec.select)
        if isinstance(spec, tuple):
            return cls(_from_pair(spec))
        if not isinstance(spec, str):
            raise InputError(
                f"expected a site such as 'blocks.3.attn.hook_z[5]' or ('z', 3), got {spec!r:.80}"
            )
        return _parsed(spec)

    @property
    def layer(self) -> int | None:
        """The block's number, or None for a site outside the blocks."""
        return _block_of(self.name)[0]

    @property
    def part(self) -> str:
        """The name without its block: ``attn.hook_z``."""
        return _block_of(self.name)[1]

    @property
    def axis(self) -> int:
        """The axis that a selection applies to."""
        return _axis_of(self.name)

    def __hash__(self) -> int:
        return hash(self.name)  # which a string computes once; sites are looked up in every forward

    def __str__(self) -> str:
        if self.select is None:
            return self.name
        return f"{self.name}{'[0]' if self._has_index_alone() else ''}[{_show_index(self.select)}]"

    def _has_index_alone(self) -> bool:
        """Whether one index of a module's tensor would be written as if it picked from a tuple."""
        return (
            isinstance(self.select, int)
            and self.name.startswith("module:")
            and not self.name.endswith("]")
        )


SiteLike: TypeAlias = str | Site | tuple[str, int | str | Sequence[int]]


@functools.lru_cache(maxsize=10_000)
def _block_of(name: str) -> tuple[int | None, str]:
    """A site's block, and its name without it."""
    match = _LAYER.match(name)
    return (int(match["layer"]), match["part"]) if match else (None, name)


@functools.lru_cache(maxsize=10_000)
def _axis_of(name: str) -> int:
    return HEAD_AXIS.get(_block_of(name)[1], -1)


@functools.lru_cache(maxsize=10_000)
def _parsed(spec: str) -> Site:
    if spec.startswith("module:"):
        return _module_site(spec)
    match = _SELECTION.match(spec)
    if match is None:
        if "[" in spec or "]" in spec:
            raise InputError(
                f"site {spec!r}: expected a selection such as [5], [0,3] or [0:4] at the end"
            )
        return Site(spec)
    return Site(match["name"], _parse_index(match["index"], spec))


def _module_site(spec: str) -> Site:
    match = _MODULE_SELECTION.match(spec)
    select = _parse_index(match["index"], spec) if match else None
    if match is None or (isinstance(select, int) and match["item"] is None):
        return Site(spec)  # one index alone picks from a tuple
    return Site(match["name"], select)


def expand(specs: Iterable[SiteLike], known: Collection[str], captured: bool = False) -> list[Site]:
    """Turn patterns into the model's own sites, in the model's order, without repeats.

    Args:
        specs: names, globs, shorthand pairs, sites; ``module:`` paths pass through for the anatomy
            to check.
        known: every name the model has, as `hooks.sites` lists them.
        captured: they are those of a capture instead, which may lack sites of the model.

    Raises:
        UnknownSite: a pattern, or one alternative of its braces, matched nothing; the message names
            the nearest names that exist.

    >>> available = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    >>> [str(s) for s in expand(["blocks.{0,1}.hook_mlp_out"], available)]
    ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']
    """
    names_known = known if isinstance(known, Mapping) else dict.fromkeys(known)
    chosen: dict[Site, None] = {}
    for spec in specs:
        site = Site.parse(spec)
        if site.name.startswith("module:"):
            chosen[site] = None
            continue
        if site.name in names_known:
            chosen[site] = None
            continue
        names: set[str] = set()
        for alternative in braces(site.name):
            matched = _match(_count_from_end(alternative, known), names_known)
            if not matched:
                raise UnknownSite(_no_such_site(alternative, known, captured))
            names.update(matched)
        # In the model's order, whatever the order of the alternatives.
        in_order = names if len(names) == 1 else [name for name in known if name in names]
        for name in in_order:
            chosen[Site(name, site.select)] = None
    return list(chosen)


def _match(pattern: str, known: Collection[str]) -> list[str]:
    if pattern in known:
        return [pattern]
    if not any(c in pattern for c in "*?"):
        return []
    matches = re.compile(fnmatch.translate(pattern)).match
    return [name for name in known if matches(name)]


def braces(pattern: str) -> list[str]:
    """The patterns that one with ``{a,b}`` stands for."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [full for choice in match[1].split(",") for full in braces(head + choice.strip() + tail)]


def _count_from_end(pattern: str, known: Collection[str]) -> str:
    match = _NEGATIVE.match(pattern)
    if match is None:
        return pattern
    stack = match[1]
    layers = {int(m["layer"]) for n in known if (m := _LAYER.match(n)) and m["stack"] == stack}
    wanted = int(match[2]) + len(layers)
    return f"{stack}.{wanted}.{pattern[match.end() :]}"


def _no_such_site(pattern: str, known: Collection[str], captured: bool) -> str:
    wanted = _LAYER.match(pattern)
    layers = set()
    for name in known:
        layer = Site(name).layer
        if layer is not None:
            layers.add(layer)
    if wanted and layers and int(wanted["layer"]) not in layers and not captured:
        return f"no site {pattern!r}: the model has blocks 0 to {max(layers)}"
    # Compare without layer numbers first, so that a typo in the part is not drowned by the layer.
    folded = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in reversed(list(known)))
    query = re.sub(r"\.-?\d+\.", ".*.", pattern)
    near = difflib.get_close_matches(query, list(folded), n=3, cutoff=0.4)
    if wanted:
        at_layer = [name.replace(".*.", f".{wanted['layer']}.") for name in near]
        near = [name for name in at_layer if name in known]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    place, listing = ("capture", "list(acts)") if captured else ("model", "layerscope.sites(model)")
    return f"no site {pattern!r} in this {place}{hint} ({listing} lists all {len(known)})"


def _from_pair(pair: tuple[str, int | str | Sequence[int]]) -> str:
    short, layer = pair
    if short not in SHORTHAND:
        near = difflib.get_close_matches(short, SHORTHAND, n=3, cutoff=0.3) or sorted(SHORTHAND)
        raise UnknownSite(f"no shorthand {short!r}: expected one of {', '.join(near)}")
    chosen = str(layer) if isinstance(layer, int | str) else "{" + ",".join(map(str, layer)) + "}"
    return f"blocks.{chosen}.{SHORTHAND[short]}"


def _parse_index(text: str, spec: str) -> Index:
    index: Index = ()
    try:
        if ":" in text:
            bounds = [int(part) if part.strip() else None for part in text.split(":")]
            index = Span(*bounds)
        elif "," in text:
            index = tuple(int(part) for part in text.split(",") if part.strip())
        else:
            index = int(text)
    except (ValueError, TypeError):
        index = ()
    # A range of step 0 would never end.
    is_endless = isinstance(index, Span) and index.step == 0
    if index == () or is_endless:
        raise InputError(f"site {spec!r}: expected [5], [0,3] or [0:4], got [{text}]")
    return index


def _show_index(index: Index) -> str:
    if isinstance(index, Span):
        bounds = [index.start, index.stop]
        if index.step is not None:
            bounds.append(index.step)
        return ":".join("" if bound is None else str(bound) for bound in bounds)
    if isinstance(index, tuple):  # one index of a list keeps its axis: [5,] is not [5]
        return ",".join(map(str, index)) + ("," if len(index) == 1 else "")
    return str(index)
