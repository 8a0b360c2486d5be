"""``layerscope geometry``: maps of words at every layer with what they hide, and figures of each layer's space."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ....hooks import ActivationStore
from ...corpus import Corpus, read_conllu
from ...features.layout import Layout
from ...features.sites import layer_of, study_sites
from ...features.stored import read_or_run
from ...forecast import pass_seconds
from ...report.words import layer_label
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, digest
from ...subject import Subject
from ...tasks.properties import get_property
from . import export, maps, measures
from .lens import Lens, LensError, logit_lens, why_not
from .map_points import FEW, DrawnWords, norms_by_position
from .options import GeometryOptions

NEAR = 5
"""Neighbours of a word that the page tells."""
SHOWN = 2
"""Texts whose every layer the logit lens shows."""


def run(config: GeometryOptions) -> dict[str, Any]:
    """Run a study of geometry; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and what ``export`` names to ``config.out``; interrupted, it
    continues with the batch or the layer that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("geometry", config)
    methods, names = config.method or ("pca", "tsne"), config.property or ("upos",)
    maps.require(methods)
    export.require(config.export)
    corpus = read_conllu(config.corpus, config.limit)
    columns = {name: _column(name, corpus) for name in dict.fromkeys(names)}
    subject = this.load()
    places = study_sites(subject, config.site)
    other = _other(config) if config.compare else None
    hashes = {str(config.corpus): corpus.sha256}
    hashes |= {"compare": other.sha256} if other else {}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    words = DrawnWords(subject, other, corpus, config)
    plan = (
        f"{len(words.chosen):,} of {words.layout.n_rows:,} words at {len(places)} sites, maps by {', '.join(methods)}"
    )
    stored = len(words.chosen) * subject.d_model * len(places) * 4
    compared = len(places) + (len(study_sites(other, config.site)) if other else 0)
    held = 2 * stored + cka_bytes(compared, len(words.chosen))
    cost: dict[str, Any] = {"held": held, "disk": stored, "besides": "maps, neighbours and figures"}
    encoded = words.layout.encoded
    if (
        planned := this.plan(plan, **cost, seconds=lambda: pass_seconds(subject, encoded, config.batch_tokens))
    ) is not None:
        return planned
    vectors = _vectors(this, subject, corpus, words.layout, words.rows, places, "features")
    labels = {name: np.array([column[s][i] for s, i in words.chosen], dtype=object) for name, column in columns.items()}
    records, drawn = [], {}
    before: dict[str, np.ndarray] = {}
    with console.progress() as bars:
        bar = bars.add_task("maps", total=len(places))
        for number, site in enumerate(places):
            saved = this.folder.kept(
                f"map-{site}",
                lambda site=site, number=number, before=before: _layer(
                    site, number, vectors[site].astype(np.float64), labels, words.sentences, before, config
                ),
            )
            before = {method: np.array(points) for method, points in saved["maps"].items()}
            drawn[site], near = before, np.array(saved["near"], dtype=np.uint16)
            records.append({**saved["record"], "near": base64.b64encode(near.tobytes()).decode()})
            bars.advance(bar)
    norms = norms_by_position(subject, words.layout, places)
    for record in records:
        record |= norms[record["site"]]
    notes = words.notes(config)
    results: dict[str, Any] = {
        "records": [{k: v for k, v in r.items() if k != "near"} for r in records],
        "words": words.shown(labels),
        "maps": {
            method: [_packed(drawn[site][method]) for site in places]
            for method in (m for m in maps.METHODS if m in methods)
        },
        "near": [record["near"] for record in records],
        "cka": _similar(vectors),
        "notes": notes,
    }
    if other is not None:
        there = _vectors(
            this, other, corpus, words.other_layout, words.other_rows, study_sites(other, config.site), "other"
        )
        results["cka_between"] = {**_similar(vectors, there), "model": other.name}
        shutil.rmtree(config.out / "other", ignore_errors=True)
    if (reason := why_not(subject)) is None and config.lens:
        texts = words.layout.encoded[: config.lens]
        try:
            found = logit_lens(subject, texts)
            results["lens"] = {"records": found.records(config.seed), "texts": _lens_texts(subject, found, texts)}
        except LensError as error:
            notes.append({"kind": "skipped", "text": str(error)})
    elif config.lens:
        notes.append({"kind": "skipped", "text": f"logit lens: {reason}"})
    results["findings"] = _findings(results, next(iter(columns)))
    table = {"form": [corpus.sentences[s].words[i].form for s, i in words.chosen]}
    table |= {"sentence": [corpus.sentences[s].id for s, _ in words.chosen], "word": [i + 1 for _, i in words.chosen]}
    table |= {name: list(values) for name, values in labels.items()}
    export.write(config.export, config.out, table, vectors, drawn)
    results = this.finish(results, data=[data_record("corpus", config.corpus, len(corpus))])
    shutil.rmtree(config.out / "features", ignore_errors=True)
    return results


def _other(config: GeometryOptions) -> Subject:
    from ...subject import load

    return load(
        str(config.compare), dtype=config.dtype, device=config.device, bos=config.bos,
        body_only=True, trust_remote_code=config.trust_remote_code,
    )  # fmt: skip


def _column(name: str, corpus: Corpus) -> list[list[Any]]:
    """A property of every word; None where a word has none."""
    prop = get_property(name, corpus)
    if prop.level != "word" or prop.rewrite is not None:
        raise RunError(f"--property {name}: expected a property of words, it is one of a {prop.level}")
    return [list(prop.read(sentence, corpus)) for sentence in corpus.sentences]  # type: ignore[arg-type]


def _vectors(
    this: Run,
    subject: Subject,
    corpus: Corpus,
    layout: Layout,
    rows: Sequence[int],
    places: Sequence[str],
    name: str,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """The drawn words' vectors at each site; those of the other model are not in ``--store``."""
    config = this.config
    store = ActivationStore(
        config.out / name, {"run": digest({**this.identity, "features": name})}, dtype=torch.float32
    )
    where = config.store if name == "features" else None
    features = read_or_run(where, subject, [corpus], layout, places, store, config.pooling, config.batch_tokens)
    return {site: features.read(site)[torch.tensor(rows)].numpy() for site in places}


def _layer(
    site: str,
    number: int,
    vectors: Float[np.ndarray, "n d"],
    labels: dict[str, np.ndarray],
    sentences: np.ndarray,
    before: dict[str, np.ndarray],
    config: GeometryOptions,
) -> dict[str, Any]:
    """One layer's figures, neighbours and maps."""
    found = measures.components(vectors)
    record: dict[str, Any] = {
        "site": site,
        "layer": layer_of(site, number),
        "n": len(vectors),
        "explained": [float(x) for x in found.explained[:10]],
        "explained_2": float(found.explained[:2].sum()),
        "components_90": found.needed(),
        "anisotropy": measures.anisotropy(vectors),
        "anisotropy_centred": measures.anisotropy(vectors - vectors.mean(0)),
        "intrinsic_dimension": measures.intrinsic_dimension(vectors),
    }
    drawn = {}
    for method in config.method or ("pca", "tsne"):
        points = maps.draw(method, found, config.seed, config.perplexity)
        record[f"trust_{method}"] = maps.trustworthiness(vectors, points)
        drawn[method] = maps.aligned(points, before.get(method))
    for name, values in labels.items():
        have = np.array([isinstance(v, str) for v in values])
        if have.sum() < FEW or len(set(values[have])) < 2 or len(set(sentences[have])) < 2:
            continue
        counts = np.unique(values[have].astype(str), return_counts=True)[1]
        record[f"{name}:majority"] = float(counts.max() / counts.sum())
        for where, points in {"space": vectors, **drawn}.items():
            score = measures.separability(points[have], values[have].astype(str), sentences[have], seed=config.seed)
            record[f"{name}:{where}"] = score.value
            record[f"{name}:{where}_low"], record[f"{name}:{where}_high"] = score.low, score.high
    near = measures.nearest(vectors, NEAR)
    return {
        "record": record,
        "maps": {name: np.round(points, 4).tolist() for name, points in drawn.items()},
        "near": near.tolist(),
    }


def cka_bytes(clouds: int, words: int) -> int:
    """What CKA holds at a time: the clouds' Gram matrices, the same at length 1, and their squares on the way there."""
    return 3 * 8 * clouds * words**2


def _similar(
    a: dict[str, Float[np.ndarray, "n d"]], b: dict[str, Float[np.ndarray, "n d"]] | None = None
) -> dict[str, Any]:
    """CKA of every two layers."""
    grams = np.stack([measures.centred_gram(v) for v in a.values()])
    others = grams if b is None else np.stack([measures.centred_gram(v) for v in b.values()])
    found = measures.cka(grams, others)
    return {"rows": list(a), "columns": list(a if b is None else b), "values": np.round(found, 4).tolist()}


def _packed(points: Float[np.ndarray, "n 2"]) -> dict[str, Any]:
    """Coordinates as 16-bit numbers between the map's ends, base64."""
    low, high = points.min(), points.max()
    scaled = np.round((points - low) / max(high - low, 1e-12) * 65535).astype("<u2")
    return {"low": float(low), "high": float(high), "xy": base64.b64encode(scaled.tobytes()).decode()}


def _lens_texts(subject: Subject, lens: Lens, texts: Sequence[Any]) -> list[dict[str, Any]]:
    """The first texts, place by place: the tokens, and each layer's likeliest next token."""
    usable = [text for text in texts if len(text) > 1]
    out = []
    for number in sorted(range(len(usable)), key=lambda n: (not 6 <= len(usable[n]) <= 16, n))[:SHOWN]:
        at = np.flatnonzero(lens.texts == number)
        out.append(
            {
                "tokens": [subject.token(token) for token in usable[number].ids],
                "top": [[subject.token(int(t)) for t in row[at]] for row in lens.top],
                "p": [[round(float(p), 4) for p in row[at]] for row in lens.top_p],
                "rank": [[int(r) for r in row[at]] for row in lens.rank],
                "log2p": [[round(float(p), 3) for p in row[at]] for row in lens.log2p],
            }
        )
    return out


def _findings(results: dict[str, Any], name: str) -> list[dict[str, str]]:
    """What is worth saying first."""
    records = results["records"]
    dims = [r["intrinsic_dimension"] for r in records]
    top = int(np.argmax(dims))
    most = max(records, key=lambda r: r["anisotropy"])
    text = (
        f"The intrinsic dimension goes from {dims[0]:.1f} at the embedding to {dims[-1]:.1f} at the end, largest at "
        f"{records[top]['site']} ({dims[top]:.1f}). Directions are least evenly spread at {most['site']}: two words' mean "
        f"cosine is {most['anisotropy']:.2f}, {most['anisotropy_centred']:.2f} once the mean is taken away."
    )
    out = [{"property": "space", "text": text}]
    if f"{name}:space" in records[0]:
        best = max(records, key=lambda r: r[f"{name}:space"])
        told = ", ".join(f"{best[f'{name}:{m}']:.2f} on the {m} map" for m in results["maps"])
        out.append(
            {
                "property": name,
                "text": f"Nearest neighbours from other sentences tell {name} best at {best['site']}: {best[f'{name}:space']:.2f} "
                f"(95% {best[f'{name}:space_low']:.2f}-{best[f'{name}:space_high']:.2f}; most frequent class "
                f"{best[f'{name}:majority']:.2f}), {told}.",
            }
        )
    if lens := results.get("lens"):
        rows = lens["records"]
        half = next(i for i, r in enumerate(rows) if r["top1"] >= rows[-1]["top1"] / 2)
        out.append(
            {
                "property": "logit lens",
                "text": f"The model says the next token first in {rows[-1]['top1']:.0%} of places; half of that is reached at "
                f"layer {layer_label(rows[half]['layer'])}, where its mean log2 p is {rows[half]['log2p']:.1f} (at the end "
                f"{rows[-1]['log2p']:.1f}).",
            }
        )
    return out
