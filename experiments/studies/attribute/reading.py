"""What an attribution reads: texts, targets, the model's own continuation,
and another model's proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...attribution import AttributionError, Target
from ...corpus.prompts import Prompt, Unusable, read_prompts
from ...metrics.metrics import images_of, sounds_of
from ...metrics.reads import prediction_reads
from ...metrics.usable import with_pictures
from ...runs.execute import DataFile, modes_of
from ...subject import Subject, load
from ...subject.targets import as_target, in_target, plain
from ...subject.word_spans import Encoded
from .options import AttributeOptions

SHOWN_TEXT = 40
"""Characters of a text that a message quotes."""
PART_OF_CHARACTER, MOST_OF_CHARACTER = "\ufffd", 4
"""What a tokenizer gives for some of a character's bytes, and the most tokens that make one."""


def prompts_of(options: AttributeOptions, unusable: list[Unusable]) -> list[Prompt]:
    """The texts, from the command line or a file.

    Args:
        unusable: is given the lines of the file that are of no use.
    """
    given = (bool(options.text), bool(options.audio), options.prompts is not None)
    if sum(given) != 1:
        raise AttributionError(
            "expected one of --text TEXT, --audio FILE (of a speech model) and --prompts FILE"
        )
    if options.prompts is not None:
        if options.text_pair:
            raise AttributionError(
                "--text-pair belongs to --text: in a file, give each line its own text_pair"
            )
        if options.image:
            raise AttributionError(
                "--image belongs to --text: in a file, give each line its own image"
            )
        read = read_prompts(
            options.prompts, options.limit, answers=False, unusable=unusable, audio=True
        )
        return with_pictures(read, unusable, options.skip)
    if options.audio:
        if options.image or options.text_pair:
            raise AttributionError(
                "--audio takes the place of a text: expected neither --image nor --text-pair"
            )
        return [Prompt(str(path), "", audio=str(path)) for path in options.audio]
    if len(options.image) > 1 and len(options.image) != len(options.text):
        raise AttributionError(
            f"--image: expected one picture, or one for each of {len(options.text)} --text, "
            f"got {len(options.image)} (a text is shown with one picture)"
        )
    if options.text_pair and len(options.text_pair) != len(options.text):
        raise AttributionError(
            f"expected a --text-pair for each of {len(options.text)} --text, "
            f"got {len(options.text_pair)}"
        )
    pairs = options.text_pair or (None,) * len(options.text)
    images: Sequence[str | None] = options.image or (None,)
    if len(images) == 1:
        images = [images[0]] * len(options.text)
    prompts = []
    for text, pair, image in zip(options.text, pairs, images, strict=True):
        prompts.append(Prompt(text, "", pair=pair, image=image))
    return prompts


def sounds_for(options: AttributeOptions, prompts: Sequence[Prompt]) -> list[Path]:
    """The sounds, each once; they must be there before a model is loaded.

    Raises:
        AttributionError: what does not go with a sound.
        MetricError: a file that is not there, prompts of which only some are sounds.
    """
    sounds = sounds_of(prompts)
    if not sounds:
        return []
    for name in ("known", "proposals", "reference", "probe"):
        if getattr(options, name) is not None:
            raise AttributionError(f"--{name}: expected texts, got sounds")
    return sounds


def images_for(options: AttributeOptions, prompts: Sequence[Prompt]) -> list[Path]:
    """The pictures, each once; they must be there before a model is loaded.

    Raises:
        AttributionError: a file that is not there, and what does not go with a picture.
    """
    images = images_of(prompts)
    if images and options.generate:
        raise AttributionError("--generate continues a text without a picture: give a --target")
    return images


def proposer_of(options: AttributeOptions) -> Subject | None:
    if options.proposals is None:
        return None
    return load(options.proposals, **modes_of(options))


def data_of(
    options: AttributeOptions,
    n_prompts: int,
    n_known: int,
    n_references: int,
    proposer: Subject | None,
) -> list[DataFile]:
    """Everything that is read beside the model."""
    data = []
    if options.prompts is not None:
        data.append(DataFile.of("prompts", options.prompts, n_prompts))
    if options.probe is not None:
        data.append(DataFile.of("probe", options.probe, 0))
    if options.known is not None:
        data.append(DataFile.of("known", options.known, n_known))
    if options.reference is not None:
        data.append(DataFile.of("reference", options.reference, n_references))
    if proposer is not None:
        data.append(DataFile.of_model("proposals", proposer))
    return data


def target_of(options: AttributeOptions, prompt: Prompt) -> Target:
    """The target of one text: its line's, or the command's."""
    answer = prompt.answer or options.target
    wrong = prompt.wrong if prompt.answer else options.wrong
    prefix = prompt.target_prefix or options.target_prefix
    return Target(answer, wrong, options.measure, options.probe, options.word, prefix)


def steps_of(subject: Subject, prompt: Prompt, steps: int) -> list[Prompt]:
    """A text and the model's own continuation, one token at a time (of a character of several
    tokens all of these); each is asked why that came.

    As text, not as ids: each step is a prompt of its own, which another method or person can be
    given. What an encoder-decoder writes stands behind what its decoder has written before.
    """
    if not steps:
        return [prompt]
    if not (subject.has_decoder or (subject.causal and subject.gives_tokens)):
        raise AttributionError(
            "--generate needs a causal language model or an encoder-decoder, "
            f"got {type(subject.model).__name__}"
        )
    if subject.has_decoder:
        step = replace(prompt, answer="", target_prefix=prompt.target_prefix or "")
    else:
        step = Prompt(prompt.prompt, "")
    continued = []
    for _ in range(steps):
        answer = _written_next(subject, step)
        if answer is None:
            break
        continued.append(replace(step, answer=answer))
        step = _behind(subject, step, answer)
    if not continued:
        raise AttributionError(
            f"the model writes nothing behind {prompt.prompt[:SHOWN_TEXT]!r} that can be asked for "
            "as text (it ends, or its next token joins the text's): nothing to explain"
        )
    return continued


def _behind(subject: Subject, step: Prompt, written: str) -> Prompt:
    """The next step, behind what was written in this one."""
    if subject.has_decoder:
        return replace(step, target_prefix=(step.target_prefix or "") + written)
    return replace(step, prompt=step.prompt + written)


def _written_next(subject: Subject, step: Prompt) -> str | None:
    """What the model writes next: its likeliest token, and those that the token's character needs.

    None where the model ends, and where the text with this behind it has other tokens.
    """
    row = _read_row(subject, step)
    ids, tokens = _own_ids(subject, row), []
    decode = partial(subject.tokenizer.decode, clean_up_tokenization_spaces=False)
    # Decoded alike: a tokenizer may give the text back with another space in front.
    before = longer = decode(ids)
    while longer == before or longer.endswith(PART_OF_CHARACTER):
        if len(tokens) == MOST_OF_CHARACTER:
            return None
        (batch,) = subject.batches([row])
        token = int(subject.forward(batch, logits=True).logits[0, -1].argmax())
        if token in subject.tokenizer.all_special_ids:
            return None
        tokens.append(token)
        row = _with_token(row, as_target(token) if subject.has_decoder else token)
        longer = decode([*ids, *tokens])
    written = longer.removeprefix(before)
    if written == longer and before:
        return None
    read_again = _own_ids(subject, _read_row(subject, _behind(subject, step, written)))
    return written if read_again == [*ids, *tokens] else None


def _read_row(subject: Subject, step: Prompt) -> Encoded:
    """The row behind whose last token the model writes."""
    read = prediction_reads(subject, [step])
    row, end = read.texts[0], int(read.places[0, 1]) + 1
    if subject.has_decoder:
        return row
    return replace(row, ids=row.ids[:end], offsets=row.offsets[:end], special=row.special[:end])


def _own_ids(subject: Subject, row: Encoded) -> list[int]:
    """The ids of the text that is continued, without special ones."""
    ids = []
    for token, is_special in zip(row.ids, row.special, strict=True):
        if not is_special and in_target(token) == subject.has_decoder:
            ids.append(plain(token))
    return ids


def _with_token(row: Encoded, token: int) -> Encoded:
    return replace(
        row,
        ids=(*row.ids, token),
        offsets=(*row.offsets, (0, 0)),
        special=(*row.special, False),
    )
