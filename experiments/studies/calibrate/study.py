"""Does a model know what it knows? Confidence against correctness, for any classifier and for language models.

Predictions come from a file, or are made here: a language model's own token probabilities on questions with choices, on
prompts with a right and a wrong answer, on minimal pairs, or of the next token of prompts. With validation rows each
scaling of `probes.scaling` is fitted on them, and judged on the others. With ``--ask`` the model also says in words how
sure it is of the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ....probes.scaling import SCALINGS, TemperatureScaling, as_logits
from ...calibration.asked import ASKED, Asking, Said
from ...calibration.predictions import PredictionError, Predictions, read_predictions, save_predictions
from ...calibration.questions import (
    Question,
    QuestionError,
    Templates,
    of_pairs,
    of_prompts,
    read_questions,
    token_probabilities,
)
from ...calibration.reliability import Judged, compare, errors_of, finding, judge
from ...corpus.prompts import Prompt, read_pairs, read_prompts
from ...forecast import of_items
from ...metrics.metrics import get_metric
from ...runs.execute import Run, data_record
from ...runs.folder import file_sha256
from ...subject import Subject
from ...sweep.effects import clusters_of, group_notes
from ...sweep.sweep import chunks, clean_values
from .options import CalibrateOptions

Names: TypeAlias = "tuple[Sequence[str], Sequence[str], Sequence[str]]"
"""Of each row: what it is, what was answered, what is right."""
SOURCES = ("predictions", "questions", "prompts", "pairs")
TOKENS = "token probabilities"
FEW_MASS = 0.5
"""Share of the probability below which two letters are said not to be what the model would answer."""


def run(config: CalibrateOptions) -> dict[str, Any]:
    """Run or continue a study of calibration; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html``, ``predictions.npz`` and the scalings that were fitted,
    ``scalings/NAME.safetensors``, to ``config.out``.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    source = _checked(config)
    this = Run("calibrate", config)
    paths = [config.source, *([config.validation] if config.validation else [])]
    of_file = source == "predictions"
    predictions = [read_predictions(path, config.limit) for path in paths] if of_file else []
    asked = [] if of_file else [_read(config, source, path) for path in paths]
    n_rows = len(predictions[0]) if of_file else len(asked[0])
    if n_rows < config.bins:
        raise QuestionError(f"expected at least as many rows as bins, got {n_rows} and {config.bins}: give --bins")
    subject = None if of_file else this.load()
    templates = Templates(subject, config.templates, config.chat)
    hashes = {str(path): file_sha256(path) for path in [*paths, *templates.replaced]}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    ways = ", ".join(("tokens' probabilities", *config.ask)) if subject is not None else "the probabilities of the file"
    seconds = None
    if subject is not None and not asked[0][0].is_open:
        letters = config.choices == "letter"
        rows = [question for group in asked for question in group]
        seconds = of_items(
            subject, rows, lambda q: token_probabilities(subject, [q], templates, letters, config.batch_tokens), timed=8
        )
    besides = "what the model says when it is asked" if config.ask else ""
    plan = f"{n_rows:,} rows; confidences: {ways}"
    if (planned := this.plan(plan, seconds=seconds, besides=besides)) is not None:
        return planned
    notes: list[dict[str, str]] = []
    if subject is not None:
        if asked[0][0].is_open:
            return _finish(this, [_next_token(config, subject, asked[0], notes)], _open_names(asked[0]), notes, 0)
        predictions = [
            _token_predictions(this, subject, group, templates, config, cell)
            for group, cell in zip(asked, ("tokens", "tokens-validation"), strict=False)
        ]
    whole = predictions[0] if len(predictions) == 1 else predictions[0].with_validation(predictions[1])
    whole = whole.cut(config.split, config.seed) if config.split else whole
    save_predictions(config.out / "predictions.npz", whole)
    test = whole.rows(~whole.validation)
    if not len(test):
        raise PredictionError(f"{config.source}: expected rows to measure, all are validation rows")
    methods = [
        Judged.of("probabilities" if subject is None else TOKENS, test),
        *_scaled(whole, test, notes, config.out),
    ]
    # validation rows of another file stand behind those of the first
    measured = [q for q, held in zip(asked[0], whole.validation, strict=False) if not held] if asked else []
    if subject is not None and config.ask:
        methods += _ask(this, subject, measured, methods[0], templates, config, notes)
    notes += group_notes(test.clusters)
    return _finish(this, methods, _names(test, measured), notes, int(whole.validation.sum()))


def _finish(
    this: Run, methods: Sequence[Judged], names: Names, notes: Sequence[dict[str, str]], n_validation: int
) -> dict[str, Any]:
    """Judge every method and write the results."""
    config = this.config
    records = [judge(judged, config.bins, config.seed) for judged in methods]
    results = {
        "records": records,
        "comparisons": compare(methods, config.seed),
        "errors": [row for judged in methods[:1] for row in errors_of(judged, *names)],
        "findings": [{"property": r["method"], "text": finding(r)} for r in records],
        "notes": [*notes, *_notes(records)],
        "source": next(name for name in SOURCES if getattr(config, name) is not None),
    }
    data = [data_record(results["source"], config.source, len(methods[0].confidence))]
    if config.validation:
        data.append(data_record("validation", config.validation, n_validation))
    return this.finish(results, data=data)


def _read(config: CalibrateOptions, source: str, path: Path) -> list[Question]:
    """The questions of a file; prompts of which none has a wrong answer are open ones."""
    templates = Templates(folder=config.templates)
    if source == "pairs":
        return of_pairs(read_pairs(path, config.limit), templates, config.seed)
    if source == "questions":
        return read_questions(path, config.limit)
    prompts = read_prompts(path, config.limit)
    if any(prompt.wrong is not None for prompt in prompts):
        return of_prompts(prompts, templates, config.seed)
    if config.ask or config.validation or config.split:
        raise QuestionError("--ask, --validation and --split need prompts with a 'wrong' answer to choose from")
    return [Question(p.prompt, (p.answer,), 0, p.group, p.prompt) for p in prompts]


def _open_names(questions: Sequence[Question]) -> Names:
    return [q.question for q in questions], ["another token"] * len(questions), [q.choices[0] for q in questions]


def _names(test: Predictions, questions: Sequence[Question]) -> Names:
    """Each row as a reader knows it: what it is, what was answered, what is right."""
    best = test.probabilities.argmax(1)
    if questions:
        answers = [q.choices[k].strip() for q, k in zip(questions, best, strict=True)]
        shown = [f"pair {i + 1}" if q.whole else q.question for i, q in enumerate(questions)]
        return shown, answers, [q.choices[q.answer].strip() for q in questions]
    texts = test.texts or [f"row {i + 1}" for i in range(len(test))]
    return texts, [test.classes[k] for k in best], [test.classes[k] for k in test.labels]


def _checked(config: CalibrateOptions) -> str:
    """Which of the sources is given, with what it needs.

    Raises:
        QuestionError: none or several, a model missing or too much, an option that has nothing to act on.
    """
    given = [name for name in SOURCES if getattr(config, name) is not None]
    if len(given) != 1:
        raise QuestionError(f"expected one of --{', --'.join(SOURCES)}, got {', '.join(given) or 'none'}")
    if (given[0] == "predictions") != (config.model is None):
        raise QuestionError("expected --model for questions, prompts and pairs, and none for --predictions")
    if config.ask and config.model is None:
        raise QuestionError("--ask: expected a model to ask, not predictions from a file")
    if config.validation is not None and config.split:
        raise QuestionError("expected one of --validation FILE and --split SHARE")
    for path in (config.source, config.validation):
        if path is not None and not path.is_file():
            raise QuestionError(f"{path}: expected a file, there is none")
    return given[0]


def _token_predictions(
    this: Run,
    subject: Subject,
    questions: Sequence[Question],
    templates: Templates,
    config: CalibrateOptions,
    cell: str,
) -> Predictions:
    """The model's own probabilities; questions with fewer choices than others have 0 for what they lack."""
    saved = this.folder.cell(cell)
    if saved is None:
        found = token_probabilities(subject, questions, templates, config.choices == "letter", config.batch_tokens)
        saved = [p.tolist() for p in found]
        this.folder.save_cell(cell, saved)
    width = max(len(row) for row in saved)
    P = np.array([row + [0.0] * (width - len(row)) for row in saved])
    letters = config.choices == "letter" and all(len(row) == width for row in saved)
    return Predictions(
        P,
        np.array([q.answer for q in questions]),
        tuple(f"choice {k + 1}" for k in range(width)),
        clusters_of(questions),
        np.zeros(len(questions), bool),
        by_class=letters,
        same_width=len({len(row) for row in saved}) == 1,
    )


def _scaled(predictions: Predictions, test: Predictions, notes: list[dict[str, str]], out: Path) -> list[Judged]:
    """The test rows' confidence after each scaling, fitted on the validation rows alone."""
    held = predictions.rows(predictions.validation)
    if not len(held):
        text = (
            "scalings skipped: no validation rows to fit them on (--validation FILE, --split SHARE, or rows marked so)"
        )
        notes.append({"kind": "skipped", "text": text})
        return []
    if not test.same_width:
        notes.append({"kind": "skipped", "text": "scalings skipped: the questions differ in their number of choices"})
        return []
    if set(held.clusters.tolist()) & set(test.clusters.tolist()):
        notes.append({"kind": "warning", "text": "some groups have rows in validation and among those measured"})
    methods = []
    (out / "scalings").mkdir(exist_ok=True)
    for name, kind in SCALINGS.items():
        if name != "temperature" and not test.by_class:
            notes.append({"kind": "info", "text": f"{name} scaling skipped: choices are not classes"})
            continue
        fitted = kind().fit(as_logits(held.probabilities), held.labels)
        fitted.save(out / "scalings" / f"{name}.safetensors")
        if not fitted.converged_:
            notes.append(
                {"kind": "warning", "text": f"{name} scaling did not converge: {str(fitted.describe())[:100]}"}
            )
        if isinstance(fitted, TemperatureScaling):
            text = f"temperature {fitted.temperature_[0]:.4g}, fitted on {len(held)} validation rows"
            notes.append({"kind": "info", "text": text})
        methods.append(Judged.of(f"{name} scaling", test, fitted.predict_proba(as_logits(test.probabilities))))
    return methods


def _next_token(
    config: CalibrateOptions, subject: Subject, questions: Sequence[Question], notes: list[dict[str, str]]
) -> Judged:
    """The most probable of all tokens behind each prompt: its probability, and whether it is the answer's."""
    prompts = [Prompt(q.prompt or q.question, q.choices[0]) for q in questions]
    found = {}
    for name in ("confidence", "rank"):
        made = get_metric(name)
        reads = made.reads(subject, prompts)
        found[name] = clean_values(subject, made, list(chunks(subject, reads, config.batch_tokens)))
    notes.append({"kind": "info", "text": "the answer is the most probable of all tokens behind the prompt"})
    return Judged("next token", np.minimum(found["confidence"], 1.0), found["rank"] == 0, clusters_of(questions))


def _ask(
    this: Run,
    subject: Subject,
    questions: Sequence[Question],
    own: Judged,
    templates: Templates,
    config: CalibrateOptions,
    notes: list[dict[str, str]],
) -> list[Judged]:
    """What the model says of its answers, in each of the ways that are asked for."""
    assert own.probabilities is not None
    answers = [int(k) for k in own.probabilities.argmax(1)]
    asking = Asking(subject, templates, questions, answers, config.samples, config.batch_tokens, config.seed)
    out = []
    for name in dict.fromkeys(config.ask):
        said = ASKED[name](asking, name, this.folder)
        out.append(_judged(name, said, own))
        if name == "p_true":
            few = sum(float(s.text) < FEW_MASS for s in said)
            if few:
                text = f"p_true: for {few} of {len(said)} questions A and B together have less than half of the probability"
                notes.append({"kind": "warning", "text": text})
        for reason in ("refused", "unparsable"):
            texts = [s.text for s in said if s.reason == reason]
            if texts:
                text = f"{name}: {len(texts)} of {len(said)} answers {reason}, such as {texts[0][:60]!r}"
                notes.append({"kind": "dropped", "text": text})
    return out


def _judged(name: str, said: Sequence[Said], own: Judged) -> Judged:
    confidence = np.array([np.nan if s.confidence is None else s.confidence for s in said])
    counts = {reason: sum(s.reason == reason for s in said) for reason in ("refused", "unparsable")}
    return Judged(name, confidence, own.correct, own.clusters, counts=counts)


def _notes(records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    notes = []
    for r in records:
        if r["measured"] and r["commonest_share"] > 0.5 and r["n_answered"] > 1:
            text = f"{r['method']}: {r['commonest_share']:.0%} of the confidences are {r['commonest']:.3g}"
            notes.append({"kind": "warning", "text": text})
        if r.get("n_impossible"):
            text = f"{r['method']}: {r['n_impossible']} rows give their label no probability: the log-likelihood is infinite"
            notes.append({"kind": "warning", "text": text})
        if not r["measured"]:
            text = f"{r['method']}: {r['n_answered']} confidences are too few to measure"
            notes.append({"kind": "skipped", "text": text})
    return notes
