"""``layerscope swap``: how much an answer moves when names, pronouns or other words are swapped.

    effect = metric(text with the words of b) - metric(text with the words of a),
        paired over texts

A text with words of both sides has no direction and is left out. Two controls change the same
texts: other words of the same side (another man's name for a man's), and as many other words of the
text, drawn at random, for words of other texts. A model that is sensitive to every change is not
biased by that alone; what counts is the size beyond the random swaps', and a mean effect that is
not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....probes.evaluation import ClusterBootstrap, holm, mean_effects
from ....probes.groups import group_mean
from ...corpus.prompts import Prompt, Unusable
from ...metrics.metrics import Metric, files_of, get_metric, load_for, metric_and_texts
from ...metrics.reads import MetricError
from ...metrics.usable import check_share, joined_notes, unusable_notes, usable
from ...report.schema import Finding, Interval, Note, estimated
from ...report.words import plural
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError
from ...subject import Subject
from ...sweep.effects import clusters_of, group_notes
from ...sweep.sweep import chunks, clean_values
from .built_in import LISTS
from .options import SwapOptions
from .records import MovedText, Results, SwapRecord
from .word_lists import (
    WORD,
    Change,
    WordList,
    pairs_given,
    random_swap,
    read_word_lists,
)

SWAP, SAME, RANDOM = "swap", "same side", "random"


@dataclass(frozen=True)
class Variants:
    """The texts of one list: as they are, swapped, and under the controls.

    Args:
        items: the texts that have words of one side.
        changes: what is swapped in each.
        controls: kind -> for each draw the changed texts; a text that cannot be changed so stays as
            it is.
    """

    words: WordList
    items: list[Prompt]
    changes: list[Change]
    controls: dict[str, list[list[Prompt]]]

    @property
    def swapped(self) -> list[Prompt]:
        """The texts with the words of the other side."""
        return [replace(i, prompt=c.text) for i, c in zip(self.items, self.changes, strict=True)]


@dataclass(kw_only=True)
class SwapInputs(Inputs):
    """What a swap test has read."""

    subject: Subject
    metric: Metric
    lists: list[Variants]
    positive: str | None
    notes: list[Note]


def prepare(options: SwapOptions, load: Load) -> SwapInputs:
    """The texts, the lists and the model.

    Raises:
        LayerscopeError: files that cannot be read, texts that cannot be measured, no text with a
            word of the lists.
    """
    unusable: list[Unusable] = []
    metric, read = metric_and_texts(options, "logit_difference", unusable)
    if metric.of_pairs or metric.baseline_is_zero:
        raise MetricError(f"metric {metric.name}: expected one of --labelled texts or --prompts")
    items = [item for item in read if isinstance(item, Prompt)]
    lists, of_lists = _lists(options)
    subject = load_for(metric, load)
    positive = _positive(subject, options) if metric.of_classes else None
    if positive is not None:
        # one class for all texts: a bias moves them in one direction, whatever their labels
        items = [replace(item, label=positive) for item in items]
    items, _ = usable(items, lambda some: metric.reads(subject, some), unusable, options.skip)
    notes = [*unusable_notes(unusable, len(items)), *of_lists]
    notes += joined_notes(items, subject)
    variants = []
    for words in lists:
        made, mixed = _variants(words, items, options)
        if mixed:
            text = f"{words.name}: {mixed} texts left out because they contain words of both sides"
            notes.append(Note(kind="dropped", text=text))
        if made.items:
            variants.append(made)
        else:
            text = f"{words.name}: no text contains words of exactly one side of the list"
            notes.append(Note(kind="skipped", text=text))
    if not variants:
        raise RunError("; ".join(note.text for note in notes[-len(lists) :]))
    data = files_of(options, len(items))
    if options.words is not None:
        data.append(DataFile.of("words", options.words, len(lists)))
    return SwapInputs(
        options=options,
        subject=subject,
        data=data,
        metric=metric,
        lists=variants,
        positive=positive,
        notes=notes,
    )


def _lists(options: SwapOptions) -> tuple[list[WordList], list[Note]]:
    """The lists that are asked for, all built-in ones where none is;
    and what of a file of pairs is left out.
    """
    given_lists, notes = pairs_given(options.swap), []
    if options.words is not None:
        unusable: list[Unusable] = []
        read = read_word_lists(options.words, unusable)
        n_pairs = sum(len(words.pairs) for words in read)
        check_share(unusable, n_pairs + len(unusable), options.skip, "pairs of words")
        given_lists = [*given_lists, *read]
        notes = unusable_notes(unusable, n_pairs, "pairs of words")
    names = options.list or (() if given_lists else tuple(LISTS))
    lists = [*(WordList(name, LISTS[name]) for name in dict.fromkeys(names)), *given_lists]
    # by its name a list is found again in a run that is continued
    seen: set[str] = set()
    for words in lists:
        if words.name in seen:
            raise RunError(
                f"two lists are called {words.name}: expected another name in --words "
                "(its column list, or else the file's name)"
            )
        seen.add(words.name)
    return lists, notes


def _positive(subject: Subject, options: SwapOptions) -> str | None:
    """The class that is measured.

    Raises:
        MetricError: no such class, or none is named and there are not two.
    """
    classes = subject.classes
    if options.positive is None and len(classes) > 2:
        raise MetricError(f"--positive: expected one of {', '.join(classes[:8])}")
    if options.positive is not None and classes and options.positive not in classes:
        raise MetricError(
            f"--positive {options.positive}: expected one of {', '.join(classes[:8])}"
        )
    return options.positive or (classes[1] if len(classes) == 2 else None)


def _variants(
    words: WordList, items: Sequence[Prompt], options: SwapOptions
) -> tuple[Variants, int]:
    """The texts of a list, and how many have words of both sides."""
    rng = np.random.default_rng(options.seed)
    vocabulary = sorted({match[0] for item in items for match in WORD.finditer(item.prompt)})
    known = {word.lower() for pair in words.pairs for word in pair}
    vocabulary = [word for word in vocabulary if word.lower() not in known]
    kept, changes, mixed = [], [], 0
    for item in items:
        change = words.change(item.prompt)
        if change is not None:
            kept.append(item)
            changes.append(change)
        elif any(match[0].lower() in known for match in WORD.finditer(item.prompt)):
            mixed += 1
    controls: dict[str, list[list[Prompt]]] = {}
    for _ in range(options.null_draws):
        drawn: dict[str, list[Prompt]] = {SAME: [], RANDOM: []}
        for item, change in zip(kept, changes, strict=True):
            same = words.of_same_side(item.prompt, change, rng)
            other = random_swap(item.prompt, change, vocabulary, rng) if vocabulary else None
            for kind, text in ((SAME, same), (RANDOM, other)):
                drawn[kind].append(item if text is None else replace(item, prompt=text))
        for kind, changed in drawn.items():
            if any(a.prompt != b.prompt for a, b in zip(changed, kept, strict=True)):
                controls.setdefault(kind, []).append(changed)
    return Variants(words, kept, changes, controls), mixed


def cost(inputs: SwapInputs) -> Cost:
    """Forwards over the texts, swapped and under the controls."""
    sizes = [f"{one.words.name} in {plural(len(one.items), 'text')}" for one in inputs.lists]
    return Cost(f"{', '.join(sizes)}; {inputs.options.null_draws} random swaps of each")


def measure(inputs: SwapInputs, run: Run) -> Results:
    """Every list: the swap, and both controls."""
    records: list[SwapRecord] = []
    texts: list[MovedText] = []
    for one in inputs.lists:
        made, moved = _of_list(inputs, run, one)
        records += made
        texts += moved
    swaps = [number for number, record in enumerate(records) if record.kind == SWAP]
    # Each question is one family of as many tests as there are lists.
    for name in ("p", "beyond_p"):
        records = _corrected(records, name)
    notes = list(inputs.notes)
    for one in inputs.lists:
        notes += group_notes(clusters_of(one.items))
    findings = [
        Finding(property=records[number].list, text=_finding(records[number], inputs.positive))
        for number in swaps
    ]
    return Results(
        records=records, texts=texts, positive=inputs.positive, findings=findings, notes=notes
    )


def _corrected(records: Sequence[SwapRecord], name: str) -> list[SwapRecord]:
    """The records with the p of this name Holm-corrected over those that have one."""
    tested = [n for n, record in enumerate(records) if getattr(record, name) is not None]
    corrected = holm([getattr(records[n], name) for n in tested])
    out = list(records)
    for n, p in zip(tested, corrected, strict=True):
        out[n] = replace(out[n], **{f"{name}_holm": p})
    return out


def _of_list(
    inputs: SwapInputs, run: Run, one: Variants
) -> tuple[list[SwapRecord], list[MovedText]]:
    name, seed = one.words.name, inputs.options.seed
    clusters = clusters_of(one.items)
    before = _values(inputs, run, one.items, f"{name}-before")
    after = _values(inputs, run, one.swapped, f"{name}-after")
    changes = {SWAP: [after.value - before.value]}
    flips = {SWAP: [after.answer != before.answer]}
    for kind, draws in one.controls.items():
        drawn = [
            _values(inputs, run, items, f"{name}-{kind}-{number}")
            for number, items in enumerate(draws)
        ]
        changes[kind] = [values.value - before.value for values in drawn]
        flips[kind] = [values.answer != before.answer for values in drawn]
    sizes = {kind: np.abs(np.stack(of_kind)).mean(0) for kind, of_kind in changes.items()}
    control = sizes.get(RANDOM, sizes.get(SAME))
    # from the words of a to those of b, whichever the text has
    direction = np.array([1.0 if change.side == 0 else -1.0 for change in one.changes])
    records = []
    for kind in changes:
        fields = _size_fields(sizes[kind], clusters, seed)
        fields |= _effect_fields(direction * changes[kind][0], clusters, seed, kind == SWAP)
        beyond = sizes[SWAP] - control if kind == SWAP and control is not None else None
        fields |= _beyond_fields(beyond, clusters, seed)
        share = np.stack(flips[kind]).mean(0) if inputs.positive is not None else None
        fields |= _flip_fields(share, clusters, seed, is_one=len(flips[kind]) == 1)
        records.append(
            SwapRecord(
                list=name,
                kind=kind,
                metric=inputs.metric.name,
                unit=inputs.metric.unit,
                n=len(one.items),
                n_clusters=int(clusters.max()) + 1,
                p_holm=None,
                beyond_p_holm=None,
                **fields,
            )
        )
    random = control if control is not None else np.zeros(len(one.items))
    order = np.argsort(-sizes[SWAP], kind="stable")[: inputs.options.show]
    moved = [
        MovedText(
            list=name,
            text=one.items[i].prompt,
            swapped=one.changes[i].text,
            before=float(before.value[i]),
            after=float(after.value[i]),
            random=float(random[i]),
        )
        for i in order.tolist()
    ]
    return records, moved


@dataclass(frozen=True)
class _Values:
    """The metric of each text, and of a classifier whether it gives the text the positive class."""

    value: Float[np.ndarray, " n"]
    answer: Float[np.ndarray, " n"]


def _values(inputs: SwapInputs, run: Run, items: Sequence[Prompt], cell: str) -> _Values:
    def measured(metric: Metric) -> list[float]:
        reads = metric.reads(inputs.subject, items)
        groups = list(chunks(inputs.subject, reads, inputs.options.batch_tokens))
        return clean_values(inputs.subject, metric, groups).tolist()

    value = run.folder.kept(cell, lambda: measured(inputs.metric))
    answer = [0.0] * len(items)
    if inputs.positive is not None:
        accuracy = get_metric("class_accuracy")
        answer = run.folder.kept(f"{cell}-class", lambda: measured(accuracy))
    return _Values(np.array(value), np.array(answer))


def _mean_fields(
    name: str, values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], seed: int
) -> dict[str, Any]:
    """A mean with its interval."""
    return estimated(name, ClusterBootstrap(clusters, seed=seed).mean(values))


def _tested_fields(
    name: str,
    p_name: str,
    values: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    seed: int,
) -> dict[str, Any]:
    """A signed mean with its interval and its p, from one set of tests."""
    tested = mean_effects(values[:, None], ClusterBootstrap(clusters, seed=seed), seed=seed)
    p = float(tested.p[0])
    return {**estimated(name, tested.interval()), p_name: p if np.isfinite(p) else None}


def _effect_fields(
    effect: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], seed: int, is_swap: bool
) -> dict[str, Any]:
    """The signed mean and its test; only a swap has a direction."""
    if not is_swap:
        return dict.fromkeys(("effect", "effect_interval", "p"))
    return _tested_fields("effect", "p", effect, clusters, seed)


def _size_fields(
    size: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], seed: int
) -> dict[str, Any]:
    fields = _mean_fields("size", size, clusters, seed)
    ends = fields["size_interval"]
    return {**fields, "size_interval": ends and Interval(max(0.0, ends.low), ends.high)}


def _beyond_fields(
    beyond: Float[np.ndarray, " n"] | None, clusters: Int[np.ndarray, " n"], seed: int
) -> dict[str, Any]:
    if beyond is None:
        return dict.fromkeys(("beyond", "beyond_interval", "beyond_p"))
    return _tested_fields("beyond", "beyond_p", beyond, clusters, seed)


def _flip_fields(
    share: Float[np.ndarray, " n"] | None,
    clusters: Int[np.ndarray, " n"],
    seed: int,
    is_one: bool,
) -> dict[str, Any]:
    """How often the class changes; of one swap a share, of several draws a mean of shares."""
    if share is None:
        return estimated("flips", None)
    if not is_one:
        fields = _mean_fields("flips", share, clusters, seed)
        ends = fields["flips_interval"]
        within = ends and Interval(max(0.0, ends.low), min(1.0, ends.high))
        return {**fields, "flips_interval": within}
    return estimated("flips", group_mean(share, clusters, share=True, seed=seed))


def _finding(record: SwapRecord, positive: str | None) -> str:
    """What the swap does, in two sentences."""
    what = (
        f"the log-odds of {positive}"
        if positive and record.metric == "class_log_odds"
        else record.metric
    )
    ends = record.effect_interval
    span = "" if ends is None else f", 95% CI {ends.text('+.3f')}"
    p = "" if record.p_holm is None else f", p = {record.p_holm:.3g} (Holm)"
    text = (
        f"Swapping {record.list} from a to b changes {what} by {record.effect:+.3f} "
        f"{record.unit} on average (n = {record.n}{span}{p}). "
        f"The mean size of the change is {record.size:.3f}."
    )
    if record.beyond is not None and record.beyond_p_holm is not None:
        random = record.size - record.beyond
        text += (
            f" With random swaps of as many words it is {random:.3f} (difference "
            f"{record.beyond:+.3f}, p = {record.beyond_p_holm:.3g}, Holm)."
        )
    if record.flips is not None:
        text += f" The predicted class changes in {record.flips:.1%} of the texts."
    return text
