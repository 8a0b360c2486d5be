"""What an attribution reads: texts, targets, the model's own continuation,
and another model's proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...attribution import AttributionError, Target
from ...corpus.prompts import Prompt, Unusable, read_prompts
from ...metrics.metrics import images_of, sounds_of
from ...metrics.reads import prediction_reads
from ...metrics.usable import with_pictures
from ...runs.execute import DataFile, modes_of
from ...subject import Subject, load
from ...subject.targets import in_target, plain
from .options import AttributeOptions

SHOWN_TEXT = 40
"""Characters of a text that a message quotes."""


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
        AttributionError: what does not go with a sound, spans of no length.
        MetricError: a file that is not there, prompts of which only some are sounds.
    """
    sounds = sounds_of(prompts)
    if not sounds:
        return []
    for name in ("known", "proposals", "reference", "probe"):
        if getattr(options, name) is not None:
            raise AttributionError(f"--{name}: expected texts, got sounds")
    if not options.seconds > 0:
        raise AttributionError(f"--seconds {options.seconds:g}: expected more than 0")
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
    """A text and the model's own continuation, one token at a time;
    each is asked why that token came.
    """
    if not steps:
        return [prompt]
    if subject.has_decoder:
        return _target_steps(subject, prompt, steps)
    if not (subject.causal and subject.gives_tokens):
        raise AttributionError(
            "--generate needs a causal language model or an encoder-decoder, "
            f"got {type(subject.model).__name__}"
        )
    text, continued = prompt.prompt, []
    for _ in range(steps):
        # As text, not as ids: each step is a prompt of its own, which another method or person can
        # be given.
        longer = _continued(subject, text)
        if longer is None:
            break
        continued.append(Prompt(text, longer[len(text) :]))
        text = longer
    if not continued:
        raise AttributionError(
            f"the model ends {prompt.prompt[:SHOWN_TEXT]!r} at once: nothing to explain"
        )
    return continued


def _target_steps(subject: Subject, prompt: Prompt, steps: int) -> list[Prompt]:
    """A source and the target that the model writes for it, one token at a time,
    each behind the tokens before it.
    """
    written, continued = prompt.target_prefix or "", []
    for _ in range(steps):
        step = replace(prompt, answer="", target_prefix=written)
        longer = _longer_target(subject, step)
        if longer is None:
            break
        continued.append(replace(step, answer=longer[len(written) :]))
        written = longer
    if not continued:
        raise AttributionError(
            f"the model writes nothing for {prompt.prompt[:SHOWN_TEXT]!r}: nothing to explain"
        )
    return continued


def _longer_target(subject: Subject, prompt: Prompt) -> str | None:
    """The target with the model's likeliest next token; None where it ends,
    or where that is half a character.
    """
    (row,) = prediction_reads(subject, [prompt]).texts
    (batch,) = subject.batches([row])
    token = int(subject.forward(batch, logits=True).logits[0, -1].argmax())
    if token in subject.tokenizer.all_special_ids:
        return None
    ids = []
    for at, special in enumerate(row.special):
        if in_target(row.ids[at]) and not special:
            ids.append(plain(row.ids[at]))
    before = prompt.target_prefix or ""
    longer = subject.tokenizer.decode([*ids, token], clean_up_tokenization_spaces=False)
    return longer if longer.startswith(before) and longer != before else None


def _continued(subject: Subject, text: str) -> str | None:
    """The text with the model's likeliest next token; None where it ends,
    or where that is half a character.
    """
    read = prediction_reads(subject, [Prompt(text, "")])
    encoded, last = read.texts[0], int(read.places[0, 1])
    (batch,) = subject.batches(read.texts)
    token = int(subject.forward(batch, logits=True).logits[0, last].argmax())
    if token in subject.tokenizer.all_special_ids:
        return None
    # The special tokens stand in front of the text: what follows them is the text itself.
    special = sum(encoded.special)
    ids = [*encoded.ids[: last + 1], token]
    longer = subject.tokenizer.decode(ids[special:], clean_up_tokenization_spaces=False)
    return longer if longer.startswith(text) and longer != text else None
