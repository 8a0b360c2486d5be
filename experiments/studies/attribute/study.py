"""``layerscope attribute``: texts, methods, and beside every method how faithful it is and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...attribution import AttributionError, Game, Scorer, Target, ask, explain, method_named
from ...attribution.examples import flip, flippable, nearest
from ...attribution.faithfulness import (
    Faithfulness,
    faithfulness,
    mean_agreement,
    random_faithfulness,
    rank_agreement,
    sensitivity,
)
from ...attribution.game import DRAWN
from ...attribution.question import Question
from ...corpus.prompts import Prompt, read_prompts
from ...forecast import of_items
from ...metrics.reads import prediction_reads
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import digest, file_sha256
from ...subject import Subject, load
from .options import AttributeOptions

DRAW = ("smoothgrad", "lime", "tree", "kernel-shap", "permutation-shap")
"""Methods whose scores depend on the seed whatever their settings."""
RANDOM = "random"
MEASURED = ("comprehensiveness", "sufficiency", "deletion", "insertion", "infidelity")


def run(config: AttributeOptions) -> dict[str, Any]:
    """Run or continue an attribution; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``; interrupted, it continues with the text
    and the method that are missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("attribute", config)
    methods = tuple(dict.fromkeys(config.method)) or ("leave-one-out",)
    for method in methods:
        method_named(method)
    prompts = _prompts(config)
    if config.probe is not None and not config.probe.is_file():
        raise AttributionError(f"--probe {config.probe}: no such file")
    subject = this.load(classifier=True)
    masked = (
        load(config.proposals, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code)
        if config.proposals is not None
        else None
    )
    hashes = {str(path): file_sha256(path) for path in (config.prompts, config.probe, config.known) if path is not None}
    if masked is not None:
        hashes["proposals"] = masked.sha256 or ""
    if (finished := this.open(subject, {"texts": digest([p.prompt for p in prompts]), **hashes})) is not None:
        return finished
    prompts = [step for prompt in prompts for step in _steps(subject, prompt, config.generate)]
    questions = [
        ask(subject, p.prompt, _target(config, p), config.level) for p in prompts
    ]  # bad input before long runs
    for question in questions if config.flips else ():
        flippable(question)
    plan = (
        f"{len(questions)} texts of {sum(len(q.units) for q in questions)} {config.level}s, "
        f"{len(methods)} methods, each beside {config.random} random attributions"
    )

    def all_of(question: Question) -> None:
        scorer = Scorer(question, config.batch_tokens)
        for method in methods:
            _record(config, question, scorer, 0, masked, method)
        if config.random:
            _random_record(config, question, scorer, 0, masked)

    if (planned := this.plan(plan, seconds=of_items(subject, questions, all_of))) is not None:
        return planned
    records: list[dict[str, Any]] = []
    with console.progress() as bars:
        bar = bars.add_task("attribution", total=len(questions) * len(methods))
        for number, question in enumerate(questions):
            records += _of_text(this, question, number, methods, masked, lambda: bars.advance(bar))
    results = {
        "records": records,
        "agreement": _agree(records, methods),
        "examples": _examples(config, this, questions),
        "findings": _findings(records, methods),
        "notes": _notes(config, records),
    }
    data = [data_record("prompts", config.prompts, len(prompts))] if config.prompts else []
    return this.finish(results, data=data)


def _of_text(
    this: Run,
    question: Question,
    number: int,
    methods: Sequence[str],
    masked: Subject | None,
    advance: Callable[[], object],
) -> list[dict[str, Any]]:
    """One text's records, those that an interrupted run left and the others.

    Methods share the values that their measures need. Where a run was cut within a text, those of the finished methods are
    computed again, in the batches of the first time: the others then get the same bits.
    """
    config, scorer = this.config, Scorer(question, this.config.batch_tokens)
    names = [*methods, *([RANDOM] if config.random else [])]
    left = {name: this.folder.cell(f"{number:05d}-{name}") for name in names}
    records = []
    for place, name in enumerate(names):
        found = left[name]
        if found is None:
            one = _random_record if name == RANDOM else partial(_record, method=name)
            found = one(config, question, scorer, number, masked)
            this.folder.save_cell(f"{number:05d}-{name}", found)
        elif any(left[later] is None for later in names[place + 1 :]):
            game = Game(scorer, config.removal, config.seed, proposals=masked)
            faithfulness(game, np.array(found["scores"]), config.seed)
        records.append(found)
        if name != RANDOM:
            advance()
    return records


def _examples(config: AttributeOptions, this: Run, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """For each text the words whose change makes the model say something else, and the known texts most like it."""
    known = read_prompts(config.known, answers=False) if config.known else []
    found = []
    for number, question in enumerate(questions) if config.flips or known else ():
        name = f"{number:05d}-examples"
        if (saved := this.folder.cell(name)) is None:
            saved = {"item": number, "flip": None, "nearest": []}
            if config.flips:
                saved["flip"] = dataclasses.asdict(flip(Scorer(question, config.batch_tokens), config.flips))
            if known:
                texts = [(p.prompt, p.answer or None) for p in known]
                near = nearest(question.subject, question.text, texts, config.known_site)
                saved["nearest"] = [dataclasses.asdict(one) for one in near]
            this.folder.save_cell(name, saved)
        found.append(saved)
    return found


def _prompts(config: AttributeOptions) -> list[Prompt]:
    """What is explained, from the command line or a file."""
    if bool(config.text) == (config.prompts is not None):
        raise AttributionError("expected one of --text TEXT and --prompts FILE")
    if config.prompts is not None:
        return read_prompts(config.prompts, config.limit, answers=False)
    return [Prompt(text, "") for text in config.text]


def _target(config: AttributeOptions, prompt: Prompt) -> Target:
    """The target of one text: its line's, or the command's."""
    answer, wrong = prompt.answer or config.target, prompt.wrong if prompt.answer else config.wrong
    return Target(answer, wrong, config.measure, config.probe, config.word)


def _steps(subject: Subject, prompt: Prompt, steps: int) -> list[Prompt]:
    """A text and the model's own continuation, one token at a time; each is asked why that token came."""
    if not steps:
        return [prompt]
    if not (subject.causal and subject.gives_tokens):
        raise AttributionError(f"--generate needs a causal language model, got {type(subject.model).__name__}")
    text, found = prompt.prompt, []
    for _ in range(steps):
        read = prediction_reads(subject, [Prompt(text, "")])
        (batch,) = subject.batches(read.texts)
        logits = subject.forward(batch, logits=True).logits[0, int(read.places[0, 1])]
        ids = [*read.texts[0].ids[: int(read.places[0, 1]) + 1], int(logits.argmax())]
        if ids[-1] in subject.tokenizer.all_special_ids:
            break
        special = len(read.texts[0].special) - sum(not s for s in read.texts[0].special)
        whole = subject.tokenizer.decode(ids[special:], clean_up_tokenization_spaces=False)
        if not whole.startswith(text) or whole == text:
            break  # half a character: the next token would complete it, and there is no text between
        found.append(Prompt(text, whole[len(text) :]))
        text = whole
    if not found:
        raise AttributionError(f"the model ends {prompt.prompt[:40]!r} at once: nothing to explain")
    return found


def _settings(config: AttributeOptions, masked: Subject | None) -> dict[str, Any]:
    return {
        "removal": config.removal,
        "samples": config.samples,
        "steps": config.steps,
        "baseline": config.baseline,
        "site": config.site,
        "hidden": config.hidden,
        "proposals": masked,
    }


def _record(
    config: AttributeOptions, question: Question, scorer: Scorer, number: int, masked: Subject | None, method: str
) -> dict[str, Any]:
    """One method on one text."""
    settings = _settings(config, masked)
    fresh = Scorer(question, config.batch_tokens)  # so that its cost is its own
    found = explain(fresh, method, seed=config.seed, **settings)
    game = Game(scorer, config.removal, config.seed, proposals=masked)
    measured = faithfulness(game, found.scores, config.seed)
    stability = None
    if _is_drawn(method, found.more) and config.seeds:
        others = [explain(fresh, method, seed=config.seed + 1 + i, **settings).scores for i in range(config.seeds)]
        stability = mean_agreement([found.scores, *others])
    shaken = None
    if config.sensitivity:
        shaken = sensitivity(
            game,
            lambda: (
                explain(Scorer(question, config.batch_tokens, share=False), method, seed=config.seed, **settings).scores
            ),
            config.sensitivity,
            config.seed,
        )
    return {
        "item": number,
        **found.to_json(),
        **_measures(measured),
        "measured_by": game.removal,
        "stability": stability,
        "sensitivity": shaken,
    }


def _is_drawn(method: str, more: Mapping[str, Any]) -> bool:
    """Whether scores depend on the seed, by the method and what it says it did."""
    return (
        method in DRAW
        or more.get("removal") in DRAWN
        or more.get("start") == "sampled"
        or more.get("hidden") == "shuffle"
    )


def _random_record(
    config: AttributeOptions, question: Question, scorer: Scorer, number: int, masked: Subject | None
) -> dict[str, Any]:
    """The measures of random attributions of one text: the mean, and the extremes."""
    game = Game(scorer, config.removal, config.seed, proposals=masked)
    drawn = random_faithfulness(game, config.random, config.seed + number)
    mean = Faithfulness(
        **{name: float(np.mean([getattr(d, name) for d in drawn])) for name in MEASURED},
        deleted=tuple(np.mean([d.deleted for d in drawn], axis=0).tolist()),
        inserted=tuple(np.mean([d.inserted for d in drawn], axis=0).tolist()),
    )
    spread = {
        f"{name}_{side}": float(of([getattr(d, name) for d in drawn]))
        for name in MEASURED
        for side, of in (("low", min), ("high", max))
    }
    return {
        "item": number,
        "method": RANDOM,
        "text": question.text,
        "target": question.name,
        "unit": question.unit,
        "measured_by": game.removal,
        "draws": len(drawn),
        **_measures(mean),
        **spread,
    }


def _measures(found: Faithfulness) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(found).items()}


def _agree(records: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Mean Spearman correlation of each pair of methods over the texts."""
    by = {(r["item"], r["method"]): np.array(r["scores"]) for r in records if r["method"] != RANDOM}
    items = sorted({item for item, _ in by})
    out: dict[str, dict[str, float | None]] = {}
    for a in methods:
        for b in methods:
            found = [rank_agreement(by[item, a], by[item, b]) for item in items]
            known = [v for v in found if v is not None]
            out.setdefault(a, {})[b] = float(np.mean(known)) if known else None
    return out


def _findings(records: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[dict[str, str]]:
    """What the first method found in each of the first texts, and which methods do better than chance."""
    findings = []
    for record in [r for r in records if r["method"] == methods[0]][:3]:
        order = np.argsort(-np.abs(record["scores"]), kind="stable")[:3]
        words = ", ".join(f"{record['units'][i]!r} ({record['scores'][i]:+.2f})" for i in order)
        text = (
            f"{record['target'][0].upper()}{record['target'][1:]} is {record['value']:.2f} {record['unit']}; by "
            f"{record['method']} most of it is due to {words}."
        )
        findings.append({"property": "", "text": text})
    means = {m: _mean(records, m, "comprehensiveness") for m in (*methods, RANDOM)}
    chance = means.pop(RANDOM, None)
    if chance is not None:
        best = max(means, key=lambda m: means[m] or 0.0)
        above = [m for m, value in means.items() if value is not None and value > chance]
        cost = f"{means[best]:.2f} {records[0]['unit']}, mean over texts and shares; random words {round(chance, 2) + 0.0:.2f}"
        text = (
            f"Taking out the words that {best} names costs most ({cost}). {len(above)} of {len(means)} methods do more than "
            "random."
            if above
            else f"No method names words that cost more than random ones; the best is {best} ({cost})."
        )
        findings.append({"property": "faithfulness", "text": text})
    return findings


def _mean(records: Sequence[Mapping[str, Any]], method: str, name: str) -> float | None:
    found = [r[name] for r in records if r["method"] == method and r.get(name) is not None]
    return float(np.mean(found)) if found else None


def _notes(config: AttributeOptions, records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    notes = []
    if not config.random:
        notes.append({"kind": "skipped", "text": "no random attribution beside the methods (--random 0)"})
    if not config.seeds and any(_is_drawn(r["method"], r.get("more", {})) for r in records):
        notes.append({"kind": "skipped", "text": "stability over seeds not measured (--seeds 0)"})
    seen: dict[tuple[str, str], int] = {}
    for record in records:
        for note in record.get("notes") or ():
            seen[record["method"], note] = seen.get((record["method"], note), 0) + 1
    for (method, note), count in seen.items():
        kind = "warning" if note.startswith("NOT ") else "info"
        if "have no token" in note:
            kind = "dropped"
        notes.append({"kind": kind, "text": f"{method}: {note}" + (f" ({count} texts)" if count > 1 else "")})
    return notes
