"""What heads look at."""

from __future__ import annotations

import re

from .reading import Groups, Raw, same, true


def head_roles(results: Raw, g: Groups, about: str) -> None:
    heads = results["records"]
    true(int(g["count"]) == sum(bool(r["role"]) for r in heads), "roles")
    true(int(g["of"]) == len(heads), "heads")
    true(int(g["sinks"]) == sum(r["first"] >= 0.5 for r in heads), "sinks")
    same(g["entropy"], sum(r["entropy"] for r in heads) / len(heads))


def strongest_head(results: Raw, g: Groups, about: str) -> None:
    top = max(results["records"], key=lambda r: r[g["role"]])
    true(g["head"] == f"L{top['layer']}H{top['index']}", "head")
    same(g["score"], top[g["role"]])


def parked(results: Raw, g: Groups, about: str) -> None:
    top = max(results["records"], key=lambda r: r["first"] - (r["norm_first"] or 0.0))
    true(g["head"] == f"L{top['layer']}H{top['index']}", "head")
    same(g["weight"], top["first"])
    same(g["share"], top["norm_first"])


def apart(results: Raw, g: Groups, about: str) -> None:
    effects = results["effects"]
    same(g["rho"], effects["spearman"]["confidence"])
    true(int(g["n"]) == effects["n"], "heads")
    true(int(g["sharp"]) == len(effects["sharp_unneeded"]), "sharp")
    true(int(g["diffuse"]) == len(effects["diffuse_needed"]), "diffuse")


def uniform_heads(results: Raw, g: Groups, about: str) -> None:
    records = results["checkpoints"]
    true(int(g["of"]) == len({(r["layer"], r["index"]) for r in records}), "heads")
    for count, step in re.findall(r"(\d+) at step (\d+)", g["steps"]):
        broad = sum(r["entropy"] >= 0.95 for r in records if r["step"] == int(step))
        true(int(count) == broad, "uniform heads")
        true(any(r["step"] == int(step) for r in records), "step")


def heads_that_follow(results: Raw, g: Groups, about: str) -> None:
    crossing = [r for r in results["records"] if r.get("stack") == "X"]
    places = [r["monotone"] or 0.0 for r in crossing]
    true(int(g["of"]) == len(crossing), "heads")
    true(int(g["count"]) == sum(place >= float(g["least"]) for place in places), "following")
    best = max(crossing, key=lambda r: r["monotone"] or 0.0)
    true(g["head"] == f"X{best['layer']}H{best['index']}", "head")
    same(g["best"], best["monotone"])


def frames_away(results: Raw, g: Groups, about: str) -> None:
    distances = [r["distance"] or 0.0 for r in results["records"] if r.get("stack") == "E"]
    same(g["distance"], sum(distances) / len(distances))


def behind_the_sound(results: Raw, g: Groups, about: str) -> None:
    shares = [r["end"] or 0.0 for r in results["records"] if r.get("stack") == "E"]
    true(int(g["of"]) == len(shares), "heads")
    true(int(g["count"]) == sum(share >= 0.5 for share in shares), "padding")


ATTEND = [
    (
        r"Cross-attention heads that follow the sound in time \(rank correlation of <least> or more\): <count> of <of>\. "
        r"The strongest is <head:X\d+H\d+>, with <best>\.",
        heads_that_follow,
    ),
    (r"In the encoder, a frame attends to frames <distance> s away on average\.", frames_away),
    (
        r"Heads that give at least half of their attention to the padding behind the sound: <count> of <of>\.",
        behind_the_sound,
    ),
    (
        r"Heads with a named role: <count> of <of>\. Heads that give at least half of their attention to the first token: <sinks>\. "
        r"The mean normalised entropy is <entropy>, where 1 is uniform attention\.",
        head_roles,
    ),
    (
        r"The strongest <role:induction|duplicate> head is <head:L\d+H\d+>, with <score> on repeated random tokens\.",
        strongest_head,
    ),
    (
        r"Attention is not contribution: <head:L\d+H\d+> gives <weight> of its attention to the first token, but only <share> of the "
        r"attended values' norm comes from there\.",
        parked,
    ),
    (
        r"The rank correlation between a head's confidence and the size of its effect on the \w+ is <rho> \(<n> heads\)\. In the most "
        r"confident quarter, heads without a significant effect: <sharp>\. In the least confident quarter, heads with one: <diffuse>\.",
        apart,
    ),
    (
        r"Heads that attend uniformly \(entropy 0\.95 or more\), of <of>: <steps:\d+ at step \d+(?:, \d+ at step \d+)*>\.",
        uniform_heads,
    ),
]
