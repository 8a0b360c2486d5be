"""What a study of attention finds, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...attention.arcs import WordRoles
from ...attention.head_roles import BROAD, ON_REPEATS
from ...attention.heads import HeadStatistics
from ...report.schema import Finding
from .records import CheckpointRecord, Disagreement, HeadRecord, head_name

HALF = 0.5
"""Weight on the first token from which a head counts as a sink."""
PARKED = 0.2
"""Difference between the first token's weight and its contribution from which it is reported."""
LISTED = 4
"""Dependencies that a sentence lists."""


def findings(
    records: Sequence[HeadRecord], words: WordRoles, statistics: HeadStatistics
) -> list[Finding]:
    """What is worth saying first."""
    sentences = [_heads_finding(records)]
    if statistics.has_norms and (finding := _values_finding(records)) is not None:
        sentences.append(finding)
    if (finding := _dependencies_finding(words)) is not None:
        sentences.append(finding)
    return sentences


def _heads_finding(records: Sequence[HeadRecord]) -> Finding:
    """How many heads have a role, and how many attend to the first token."""
    with_role = sum(bool(record.role) for record in records)
    # Attention that has nowhere to go rests on the first token.
    sinks = sum(record.first >= HALF for record in records)
    entropy = np.mean([record.entropy for record in records])
    text = (
        f"Heads with a named role: {with_role} of {len(records)}. Heads that give at least "
        f"half of their attention to the first token: {sinks}. "
        f"The mean normalised entropy is {entropy:.2f}, where 1 is uniform attention."
    )
    for name in ("induction", "duplicate"):
        strongest = max(records, key=lambda record: getattr(record, name))
        score = getattr(strongest, name)
        if score >= ON_REPEATS:
            text += (
                f" The strongest {name} head is {strongest.name}, "
                f"with {score:.2f} on repeated random tokens."
            )
    return Finding(property="heads", text=text)


def _values_finding(records: Sequence[HeadRecord]) -> Finding | None:
    """The head whose weight on the first token adds least."""

    def gap(record: HeadRecord) -> float:
        return record.first - (record.norm_first or 0.0)

    parked = max(records, key=gap)
    if gap(parked) <= PARKED:
        return None
    text = (
        f"Attention is not contribution: {parked.name} gives {parked.first:.0%} of its "
        f"attention to the first token, but only {parked.norm_first:.0%} of the attended "
        "values' norm comes from there."
    )
    return Finding(property="values", text=text)


def _dependencies_finding(words: WordRoles) -> Finding | None:
    """Which dependencies a head follows."""
    followed = sorted(
        (relation for relation in words.relations if relation.syntactic), key=lambda r: -r.gain
    )
    if not followed:
        return None
    heads = [
        (
            f"{r.relation} {r.direction} {head_name(r.layer, r.head)} ({r.score:.2f}, "
            f"offset {r.baseline:.2f})"
        )
        for r in followed[:LISTED]
    ]
    text = (
        f"For {len(followed)} of {len(words.relations)} dependencies and directions, "
        "a head follows them significantly better than the best fixed offset: "
        f"{', '.join(heads)}."
    )
    return Finding(property="dependencies", text=text)


def effects_finding(apart: Disagreement) -> Finding:
    """How far attention and effect agree."""
    rho = apart.spearman["confidence"]
    correlation = "is not defined" if rho is None else f"is {rho:.2f}"
    text = (
        "The rank correlation between a head's confidence and the size of its effect on "
        f"the {apart.metric} {correlation} ({apart.n} heads). In the most confident "
        f"quarter, heads without a significant effect: {len(apart.sharp_unneeded)}. "
        f"In the least confident quarter, heads with one: {len(apart.diffuse_needed)}."
    )
    return Finding(property="effects", text=text)


def checkpoint_finding(records: Sequence[CheckpointRecord]) -> Finding:
    """When heads stop attending uniformly."""
    steps = sorted({record.step for record in records})
    entropy = {(record.step, record.layer, record.index): record.entropy for record in records}
    heads = sorted({(record.layer, record.index) for record in records})
    counts = []
    for step in dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])):
        n_broad = sum(entropy[step, *head] >= BROAD for head in heads)
        counts.append(f"{n_broad} at step {step}")
    text = (
        f"Heads that attend uniformly (entropy {BROAD} or more), of {len(heads)}: "
        f"{', '.join(counts)}."
    )
    # The step at which each head is first sharper than that; heads that never are have none.
    sharpened: dict[tuple[int, int], int] = {}
    for head in heads:
        for step in steps:
            if entropy[step, *head] < BROAD:
                sharpened[head] = step
                break
    if sharpened:
        first = min(sharpened, key=lambda head: sharpened[head])
        if sharpened[first] != steps[0]:
            text += (
                f" {head_name(*first)} is the first to become sharper, at step {sharpened[first]}."
            )
    return Finding(property="checkpoints", text=text)
