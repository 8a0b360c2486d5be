"""The probing study against a plain script: the joint solve against scikit-learn, and the whole
against the whole.

    python benchmarks/study.py --model MODEL_FOLDER --ud UD_FOLDER [--sentences 3000] \
        [--layers 0 1 2 3 4 5 6]

The plain side is what one would write: transformers with output_hidden_states, batches of 32 in
corpus order, a word's vector the mean of its tokens, then a loop of scikit-learn's StandardScaler
and LogisticRegression (lbfgs, tol 1e-4) over layers, properties and control tasks. Both sides solve
the same targets at the same penalty on the same float32 features; every objective is computed again
in float64, and ours must be no worse on any target.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.features.layout import Layout, extract
from layerscope.experiments.features.sites import study_sites
from layerscope.experiments.subject import load
from layerscope.experiments.subject.word_spans import word_spans
from layerscope.probes.controls import control_labels
from measure import machine, ratio
from sklearn.linear_model import LogisticRegression

from layerscope import ActivationStore, Design, fit_many

SEEDS = 5


def targets(sentences):
    words = [w for s in sentences for w in s.words]
    types = [w.form for w in words]
    made = {}
    for name in ("upos", "deprel"):
        made[name] = np.array([getattr(w, name) for w in words], dtype=object)
        for seed in range(SEEDS):
            made[f"{name}-control-{seed}"] = control_labels(types, made[name], seed)
    return made


def plain_features(subject, sentences, size=32):
    """Hidden states word by word, as a script would: corpus order, right padding, all layers."""
    encoded = subject.encode([s.text for s in sentences])
    layers = None
    for start in range(0, len(sentences), size):
        part, texts = encoded[start : start + size], sentences[start : start + size]
        length = max(len(e) for e in part)
        ids = torch.zeros(len(part), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, e in enumerate(part):
            ids[i, : len(e)] = torch.tensor(e.ids)
            mask[i, : len(e)] = 1
        with torch.inference_mode():
            hidden = subject.body(
                input_ids=ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states
        layers = [[] for _ in hidden] if layers is None else layers
        for i, (e, s) in enumerate(zip(part, texts, strict=True)):
            for span in word_spans(e, [(w.start, w.end) for w in s.words]):
                for layer, states in zip(layers, hidden, strict=True):
                    layer.append(states[i, span].mean(0))
    return [torch.stack(layer) for layer in layers]


def our_features(subject, sentences, folder):
    layout = Layout.of(subject, sentences)
    places = study_sites(subject, "hook_resid_post")
    store = ActivationStore(folder, {"run": "benchmark"}, dtype=torch.float32)
    extract(subject, layout, places, store)
    return [store.read(site) for site in places]


def objective(X, y, classes, coef, intercept, l2):
    """Sum of cross-entropies plus l2/2 |W|^2 on standardised X, float64."""
    total = 0.0
    index = np.searchsorted(classes, y)
    for start in range(0, len(X), 8192):
        logits = X[start : start + 8192].astype(np.float64) @ coef.T + intercept
        logits -= logits.max(1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        total -= logp[np.arange(len(logp)), index[start : start + 8192]].sum()
    return total + l2 / 2 * (coef**2).sum()


def solve_layer(layer, X, made, given):
    """Both solves of a layer, in turns: seconds of ours, of theirs, and by how much our objectives
    exceed theirs, relative.
    """
    mean, scale = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    scale[scale == 0] = 1
    Z = ((X - mean) / scale).astype(np.float32)
    theirs, fits, our_times, other = {}, {}, [], 0.0
    for i, (name, y) in enumerate(made.items()):
        # in turns, so that both sides meet the machine's good and bad minutes; the mean counts
        if i % 4 == 0:
            start = time.perf_counter()
            fits = fit_many(Design(X, device=given.device), made, given.l2, tol=given.tol)
            our_times.append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs[name] = LogisticRegression(C=1 / given.l2, tol=1e-4, max_iter=10_000).fit(
            Z, y.astype(str)
        )
        other += time.perf_counter() - start
    span, ours = f"{min(our_times):.1f} to {max(our_times):.1f}", float(np.mean(our_times))
    gaps = []
    for name, y in made.items():
        peer, y = theirs[name], y.astype(str)
        reached = objective(
            Z, y, peer.classes_, peer.coef_.astype(np.float64), peer.intercept_, given.l2
        )
        fit = fits[name]
        coef = np.asarray(fit.coef) * scale
        intercept = np.asarray(fit.intercept) + np.asarray(fit.coef) @ mean
        gaps.append(
            objective(Z, y, fit.classes.astype(str), coef, intercept, given.l2) / reached - 1
        )
    print(
        f"layer {layer}: joint solve {ours:.1f} s ({span}), scikit-learn {other:.1f} s: "
        f"{other / ours:.1f}x; our objective less theirs, relative: {min(gaps):.1e} to "
        f"{max(gaps):.1e}; all converged: {all(f.converged for f in fits.values())}",
        flush=True,
    )
    return ours, other, gaps


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--ud", type=Path, required=True, help="folder of UD English-EWT")
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument(
        "--layers", type=int, nargs="*", help="solve these layers only (default: all)"
    )
    parser.add_argument(
        "--solve-only", action="store_true", help="time the solves alone, both on our features"
    )
    parser.add_argument("--l2", type=float, default=100.0)
    parser.add_argument("--tol", type=float, default=1e-5, help="relative error of our objective")
    parser.add_argument("--device", default=None, help="where our solve runs")
    return parser.parse_args()


def main():
    given = arguments()
    warnings.simplefilter("ignore")
    print(machine())
    sentences = list(read_conllu(given.ud / "en_ewt-ud-train.conllu", limit=given.sentences))
    subject = load(given.model, body_only=True)
    made = targets(sentences)
    seconds = dict.fromkeys(("ours features", "plain features"), 0.0)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ours = our_features(subject, sentences, Path(folder) / "store")
        seconds["ours features"] = time.perf_counter() - start
    if given.solve_only:
        plain = ours
    else:
        start = time.perf_counter()
        plain = plain_features(subject, sentences)
        seconds["plain features"] = time.perf_counter() - start
        drift = max(float((a - b).abs().max()) for a, b in zip(ours, plain, strict=True))
        print(
            f"features: {len(ours[0]):,} words x {ours[0].shape[1]}, {len(ours)} layers; "
            f"ours {seconds['ours features']:.1f} s, plain {seconds['plain features']:.1f} "
            f"s; largest difference {drift:.1e}",
            flush=True,
        )
    del ours

    worst, layers = -np.inf, given.layers or range(len(plain))
    solves: dict[str, list[float]] = {"ours": [], "plain": []}  # the layers are the paired runs
    for layer in layers:
        ours, other, gaps = solve_layer(layer, plain[layer].numpy(), made, given)
        solves["ours"].append(ours)
        solves["plain"].append(other)
        worst = max(worst, *gaps)
    ours, plain_solves = sum(solves["ours"]), sum(solves["plain"])
    print(
        f"joint solve: {ours:.1f} s against {plain_solves:.1f} s: "
        f"{plain_solves / ours:.1f}x; layer by layer "
        f"{ratio(solves['plain'], solves['ours'])}; objective no worse on any target: "
        f"{worst <= 0} ({worst:.1e})"
    )
    if len(list(layers)) == len(plain) and not given.solve_only:
        each = {
            name: [t + seconds[f"{name} features"] / len(plain) for t in taken]
            for name, taken in solves.items()
        }
        a, b = sum(each["ours"]), sum(each["plain"])
        print(
            f"whole study: {a:.1f} s against {b:.1f} s: {b / a:.1f}x; "
            f"layer by layer {ratio(each['plain'], each['ours'])}"
        )


if __name__ == "__main__":
    main()
