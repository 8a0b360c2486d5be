"""Geometry of vectors, and lenses on layers."""

from __future__ import annotations

import re

from .reading import NUMBER, Groups, Raw, ends, same, true
from .sweeps import DOUBTED, doubted

# -- geometry


def space(results: Raw, g: Groups, about: str) -> None:
    records = results["records"]
    widest = max(records, key=lambda r: r["intrinsic_dimension"])
    narrowest = max(records, key=lambda r: r["anisotropy"])
    same(g["first"], records[0]["intrinsic_dimension"])
    same(g["last"], records[-1]["intrinsic_dimension"])
    true(g["widest"] == widest["site"], "widest")
    same(g["dimension"], widest["intrinsic_dimension"])
    true(g["narrowest"] == narrowest["site"], "narrowest")
    same(g["cosine"], narrowest["anisotropy"])
    same(g["centred"], narrowest["anisotropy_centred"])


def neighbours(results: Raw, g: Groups, about: str) -> None:
    def of(record: Raw) -> float:
        return record["separability"][about]["places"]["space"]["accuracy"]

    best = max(results["records"], key=of)
    told = best["separability"][about]
    in_space = told["places"]["space"]
    true(g["site"] == best["site"], "site")
    same(g["accuracy"], in_space["accuracy"])
    ends(g, in_space["accuracy_interval"])
    same(g["majority"], told["majority"])
    doubted(g, in_space["accuracy_interval"], told["majority"])
    for value, name in re.findall(rf"({NUMBER}) on the (PCA|t-SNE|UMAP) map", g["maps"]):
        method = name.lower().replace("-", "")
        same(value, told["places"][method]["accuracy"])


def next_token(results: Raw, g: Groups, about: str) -> None:
    records = results["lens"]["records"]
    last = records[-1]
    half = next(r for r in records if r["top1"] >= last["top1"] / 2)
    same(g["top1"], last["top1"])
    true(g["layer"] == ("emb" if half["layer"] < 0 else str(half["layer"])), "layer")
    same(g["log2p"], half["log2p"])
    same(g["end"], last["log2p"])


GEOMETRY = [
    (
        r"The intrinsic dimension is <first> at the first site and <last> at the last, with a maximum of <dimension> at <widest:\S+>\. "
        r"Anisotropy is highest at <narrowest:\S+>: two words have a mean cosine of <cosine> there, and of <centred> after centring\.",
        space,
    ),
    (
        r"Nearest neighbours from other sentences predict \S+ best at <site:\S+>, with an accuracy of <accuracy> \(95% CI <low> to "
        rf"<high>; most frequent class <majority>{DOUBTED}\)\. The accuracy is <maps:.* map>\.",
        neighbours,
    ),
    (
        r"The model predicts the next token correctly at <top1> of positions\. Half of that is reached at layer <layer:\w+>, where the "
        r"token's mean log2 probability is <log2p> \(<end> at the last layer\)\.",
        next_token,
    ),
]


# -- lenses


def half_way(results: Raw, g: Groups, about: str) -> None:
    rows = [r for r in results["layers"] if r["kind"] == g["kind"]]
    middle, last = rows[len(rows) // 2], rows[-1]
    for name, row in (("middle", middle), ("last", last)):
        true(g[name] == ("emb" if row["layer"] < 0 else str(row["layer"])), "layer")
        same(g[f"kl_{name}"], row["kl"])
        same(g[f"agree_{name}"], row["agreement"])
    ends(g, middle["kl_interval"])


def likeliest(results: Raw, g: Groups, about: str) -> None:
    text = int(g["text"]) - 1
    last = len(results["texts"][text]["tokens"]) - 1
    rows = [r for r in results["records"] if (r["text"], r["position"]) == (text, last)]
    answer = next(r for r in rows if r["kind"] == "model")["top"][0]["token"]
    true(g["answer"] == repr(answer), "prediction")
    steps = [r for r in rows if r["kind"] in (g["kind"], "model")]
    first = next(
        i for i in range(len(steps)) if all(r["top"][0]["token"] == answer for r in steps[i:])
    )
    layer = steps[first]["layer"]
    true(g["layer"] == ("emb" if layer < 0 else str(layer)), "layer")


DIRECT = {
    "head": "L{layer}H{index}",
    "neuron": "L{layer}N{index}",
    "position": "L{layer} position {index}",
    "mlp": "L{layer} MLP",
    "attention": "L{layer} attention",
}


def direct(results: Raw, g: Groups, about: str) -> None:
    number = int(g["text"]) - 1
    text = results["texts"][number]
    same(g["logit"], text["logit"])
    true(g["target"] == repr(text["target"]), "target")
    named = [
        r
        for r in results["contributions"]
        if r["text"] == number and (r["component"] in DIRECT or r["component"] == "embedding")
    ]
    top = sorted(named, key=lambda r: -abs(r["logit"]))[:5]
    shown = re.findall(rf"(\w[\w ]*?) \(({NUMBER})\)", g["list"])
    true(len(shown) == len(top), "how many")
    for (name, value), record in zip(shown, top, strict=True):
        true(name == DIRECT.get(record["component"], "embedding").format(**record), name)
        same(value, record["logit"])


def copies(results: Raw, g: Groups, about: str) -> None:
    top = sorted(results["circuits"], key=lambda r: -r["ov_share"])[:5]
    shown = re.findall(rf"(L\d+H\d+) \(({NUMBER})\)", g["list"])
    true([name for name, _ in shown] == [f"L{r['layer']}H{r['head']}" for r in top], "heads")
    for (_, value), record in zip(shown, top, strict=True):
        same(value, record["ov_share"])


def compositions(results: Raw, g: Groups, about: str) -> None:
    records = results["compositions"]
    shown = re.findall(rf"L(\d+)H(\d+) to (\w) of L(\d+)H(\d+) \(({NUMBER})\)", g["list"])
    true(len(shown) == len({r["mode"] for r in records}), "modes")
    for layer, head, mode, to_layer, to_head, value in shown:
        top = max((r for r in records if r["mode"] == mode), key=lambda r: r["score"])
        place = tuple(
            top[name] for name in ("writer_layer", "writer_head", "reader_layer", "reader_head")
        )
        true(place == tuple(map(int, (layer, head, to_layer, to_head))), "heads")
        same(value, top["score"])
    same(g["baseline"], records[0]["baseline"])


LENS = [
    (
        r"<kind:[\w-]+>: halfway through, at layer <middle:\w+>, the lens has the model's own top token for <agree_middle> of tokens, and "
        r"its predictions differ from the model's by <kl_middle> bits per token(?: \(95% CI <low> to <high>\))?\. At layer <last:\w+>, "
        r"the figures are <agree_last> and <kl_last> bits\.",
        half_way,
    ),
    (
        r"text <text>: the model predicts <answer:'.*?'>, which is the top token of the <kind:[\w-]+> lens from layer <layer:\w+> on\.",
        likeliest,
    ),
    (
        r"text <text>: the logit of <target:'.*?'>(?: minus that of '.*?')? is <logit>\. The largest direct contributions are "
        r"<list:.*\)>\.",
        direct,
    ),
    (
        r"By their weights, the heads that copy tokens most are <list:.*?\)>; 1 is pure copying \(eigenvalues of OV\)\.",
        copies,
    ),
    (
        r"The strongest compositions are <list:.*?>; unrelated matrices give about <baseline>\.",
        compositions,
    ),
]
