"""``layerscope ask``: what a model says about its answers is tested: its reasons, or its
confidence.

Reasons: it is asked which words mattered for its answer, and the words are removed (`.reasons`).
Confidence: it is asked how sure it is, and that is measured against correctness
(`calibration.confidence`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from ....probes.evaluation import TESTABLE, ClusterBootstrap, holm, mean_effects
from ...attribution import explain, method_named
from ...calibration import confidence
from ...calibration import inputs as confidence_inputs
from ...calibration.asked import LENGTH
from ...calibration.generating import generate
from ...calibration.inputs import ConfidenceInputs
from ...calibration.questions import QuestionError, Templates
from ...corpus.prompts import Prompt, Unusable, read_prompts
from ...metrics.usable import check_share, unusable_notes
from ...report.schema import Finding, Note, estimated
from ...report.words import plural
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...subject import Subject
from ...sweep.effects import clusters_of, group_notes
from .options import AskOptions
from .reasons import Explained, Named, explained, parse_words
from .records import PromptRecord, Results, WordsRecord

T = TypeVar("T")
KINDS = ("named", "random", "attribution")
"""Of words, in the order of a prompt's effects."""
SIGNIFICANT = 0.05


@dataclass(kw_only=True)
class ReasonsInputs(Inputs):
    """What has been read: the prompts, and the wording of the question."""

    options: AskOptions
    prompts: list[Prompt]
    templates: Templates
    dropped: list[Note]


def prepare(options: AskOptions, load: Load) -> ReasonsInputs | ConfidenceInputs:
    """The prompts or questions, and the model.

    Raises:
        QuestionError: both reasons and confidence, reasons without prompts.
        UnknownName: no such attribution method.
        PromptError: a file that cannot be read.
    """
    if options.confidence:
        if options.reasons:
            raise QuestionError("expected one of --reasons and --confidence")
        return confidence_inputs.prepare(options, load)
    if options.prompts is None or options.source != options.prompts:
        raise QuestionError(
            "--reasons: expected --prompts FILE, and neither --questions nor --pairs"
        )
    method_named(options.attribution)
    unusable: list[Unusable] = []
    prompts = read_prompts(options.prompts, options.limit, unusable=unusable)
    check_share(unusable, len(prompts) + len(unusable), options.skip)
    subject = load()
    templates = Templates(subject, options.templates, options.chat)
    data = [DataFile.of("prompts", options.prompts, len(prompts))]
    data += [DataFile.of(f"template {path.stem}", path, 1) for path in templates.replaced]
    return ReasonsInputs(
        options=options,
        subject=subject,
        data=data,
        prompts=prompts,
        templates=templates,
        dropped=unusable_notes(unusable, len(prompts)),
    )


def cost(inputs: ReasonsInputs | ConfidenceInputs) -> Cost:
    """A written answer for each prompt, and forwards without its words."""
    if isinstance(inputs, ConfidenceInputs):
        return confidence_inputs.cost(inputs)
    draws = f"{plural(inputs.options.null_draws, 'draw')} of random words"
    return Cost(
        f"{plural(len(inputs.prompts), 'prompt')}: an answer about each, its words removed, "
        f"and {draws}"
    )


def measure(inputs: ReasonsInputs | ConfidenceInputs, run: Run) -> Results:
    """What the model says, tested.

    Raises:
        QuestionError: no answer names words that can be removed.
    """
    if isinstance(inputs, ConfidenceInputs):
        return Results(**confidence.measure(inputs, run))
    subject, options = inputs.subject, inputs.options
    prompts = [explained(subject, prompt, options) for prompt in inputs.prompts]
    questions = [partial(_answer, subject, prompt, inputs.templates) for prompt in prompts]
    answers = _kept(run, "asking", "why", questions)
    named = []
    for answer, prompt in zip(answers, prompts, strict=True):
        named.append(parse_words(answer, prompt.texts))
    # A refusal is no reason that could be tested; it is counted, not left out in silence.
    tested = [i for i, words in enumerate(named) if not words.reason]
    if not tested:
        raise QuestionError(
            f"none of {len(named)} answers names words that can be removed "
            f"({_reasons(named)}): see --templates, --chat"
        )
    removals = []
    for number, i in enumerate(tested):
        removals.append(partial(_effects, number, prompts[i], named[i].places, options))
    effects = np.array(_kept(run, "removing words", "effect", removals))
    clusters = clusters_of([inputs.prompts[i] for i in tested])
    records = _records(effects, clusters, prompts[0].game.question.unit, options.seed)
    return Results(
        records=list(records),
        prompts=_prompt_records(prompts, named, dict(zip(tested, effects.tolist(), strict=True))),
        findings=[Finding(property="named", text=finding(records, len(prompts)))],
        notes=[*inputs.dropped, *_notes(named), *group_notes(clusters)],
    )


def _reasons(named: Sequence[Named]) -> str:
    """Why answers name no words, counted."""
    counts = []
    for reason in ("refused", "unparsable", "everything"):
        counts.append(f"{sum(words.reason == reason for words in named)} {reason}")
    return ", ".join(counts)


def _kept(run: Run, title: str, name: str, jobs: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all jobs; what is done stays in the folder,
    so that an interrupted run goes on.
    """
    out = []
    with console.progress() as bars:
        bar = bars.add_task(title, total=len(jobs))
        for number, job in enumerate(jobs):
            out.append(run.folder.kept(f"{name}-{number}", job))
            bars.advance(bar)
    return out


def _answer(subject: Subject, prompt: Explained, templates: Templates) -> str:
    """What the model writes when it is asked for the words that mattered."""
    text = templates.ask(
        "why", text=prompt.prompt.prompt.strip(), answer=prompt.prompt.answer.strip()
    )
    return generate(subject, text, LENGTH)[0]


def _effects(
    number: int, prompt: Explained, places: Sequence[int], options: AskOptions
) -> list[float]:
    """In the order of `KINDS`: the named words, random ones (mean over draws),
    the attribution's.
    """
    # Of each prompt its own, so that a run that is continued draws the same.
    rng = random.Random(f"{options.seed}-{number}")
    attribution = explain(
        prompt.game.scorer, options.attribution, removal=options.removal, seed=options.seed
    )
    scores = attribution.scores
    words, size = range(len(prompt.words)), len(places)
    ranked = sorted(words, key=lambda k: -scores[prompt.words[k]])
    # As many random words as the model named: more words would move the answer more.
    drawn = [rng.sample(words, size) for _ in range(options.null_draws)]
    costs = prompt.cost([places, ranked[:size], *drawn])
    of_random = costs[2:].mean()
    return [float(costs[0]), float(of_random), float(costs[1])]


def _records(
    effects: Float[np.ndarray, "n kinds"], clusters: Int[np.ndarray, " n"], unit: str, seed: int
) -> list[WordsRecord]:
    """Each kind of words: the effect of removing them,
    and how much larger it is than that of random ones.
    """
    boot = ClusterBootstrap(clusters, seed=seed)
    # As many random words of the same text: to take out more words costs more, whichever they are.
    drawn = effects[:, KINDS.index("random")]
    compared = [k for k, kind in enumerate(KINDS) if kind != "random"]
    over_random = mean_effects(effects[:, compared] - drawn[:, None], boot, seed=seed)
    corrected = holm(over_random.p.tolist()) if np.isfinite(over_random.p).all() else None
    averaged = mean_effects(effects, boot, seed=seed)
    records = []
    for k, kind in enumerate(KINDS):
        tests: dict[str, Any] = {**estimated("over_random", None), "p": None, "p_holm": None}
        if kind != "random":
            place = compared.index(k)
            tests |= estimated("over_random", over_random.interval(place))
            if corrected is not None:
                tests |= {"p": float(over_random.p[place]), "p_holm": corrected[place]}
        records.append(
            WordsRecord(
                words=kind,
                unit=unit,
                **estimated("effect", averaged.interval(k)),
                **tests,
                n=len(effects),
                n_clusters=boot.n_clusters,
            )
        )
    return records


def _prompt_records(
    prompts: Sequence[Explained], named: Sequence[Named], effects: dict[int, list[float]]
) -> list[PromptRecord]:
    """Every prompt with what was named and what its removal did."""
    out = []
    for i, (prompt, answer) in enumerate(zip(prompts, named, strict=True)):
        of_named, of_random, of_attribution = effects.get(i, [None] * len(KINDS))
        out.append(
            PromptRecord(
                text=prompt.prompt.prompt,
                answer=prompt.prompt.answer,
                said=answer.text,
                named=[prompt.texts[k] for k in answer.places],
                absent=list(answer.absent),
                reason=answer.reason,
                n_words=len(prompt.words),
                clean=prompt.clean,
                named_effect=of_named,
                random_effect=of_random,
                attribution_effect=of_attribution,
            )
        )
    return out


def finding(records: Sequence[WordsRecord], n_prompts: int) -> str:
    """One paragraph: whether the named words matter more than random ones,
    and how close they come to an attribution's.
    """
    named, drawn, best = records
    assert named.over_random is not None
    assert best.over_random is not None
    prompts = f"{named.n} of {n_prompts} prompts"
    ends = f"95% CI {named.effect_interval.text('.3g')}; " if named.effect_interval else ""
    text = (
        f"named words: removing them lowers the answer by {named.effect:.3g} {named.unit} "
        f"({ends}{prompts}). Removing as many random words lowers it by {drawn.effect:.3g}, "
        f"a difference of {named.over_random:+.3g}"
    )
    if named.p_holm is None:
        groups = plural(named.n_clusters, "group")
        return (
            f"{text}. The difference cannot be tested: {groups} of prompts, "
            f"and a test at 5% needs {TESTABLE}."
        )
    over = named.over_random_interval
    span = f"95% CI {over.text('.3g')}, " if over else ""
    text += f" ({span}p = {named.p_holm:.3g} after Holm's correction). "
    sign = _direction(named)
    if sign == 0:
        text += "The words that the model names do not matter significantly more than random words."
        if _direction(best) > 0:
            text += (
                " The attribution's top words do: removing them lowers the answer by "
                f"{best.effect:.3g}."
            )
        return text
    text += (
        f"The words that the model names matter significantly {'more' if sign > 0 else 'less'} "
        "than random words."
    )
    if sign > 0 and _direction(best) > 0:
        share = named.over_random / best.over_random
        text += f" The difference is {share:.0%} of the one for the attribution's top words."
    return text


def _direction(record: WordsRecord) -> int:
    """1 or -1 where its effect is significantly above or below that of random words, else 0."""
    ends = record.over_random_interval
    if ends is None or record.p_holm is None or record.p_holm >= SIGNIFICANT:
        return 0
    return 1 if ends.low > 0 else -1 if ends.high < 0 else 0


REASONS = {
    "refused": "refused",
    "unparsable": "named no word of the text",
    "everything": "named every word of the text",
}
"""Why an answer cannot be tested, in words."""


def _notes(named: Sequence[Named]) -> list[Note]:
    notes = []
    for reason, words in REASONS.items():
        texts = [one.text for one in named if one.reason == reason]
        if texts:
            text = (
                f"{len(texts)} of {len(named)} answers {words}, such as {texts[0][:60]!r}; "
                "they are counted but not tested"
            )
            notes.append(Note(kind="dropped", text=text))
    if absent := sum(bool(one.absent) for one in named):
        text = f"{absent} of {len(named)} answers name words that are not in the text"
        notes.append(Note(kind="warning", text=text))
    return notes
