"""Calibration, and the words that a model names as its reasons."""

from __future__ import annotations

import re

from .reading import LEVEL, Groups, Raw, ends, same, true

# -- confidences


def method(results: Raw, about: str) -> Raw:
    return next(r for r in results["records"] if r["method"] == about)


def holm(results: Raw, about: str) -> float:
    """The method's corrected p, by hand: over all methods in the order of their p."""
    tested = [r for r in results["records"] if r.get("ece_p") is not None]
    ordered = sorted(tested, key=lambda r: r["ece_p"])
    worst = 0.0
    for rank, record in enumerate(ordered):
        worst = max(worst, min(1.0, (len(ordered) - rank) * record["ece_p"]))
        if record["method"] == about:
            break
    return worst


def accuracy(results: Raw, g: Groups, about: str) -> None:
    record = method(results, about)
    same(g["accuracy"], record["accuracy"])
    ends(g, record["accuracy_interval"])
    same(g["n"], record["n"])
    same(g["confidence"], record["confidence"])
    same(g["ece"], record["ece"])
    ends(g, record["ece_interval"], "elow", "ehigh")
    same(g["chance"], record["ece_chance"])


def verdict(results: Raw, g: Groups, about: str) -> None:
    record = method(results, about)
    true(g["name"] == about, "method")
    p, over = holm(results, about), record["overconfidence_interval"]
    if g["p"]:
        same(g["p"], p)
    else:
        true(p < 0.001, "p")
    words = g["verdict"]
    true(words.startswith("not") == (p >= LEVEL), "significance")
    if p < LEVEL:
        side = "over" if over["low"] > 0 else "under" if over["high"] < 0 else "neither"
        true(side in words, "side")
    if by := re.search(r"by (\d\.\d+)", words):
        same(by[1], abs(record["overconfidence"]))


def ranked(results: Raw, g: Groups, about: str) -> None:
    record = method(results, about)
    same(g["auroc"], record["auroc"])
    ends(g, record["auroc_interval"])


def unmeasured(results: Raw, g: Groups, about: str) -> None:
    record = method(results, about)
    true(not record["measured"], "measured")
    same(g["answered"], record["n_answered"])
    same(g["n"], record["n"])


def unanswered(results: Raw, g: Groups, about: str) -> None:
    record = method(results, about)
    same(g["silent"], record["n"] - record["n_answered"])
    same(g["n"], record["n"])


def between_groups(results: Raw, g: Groups, about: str) -> None:
    records = [r for r in results["group_differences"] if r["by"] == about]
    true(int(g["of"]) == len(records), "of how many")
    p = sorted(r["p"] for r in records if r["p"] is not None)
    corrected = 0.0
    count = 0
    for rank, value in enumerate(p):
        corrected = max(corrected, (len(p) - rank) * value)
        count += corrected < LEVEL
    true(int(g["count"]) == count, "how many are significant")


CONFIDENCE = [
    (
        r"<name:[\w ]+>: <verdict:not significantly miscalibrated|significantly miscalibrated, (?:(?:over|under)confident by "
        r"\d\.\d+|but on average neither significantly overconfident nor underconfident)> \(p (?:= <p>|< 0\.001)\)\.",
        verdict,
    ),
    (
        r"The accuracy is <accuracy> \((?:95% CI <low> to <high>, )?n = <n>\) and the mean confidence <confidence>\. The ECE is <ece>"
        r"(?: \(<elow> to <ehigh>\))?; a perfectly calibrated model with these confidences would have <chance> by chance\.",
        accuracy,
    ),
    (
        r"A right answer is more confident than a wrong one in <auroc> of pairs(?: \(<low> to <high>\))?\.",
        ranked,
    ),
    (
        r"[\w ]+: only <answered> of <n> answers gave a confidence, too few to measure\.",
        unmeasured,
    ),
    (r"<silent> of <n> answers gave no confidence\.", unanswered),
    (
        r"\w+: significant differences between groups \(Holm\): <count> of <of>\.",
        between_groups,
    ),
]


# -- asking for reasons


def named_words(results: Raw, g: Groups, about: str) -> None:
    named, drawn, _ = results["records"]
    same(g["effect"], named["effect"])
    ends(g, named["effect_interval"])
    same(g["n"], named["n"])
    same(g["of"], len(results["prompts"]))
    same(g["random"], drawn["effect"])
    same(g["over"], named["over_random"])
    ends(g, named["over_random_interval"], "olow", "ohigh")
    true((named["p"] is None) == (not g["p"]), "tested")
    if g["p"]:
        # Holm's correction of two: the smaller doubled, the larger at least as large.
        ordered = sorted([named, results["records"][2]], key=lambda r: r["p"])
        smallest = min(1.0, 2 * ordered[0]["p"])
        same(g["p"], smallest if ordered[0] is named else max(smallest, named["p"]))
    else:
        true(int(g["groups"]) == named["n_clusters"] < int(g["least"]) == 6, "groups")
    tested = [p for p in results["prompts"] if p["named_effect"] is not None]
    means = [sum(p[f"{kind}_effect"] for p in tested) / len(tested) for kind in ("named", "random")]
    same(g["effect"], means[0])
    same(g["random"], means[1])


def matter(results: Raw, g: Groups, about: str) -> None:
    named = results["records"][0]
    interval = named["over_random_interval"]
    is_significant = named["p_holm"] < LEVEL and not interval["low"] <= 0 <= interval["high"]
    true(bool(g["no"]) == (not is_significant), "significance")


ASK = [
    *CONFIDENCE,
    (
        r"named words: removing them lowers the answer by <effect> \w+ \((?:95% CI <low> to <high>; )?<n> of <of> prompts\)\. Removing "
        r"as many random words lowers it by <random>, a difference of <over>(?: \(95% CI <olow> to <ohigh>, p = <p> after Holm's "
        r"correction\)\.|\. The difference cannot be tested: <groups> groups? of prompts, and a test at 5% needs <least>\.)",
        named_words,
    ),
    (
        r"The words that the model names <no:do not |>matter significantly more than random words\.",
        matter,
    ),
]
