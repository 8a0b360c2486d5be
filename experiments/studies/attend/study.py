"""``layerscope attend``: what every head looks at over a corpus,
and its patterns on a few texts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...attention.arcs import OFFSETS, RelationScore, WordRoles, WordTotals
from ...attention.head_roles import roles
from ...attention.heads import GROUPS, HeadStatistics, HeadTotals, deal
from ...attention.passes import PATTERN, layers_with_patterns, pass_over
from ...attention.picture_patterns import PictureAttention, picture_attention
from ...attention.repetition import repetition_scores
from ...attention.similarity import ROWS, Similarity, SimilarityTotals
from ...attention.text_patterns import shown_texts
from ...corpus import Sentence, Word, read_conllu
from ...corpus.prompts import Prompt, Unusable, read_prompts
from ...features.layout import Layout
from ...metrics.metrics import images_of, show_pictures, sounds_of
from ...metrics.reads import text_of
from ...metrics.usable import unusable_notes, usable_each, with_pictures
from ...report.schema import Interval, Note
from ...report.words import plural
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError
from ...subject import Subject
from ...subject.word_spans import Encoded
from .checkpoints import checkpoint_file, find_checkpoints, over_checkpoints
from .effects import Ablation, disagreement, read_effects
from .findings import checkpoint_finding, effects_finding, findings
from .options import AttendOptions
from .records import (
    CheckpointRecord,
    HeadRecord,
    LayerRecord,
    PictureHeadRecord,
    RelationRecord,
    Results,
    ShownAttention,
    ShownHead,
)
from .target_records import of_targets, sound_results

SHOWN_HEADS = 8
"""Heads of a picture that are kept, those with the largest weight on it."""
ON_REPEATED = ("duplicate", "induction")
"""Scores on repeated random tokens that a record has."""


@dataclass(kw_only=True)
class AttendInputs(Inputs):
    """What is looked through.

    Args:
        model: the run's model.
        sentences: the texts, with their words.
        ablation: the effects of an ablation of the heads, where one was given.
        checkpoints: step and folder of each checkpoint.
        rows: of an encoder-decoder, the sources with the targets that their prompts have.
        sounds: whether the sources are sounds.
        pictures: the texts that are about a picture, with it.
        notes: what of the prompts is left out.
    """

    model: Subject
    sentences: Sequence[Sentence]
    ablation: Ablation | None
    checkpoints: list[tuple[int, Path]]
    rows: list[Encoded]
    sounds: bool
    pictures: list[Encoded]
    notes: list[Note]

    @cached_property
    def layout(self) -> Layout:
        """The texts as tokens."""
        return Layout.of(self.model, self.sentences)

    @cached_property
    def groups(self) -> Int[np.ndarray, " n"]:
        """The group of each text, which is resampled as one."""
        return deal(len(self.sentences), self.options.seed)

    @cached_property
    def layers(self) -> list[int]:
        """The blocks whose attention can be seen."""
        return layers_with_patterns(self.model.model)


@dataclass(frozen=True)
class Attention:
    """What one pass over the texts gives."""

    heads: HeadStatistics
    words: WordRoles
    similarity: Similarity
    repeats: dict[str, Float[np.ndarray, "layer head"]]


def prepare(options: AttendOptions, load: Load) -> AttendInputs:
    """The texts, the model, the ablation and the checkpoints."""
    _require_one_source(options)
    unusable: list[Unusable] = []
    prompts = _prompts(options, unusable)
    sentences = read_texts(options, prompts)
    has_targets = any(prompt.answer for prompt in prompts)
    images, sounds = images_of(prompts), sounds_of(prompts)
    if sounds:
        _refuse_with_sounds(options)
    # A decoder is read only where there are targets for it.
    subject = load(body_only=not (has_targets or images or sounds), speech=bool(sounds))
    show_pictures(subject, options, images)
    is_read = (has_targets and subject.has_decoder) or bool(images or sounds)
    if is_read:
        read = usable_each(
            prompts, lambda prompt: text_of(subject, prompt, prompt.answer), unusable, options.skip
        )
        prompts = [prompt for prompt, _ in read]
        sentences, images = read_texts(options, prompts), images_of(prompts)
        sounds = sounds_of(prompts)
    answered = [prompt for prompt in prompts if prompt.answer]
    shown = [prompt for prompt in prompts if prompt.image is not None]
    if images:
        # The statistics of texts are of words: a place for a picture without one is none.
        place = str(subject.processor.image_token)
        texts = [prompt.prompt.replace(place, " ").strip() for prompt in prompts]
        sentences = [plain_sentence(f"prompt {i + 1}", text) for i, text in enumerate(texts)]
    written = prompts if sounds else answered if subject.has_decoder else []
    rows = [text_of(subject, prompt, prompt.answer) for prompt in written]
    pictures = [text_of(subject, prompt) for prompt in shown]
    data = [DataFile.of("image", path, 1) for path in images]
    data += [DataFile.of("audio", path, 1) for path in sounds]
    if not options.text:
        split = "corpus" if options.corpus else "prompts"
        data.append(DataFile.of(split, options.source, len(sentences)))
    ablation = None
    if options.effects:
        ablation = read_effects(options.effects, subject.sha256)
        data.append(DataFile.of("effects", options.effects / "results.json", len(ablation.effects)))
    checkpoints = find_checkpoints(options.checkpoints) if options.checkpoints else []
    data += [checkpoint_file(path) for _, path in checkpoints]
    return AttendInputs(
        options=options,
        subject=subject,
        data=data,
        model=subject,
        sentences=sentences,
        ablation=ablation,
        checkpoints=checkpoints,
        rows=rows,
        sounds=bool(sounds),
        pictures=pictures,
        notes=unusable_notes(unusable, len(prompts)),
    )


def _require_one_source(options: AttendOptions) -> None:
    given = (options.corpus is not None, options.prompts is not None, bool(options.text))
    if sum(given) != 1:
        raise RunError(
            "expected one of --corpus FILE (annotated sentences), --prompts FILE and --text TEXT"
        )


def _prompts(options: AttendOptions, unusable: list[Unusable]) -> list[Prompt]:
    """The prompts as they are, with their answers and pictures.

    Args:
        unusable: is given the lines that are left out.
    """
    if options.prompts is None:
        return []
    read = read_prompts(
        options.prompts, options.limit, answers=False, unusable=unusable, audio=True
    )
    return with_pictures(read, unusable, options.skip)


def _refuse_with_sounds(options: AttendOptions) -> None:
    """Options that need texts."""
    for name in ("effects", "checkpoints", "flow"):
        if getattr(options, name):
            raise RunError(f"--{name}: expected texts, got sounds")


def cost(inputs: AttendInputs) -> Cost:
    """One pass; what is kept does not grow with the texts."""
    if inputs.sounds:
        n_positions = sum(map(len, inputs.rows))
        sounds = plural(len(inputs.rows), "sound")
        return Cost(f"{sounds}, {n_positions:,} frames and tokens, in one pass")
    texts = plural(len(inputs.sentences), "text")
    tokens, layers = plural(inputs.layout.n_tokens, "token"), plural(len(inputs.layers), "layer")
    return Cost(f"{texts}, {tokens}, {layers}, in one pass")


def measure(inputs: AttendInputs, run: Run) -> Results:
    """Every head's statistics, its patterns on a few texts, and what was asked for beside them."""
    options = inputs.options
    if inputs.sounds:
        with run.timed("attention"):
            return sound_results(inputs.model, inputs.rows, options.show, inputs.notes)
    with run.timed("attention"):
        seen = _look(inputs)
    records = head_records(seen, options.seed, inputs.ablation)
    sentences_of_findings = findings(records, seen.words, seen.heads)
    checkpoints: list[CheckpointRecord] = []
    if inputs.checkpoints:
        with run.timed("checkpoints"):
            checkpoints = _checkpoints(inputs, run)
        sentences_of_findings.append(checkpoint_finding(checkpoints))
    apart = None
    if inputs.ablation is not None:
        apart = disagreement(records, inputs.ablation)
        sentences_of_findings.append(effects_finding(apart))
    uniform = seen.heads.under_uniform()
    target_heads, shown_targets = of_targets(inputs.model, inputs.rows, options.show)
    picture_heads, shown_pictures = _of_pictures(inputs)
    return Results(
        picture_heads=picture_heads,
        shown_pictures=shown_pictures,
        target_heads=target_heads,
        shown_targets=shown_targets,
        records=[*records],
        layers=layer_records(seen.heads, seen.similarity),
        relations=[_relation(relation) for relation in seen.words.relations],
        uniform={name: float(values.mean()) for name, values in uniform.items()},
        shown=shown_texts(inputs.model, inputs.layout.encoded, options.show, options.flow),
        checkpoints=checkpoints,
        effects=apart,
        findings=sentences_of_findings,
        notes=_notes(inputs, seen),
    )


# -- the texts


def read_texts(options: AttendOptions, prompts: Sequence[Prompt]) -> Sequence[Sentence]:
    """The annotated sentences, or the prompts' texts cut into words at white space."""
    if options.text:
        texts = options.text[: options.limit]
        return [plain_sentence(f"text {i + 1}", text) for i, text in enumerate(texts)]
    if options.corpus is not None:
        return read_conllu(options.corpus, options.limit).sentences
    return [plain_sentence(f"prompt {i + 1}", prompt.prompt) for i, prompt in enumerate(prompts)]


def plain_sentence(name: str, text: str) -> Sentence:
    """A text whose words are what stands between white space, without any annotation."""
    words = []
    for number, match in enumerate(re.finditer(r"\S+", text), 1):
        start, end = match.span()
        blank = {"lemma": "_", "upos": "_", "xpos": "_", "deprel": "_"}
        words.append(Word(number, match.group(), **blank, feats={}, head=0, start=start, end=end))
    return Sentence(name, text, tuple(words))


# -- the pass


def _look(inputs: AttendInputs) -> Attention:
    """All statistics of all heads, in one pass."""
    subject, layout, options = inputs.model, inputs.layout, inputs.options
    heads = HeadTotals(subject, layout.encoded, inputs.groups)
    similarity = SimilarityTotals(subject, layout.encoded)
    words = WordTotals(subject, inputs.sentences, layout, inputs.groups)
    with console.progress() as bars:
        bar = bars.add_task("attention", total=len(inputs.sentences))
        pass_over(
            subject,
            layout.encoded,
            [heads, similarity, words],
            batch_tokens=options.batch_tokens,
            advance=lambda n: bars.advance(bar, n),
        )
    repeats = repetition_scores(subject, seed=options.seed)
    return Attention(heads.result(), words.result(options.seed), similarity.result(), repeats)


def _checkpoints(inputs: AttendInputs, run: Run) -> list[CheckpointRecord]:
    """The heads over a training run."""
    with console.progress() as bars:
        bar = bars.add_task("checkpoints", total=len(inputs.checkpoints))
        return over_checkpoints(
            inputs.model,
            inputs.checkpoints,
            inputs.layout.encoded,
            inputs.groups,
            run.folder,
            seed=inputs.options.seed,
            batch_tokens=inputs.options.batch_tokens,
            advance=lambda: bars.advance(bar),
        )


def _of_pictures(inputs: AttendInputs) -> tuple[list[PictureHeadRecord], list[ShownAttention]]:
    """Every head's weight on the pictures,
    and the first pictures under the heads that look at them most.
    """
    if not inputs.pictures:
        return [], []
    seen = [picture_attention(inputs.model, row) for row in inputs.pictures]
    shares = np.mean([one.shares for one in seen], axis=0)
    places = list(itertools.product(enumerate(inputs.layers), range(shares.shape[1])))
    records = []
    for (row, layer), head in places:
        site = f"blocks.{layer}.{PATTERN}[{head}]"
        about: dict[str, Any] = {"site": site, "layer": layer, "index": head}
        share = float(shares[row, head])
        records.append(PictureHeadRecord(**about, picture=share, n=len(seen)))
    shown = [_shown_picture(one, inputs.layers) for one in seen[: inputs.options.show]]
    return records, shown


def _shown_picture(seen: PictureAttention, layers: Sequence[int]) -> ShownAttention:
    shares = seen.shares
    strongest = np.argsort(-shares, axis=None, kind="stable")[:SHOWN_HEADS]
    heads = []
    for place in strongest.tolist():
        row, head = divmod(place, shares.shape[1])
        about = {"layer": layers[row], "index": head, "picture": float(shares[row, head])}
        heads.append(ShownHead(**about, weights=seen.weights[row, head].round(5).tolist()))
    width, height = seen.picture.image.size
    return ShownAttention(
        file=Path(seen.picture.path).name,
        rows=seen.rows,
        columns=seen.columns,
        width=width,
        height=height,
        jpeg=seen.picture.jpeg(),
        mean=seen.weights.mean((0, 1)).round(5).tolist(),
        heads=heads,
    )


# -- records


def head_records(
    seen: Attention, seed: int = 0, ablation: Ablation | None = None
) -> list[HeadRecord]:
    """One record a head: each statistic with its interval, its roles, the most similar head,
    its measured effect.
    """
    statistics = seen.heads
    values = {name: statistics.value(name) for name in statistics.names}
    ends = statistics.intervals(seed)
    n_heads = seen.words.positional.shape[1]
    records = []
    for row, layer in enumerate(statistics.layers):
        for head in range(n_heads):
            fields: dict[str, Any] = {"layer": layer, "index": head, "component": "heads"}
            fields["site"] = f"blocks.{layer}.{PATTERN}[{head}]"
            for name, value in values.items():
                low, high = ends[name]
                fields[name] = float(value[row, head])
                fields[f"{name}_interval"] = Interval.between(low[row, head], high[row, head])
            fields |= {name: float(seen.repeats[name][row, head]) for name in ON_REPEATED}
            fields |= _word_roles(seen.words, row, layer, head)
            fields |= _nearest(seen.similarity, statistics.layers, n_heads, row * n_heads + head)
            # A role is a name for what the statistics show, so it comes last.
            fields["role"] = ", ".join(roles(fields))
            effect = None if ablation is None else ablation.effects.get((layer, head))
            records.append(HeadRecord(**fields, measured=effect))
    return records


def _word_roles(words: WordRoles, row: int, layer: int, head: int) -> dict[str, Any]:
    """A head's favourite offset, and the dependency that it follows, if it follows one."""
    fields: dict[str, Any] = {
        "positional": float(words.positional[row, head]),
        "offset": int(words.offset[row, head]),
    }
    for relation in words.of_heads:
        if (relation.layer, relation.head) == (layer, head):
            fields |= {"relation": relation.relation, "direction": relation.direction}
            fields |= {"relation_score": relation.score, "relation_baseline": relation.baseline}
    return fields


def _nearest(
    similarity: Similarity, layers: Sequence[int], n_heads: int, place: int
) -> dict[str, Any]:
    """The head whose attention overlaps most with this one's; heads are numbered layer by layer."""
    overlaps = similarity.heads[place].copy()
    if len(overlaps) == 1:
        return {"nearest": None, "nearest_similarity": None}
    overlaps[place] = -1.0
    other = int(overlaps.argmax())
    name = f"L{layers[other // n_heads]}H{other % n_heads}"
    return {"nearest": name, "nearest_similarity": float(overlaps[other])}


def layer_records(statistics: HeadStatistics, similarity: Similarity) -> list[LayerRecord]:
    """One record a layer: means over its heads,
    and how much the mean pattern changed from the layer before.
    """
    means = {name: statistics.value(name).mean(1) for name in statistics.names}
    change = [None, *(float(c) for c in similarity.change)]
    records = []
    for row, layer in enumerate(statistics.layers):
        values = {name: float(mean[row]) for name, mean in means.items()}
        records.append(LayerRecord(layer=layer, change=change[row], **values))
    return records


def _relation(score: RelationScore) -> RelationRecord:
    return RelationRecord(**vars(score), syntactic=score.syntactic)


def _notes(inputs: AttendInputs, seen: Attention) -> list[Note]:
    """What was left out, skipped, drawn and approximated."""
    options, n_texts, notes = inputs.options, len(inputs.sentences), list(inputs.notes)
    if lost := inputs.layout.n_lost:
        notes.append(Note(kind="dropped", text=f"{lost} words without tokens (truncated) left out"))
    if shared := seen.words.n_shared:
        text = f"{shared} dependencies left out because both words are the same tokens"
        notes.append(Note(kind="dropped", text=text))
    if options.corpus is None:
        text = (
            "dependencies: the texts are not annotated (--corpus FILE.conllu shows which heads "
            "follow dependencies)"
        )
        notes.append(Note(kind="skipped", text=text))
    if not seen.heads.has_norms:
        text = "contributions: this architecture's values or output projection cannot be read"
        notes.append(Note(kind="skipped", text=text))
    if n_texts > GROUPS:
        text = (
            f"intervals resample {GROUPS} groups, to which the {n_texts:,} texts were assigned "
            f"at random (seed {options.seed})"
        )
        notes.append(Note(kind="info", text=text))
    text = (
        f"heads are compared on at most {ROWS} tokens per text; preferred offsets are "
        f"searched from {OFFSETS[0]} to {OFFSETS[-1]:+d} words; "
        "a head is chosen for a dependency on one half of the texts and scored on the other"
    )
    return [*notes, Note(kind="info", text=text)]
