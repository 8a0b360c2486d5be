"""What an attribution reads: the texts, the model, and a question about each text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...attribution import AttributionError, ask
from ...attribution.examples import flippable
from ...attribution.methods import method_named
from ...attribution.question import Question
from ...corpus.prompts import Prompt, Unusable
from ...metrics.metrics import show_pictures
from ...metrics.usable import joined_notes, unusable_notes, usable_each, usable_texts
from ...report.schema import Note
from ...runs.execute import DataFile, Inputs, Load
from ...subject import Subject
from ...subject.heard import HeardSound
from ...subject.medium import Medium
from ...subject.pictures import Picture
from ...subject.spoken import SpokenSubject
from .options import AttributeOptions
from .reading import (
    data_of,
    images_for,
    prompts_of,
    proposer_of,
    sounds_for,
    steps_of,
    target_of,
)


@dataclass(kw_only=True)
class AttributeInputs(Inputs):
    """What is explained.

    Args:
        model: the run's model.
        methods: in the order in which they are shown.
        prompts: the texts; of a generation one for each step.
        questions: what is asked about each.
        proposer: the masked model whose words take the absent ones' places.
        known: texts to look for similar ones in.
        references: texts whose values give hidden-out's mean.
        notes: what of the files is left out.
    """

    model: Subject
    methods: tuple[str, ...]
    prompts: list[Prompt]
    questions: list[Question]
    proposer: Subject | None
    known: list[Prompt]
    references: list[str]
    notes: list[Note]


def prepare(options: AttributeOptions, load_model: Load) -> AttributeInputs:
    """The texts, the model, and a question about each text."""
    methods = tuple(dict.fromkeys(options.method)) or ("leave-one-out",)
    for method in methods:
        method_named(method)
    unusable: list[Unusable] = []
    prompts = prompts_of(options, unusable)
    if options.probe is not None and not options.probe.is_file():
        raise AttributionError(f"--probe {options.probe}: no such file")
    if options.reference is not None and options.value != "mean":
        raise AttributionError(
            f"--reference: --value {options.value} takes nothing from other prompts, "
            "expected --value mean"
        )
    # All files before the model is loaded, which takes longest.
    known, notes = _other_texts(options.known, options.skip, "known texts")
    references, left_out = _other_texts(options.reference, options.skip, "reference texts")
    notes += left_out
    images, sounds = images_for(options, prompts), sounds_for(options, prompts)
    subject = load_model(classifier=True, speech=bool(sounds))
    proposer = proposer_of(options)
    show_pictures(subject, options, images)
    asked = usable_each(
        prompts, lambda prompt: _questions(subject, options, prompt), unusable, options.skip
    )
    notes = [*unusable_notes(unusable, len(asked)), *notes]
    answered = [replace(one, answer=one.answer or options.target or "") for one, _ in asked]
    notes += joined_notes(answered, subject)
    data = data_of(options, len(asked), len(known), len(references), proposer)
    data += [DataFile.of("image", path, 1) for path in images]
    data += [DataFile.of("audio", path, 1) for path in sounds]
    steps: list[Prompt] = []
    questions: list[Question] = []
    for _, (of_text, about_text) in asked:
        steps += of_text
        questions += about_text
    return AttributeInputs(
        options=options,
        subject=subject,
        data=data,
        model=subject,
        methods=methods,
        prompts=steps,
        questions=questions,
        proposer=proposer,
        known=known,
        references=[prompt.prompt for prompt in references],
        notes=notes,
    )


def _other_texts(path: Path | None, allowed: float, what: str) -> tuple[list[Prompt], list[Note]]:
    """The texts of a file beside the prompts, and what of it is left out."""
    return ([], []) if path is None else usable_texts(path, allowed, what=what)


def _questions(
    subject: Subject, options: AttributeOptions, prompt: Prompt
) -> tuple[list[Prompt], list[Question]]:
    """The steps of a text, and what is asked about each."""
    steps = steps_of(subject, prompt, options.generate)
    questions = []
    for step in steps:
        target = target_of(options, step)
        medium = _medium(subject, options, step)
        question = ask(subject, step.prompt, target, options.level, pair=step.pair, medium=medium)
        # Checked for all texts now, not after hours at the text that cannot be changed.
        if options.flips:
            flippable(question)
        questions.append(question)
    return steps, questions


def _medium(subject: Subject, options: AttributeOptions, prompt: Prompt) -> Medium | None:
    """The picture that belongs to a text, or the sound that is heard in its place."""
    if prompt.image is not None:
        grid = (options.patches, options.patches)
        return Picture(prompt.image, subject.processor, *grid, subject.dtype)
    if prompt.audio is not None:
        assert isinstance(subject, SpokenSubject)
        return HeardSound(prompt.audio, subject, options.seconds)
    return None
