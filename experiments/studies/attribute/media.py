"""Texts with a picture or sound: the answer without it, and how the page shows it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...attribution import Game, Scorer
from ...report.schema import as_json, from_json
from ...runs.execute import Run
from ...subject.heard import HeardSound
from ...subject.pictures import Picture
from .inputs import AttributeInputs
from .records import (
    Modalities,
    ShownPicture,
    ShownSound,
)

LOUDNESS = 240
"""Bars of a drawn sound."""


def modality_records(inputs: AttributeInputs, run: Run) -> list[Modalities]:
    """The answer without the picture or sound, without the words and without both,
    for each text with one.
    """
    modalities = []
    for number, question in enumerate(inputs.questions):
        if question.medium is not None:
            make = partial(_modalities_of, inputs, number)
            raw = run.folder.kept(f"{number:05d}-modalities", make)
            modalities.append(from_json(Modalities, raw, f"cell {number:05d}-modalities"))
    return modalities


def _modalities_of(inputs: AttributeInputs, number: int) -> Any:
    question, options = inputs.questions[number], inputs.options
    assert question.medium is not None
    scorer = Scorer(question, options.batch_tokens)
    game = Game(scorer, options.removal, options.seed, proposals=inputs.proposer)
    is_cell = np.arange(game.n) < question.medium.n_cells
    # with both, words alone, the medium alone, neither
    kept = np.array([is_cell | ~is_cell, ~is_cell, is_cell, is_cell & ~is_cell])
    both, words, medium, neither = game(kept).tolist()
    return as_json(
        Modalities(
            item=number,
            kind=question.medium.kind,
            value=both,
            without_medium=words,
            without_words=medium,
            without_both=neither,
            medium=((both - words) + (medium - neither)) / 2,
            words=((both - medium) + (words - neither)) / 2,
            measured_by=game.removal,
        )
    )


def shown_pictures(inputs: AttributeInputs) -> list[ShownPicture]:
    """The pictures as the page shows them."""
    shown = []
    for number, question in enumerate(inputs.questions):
        picture = question.medium
        if not isinstance(picture, Picture):
            continue
        width, height = picture.image.size
        shown.append(
            ShownPicture(
                item=number,
                file=Path(picture.path).name,
                rows=picture.rows,
                columns=picture.columns,
                width=width,
                height=height,
                jpeg=picture.jpeg(),
            )
        )
    return shown


def shown_sounds(inputs: AttributeInputs) -> list[ShownSound]:
    """The sounds as the page shows them."""
    shown = []
    for number, question in enumerate(inputs.questions):
        sound = question.medium
        if isinstance(sound, HeardSound):
            shown.append(
                ShownSound(
                    item=number,
                    file=Path(sound.path).name,
                    seconds=sound.seconds,
                    spans=[list(span) for span in sound.times],
                    loudness=sound.loudness(LOUDNESS),
                )
            )
    return shown
