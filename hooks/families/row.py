"""One row of the table: what it says of a family,
and the short forms that rows are written with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from ..views import View

#: ``"path:end|view"``, or the three apart where the view cannot be written as text.
PlaceSpec: TypeAlias = str | tuple[str, Literal["input", "output"], View]


@dataclass(frozen=True)
class Family:
    """One row: where the blocks are, what stands outside them, and what is inside each.

    Args:
        blocks: path of the list of blocks (or of the one shared block, see `shared`).
        outside: site -> place, paths from the body.
        inside: site without its ``blocks.{i}.`` -> place, paths from the block.
        attention: path of the attention module inside the block, where patterns are seen (``.`` is
            the block itself); None when there is none.
        shared: True where one block is called again for every layer (ALBERT); the n-th call is
            layer n.
        when: tells from the configuration whether this row is the right one of its model type.
        missing: site -> why this family has none, in one line.
        cross: path of the attention to another text inside the block.
        decoder: the row of the stack that reads this one's output, in an encoder-decoder.
        calls: site -> which call of its module in one forward is the site's, and of how many, where
            it is not called once.
    """

    blocks: str
    outside: Mapping[str, PlaceSpec]
    inside: Mapping[str, PlaceSpec]
    attention: str | None
    shared: bool = False
    when: Callable[[Any], bool] = lambda config: True
    missing: Mapping[str, str] = field(default_factory=dict)
    cross: str | None = None
    decoder: Family | None = None
    calls: Callable[[Any], Mapping[str, tuple[int, int]]] = lambda config: {}

    def without(self, why: str, *parts: str) -> Family:
        """The same row with some sites left out, and why."""
        inside = {part: place for part, place in self.inside.items() if part not in parts}
        return replace(self, inside=inside, missing={**self.missing, **dict.fromkeys(parts, why)})

    def but(self, inside: Mapping[str, PlaceSpec]) -> Family:
        """The same row with other places for some sites."""
        return replace(self, inside={**self.inside, **inside})


RESIDUAL = {"hook_resid_pre": ":input", "hook_resid_post": ":output"}


def qkvo(q: str, k: str, v: str, o: str) -> dict[str, str]:
    return {
        "attn.hook_q": f"{q}:output|heads",
        "attn.hook_k": f"{k}:output|heads",
        "attn.hook_v": f"{v}:output|heads",
        "attn.hook_z": f"{o}:input|heads",
    }


def multihead(name: str, path: str) -> dict[str, PlaceSpec]:
    """The parts of an attention that PyTorch computes in one function."""
    ends = {"q": "query", "k": "key", "v": "value", "z": "mixed"}
    return {f"{name}.hook_{part}": f"{path}:{end}|heads" for part, end in ends.items()}


def mlp(pre: str, out: str) -> dict[str, str]:
    return {"mlp.hook_pre": f"{pre}:output", "mlp.hook_post": f"{out}:input"}


def any_of(*places: str) -> str:
    """The first of several places that a block has."""
    return " or ".join(places)


def under(paths: str, place: str) -> str:
    """One place under each of several modules."""
    return any_of(*(f"{path}.{place}" for path in paths.split()))


def within(path: str, places: Mapping[str, PlaceSpec]) -> dict[str, PlaceSpec]:
    return {site: f"{path}.{place}" for site, place in places.items()}


#: Sites of attention, for a row that has none.
NO_ATTENTION = (
    "hook_attn_out",
    *(f"attn.hook_{part}" for part in ("q", "k", "v", "attn_scores", "pattern", "z")),
)
#: Why a row lists no neurons of single experts.
NO_EXPERT_NEURONS = "its experts run in custom code, where the neurons of one expert cannot be read"

#: Why a row lists no scores and patterns.
FOLDED = "its softmax runs on a merged (batch head) axis, where attention cannot be read"


def has_cross_attention(config: Any) -> bool:
    """Whether a model that stands alone as well reads another one's text."""
    return bool(getattr(config, "add_cross_attention", False))


def same(model_types: str, *rows: Family) -> dict[str, tuple[Family, ...]]:
    """Table entries of model types, separated by spaces, that have the same rows."""
    return dict.fromkeys(model_types.split(), rows)
