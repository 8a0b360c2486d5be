"""The lenses of a run: read from files, kept by an interrupted run, or fitted and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from ...lenses.files import export_jacobian, export_tuned, load_lens, save_lens
from ...lenses.jacobian import jacobian
from ...lenses.least_squares import least_squares
from ...lenses.lens import Lens
from ...lenses.tuned import tuned
from ...report.schema import Note
from ...runs import console
from .inputs import LensInputs

VALIDATION_SHARE = 10
"""One in so many texts chooses the tuned lens's step and is not fitted on."""
COMPARED_TEXTS = 8
"""Held-out texts on which the readings of two halves of a Jacobian's texts are compared."""


def fitted_lenses(inputs: LensInputs, notes: list[Note]) -> list[Lens]:
    """Every lens that is asked for: read from a file, kept by an interrupted run,
    or fitted and kept.
    """
    subject, options = inputs.subject, inputs.options
    assert subject is not None
    lenses = {lens.kind: lens for lens in inputs.saved} | {"logit": Lens("logit")}
    folder = options.out / "lenses"
    for kind in inputs.kinds:
        path = folder / f"{kind}.safetensors"
        if kind not in lenses and path.exists():
            lenses[kind] = load_lens(path, subject)
        elif kind not in lenses:
            folder.mkdir(exist_ok=True)
            with console.progress() as bars:
                lens = _fitted(kind, inputs, lenses, bars)
            about = {**lens.about, "model": subject.name, "model_sha256": subject.sha256}
            lenses[kind] = replace(lens, about=about)
            save_lens(lenses[kind], path)
        notes += _notes(lenses[kind], subject.n_layers)
    asked = [lenses[kind] for kind in inputs.kinds]
    if options.published:
        _export(asked, folder, inputs)
    return asked


def _fitted(kind: str, inputs: LensInputs, lenses: dict[str, Lens], bars: Progress) -> Lens:
    """One lens, fitted on the training texts with a progress bar."""
    if kind == "tuned":
        return _tuned(inputs, lenses.get("least-squares"), bars)
    return _jacobian(inputs, bars) if kind == "jacobian" else _least_squares(inputs, bars)


def _least_squares(inputs: LensInputs, bars: Progress) -> Lens:
    bar = bars.add_task("least squares", total=len(inputs.train))
    return least_squares(
        inputs.subject,
        inputs.train,
        inputs.options.batch_tokens,
        lambda texts: bars.advance(bar, texts),
    )


def _tuned(inputs: LensInputs, start: Lens | None, bars: Progress) -> Lens:
    options = inputs.options
    start = start or _least_squares(inputs, bars)
    bar = bars.add_task("tuned lens", total=options.steps)
    n_validation = max(1, len(inputs.train) // VALIDATION_SHARE)
    return tuned(
        inputs.subject,
        start,
        inputs.train[n_validation:] or inputs.train,
        inputs.train[:n_validation],
        options.batch_tokens,
        steps=options.steps,
        seed=options.seed,
        advance=lambda steps: bars.advance(bar, steps),
    )


def _jacobian(inputs: LensInputs, bars: Progress) -> Lens:
    options = inputs.options
    texts = inputs.train[: options.jacobian_texts]
    bar = bars.add_task("Jacobian lens", total=len(texts))
    return jacobian(
        inputs.subject,
        texts,
        first=options.first_position,
        stop_at=options.reliability if options.reliability < 1 else None,
        others=inputs.test[:COMPARED_TEXTS],
        advance=lambda texts: bars.advance(bar, texts),
    )


def _notes(lens: Lens, n_layers: int) -> list[Note]:
    """What a reader must know of how a lens was fitted."""
    about = lens.about
    notes = []
    if (improved := about.get("layers_improved")) is not None:
        text = (
            f"tuned: on validation texts, {improved} of {n_layers} layers improve on the "
            "least-squares lens they start from"
        )
        notes.append(Note(kind="info", text=text))
    if left := about.get("left_out_texts"):
        text = (
            f"jacobian: {left} texts are too short (under {about['first_position'] + 2} tokens) "
            "and are left out"
        )
        notes.append(Note(kind="dropped", text=text))
    if lens.missing:
        names = ", ".join("embedding" if n == 0 else str(n - 1) for n in sorted(lens.missing))
        text = f"{lens.kind}: its file has no matrix for layer {names}, which is not read"
        notes.append(Note(kind="dropped", text=text))
    return notes


def _export(lenses: Sequence[Lens], folder: Path, inputs: LensInputs) -> None:
    """Tuned and Jacobian lenses in their published layouts."""
    folder.mkdir(exist_ok=True)
    for lens in lenses:
        if lens.kind == "tuned":
            export_tuned(lens, folder / "tuned-lens", inputs.subject)
        elif lens.kind == "jacobian":
            export_jacobian(lens, folder / "jacobian-lens.safetensors")
