"""Kinds of sites, which are the columns of the doctor's map: their order and their names."""

from __future__ import annotations

from collections.abc import Sequence

from ....hooks.order import ORDER
from ....hooks.verify import kind_of
from .records import CheckRecord

WHOLE = "model"
"""What the whole model is called, which is no kind of site."""
NARROW = (
    (".hook_normalized", ""),
    ("resid_", "r."),
    ("attn_scores", "scores"),
    ("_embed", ".emb"),
)
"""What is shortened in the terminal."""


def map_of(
    records: Sequence[CheckRecord],
) -> tuple[list[str], dict[str, dict[str, list[CheckRecord]]]]:
    """Kinds of sites in the order of a forward (``""``, the whole model, last), and check -> kind
    -> its records.
    """
    grid: dict[str, dict[str, list[CheckRecord]]] = {}
    for record in records:
        grid.setdefault(record.check, {}).setdefault(kind_of(record.site), []).append(record)
    there = list(dict.fromkeys(kind for row in grid.values() for kind in row))
    in_blocks = [kind for kind in ORDER if kind in there]
    outside = [kind for kind in there if kind and kind not in ORDER]
    embeddings = [kind for kind in outside if "embed" in kind]
    behind = [kind for kind in outside if kind not in embeddings]
    whole = [""] if "" in there else []
    return [*embeddings, *in_blocks, *behind, *whole], grid


def short_name(kind: str) -> str:
    """``attn.hook_z`` as the head of a column: ``z``."""
    name = kind.removeprefix("attn.").removeprefix("hook_")
    return name.replace("mlp.hook_", "mlp.") or WHOLE


def narrow_name(kind: str) -> str:
    """The same in a terminal, where a column is narrower."""
    name = short_name(kind)
    for long, short in NARROW:
        name = name.replace(long, short)
    return name
