"""Ablation: every head, neuron, MLP, attention or block taken out on its own, and what the model
then says.

    effect = metric(component <- value) - metric(clean),  mean over prompts

Values: zero (for a block: it adds nothing), mean (over the reference texts' tokens), mean-position
(token by token from the text's start), resample (the value of another reference text, never of the
text itself), optimal (the constant that disturbs the model least, see
`experiments.studies.ablate.optimal`). Position 0 is in the edit if it is in the mean
(``--positions``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....hooks import Reference, Site, edits, sites
from ....hooks.edits import Edit
from ....hooks.reference import partners
from ...attention.repetition import repetition_scores
from ...attention.text_patterns import text_patterns
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
from ...report.schema import Finding, Interval, Note
from ...report.words import plural
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError, RunFolder
from ...subject import Subject
from ...subject.targets import cut_row, source_of
from ...subject.word_spans import Encoded
from ...sweep.components import Component, at_positions, components
from ...sweep.effects import (
    clusters_of,
    effect_records,
    group_notes,
    is_comparable,
    mean_of,
    span,
)
from ...sweep.grid import EditsFor, Grid
from ...sweep.measure import (
    Measured,
    certificate_notes,
    measure_grid,
    unchanged_notes,
    with_null,
)
from ...sweep.memory import sweep_bytes
from ...sweep.positions import first_position, with_positions
from ...sweep.race import Race, run_race, staged_chunks, stages
from ...sweep.reading import ranking, significance_text
from ...sweep.sweep import Chunk, chunks
from .optimal import optimal_constants
from .options import AblateOptions
from .records import AblationRecord, HeadPatterns, Results

LARGE_GRID = 5000
"""Components above which an exact sweep reports beforehand how many forwards it is."""


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


def cost(inputs: AblateInputs) -> Cost:
    """Every part edited in every batch."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    kind = options.given[0] if options.given else "sentences"
    batches = plural(len(groups), "batch", "batches")
    text = f"{len(parts):,} {options.component} x {len(inputs.items)} {kind} in {batches}"
    return Cost(
        text, memory=sweep_bytes(inputs.subject, groups, len(parts), inputs.metric.of_targets)
    )


def measure(inputs: AblateInputs, run: Run) -> Results:
    """The effect of every part, and for heads where they look."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    if len(parts) > LARGE_GRID and options.estimate == "none":
        console.say(
            f"this is {len(parts) * len(groups):,} edited forwards: "
            "--limit takes fewer prompts, --estimate gradient measures the largest only"
        )
    grid, race = grid_of(inputs, run.folder), None
    if options.race is None:
        measured = measure_grid(run, grid)
    else:
        race = run_race(run, grid, inputs.race, options.race)
        measured = with_null(run, grid, race.measured)
    roles = _roles(inputs)
    texts = [source_of(text) for text in inputs.reads.texts if text.picture is None]
    patterns = text_patterns(inputs.subject, texts) if roles and texts else None
    return _results(
        inputs,
        dataclasses.replace(measured, columns={**measured.columns, **roles}),
        HeadPatterns(**patterns) if patterns is not None else None,
        race,
    )


def grid_of(inputs: AblateInputs, folder: RunFolder) -> Grid:
    """Every part edited in turn on every prompt."""
    options = inputs.options
    name = f"{options.component} {options.value}"
    edits_for = _edits(inputs, folder)
    return Grid(name, inputs.subject, inputs.metric, inputs.groups, inputs.parts, edits_for)


def _roles(inputs: AblateInputs) -> dict[str, np.ndarray]:
    """Where each head looks on repeated random tokens."""
    names = sites(inputs.subject.model)
    has_patterns = any(Site(name).part == "attn.hook_pattern" for name in names)
    if inputs.options.component != "heads" or not has_patterns or not inputs.subject.reads_text:
        return {}
    scores = repetition_scores(inputs.subject, seed=inputs.options.seed)
    # The text is read by the encoder alone, where there is a decoder beside it.
    of_text = [part.site.name.startswith("blocks.") for part in inputs.parts]
    layers = sorted(
        {part.layer for part, reads in zip(inputs.parts, of_text, strict=True) if reads}
    )
    columns: dict[str, np.ndarray] = {}
    for name, grid in scores.items():
        column = np.full(len(inputs.parts), np.nan)
        for number, part in enumerate(inputs.parts):
            if of_text[number]:
                column[number] = grid[layers.index(part.layer), part.index or 0]
        columns[name] = column
    return columns


def _edits(inputs: AblateInputs, folder: RunFolder) -> EditsFor:
    """From the number of a batch and a component to the edit that takes it out."""
    options, first = inputs.options, first_position(inputs.options)
    if options.value == "zero":
        zero = _skipped if options.component == "layers" else lambda part: edits.zero()
        return lambda number: lambda part: at_positions(zero(part), first)
    references = _references(inputs, first)
    if options.value == "resample":
        return _resampled(inputs, references, first)
    if options.value == "optimal":
        (reference,) = references.values()
        constants = optimal_constants(
            folder, inputs.subject, inputs.groups, inputs.parts, reference, options.steps, first
        )
        return lambda number: (
            lambda part: at_positions(edits.constant(constants[part.site.name]), first)
        )
    per = "position" if options.value == "mean-position" else "all"
    means = {
        stack: at_positions(edits.mean(reference, per), first)
        for stack, reference in references.items()
    }
    return lambda number: lambda part: means[_stack(part)]


def _stack(part: Component) -> str:
    """``blocks`` or ``decoder_blocks``:
    the values of a stack's sites have the positions of one text.
    """
    return part.site.name.partition(".")[0]


def _skipped(part: Component) -> Edit:
    """A block that adds nothing: its output is its input."""
    before = part.site.name.replace("hook_resid_post", "hook_resid_pre")
    return dataclasses.replace(edits.copy(before), name="skip")


def _resampled(inputs: AblateInputs, references: Mapping[str, Reference], first: int) -> EditsFor:
    """Each text of a batch with the values of its partner."""
    place = {id(text): number for number, text in enumerate(inputs.reads.texts)}
    made: list[dict[str, Edit]] = []
    for chunk in inputs.groups:
        rows = [inputs.partners[place[id(text)]] for text in chunk.reads.texts]
        made.append({})
        for stack, reference in references.items():
            made[-1][stack] = at_positions(edits.resample(reference, rows=rows), first)

    def edits_for(number: int) -> Callable[[Component], Edit]:
        return lambda part: made[number][_stack(part)]

    return edits_for


def _references(inputs: AblateInputs, first: int) -> dict[str, Reference]:
    """What the ablated sites of each stack hold on the reference texts, in their order."""
    subject = inputs.subject
    batches = list(subject.batches(list(inputs.references)))
    order = [row for batch in batches for row in batch.rows]
    names: dict[str, dict[str, None]] = {}
    for part in inputs.parts:
        names.setdefault(_stack(part), {})[part.site.name] = None
    made = {}
    for stack, of_stack in names.items():
        made[stack] = Reference.of(
            subject.model,
            *of_stack,
            batches=[batch.inputs(subject.device) for batch in batches],
            skip=first,
            order=order,
        )
    return made


def _raced(record: AblationRecord, ran_on: int, ends: Sequence[float]) -> AblationRecord:
    """A record with the prompts that its part ran on; one that stopped has an interval of its
    effect over these prompts and none of the effect in general: it was selected for being small.
    """
    if ran_on == record.n:
        return dataclasses.replace(record, ran_on=ran_on)
    return dataclasses.replace(
        record,
        ran_on=ran_on,
        effect_interval=None,
        normalised_interval=None,
        stopped=record.effect,
        stopped_interval=Interval(*ends),
    )


def _results(
    inputs: AblateInputs, measured: Measured, patterns: HeadPatterns | None, race: Race | None
) -> Results:
    """Records, findings and notes."""
    options, metric, items = inputs.options, inputs.metric, inputs.items
    clusters = clusters_of(items)
    base = mean_of(measured.clean, clusters, options.seed, metric.value_kind)
    common: dict[str, Any] = {"value": options.value, "baseline": base.value}
    records = effect_records(
        inputs.parts,
        measured,
        measured.clean,
        clusters,
        metric,
        options.seed,
        AblationRecord,
        metric.value_kind,
        **common,
    )
    notes = [*inputs.notes, *group_notes(clusters)]
    if race is not None and options.race is not None:
        outcome = race.outcome
        ran = zip(records, outcome.ran_on.tolist(), outcome.intervals.tolist(), strict=True)
        records = [_raced(*of_part) for of_part in ran]
        notes.append(race.note(options.component, options.race))
    notes += unchanged_notes(measured, options.component, metric.name)
    if not metric.baseline_is_zero and not is_comparable(base):
        text = (
            f"effects are not normalised: the clean {metric.name} is not significantly "
            f"different from 0 ({span(base)})"
        )
        notes.append(Note(kind="skipped", text=text))
    if options.value == "resample":
        text = (
            "each text takes its values from one other reference text, "
            "drawn once and used at all sites"
        )
        notes.append(Note(kind="info", text=text))
    certificates = {}
    if measured.certificate is not None:
        certificates[options.component] = measured.certificate
        notes += certificate_notes(options.component, measured.certificate)
    change = f"{options.value.capitalize()} ablation changes it"
    finding = (
        f"The clean {metric.name} is {base.value:.3g} {metric.unit} ({span(base)}, "
        f"n = {len(items)}). {significance_text(records, options.component, change)} The "
        f"largest effects are {ranking(records)}."
    )
    return Results(
        positions=options.positions,
        records=records,
        baseline=base,
        findings=[Finding(property=options.component, text=finding)],
        notes=notes,
        certificates=certificates,
        patterns=patterns,
    )
