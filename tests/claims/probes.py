"""Linear probes, scalar mixes and structural probes."""

from __future__ import annotations

import math

from .reading import Groups, Raw, ends, same, true


def label(record: Raw) -> str:
    return "emb" if record["layer"] < 0 else str(record["layer"])


def decodable(results: Raw, g: Groups, about: str) -> None:
    records = [r for r in results["records"] if r["property"] == about]
    top = max(records, key=lambda r: r["score"])
    true(g["metric"] == {"r2": "R2"}.get(top["metric"], top["metric"]), "metric")
    true(g["first_layer"] == place_of(records[0]), "first layer")
    same(g["first"], records[0]["score"])
    same(g["best"], top["score"])
    ends(g, top["score_interval"])
    true(g["last_layer"] == place_of(records[-1]), "last layer")
    same(g["last"], records[-1]["score"])
    names = [label(r) for r in records]
    shown: set[str] = set()
    for part in (g["layers"] or "emb").split(", "):
        first, _, last = part.partition("–")
        shown |= set(names[names.index(first) : names.index(last or first) + 1])
    true(shown == {label(r) for r in records if r["best"]}, "best layers")


def place_of(record: Raw) -> str:
    return "the embeddings" if record["layer"] < 0 else f"layer {record['layer']}"


def top_of(results: Raw, about: str) -> Raw:
    return max((r for r in results["records"] if r["property"] == about), key=lambda r: r["score"])


def not_above(results: Raw, g: Groups, about: str) -> None:
    top = top_of(results, about)
    least = 0.0 if top["metric"] == "r2" else top["majority"]
    same(g["value"], least)
    ends_of = top["score_interval"]
    true(ends_of is None or ends_of["low"] <= least, "it is above")


def of_types(results: Raw, g: Groups, about: str) -> None:
    top = top_of(results, about)
    same(g["value"], top["type_majority"])
    least = 0.0 if top["metric"] == "r2" else top["majority"]
    doubt = top["score_interval"] is None or top["score_interval"]["low"] <= least
    text = next(f["text"] for f in results["findings"] if f["property"] == about)
    true(("not significantly above" in text) == doubt, "a doubt that is missing")


def of_distances(results: Raw, g: Groups, about: str) -> None:
    same(g["value"], top_of(results, about)["distance_majority"])


def selective(results: Raw, g: Groups, about: str) -> None:
    top = top_of(results, about)
    same(g["value"], top["selectivity"])
    ends(g, top["selectivity_interval"])
    same(g["control"], top["control"])
    true(math.isclose(top["selectivity"], top["score"] - top["control"], abs_tol=1e-9))


def untrained(results: Raw, g: Groups, about: str) -> None:
    same(g["value"], top_of(results, about)["random_model"])


def mixed(results: Raw, g: Groups, about: str) -> None:
    mix = next(m for m in results["mixes"] if m["property"] == about)
    layers = range(-1, len(mix["mix"]) - 1)
    centre = sum(layer * w for layer, w in zip(layers, mix["mix"], strict=True))
    same(g["centre"], centre)
    same(g["more"], mix["headroom"])
    same(g["more"], mix["cumulative"][-1] - mix["cumulative"][0])
    same(g["layer"], mix["expected_layer"])
    ends(g, mix["expected_layer_interval"])
    true(mix["headroom_interval"]["low"] > 0, "further layers add nothing")
    true(not mix["margin_interval"] or mix["margin_interval"]["high"] >= 0, "it was not trained")


def of_trees(results: Raw, g: Groups, about: str) -> None:
    trees = results["trees"]
    top = max(trees, key=lambda r: r["uuas"])
    true(g["layer"] == label(top), "layer")
    for name, value in (
        ("rank", top["rank"]),
        ("uuas", top["uuas"]),
        ("embeddings", trees[0]["uuas"]),
        ("chain", top["chain_uuas"]),
        ("random", top["random_uuas"]),
        ("root", top["root_accuracy"]),
    ):
        same(g[name], value, name)
    ends(g, top["uuas_interval"])


def over_seeds(results: Raw, g: Groups, about: str) -> None:
    spread = next(s for s in results["seeds"] if s["property"] == about)
    labels = {r["site"]: label(r) for r in results["records"]}
    true(int(g["count"]) == len(spread["seeds"]), "seeds")
    true(g["layers"].split(", ") == [labels[site] for site in spread["best"]], "best layers")
    same(g["mean"], spread["mean"])
    same(g["sd"], spread["sd"])


PROBE = [
    (
        r"\S+: the <metric:accuracy|R2> of linear probes is highest at (?:the embeddings|layers? <layers:[\w–, ]+?>) \(<best>(?:, "
        r"95% CI <low> to <high>)?\)\. It is <first> at <first_layer:the embeddings|layer \d+>, the first that was read, and <last> at "
        r"<last_layer:the embeddings|layer \d+>, the last\.",
        decodable,
    ),
    (
        r"The highest is not significantly above (?:the most frequent class|a constant guess) \(<value>\)\.",
        not_above,
    ),
    (r"Guessing each word type's most frequent (?:label|value) gives <value>\.", of_types),
    (r"Guessing from the distance between the two words gives <value>\.", of_distances),
    (
        r"Selectivity at the best layer is <value>(?:, 95% CI <low> to <high>)?; the control task reaches <control>\.",
        selective,
    ),
    (r"The same layer of a random-weight model gives <value>\.", untrained),
    (
        r"\S+: a probe that reads all layers has its centre of gravity at layer <centre> \(the embedding layer is -1\)\. Blocks add "
        r"<more> to the embedding layer's score, on average at layer <layer>(?:, 95% CI <low> to <high>)?\.",
        mixed,
    ),
    (
        r"tree: structural probes of rank <rank> work best at layer <layer:\w+>, where they recover <uuas> of the undirected "
        r"edges(?: \(95% CI <low> to <high>\))?\. The first layer read gives <embeddings>, and linking each word to the next gives "
        r"<chain>\. The same layer of a random-weight model gives <random>\. The root is found in <root> of the sentences\.",
        of_trees,
    ),
    (
        r"\S+: the best layers of <count> seeds are <layers:[\w, ]+>\. At this run's best layer, the mean score is <mean> \(standard "
        r"deviation <sd>\)\.",
        over_seeds,
    ),
]
