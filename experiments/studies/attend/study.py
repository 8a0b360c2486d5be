"""``layerscope attend``: what every head looks at over a corpus, and its patterns on a few texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ...attention.arcs import OFFSETS, WordRoles, WordTotals
from ...attention.head_names import ON_REPEATS, roles
from ...attention.heads import GROUPS, HeadStatistics, HeadTotals, deal
from ...attention.passes import PATTERN, layers_with_patterns, pass_over
from ...attention.roles import repetition_scores
from ...attention.similarity import ROWS, Similarity, SimilarityTotals
from ...attention.text_patterns import shown_texts
from ...corpus import Sentence, Word, read_conllu
from ...corpus.prompts import read_prompts
from ...features.layout import Layout
from ...forecast import pass_seconds
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, file_sha256
from ...subject.identity import hash_files
from ...sweep.reading import component_name
from .checkpoints import checkpoint_finding, find_checkpoints, over_checkpoints
from .effects import disagreement, read_effects
from .options import AttendOptions


def run(config: AttendOptions) -> dict[str, Any]:
    """Run a study of attention; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("attend", config)
    sentences = read_texts(config)
    subject = this.load(body_only=True)
    layers = layers_with_patterns(subject.model)
    effects, measured = read_effects(config.effects, subject.sha256) if config.effects else ({}, {})
    hashes = {str(config.source): file_sha256(config.source)}
    if config.effects:
        hashes["effects"] = file_sha256(config.effects / "results.json")
    checkpoints = find_checkpoints(config.checkpoints) if config.checkpoints else []
    hashes |= {path.name: hash_files(sorted(path.glob("*.safetensors"))) for _, path in checkpoints}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    layout = Layout.of(subject, sentences)
    groups = deal(len(sentences), config.seed)
    plan = f"{len(sentences):,} texts, {layout.n_tokens:,} tokens, {len(layers)} layers, in one pass"
    forwards = partial(pass_seconds, subject, layout.encoded, config.batch_tokens)
    if (planned := this.plan(plan, seconds=forwards, besides="the patterns' statistics")) is not None:
        return planned
    heads = HeadTotals(subject, layout.encoded, groups)
    alike = SimilarityTotals(subject, layout.encoded)
    words = WordTotals(subject, sentences, layout, groups)
    with console.progress() as bars:
        bar = bars.add_task("attention", total=len(sentences))
        pass_over(
            subject,
            layout.encoded,
            [heads, alike, words],
            batch_tokens=config.batch_tokens,
            advance=lambda n: bars.advance(bar, n),
        )
    statistics, found = heads.result(), words.result(config.seed)
    repeats = repetition_scores(subject, seed=config.seed)
    records = head_records(statistics, found, alike.result(), repeats, config.seed)
    for record in records:
        if (effect := effects.get((record["layer"], record["index"]))) is not None:
            record |= {name if name == "effect" else f"effect_{name}": value for name, value in effect.items()}
    results = {
        "records": records,
        "layers": layer_records(statistics, alike.result()),
        "relations": [{**asdict(r), "syntactic": r.syntactic} for r in found.relations],
        "uniform": {name: float(values.mean()) for name, values in statistics.under_uniform().items()},
        "shown": shown_texts(subject, layout.encoded, config.show, config.flow),
        "findings": findings(records, found, statistics),
        "notes": _notes(config, layout, statistics, len(sentences)),
    }
    if checkpoints:
        with console.progress() as bars:
            bar = bars.add_task("checkpoints", total=len(checkpoints))
            results["checkpoints"] = over_checkpoints(
                subject, checkpoints, layout.encoded, groups, this.folder,
                seed=config.seed, batch_tokens=config.batch_tokens, advance=lambda: bars.advance(bar),
            )  # fmt: skip
        results["findings"].append({"property": "checkpoints", "text": checkpoint_finding(results["checkpoints"])})
    if effects:
        apart = {**disagreement(records), **measured}
        results["effects"] = apart
        results["findings"].append({"property": "effects", "text": _effects_finding(apart)})
    split = "corpus" if config.corpus else "prompts"
    return this.finish(results, data=[data_record(split, config.source, len(sentences))])


def read_texts(config: AttendOptions) -> list[Sentence]:
    """The annotated sentences, or the prompts' texts cut into words at white space."""
    if (config.corpus is None) == (config.prompts is None):
        raise RunError("expected one of --corpus FILE (annotated sentences) and --prompts FILE")
    if config.corpus is not None:
        return list(read_conllu(config.corpus, config.limit))
    assert config.prompts is not None
    prompts = read_prompts(config.prompts, config.limit, answers=False)
    return [plain_sentence(f"prompt {i + 1}", prompt.prompt) for i, prompt in enumerate(prompts)]


def plain_sentence(name: str, text: str) -> Sentence:
    """A text whose words are what stands between white space, without any annotation."""
    found = [(m.group(), *m.span()) for m in re.finditer(r"\S+", text)]
    words = tuple(
        Word(i, form, lemma="_", upos="_", xpos="_", feats={}, head=0, deprel="_", start=start, end=end)
        for i, (form, start, end) in enumerate(found, 1)
    )
    return Sentence(name, text, words)


def head_records(
    statistics: HeadStatistics,
    words: WordRoles,
    similarity: Similarity,
    repeats: dict[str, Float[np.ndarray, "layer head"]],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record a head: each statistic with its interval, what it is called, and the head most like it."""
    values = {name: statistics.value(name) for name in statistics.names}
    ends = statistics.intervals(seed)
    relations = {(r.layer, r.head): r for r in words.of_heads}
    n_heads = words.positional.shape[1]
    others = similarity.heads - 2 * np.eye(len(similarity.heads))
    records = []
    for row, layer in enumerate(statistics.layers):
        for head in range(n_heads):
            nearest = int(others[row * n_heads + head].argmax())
            record: dict[str, Any] = {
                "site": f"blocks.{layer}.{PATTERN}[{head}]",
                "layer": layer,
                "index": head,
                "component": "heads",
            }
            for name, value in values.items():
                record[name] = float(value[row, head])
                record[f"{name}_low"], record[f"{name}_high"] = (float(end[row, head]) for end in ends[name])
            record |= {name: float(repeats[name][row, head]) for name in ("duplicate", "induction")}
            record |= {"positional": float(words.positional[row, head]), "offset": int(words.offset[row, head])}
            if (found := relations.get((layer, head))) is not None:
                record |= {"relation": found.relation, "direction": found.direction}
                record |= {"relation_score": found.score, "relation_baseline": found.baseline}
            alone = len(others) == 1
            record["nearest"] = None if alone else f"L{statistics.layers[nearest // n_heads]}H{nearest % n_heads}"
            record["nearest_similarity"] = None if alone else float(others[row * n_heads + head, nearest])
            record["role"] = ", ".join(roles(record))
            records.append(record)
    return records


def layer_records(statistics: HeadStatistics, similarity: Similarity) -> list[dict[str, Any]]:
    """One record a layer: means over its heads, and how much the mean pattern changed from the layer before."""
    means = {name: statistics.value(name).mean(1) for name in statistics.names}
    change = [None, *(float(c) for c in similarity.change)]
    return [
        {"layer": layer, **{name: float(values[row]) for name, values in means.items()}, "change": change[row]}
        for row, layer in enumerate(statistics.layers)
    ]


def findings(records: Sequence[dict[str, Any]], words: WordRoles, statistics: HeadStatistics) -> list[dict[str, str]]:
    """What is worth saying first."""
    named = [r for r in records if r["role"]]
    sinks = sum(r["first"] >= 0.5 for r in records)
    text = (
        f"{len(named)} of {len(records)} heads do something with a name here. {sinks} give half of their attention or more to "
        f"the first token; the mean normalised entropy is {np.mean([r['entropy'] for r in records]):.2f} (1 would be looking "
        f"everywhere alike)."
    )
    for name in ("induction", "duplicate"):
        most = max(records, key=lambda r: r[name])
        if most[name] >= ON_REPEATS:
            text += (
                f" The strongest {name} head is {component_name(most)} ({most[name]:.2f} on repeated random tokens)."
            )
    out = [{"property": "heads", "text": text}]
    if statistics.has_norms:
        parked = max(records, key=lambda r: r["first"] - r["norm_first"])
        if parked["first"] - parked["norm_first"] > 0.2:
            text = (
                f"Weight is not contribution: {component_name(parked)} gives {parked['first']:.0%} of its attention to the first "
                f"token, which is {parked['norm_first']:.0%} of what its attended values bring."
            )
            out.append({"property": "values", "text": text})
    if good := sorted((r for r in words.relations if r.syntactic), key=lambda r: -r.gain):
        parts = [
            f"{r.relation} {r.direction} L{r.layer}H{r.head} ({r.score:.2f}, offset {r.baseline:.2f})" for r in good[:4]
        ]
        kinds = f"{len(good)} of {len(words.relations)} dependencies and directions"
        out.append(
            {
                "property": "dependencies",
                "text": f"{kinds} have a head that follows them clearly better than the best fixed offset: {', '.join(parts)}.",
            }
        )
    return out


def _effects_finding(apart: dict[str, Any]) -> str:
    rho = apart["spearman"]["confidence"]
    words = "is not defined" if rho is None else f"is {rho:.2f}"
    return (
        f"The rank correlation of a head's confidence with the size of its effect on the {apart['metric']} {words} over "
        f"{apart['n']} heads. {len(apart['sharp_unneeded'])} of the most confident quarter have no effect that is clear of "
        f"chance; {len(apart['diffuse_needed'])} of the least confident quarter have one."
    )


def _notes(config: AttendOptions, layout: Layout, statistics: HeadStatistics, n: int) -> list[dict[str, str]]:
    notes = []
    if layout.n_lost:
        notes.append({"kind": "dropped", "text": f"{layout.n_lost} words without tokens (truncated) left out"})
    if config.corpus is None:
        text = "dependencies: the texts are not annotated; --corpus FILE.conllu tells which heads follow them"
        notes.append({"kind": "skipped", "text": text})
    if not statistics.has_norms:
        text = "contributions: this architecture's values or output projection cannot be read"
        notes.append({"kind": "skipped", "text": text})
    if n > GROUPS:
        text = (
            f"intervals resample {GROUPS} groups, into which the {n:,} texts were dealt at random (seed {config.seed})"
        )
        notes.append({"kind": "info", "text": text})
    text = (
        f"heads are compared on at most {ROWS} tokens of each text; favourite offsets are sought from {OFFSETS[0]} to "
        f"{OFFSETS[-1]:+d} words; dependencies are scored on the half of the texts that did not choose the head"
    )
    return [*notes, {"kind": "info", "text": text}]
