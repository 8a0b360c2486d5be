"""Attributions of texts, captured stores, and examinations of a model."""

from __future__ import annotations

import re

from .reading import NUMBER, FalseClaim, Groups, Raw, same, true

# -- attribution


def largest_scores(results: Raw, g: Groups, about: str) -> None:
    of_method = [r for r in results["records"] if r["method"] == g["method"]]
    shown = re.findall(rf"'([^']*)' \(({NUMBER})\)", g["list"])
    for record in of_method:
        order = sorted(range(len(record["units"])), key=lambda i: -abs(record["scores"][i]))[:3]
        names = [record["units"][i] for i in order]
        is_named = record["target"] == g["target"]
        if is_named and names == [name for name, _ in shown]:
            same(g["value"], record["value"])
            true(g["unit"] == record["unit"], "unit")
            for (_, score), i in zip(shown, order, strict=True):
                same(score, record["scores"][i])
            return
    raise FalseClaim("no text has these units")


def costs(results: Raw, g: Groups, about: str) -> None:
    losses: dict[str, list[float]] = {}
    for record in results["records"]:
        losses.setdefault(record["method"], []).append(record["comprehensiveness"])
    means = {name: sum(values) / len(values) for name, values in losses.items()}
    drawn = [r for r in results["records"] if r["method"] == "random"]
    average = means.pop("random")
    highest = sum(r["comprehensiveness_interval"]["high"] for r in drawn) / len(drawn)
    best = max(means, key=lambda name: means[name])
    true(g["method"] == best, "method")
    same(g["cost"], means[best])
    true(g["unit"] == results["records"][0]["unit"], "unit")
    same(g["random"], average)
    same(g["highest"], highest)
    true(int(g["of"]) == int(g["methods"]) == len(means), "methods")
    true(int(g["above"]) == sum(value > average for value in means.values()), "above")
    true(int(g["beyond"]) == sum(value > highest for value in means.values()), "beyond")


ATTRIBUTE = [
    (
        r"The <target:.+?> is <value> <unit:\w+>\. The largest scores by <method:[\w-]+> are <list:.*\)>\.",
        largest_scores,
    ),
    (
        r"Removing the words that <method:[\w-]+> ranks highest costs <cost> <unit:\w+> \(mean over texts and shares of words\), the most "
        r"of <methods> methods?\. Removing random words costs <random> on average and <highest> in the costliest draws\. The average is "
        r"exceeded by <above> of <of>, the costliest draws by <beyond>\.",
        costs,
    ),
]


# -- capture, doctor


def stored(results: Raw, g: Groups, about: str) -> None:
    store, records = results["store"], results["records"]
    true(int(g["rows"].replace(",", "")) == store["rows"], "rows")
    true(int(g["texts"].replace(",", "")) == store["texts"], "texts")
    true(int(g["sites"]) == len(records), "sites")
    unit = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[g["unit"]]
    same(g["size"], store["bytes"] / unit)
    top = max(records, key=lambda r: r["largest"])
    same(g["largest"], top["largest"])
    true(g["site"] == top["site"], "site")


CAPTURE = [
    (
        r"\S+ holds <rows> \w+s of <texts> texts at <sites> sites \(<size> <unit:B|KiB|MiB|GiB>\)\. The largest value is <largest>, at "
        r"<site:\S+>\.",
        stored,
    )
]


AT_LEAST = ("edits",)
"""Checks that something moves: their bound is the least."""


def examined(results: Raw, g: Groups, about: str) -> None:
    records = results["records"]
    true(int(g["checks"]) == len({r["check"] for r in records}), "checks")
    true(int(g["findings"]) == len(records), "findings")
    for name in ("OK", "UNSUPPORTED"):
        true(int(g[name]) == sum(r["status"] == name for r in records), name)
    true(("Nothing" in g["wrong"]) == all(r["status"] != "WRONG" for r in records), "wrong")
    for record in records:
        measured, bound = record["measured"], record["bound"]
        if record["status"] != "OK" or measured is None or bound is None:
            continue
        is_within = measured >= bound if record["check"] in AT_LEAST else measured <= bound
        true(is_within, f"{record['check']}: OK and out of bounds")


DOCTOR = [
    (
        r"<checks> checks gave <findings> findings: <OK> are OK \(within their bounds\) and <UNSUPPORTED> are UNSUPPORTED \(not "
        r"available or not checkable on this model\)\. <wrong:Nothing is WRONG|WRONG: .*>\.",
        examined,
    )
]
