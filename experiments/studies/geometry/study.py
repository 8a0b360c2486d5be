"""``layerscope geometry``: maps of words at every layer with what they hide,
and figures of each layer's space.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ....hooks import ActivationStore
from ...corpus import Corpus, read_conllu
from ...features.layout import Layout
from ...features.sites import study_sites
from ...features.stored import read_or_run, store_data
from ...report.schema import Finding, Note, from_json
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run, modes_of
from ...runs.folder import RunError, digest
from ...subject import Subject, load
from ...subject.word_spans import Encoded
from ...tasks.properties import get_property
from . import export, maps, measures
from .findings import lens_finding, separability_finding, space_finding
from .layers import LayerSpace, MeasuredLayer
from .lens import Lens, LensError, logit_lens, why_not
from .map_points import DrawnWords, norms_by_position
from .options import GeometryOptions
from .records import DrawnPoints, LayerRecord, LensResults, LensText, Results, Similarity, Words

SHOWN_TEXTS = 2
"""Texts whose every layer the logit lens shows."""
PLEASANT = (6, 16)
"""Tokens of a text that is shown first."""
THIS_MODEL, OTHER = "features", "other"
"""Folders for the vectors of this model and of the one it is compared with."""
FLOAT32_BYTES, FLOAT64_BYTES = 4, 8

Vectors = dict[str, Float[np.ndarray, "n d"]]


@dataclass(kw_only=True)
class GeometryInputs(Inputs):
    """What is drawn.

    Args:
        model: the run's model.
        other: the model that it is compared with.
        sites: what is read of the model; ``other_sites`` of the other one.
        words: the words that are drawn.
        columns: each property of every word of the corpus.
    """

    model: Subject
    other: Subject | None
    corpus: Corpus
    sites: list[str]
    other_sites: list[str]
    words: DrawnWords
    columns: dict[str, list[list[Any]]]

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Each property's value of each drawn word."""
        chosen = self.words.chosen
        return {
            name: np.array([column[s][i] for s, i in chosen], dtype=object)
            for name, column in self.columns.items()
        }


def prepare(options: GeometryOptions, load_model: Load) -> GeometryInputs:
    """The corpus, the models, and the words that are drawn."""
    # A package that is missing is said before the model is loaded.
    maps.require(options.methods)
    export.require(options.export)
    corpus = read_conllu(options.corpus, options.limit)
    columns = {name: _column(name, corpus) for name in options.properties}
    subject = load_model()
    sites = study_sites(subject, options.site)
    other = _other(options) if options.compare else None
    data = [DataFile("corpus", str(options.corpus), corpus.sha256, len(corpus))]
    data += store_data(options.store)
    if other is not None:
        data.append(DataFile.of_model("compare", other))
    return GeometryInputs(
        options=options,
        subject=subject,
        data=data,
        model=subject,
        other=other,
        corpus=corpus,
        sites=sites,
        other_sites=study_sites(other, options.site) if other else [],
        words=DrawnWords(subject, other, corpus, options),
        columns=columns,
    )


def cost(inputs: GeometryInputs) -> Cost:
    """The vectors, twice, and the Gram matrices of all sites."""
    words, options = inputs.words, inputs.options
    text = (
        f"{len(words.chosen):,} of {words.layout.n_rows:,} words at {len(inputs.sites)} "
        f"sites, maps by {', '.join(options.methods)}"
    )
    n_words = len(words.chosen)
    stored = n_words * inputs.model.d_model * len(inputs.sites) * FLOAT32_BYTES
    n_compared = len(inputs.sites) + len(inputs.other_sites)
    memory = 2 * stored + cka_bytes(n_compared, n_words)
    return Cost(text, memory=memory, disk=stored)


def measure(inputs: GeometryInputs, run: Run) -> Results:
    """Draw and measure every layer;
    the other model and the logit lens where they were asked for.
    """
    options, words = inputs.options, inputs.words
    notes = words.notes(options)
    vectors = _vectors(run, inputs, inputs.model, THIS_MODEL)
    layers = _layers(inputs, run, vectors)
    norms = norms_by_position(inputs.model, words.layout, inputs.sites)
    records = [
        LayerRecord(**layer.figures, separability=layer.separability, **norms[site])
        for site, layer in zip(inputs.sites, layers, strict=True)
    ]
    drawn = {
        method: [np.array(layer.maps[method]) for layer in layers]
        for method in _in_order(options.methods)
    }
    between = _between(inputs, run, vectors)
    lens, reason = _lens(inputs)
    if reason:
        notes.append(Note(kind="skipped", text=reason))
    _export(inputs, run, vectors, drawn)
    # Only when all is written: an interrupted run finds its features there.
    shutil.rmtree(run.folder.path / THIS_MODEL, ignore_errors=True)
    return Results(
        records=records,
        words=Words(**words.shown(inputs.labels)),
        maps={
            method: [_packed(points) for points in of_sites] for method, of_sites in drawn.items()
        },
        near=[_packed_neighbours(layer.near) for layer in layers],
        cka=_similar(vectors),
        cka_between=between,
        lens=lens,
        findings=_findings(records, options, lens),
        notes=notes,
    )


# -- what is read


def _other(options: GeometryOptions) -> Subject:
    return load(str(options.compare), bos=options.bos, body_only=True, **modes_of(options))


def _column(name: str, corpus: Corpus) -> list[list[Any]]:
    """A property of every word; None where a word has none."""
    prop = get_property(name, corpus)
    if prop.level != "word" or prop.rewrite is not None:
        raise RunError(
            f"--property {name}: expected a property of words, it is one of a {prop.level}"
        )
    return [list(prop.read(sentence, corpus)) for sentence in corpus.sentences]  # type: ignore[arg-type]


def _vectors(run: Run, inputs: GeometryInputs, subject: Subject, name: str) -> Vectors:
    """The drawn words' vectors at each site; those of the other model are not in ``--store``."""
    options, words = inputs.options, inputs.words
    is_own = name == THIS_MODEL
    layout: Layout = words.layout if is_own else words.other_layout
    # Another model has another tokenizer, so the same words stand in other rows.
    rows = torch.tensor(words.rows if is_own else words.other_rows)
    sites = inputs.sites if is_own else inputs.other_sites
    key = {"run": digest({"run": run.key, "features": name})}
    store = ActivationStore(run.folder.path / name, key, dtype=torch.float32)
    where = options.store if is_own else None
    with run.timed("features"):
        features = read_or_run(
            where,
            subject,
            [inputs.corpus],
            layout,
            sites,
            store,
            options.pooling,
            options.batch_tokens,
        )
    return {site: features.read(site)[rows].numpy() for site in sites}


# -- what is measured


def _layers(inputs: GeometryInputs, run: Run, vectors: Vectors) -> list[MeasuredLayer]:
    """Every layer's figures, maps and neighbours;
    those that an interrupted run has left are read.
    """
    layers: list[MeasuredLayer] = []
    before: dict[str, np.ndarray] = {}
    with run.timed("maps"), console.progress() as bars:
        bar = bars.add_task("maps", total=len(inputs.sites))
        for place, site in enumerate(inputs.sites):
            raw = run.folder.cell(f"map-{site}")
            if raw is not None:
                layer = from_json(MeasuredLayer, raw, f"cell map-{site}")
            else:
                wide = vectors[site].astype(np.float64)
                space = LayerSpace(site, place, wide, inputs.labels, inputs.words.sentences)
                layer = space.measured(inputs.options, before)
                run.folder.save_cell(f"map-{site}", layer)
            layers.append(layer)
            # Each map is turned to lie on the one before, so that the slider shows movement and not
            # a rotation.
            before = {method: np.array(points) for method, points in layer.maps.items()}
            bars.advance(bar)
    return layers


def _between(inputs: GeometryInputs, run: Run, vectors: Vectors) -> Similarity | None:
    """CKA with the layers of the other model."""
    if inputs.other is None:
        return None
    others = _vectors(run, inputs, inputs.other, OTHER)
    shutil.rmtree(run.folder.path / OTHER, ignore_errors=True)
    return _similar(vectors, others, inputs.other.name)


def _lens(inputs: GeometryInputs) -> tuple[LensResults | None, str]:
    """The logit lens of the first texts, or why there is none."""
    options, subject = inputs.options, inputs.model
    if not options.lens_texts:
        return None, ""
    if (reason := why_not(subject)) is not None:
        return None, f"logit lens: {reason}"
    texts = inputs.words.layout.encoded[: options.lens_texts]
    try:
        lens = logit_lens(subject, texts)
    except LensError as error:
        return None, str(error)
    return LensResults(
        records=lens.records(options.seed), texts=_lens_texts(subject, lens, texts)
    ), ""


def cka_bytes(clouds: int, words: int) -> int:
    """What CKA holds at a time: the clouds' Gram matrices, the same at length 1,
    and their squares on the way there.
    """
    return 3 * FLOAT64_BYTES * clouds * words**2


def _similar(vectors: Vectors, others: Vectors | None = None, model: str = "") -> Similarity:
    """CKA of every two layers."""
    grams = np.stack([measures.centred_gram(cloud) for cloud in vectors.values()])
    other_grams = (
        grams
        if others is None
        else np.stack([measures.centred_gram(cloud) for cloud in others.values()])
    )
    values = np.round(measures.cka(grams, other_grams), 4).tolist()
    return Similarity(
        rows=list(vectors),
        columns=list(vectors if others is None else others),
        values=values,
        model=model,
    )


def _lens_texts(subject: Subject, lens: Lens, texts: Sequence[Encoded]) -> list[LensText]:
    """The first texts of a length that is pleasant to look at, place by place."""
    usable = [text for text in texts if len(text) > 1]
    shortest, longest = PLEASANT

    def preference(number: int) -> tuple[bool, int]:
        is_pleasant = shortest <= len(usable[number]) <= longest
        return not is_pleasant, number

    lens_texts = []
    for number in sorted(range(len(usable)), key=preference)[:SHOWN_TEXTS]:
        places = np.flatnonzero(lens.texts == number)
        lens_texts.append(
            LensText(
                tokens=[subject.token(token) for token in usable[number].ids],
                top=[[subject.token(int(token)) for token in row[places]] for row in lens.top],
                p=[[round(float(p), 4) for p in row[places]] for row in lens.top_p],
                rank=[[int(rank) for rank in row[places]] for row in lens.rank],
                log2p=[[round(float(p), 3) for p in row[places]] for row in lens.log2p],
            )
        )
    return lens_texts


# -- what is written


def _in_order(methods: Sequence[str]) -> list[str]:
    return [method for method in maps.METHODS if method in methods]


def _packed(points: Float[np.ndarray, "n 2"]) -> DrawnPoints:
    """Coordinates as 16-bit numbers between the map's ends, base64."""
    low, high = float(points.min()), float(points.max())
    scaled = np.round((points - low) / max(high - low, 1e-12) * 65535).astype("<u2")
    return DrawnPoints(low=low, high=high, xy=base64.b64encode(scaled.tobytes()).decode())


def _packed_neighbours(neighbours: list[list[int]]) -> str:
    return base64.b64encode(np.array(neighbours, dtype=np.uint16).tobytes()).decode()


def _export(
    inputs: GeometryInputs,
    run: Run,
    vectors: Vectors,
    drawn: dict[str, list[Float[np.ndarray, "n 2"]]],
) -> None:
    """The files for other tools."""
    sentences, chosen = inputs.corpus.sentences, inputs.words.chosen
    table: dict[str, list[Any]] = {
        "form": [sentences[s].words[i].form for s, i in chosen],
        "sentence": [sentences[s].id for s, _ in chosen],
        "word": [i + 1 for _, i in chosen],
    }
    table |= {name: list(values) for name, values in inputs.labels.items()}
    by_site = {
        site: {m: points[place] for m, points in drawn.items()}
        for place, site in enumerate(inputs.sites)
    }
    export.write(inputs.options.export, run.folder.path, table, vectors, by_site)


def _findings(
    records: Sequence[LayerRecord], options: GeometryOptions, lens: LensResults | None
) -> list[Finding]:
    findings = [space_finding(records)]
    separated = separability_finding(records, options.properties[0], _in_order(options.methods))
    if separated is not None:
        findings.append(separated)
    if lens is not None:
        findings.append(lens_finding(lens.records))
    return findings
