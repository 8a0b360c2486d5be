"""Heads of an encoder-decoder on prompts with answers, and all that is seen of prompts with
sounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...attention.targets import PATTERNS, TargetPatterns, head_statistics, target_patterns
from ...attention.text_patterns import ShownTexts
from ...report.schema import Finding, Note
from ...runs import console
from ...subject import Subject
from ...subject.word_spans import Encoded
from .records import Results, ShownTarget, TargetHeadRecord

MOST_WEIGHTS = 1 << 19
"""Weights of one drawing that are kept by head; of more the mean is kept alone."""
FOLLOWS, PADDED = 0.5, 0.5
"""Rank correlation from which a head follows the sound, and weight on padding from which it is
reported.
"""


def of_targets(
    subject: Subject, rows: Sequence[Encoded], show: int
) -> tuple[list[TargetHeadRecord], list[ShownTarget]]:
    """The heads of every stack on the rows, and the first rows' attention to their sources."""
    if not rows:
        return [], []
    texts = []
    with console.progress() as bars:
        bar = bars.add_task("sources and targets", total=len(rows))
        for row in rows:
            texts.append(target_patterns(subject, row))
            bars.advance(bar)
    shown: list[ShownTarget] = []
    for text in texts[:show]:
        shown += _shown(text)
    return _records(texts), shown


def _records(texts: Sequence[TargetPatterns]) -> list[TargetHeadRecord]:
    """One record a head, stack by stack."""
    records = []
    for letter, where in PATTERNS.items():
        n_texts = sum(letter in text.statistics for text in texts)
        if not n_texts:
            continue
        statistics = head_statistics(texts, letter)
        n_layers, n_heads = statistics["entropy"].shape
        for layer, head in itertools.product(range(n_layers), range(n_heads)):
            values: dict[str, Any] = dict.fromkeys(("previous", "end", "monotone"))
            values |= {name: float(grid[layer, head]) for name, grid in statistics.items()}
            site = f"{where.replace('*', str(layer))}[{head}]"
            about: dict[str, Any] = {"site": site, "stack": letter, "n": n_texts}
            records.append(TargetHeadRecord(**about, layer=layer, index=head, **values))
    return records


def _shown(text: TargetPatterns) -> list[ShownTarget]:
    """The attention to the source, from the target and, of a sound, from the sound itself."""
    shown = []
    for letter, weights in text.weights.items():
        if letter == "D":
            continue
        # The padding behind a sound asks nothing: there are fewer rows than columns.
        asking = text.target if letter == "X" else text.source[: weights.shape[2]]
        heads = weights.round(3).tolist() if weights.size <= MOST_WEIGHTS else []
        mean = weights.mean((0, 1)).round(3).tolist()
        words = {"source": text.source, "target": asking}
        shown.append(ShownTarget(stack=letter, **words, mean=mean, heads=heads))
    return shown


def sound_results(
    subject: Subject, rows: Sequence[Encoded], show: int, notes: Sequence[Note]
) -> Results:
    """What is seen of prompts with sounds: heads of the encoder, of the decoder, and between."""
    heads, shown = of_targets(subject, rows, show)
    about = [
        *notes,
        Note(
            kind="info",
            text="statistics of a sound are of the encoder's frames; what is drawn is pooled to "
            "spans of time",
        ),
    ]
    if any(not text.heads for text in shown):
        text = (
            "patterns of single heads are not kept: with these sounds and heads they are too many"
        )
        about.append(Note(kind="skipped", text=text))
    if not any(head.stack == "X" for head in heads):
        text = "the decoder: no prompt has an answer (the sound's transcript)"
        about.append(Note(kind="skipped", text=text))
    return Results(
        records=list(heads),
        layers=[],
        relations=[],
        uniform={"entropy": 1.0},
        shown=ShownTexts(layers=[], heads=0, texts=[]),
        shown_targets=shown,
        findings=_findings(heads),
        notes=about,
    )


def _findings(heads: Sequence[TargetHeadRecord]) -> list[Finding]:
    """Which heads follow the sound, and which look behind it."""
    findings = []
    if crossing := [head for head in heads if head.stack == "X"]:
        best = max(crossing, key=lambda head: head.monotone or 0.0)
        following = sum((head.monotone or 0.0) >= FOLLOWS for head in crossing)
        text = (
            f"Cross-attention heads that follow the sound in time (rank correlation of {FOLLOWS} "
            f"or more): {following} of {len(crossing)}. The strongest is {best.name}, "
            f"with {best.monotone:.2f}."
        )
        findings.append(Finding(property="alignment", text=text))
    hearing = [head for head in heads if head.stack == "E"]
    padded = sum((head.end or 0.0) >= PADDED for head in hearing)
    distance = float(np.mean([head.distance or 0.0 for head in hearing]))
    text = f"In the encoder, a frame attends to frames {distance:.2f} s away on average."
    if any(head.end for head in hearing):
        text += (
            " Heads that give at least half of their attention to the padding behind the sound: "
            f"{padded} of {len(hearing)}."
        )
    return [*findings, Finding(property="encoder", text=text)]
