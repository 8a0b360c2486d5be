"""Probing methods against public peers on the same data: LEACE, sparse probes, online code length.

    python benchmarks/probes.py leace [--rows 100000] [--width 768]
    python benchmarks/probes.py sparse [--rows 10000] [--width 3072]
    python benchmarks/probes.py code --model MINILM --ud FOLDER [--sentences 1000]

leace   fit of a binary concept, against `concept-erasure` (LeaceFitter), in float32; the largest
        difference of a transformed row
sparse  a sweep of k, against TransformerLens's `sweep_sparse_probe`, on the same split (both take
        it out of the rows), as wide as GPT-2-small's MLP and as its residual stream, alone and with
        its band of random neurons; F1 of both
code    online code of 7 layers x (1 task + 5 control tasks), against a loop of scikit-learn's
        LogisticRegression over the same blocks at the same penalty; the bits of both
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.subject import load
from layerscope.probes.controls import control_labels
from measure import alternate, once, ratio, start

from layerscope import Leace, online_code, sparse_sweep


def concept(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of which a few directions carry a binary label."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(width, width)).astype(np.float32) / width**0.5
    X = rng.normal(size=(rows, width)).astype(np.float32)
    y = (X[:, :3].sum(1) + rng.normal(size=rows) > 0).astype(int)
    X[:, 7] += 0.8 * y
    return X @ mix, y


def leace(given):
    from concept_erasure import LeaceFitter

    X, y = concept(given.rows, given.width)
    rows, z = torch.from_numpy(X), torch.nn.functional.one_hot(torch.from_numpy(y), 2)

    def theirs():
        return LeaceFitter.fit(rows, z, shrinkage=False).eraser

    taken = alternate(given.repeats, ours=lambda: Leace().fit(X, y), peer=theirs)
    after = Leace().fit(X, y).transform(X)
    apart = float(np.abs(theirs()(rows).numpy() - after).max())
    gap = [
        float(np.abs(a[y == 1].mean(0) - a[y == 0].mean(0)).max())
        for a in (after, theirs()(rows).numpy())
    ]
    print(
        f"LEACE fit, {given.rows:,} x {given.width}: concept-erasure "
        f"{np.median(taken['peer']):.2f} s, ours {np.median(taken['ours']):.2f} s: "
        f"{ratio(taken['peer'], taken['ours'])}; largest difference {apart:.1e}; "
        f"class-mean gap left: ours {gap[0]:.1e}, theirs {gap[1]:.1e}"
    )


def sparse(given):
    for width, n_random in itertools.product(
        (given.width,) if given.width else (3072, 768), (0, 20)
    ):
        one_sparse(given, width, n_random)


def one_sparse(given, width, n_random):
    from transformer_lens.tools.analysis.sparse_probing import sweep_sparse_probe

    X, y = concept(given.rows, width)
    features, labels, ks = torch.from_numpy(X), torch.from_numpy(y), (1, 2, 4, 8, 16, 32, 64)

    def theirs():
        same = {"preprocess": "standardize", "l2_strength": 1e-2}
        return sweep_sparse_probe(
            features, labels, ks=ks, n_random_subsets=n_random, **same
        ).results

    peer = theirs()
    train, test = (np.asarray(getattr(peer[0], name)) for name in ("train_indices", "test_indices"))

    def ours():
        return sparse_sweep(
            *(X, y, X, y, ks),
            ranking="mean_difference",
            n_random=n_random,
            n_rotations=0,
            train=train,
            test=test,
        )

    taken = alternate(given.repeats, ours=ours, peer=theirs)
    print(
        f"sparse probes, {given.rows:,} x {width}, k {ks}, {n_random} draws of random "
        f"neurons: TransformerLens {np.median(taken['peer']):.3f} s, ours "
        f"{np.median(taken['ours']):.3f} s: {ratio(taken['peer'], taken['ours'])}; "
        f"F1 theirs {[round(float(r.metrics.f1), 3) for r in peer]}, "
        f"ours {[round(r['f1'], 3) for r in ours()]}",
        flush=True,
    )


def code(given):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from study import our_features

    sentences = list(read_conllu(given.ud / "en_ewt-ud-train.conllu", limit=given.sentences))
    with tempfile.TemporaryDirectory() as folder:
        features = [
            X.numpy()
            for X in our_features(load(given.model, body_only=True), sentences, Path(folder))
        ]
    tags = np.array([w.upos for s in sentences for w in s.words], dtype=object)
    words = [w.form for s in sentences for w in s.words]
    owners = np.repeat(np.arange(len(sentences)), [len(s.words) for s in sentences])
    targets = {"upos": tags} | {
        f"control {seed}": control_labels(words, tags, seed) for seed in range(5)
    }
    l2 = 100.0
    ends = online_code(features[0][:, :1], {"upos": tags}, owners, l2=1e6, tol=1e-1)["upos"].ends

    def ours(X):
        return [code_length.bits for code_length in online_code(X, targets, owners, l2=l2).values()]

    def theirs(X):
        bits = []
        turn = np.random.default_rng(0).permutation(int(owners.max()) + 1)
        position = np.empty_like(turn)
        position[turn] = np.arange(len(turn))
        order = np.argsort(position[owners], kind="stable")
        for given_labels in targets.values():
            labels = np.asarray(given_labels)[order]
            classes = np.unique(labels)
            total = ends[0] * np.log2(len(classes))
            for begin, end in itertools.pairwise(ends):
                scale = StandardScaler().fit(X[order[:begin]])
                model = LogisticRegression(C=1 / l2, tol=1e-4, max_iter=1000)
                model.fit(scale.transform(X[order[:begin]]), labels[:begin])
                p = np.zeros((end - begin, len(classes)))
                p[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(
                    scale.transform(X[order[begin:end]])
                )
                gold_probabilities = p[
                    np.arange(end - begin), np.searchsorted(classes, labels[begin:end])
                ]
                escape = 1 / (begin + 1)
                total -= np.log2((1 - escape) * gold_probabilities + escape / len(classes)).sum()
            bits.append(total)
        return bits

    taken, apart = {"ours": [], "peer": []}, 0.0
    # the layers are the paired runs, each side first in every other one
    for number, X in enumerate(features):
        sides = {"ours": lambda X=X: ours(X), "peer": lambda X=X: theirs(X)}
        order = dict(sorted(sides.items(), reverse=bool(number % 2)))
        seconds, bits_by_side = once(lambda: None, **order)
        for name, each in taken.items():
            each.append(seconds[name])
        apart = max(
            apart,
            *(
                abs(a / b - 1)
                for a, b in zip(bits_by_side["ours"], bits_by_side["peer"], strict=True)
            ),
        )
    whole = {name: sum(each) for name, each in taken.items()}
    print(
        f"online code, {len(features)} layers x {len(targets)} targets, {len(tags):,} "
        f"words: scikit-learn {whole['peer']:.0f} s, ours {whole['ours']:.0f} s: "
        f"{whole['peer'] / whole['ours']:.1f}x; layer by layer "
        f"{ratio(taken['peer'], taken['ours'])}; largest difference of a "
        f"code length {apart:.1%}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("leace", "sparse", "code"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model")
    parser.add_argument("--ud", type=Path, help="folder of UD English-EWT")
    parser.add_argument("--sentences", type=int, default=1000)
    given = parser.parse_args()
    if given.what == "leace":
        given.width = given.width or 768
    given.rows = given.rows or {"leace": 100_000, "sparse": 10_000}.get(given.what)
    start()
    {"leace": leace, "sparse": sparse, "code": code}[given.what](given)


if __name__ == "__main__":
    main()
