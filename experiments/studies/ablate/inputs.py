"""What an ablation reads: the texts, the model, its parts, and where the metric reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....hooks.reference import partners
from ...corpus import read_conllu
from ...corpus.prompts import Item, Unusable, read_prompts
from ...metrics.metrics import (
    Metric,
    files_of,
    images_of,
    load_for,
    metric_and_texts,
    show_pictures,
    sounds_of,
)
from ...metrics.probe_metric import probed_words
from ...metrics.reads import Reads, text_of
from ...metrics.usable import (
    item_notes,
    unusable_notes,
    usable,
    usable_each,
    usable_texts,
    with_pictures,
)
from ...report.schema import Note
from ...runs.execute import DataFile, Inputs, Load
from ...runs.folder import RunError
from ...subject import Subject
from ...subject.targets import cut_row
from ...subject.word_spans import Encoded
from ...sweep.components import Component, components
from ...sweep.positions import with_positions
from ...sweep.race import staged_chunks, stages
from ...sweep.sweep import Chunk, chunks
from .options import AblateOptions


@dataclass(kw_only=True)
class AblateInputs(Inputs):
    """What an ablation has read.

    Args:
        metric: what is measured; ``items`` what it has one value of each.
        reads: where the metric reads the items' texts; ``groups`` the same in batches.
        race: with --race the batches of each stage.
        parts: what is ablated, one at a time.
        references: texts whose values give mean and resample.
        partners: with resample, which reference takes the place of each text of ``reads``.
        notes: what was left out.
    """

    subject: Subject
    metric: Metric
    items: Sequence[Item]
    reads: Reads
    groups: Sequence[Chunk]
    race: Sequence[Sequence[Chunk]]
    parts: Sequence[Component]
    references: Sequence[Encoded]
    partners: Sequence[int]
    notes: list[Note]


def prepare(options: AblateOptions, load: Load) -> AblateInputs:
    """The texts, the model, its parts, and where the metric reads.

    Raises:
        LayerscopeError: options that do not go together, texts that cannot be read or measured, a
            model without such parts.
    """
    _refuse(options)
    notes: list[Note] = []
    unusable: list[Unusable] = []
    if options.probe is None:
        metric, items = metric_and_texts(options, _default_metric(options), unusable, audio=True)
    else:
        corpus = read_conllu(options.corpus or Path(), options.limit)
        metric, items, notes = probed_words(options.probe, corpus, options.metric)
    items = with_pictures(items, unusable, options.skip)
    images, sounds = images_of(items), sounds_of(items)
    subject = load_for(metric, load, speech=bool(sounds))
    options = with_positions(options, subject)
    show_pictures(subject, options, images)
    if subject.has_decoder and options.value == "optimal":
        raise RunError(
            "--value optimal: its descent continues a forward from one block, "
            f"which {subject.name} (an encoder-decoder) does not allow; expected zero, "
            "mean, mean-position or resample"
        )
    items, reads = usable(items, lambda some: metric.reads(subject, some), unusable, options.skip)
    notes += item_notes(unusable, items, subject)
    references = reads.texts
    if options.reference is not None:
        references, left_out = _reference(options.reference, options.skip, subject)
        notes += left_out
    rows: list[int] = []
    if options.value == "resample":
        items, reads, rows, left_out = _with_partners(
            items, reads, references, options, lambda some: metric.reads(subject, some)
        )
        notes += left_out
    batches = _batches(options, subject, items, reads)
    groups = [chunk for of_stage in batches for chunk in of_stage]
    parts = components(subject.model, options.component, groups[0].batch)
    # what comes after the probed layer changes nothing that the probe reads
    if metric.readout is not None:
        parts = [part for part in parts if part.layer <= metric.readout.layer]
    if options.race is not None and options.race >= len(parts):
        raise RunError(
            f"--race {options.race}: expected fewer than the {len(parts)} "
            f"{options.component} that are ablated"
        )
    return AblateInputs(
        options=options,
        subject=subject,
        data=[
            *_data(options, len(items), len(references)),
            *(DataFile.of("image", path, 1) for path in images),
            *(DataFile.of("audio", path, 1) for path in sounds),
        ],
        metric=metric,
        items=items,
        reads=reads,
        groups=groups,
        race=batches if options.race is not None else [],
        parts=parts,
        references=references,
        partners=rows,
        notes=notes,
    )


def _batches(
    options: AblateOptions, subject: Subject, items: Sequence[Item], reads: Reads
) -> list[list[Chunk]]:
    """All prompts in batches, or those of each stage of a race."""
    if options.race is None:
        return [list(chunks(subject, reads, options.batch_tokens))]
    return staged_chunks(subject, reads, options.batch_tokens, stages(len(items), options.seed))


def _reference(path: Path, allowed: float, subject: Subject) -> tuple[list[Encoded], list[Note]]:
    """Reference texts, of an encoder-decoder sources with their targets;
    and what of the file is left out.
    """
    if not subject.has_decoder:
        prompts, notes = usable_texts(path, allowed, what="reference texts")
        return subject.encode([prompt.prompt for prompt in prompts]), notes
    unusable: list[Unusable] = []
    read = read_prompts(path, answers=False, unusable=unusable, audio=not subject.reads_text)
    made = usable_each(
        read, lambda prompt: text_of(subject, prompt, prompt.answer), unusable, allowed
    )
    return [one for _, one in made], unusable_notes(unusable, len(made), "reference texts")


def _default_metric(options: AblateOptions) -> str:
    """Of prompts: how far the answers are apart;
    of a text without an answer how far the prediction moves.
    """
    if not options.text:
        return "logit_difference"
    return (
        "kl"
        if options.target is None
        else "logit_difference"
        if options.wrong
        else "log_probability"
    )


def _refuse(options: AblateOptions) -> None:
    """Options that do not go together."""
    if (options.probe is None) != (options.corpus is None):
        raise RunError("expected --probe FILE and --corpus FILE together")
    if options.probe is not None and options.given:
        raise RunError(f"expected --probe with --corpus alone, got --{options.given[0]} too")
    if options.reference is not None and options.value == "zero":
        raise RunError("--reference: --value zero takes nothing from other prompts")
    if options.probe is not None and options.value == "optimal":
        raise RunError(
            "--value optimal: its constants disturb the model's own predictions least, "
            "not a probe's"
        )
    if options.race is not None and options.estimate != "none":
        raise RunError("expected one of --race and --estimate: both leave parts out")
    if options.value == "optimal" and options.component == "neurons":
        raise RunError(
            "--value optimal: expected heads, mlps, attentions or layers; "
            "a neuron has too many to descend for"
        )
    if options.null_draws and options.component == "neurons":
        raise RunError(
            "--null-draws: expected heads, mlps, attentions or layers; "
            "a single neuron has no direction to turn"
        )


def _with_partners(
    items: Sequence[Item],
    reads: Reads,
    references: Sequence[Encoded],
    options: AblateOptions,
    read: Callable[[Sequence[Item]], Reads],
) -> tuple[Sequence[Item], Reads, list[int], list[Note]]:
    """The items whose texts all have another reference text, as long as they are, to take values
    from; and which.

    The texts of one item, such as the sentences of a pair, are too close to stand for each other.

    Raises:
        RunError: no item has one.
    """
    owner = dict(reads.places[:, [0, 3]].tolist())
    are_measured = options.reference is None
    drawn = partners(
        [text.ids for text in reads.texts],
        [text.ids for text in references],
        options.seed,
        related=lambda text, reference: (
            (are_measured and owner[text] == owner[reference])
            or not _reaches(references[reference], reads.texts[text])
        ),
    )
    alone = {owner[text] for text, partner in enumerate(drawn) if partner is None}
    rows = [row for text, row in enumerate(drawn) if row is not None and owner[text] not in alone]
    if not alone:
        return items, reads, rows, []
    kept = [item for number, item in enumerate(items) if number not in alone]
    if not kept:
        raise RunError(
            "--value resample: expected another reference text that is as long, "
            "no text has one: give --reference"
        )
    text = (
        f"{len(alone)} of {len(items)} items left out: no other reference text has the same "
        "length (--reference FILE adds texts)"
    )
    return kept, read(kept), rows, [Note(kind="dropped", text=text)]


def _reaches(reference: Encoded, text: Encoded) -> bool:
    """Whether a reference text is as long as a text, its source and its target each."""
    lengths = [[len(part) for part in cut_row(encoded.ids)] for encoded in (reference, text)]
    return all(have >= needed for have, needed in zip(*lengths, strict=True))


def _data(options: AblateOptions, n_items: int, n_references: int) -> list[DataFile]:
    """Every file that was read."""
    files = files_of(options, n_items) if options.given else []
    if options.corpus is not None:
        files = [DataFile.of("sentences", options.corpus, n_items)]
    if options.reference is not None:
        files.append(DataFile.of("reference", options.reference, n_references))
    if options.probe is not None:
        files.append(DataFile.of("probe", options.probe, 1))
    return files
