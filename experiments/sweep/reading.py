"""Reading the records of effects: families, names, the strongest, and which are significant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from ...probes.evaluation import REPLICATES, TESTABLE, floor_of
from ..report.words import plural
from .records import EffectRecord

LEVEL = 0.05
"""False-discovery rate below which an effect is called significant."""

Record = TypeVar("Record", bound=EffectRecord)


@runtime_checkable
class Place(Protocol):
    """A part of the model, as a record names it."""

    @property
    def site(self) -> str: ...
    @property
    def component(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def index(self) -> int | None: ...


def families(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by value and kind of part:
    those of one family share a grid and a false discovery rate.
    """
    out: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        out.setdefault((record.value, record.component), []).append(record)
    return out


def strongest(records: Sequence[Record], count: int = 10) -> list[Record]:
    """The records with the largest effect in either direction."""
    return sorted(records, key=lambda record: -abs(record.effect))[:count]


def significant(records: Sequence[Record]) -> list[Record]:
    """The records whose false discovery rate is below ``LEVEL``."""
    return [record for record in records if record.q is not None and record.q < LEVEL]


STACKS = {"L": "encoder", "D": "decoder", "X": "decoder's attention to the source"}
"""Letters of a part's name in an encoder-decoder; in any other model all are L."""


def stack_of(site: str) -> str:
    """The letter of the stack that a site is in.

    >>> stack_of("blocks.0.attn.hook_z"), stack_of("decoder_blocks.0.attn.hook_z")
    ('L', 'D')
    >>> stack_of("decoder_blocks.0.cross_attn.hook_z")
    'X'
    """
    if not site.startswith("decoder_"):
        return "L"
    return "X" if "cross_attn" in site else "D"


def row_of(record: Place) -> tuple[int, int]:
    """The row of a part in a grid: its stack's place in `STACKS`, and its layer."""
    return list(STACKS).index(stack_of(record.site)), record.layer


def part_name(kind: str, layer: int, index: int | None, stack: str = "L") -> str:
    """How people call a part: L3H5, L3N1024, L3 MLP, L3 at position 7;
    D3H5 and X3H5 in a decoder.
    """
    after = {
        "heads": f"H{index}",
        "neurons": f"N{index}",
        "positions": f" at position {index}",
        "mlps": " MLP",
        "attentions": " attention",
    }
    return f"{stack}{layer}{after.get(kind, '')}"


def component_name(record: Place) -> str:
    """`part_name` of a record."""
    return part_name(record.component, record.layer, record.index, stack_of(record.site))


def ranking(records: Sequence[EffectRecord], count: int = 5) -> str:
    """The strongest by name, for a sentence."""
    return ", ".join(f"{component_name(r)} ({r.effect:+.3g})" for r in strongest(records, count))


# -- what a test of so few groups can show


def flips_of(parts: int) -> int:
    """Random sign flips of a grid:
    enough that its smallest p can be told from 0 in the whole grid.
    """
    return max(REPLICATES, 10 * parts)


def power_note(records: Sequence[EffectRecord], noun: str) -> str:
    """What so few groups cannot show, in a sentence;
    empty where one part by itself can be significant.
    """
    tested = [record for record in records if record.p is not None]
    if not tested:
        return ""
    first, parts = tested[0], len(records)
    floor = floor_of(first.n_clusters, parts, flips_of(parts))
    if not floor.silent:
        return ""
    text = f"With {groups_text(first)}, the smallest possible p is {floor.p:.2g}"
    if floor.together > parts:
        return f"{text}, which is too large for q < {LEVEL} even if all {parts} {noun} reach it."
    return f"{text}. For q < {LEVEL}, at least {floor.together} of {parts} {noun} must reach it."


def groups_text(record: EffectRecord) -> str:
    """How many prompts, or groups of them, were resampled."""
    if record.n_clusters == record.n:
        return plural(record.n_clusters, "prompt")
    return plural(record.n_clusters, "group of prompts", "groups of prompts")


def significance_text(records: Sequence[EffectRecord], noun: str, change: str) -> str:
    """How many parts have a significant effect, and what this many groups could have shown.

    Args:
        noun: what the parts are called, such as ``heads``.
        change: subject and verb of the sentence, such as ``Zero ablation changes it``.
    """
    if records[0].n_clusters < TESTABLE:
        return (
            f"Effects of {noun} cannot be tested: {groups_text(records[0])}, "
            f"and a test at 5% needs {TESTABLE}."
        )
    passing = len(significant(records))
    limits = power_note(records, noun)
    if not passing and limits:
        return f"There are too few prompts to test {len(records)} {noun} one by one. {limits}"
    count = f"{change} significantly (FDR < {LEVEL}) at {passing} of {len(records)} {noun}"
    # A race and a screen by gradient test some of the parts; the others count as not significant.
    if (n_tested := sum(record.p is not None for record in records)) < len(records):
        count += f", of which {n_tested} were tested"
    return f"{count}. {limits}".rstrip()
