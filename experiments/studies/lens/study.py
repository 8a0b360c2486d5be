"""``layerscope lens``: what each layer would predict, how far to believe it,
and which parts write the prediction.
"""

from __future__ import annotations

from ...lenses.jacobian import reliabilities_of
from ...report.schema import Note
from ...report.words import plural
from ...runs.execute import Cost, Run
from .findings import circuit_findings, findings
from .fitting import fitted_lenses
from .head_circuits import circuits_of
from .held_out import (
    compared,
    layer_records,
    random_models,
    reliability_records,
    scores_of,
    test_notes,
    with_shuffled,
)
from .inputs import LensInputs, prepare
from .reading import read_text
from .records import ComparisonRecord, LayerRecord, Results

__all__ = ["cost", "measure", "prepare"]


def cost(inputs: LensInputs) -> Cost:
    """Texts, and the matrices of the lenses."""
    fitted = [kind for kind in inputs.kinds if kind != "logit"]
    width, n_layers = inputs.subject.d_model, inputs.subject.n_layers
    text = f"{plural(len(inputs.prompts), 'text')} to read by {', '.join(inputs.kinds)}"
    if inputs.train:
        text += f"; {plural(len(inputs.train), 'text')} to fit on, {len(inputs.test):,} to test on"
    size = len(fitted) * n_layers * width * width * 4
    return Cost(text, memory=6 * size, disk=size)


def measure(inputs: LensInputs, run: Run) -> Results:
    """Fit the lenses, test them, read the texts, and attribute the targets' logits."""
    subject, options = inputs.subject, inputs.options
    notes = list(inputs.notes)
    with run.timed("fitting"):
        lenses = fitted_lenses(inputs, notes)
    reliabilities = next((reliabilities_of(lens) for lens in lenses if lens.kind == "jacobian"), [])
    layers: list[LayerRecord] = []
    comparisons: list[ComparisonRecord] = []
    if inputs.test:
        with run.timed("testing"):
            scores = scores_of(subject, with_shuffled(lenses), inputs.test, options.batch_tokens)
            for kind, values in scores.items():
                known = reliabilities if kind == "jacobian" else []
                layers += layer_records(kind, values, options.seed, known)
            comparisons = compared(scores, [lens.kind for lens in lenses], options.seed)
            layers += random_models(subject, inputs)
        notes += test_notes(len(inputs.test), len(comparisons))
    elif inputs.prompts:
        text = "single texts have no intervals: --corpus FILE tests the lenses on many texts"
        notes.append(Note(kind="info", text=text))
    with run.timed("reading"):
        read = [
            read_text(subject, number, prompt, lenses, options, notes)
            for number, prompt in enumerate(inputs.prompts)
        ]
    circuits, compositions = [], []
    if options.circuits or options.head:
        with run.timed("circuits"):
            circuits, compositions = circuits_of(subject, inputs.heads, notes)
    readings = [record for text in read for record in text.readings]
    parts = [record for text in read for record in text.parts]
    texts = [text.record for text in read]
    return Results(
        records=readings,
        texts=texts,
        layers=layers,
        reliability=reliability_records(reliabilities),
        comparisons=comparisons,
        contributions=parts,
        circuits=circuits,
        compositions=compositions,
        findings=findings(layers, readings, texts, parts)
        + circuit_findings(circuits, compositions),
        notes=notes,
    )
