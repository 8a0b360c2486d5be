"""The findings at the top of the page of ``layerscope lens``."""

from __future__ import annotations

from collections.abc import Sequence

from ...lenses.lens import KINDS
from ...report.schema import Finding
from ...report.words import layer_label
from .records import (
    CircuitRecord,
    CompositionRecord,
    ContributionRecord,
    LayerRecord,
    ReadingRecord,
    TextRecord,
)


def findings(
    layers: Sequence[LayerRecord],
    readings: Sequence[ReadingRecord],
    texts: Sequence[TextRecord],
    parts: Sequence[ContributionRecord],
) -> list[Finding]:
    """What is read first."""
    out = []
    for kind in dict.fromkeys(row.kind for row in layers if row.kind in KINDS):
        rows = [row for row in layers if row.kind == kind]
        middle, last = rows[len(rows) // 2], rows[-1]
        span = f" (95% CI {middle.kl_interval.text('.3g')})" if middle.kl_interval else ""
        out.append(
            Finding(
                property=kind,
                text=f"{kind}: halfway through, at layer {layer_label(middle.layer)}, "
                f"the lens has the model's own top token for {middle.agreement:.0%} of "
                f"tokens, and its predictions differ from the model's by {middle.kl:.3g} "
                f"bits per token{span}. At layer {layer_label(last.layer)}, "
                f"the figures are {last.agreement:.0%} and {last.kl:.3g} bits.",
            )
        )
    for number, text in enumerate(texts):
        out += _text_findings(number, text, readings, parts)
    return out


def _text_findings(
    number: int,
    text: TextRecord,
    readings: Sequence[ReadingRecord],
    parts: Sequence[ContributionRecord],
) -> list[Finding]:
    """Where the prediction of one text appears, and what writes it."""
    last = [r for r in readings if r.text == number and r.position == len(text.tokens) - 1]
    answer = next(r for r in last if r.kind == "model").top[0].token
    out = []
    for kind in dict.fromkeys(r.kind for r in last if r.kind != "model"):
        steps = [r for r in last if r.kind in (kind, "model")]
        first = next(
            i for i in range(len(steps)) if all(step.top[0].token == answer for step in steps[i:])
        )
        label = layer_label(steps[first].layer)
        out.append(
            Finding(
                property=kind,
                text=f"text {number + 1}: the model predicts {answer!r}, "
                f"which is the top token of the {kind} lens from layer {label} on.",
            )
        )
    rows = [part for part in parts if part.text == number]
    if rows and text.logit is not None:
        named = [
            row
            for row in rows
            if row.component in ("head", "mlp", "attention", "neuron", "position", "embedding")
        ]
        largest = sorted(named, key=lambda row: -abs(row.logit))[:5]
        words = ", ".join(f"{part_name(row)} ({row.logit:+.2f})" for row in largest)
        against = f" minus that of {text.wrong!r}" if text.wrong else ""
        out.append(
            Finding(
                property="contributions",
                text=f"text {number + 1}: the logit of {text.target!r}{against} is "
                f"{text.logit:.2f}. The largest direct contributions are {words}.",
            )
        )
    return out


def circuit_findings(
    circuits: Sequence[CircuitRecord], compositions: Sequence[CompositionRecord]
) -> list[Finding]:
    """The heads that copy most, and the strongest composition of each kind."""
    out = []
    if circuits:
        ranked = sorted(circuits, key=lambda record: -record.ov_share)
        names = ", ".join(f"L{r.layer}H{r.head} ({r.ov_share:.2f})" for r in ranked[:5])
        text = (
            f"By their weights, the heads that copy tokens most are {names}; "
            "1 is pure copying (eigenvalues of OV)."
        )
        out.append(Finding(property="circuits", text=text))
    best: dict[str, CompositionRecord] = {}
    for record in compositions:
        best.setdefault(record.mode, record)
    if best:
        words = ", ".join(f"{composition_name(r)} ({r.score:.3f})" for r in best.values())
        baseline = next(iter(best.values())).baseline
        text = (
            f"The strongest compositions are {words}; unrelated matrices give about {baseline:.3f}."
        )
        out.append(Finding(property="circuits", text=text))
    return out


def composition_name(record: CompositionRecord) -> str:
    """Who writes, who reads, and as what."""
    writer = f"L{record.writer_layer}H{record.writer_head}"
    return f"{writer} to {record.mode} of L{record.reader_layer}H{record.reader_head}"


def part_name(record: ContributionRecord) -> str:
    """How people call it: L3H5, L3 MLP, L3N17."""
    if record.layer is None:
        return record.component
    after = {
        "head": f"H{record.index}",
        "neuron": f"N{record.index}",
        "position": f" position {record.index}",
    }
    words = {"mlp": " MLP", "attention": " attention"}
    name = after.get(record.component) or words.get(record.component) or f" {record.component}"
    return f"L{record.layer}{name}"
