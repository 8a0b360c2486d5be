"""Ablations, patches and erasures: what their findings claim."""

from __future__ import annotations

import math
import re

from scipy import stats

from .reading import LEVEL, NUMBER, Groups, Raw, ends, nothing, same, true


def of_family(results: Raw, about: str) -> list[Raw]:
    """The records that a sentence speaks of: of one direction of patches, of one kind of edit."""
    records = results["records"]
    if results["kind"] == "patch":
        return [r for r in records if r["value"] == about]
    return [r for r in records if r["value"] == "erase"] if results["kind"] == "usage" else records


def discoveries(records: list[Raw]) -> int:
    """How many pass, with q from the p by scipy's procedure;
    parts that were not tested count as 1.
    """
    p = [1.0 if r["p"] is None else r["p"] for r in records]
    q = stats.false_discovery_control(p)
    for record, value in zip(records, q, strict=True):
        true(record["q"] is None or math.isclose(record["q"], value, rel_tol=1e-9), "q")
    return sum(r["p"] is not None and value < LEVEL for r, value in zip(records, q, strict=True))


def clean(results: Raw, g: Groups, about: str) -> None:
    base = results["baseline"]
    same(g["value"], base["value"])
    ends(g, base["interval"])
    true(int(g["n"]) == results["records"][0]["n"], "n")
    true(g["metric"] == results["records"][0]["metric"], "metric")
    true(g["unit"] == results["records"][0]["unit"], "unit")


def passing(results: Raw, g: Groups, about: str) -> None:
    records = of_family(results, about)
    true(int(g["count"]) == discoveries(records), "how many are significant")
    true(int(g["of"]) == len(records), "of how many")


def too_few(results: Raw, g: Groups, about: str) -> None:
    records = of_family(results, about)
    true(int(g["of"]) == len(records), "of how many")
    true(discoveries(records) == 0, "something is significant")


def floor(results: Raw, g: Groups, about: str) -> None:
    records = of_family(results, about)
    tested = [r for r in records if r["p"] is not None]
    n = tested[0]["n_clusters"]
    true(int(g["n"]) == n, "groups")
    # Of 2^n assignments of signs the observed one and its opposite are as extreme.
    least = 2.0 ** (1 - n)
    drawn = max(10_000, 10 * len(records))
    if 2**n > drawn:
        # Of drawn signs 1 / (1 + R), or the normal tail that bounds a sum of signs (Bentkus &
        # Dzindzalieta 2015).
        bound = 2 * stats.norm.sf(n**0.5) / (4 * stats.norm.sf(2**0.5))
        least = min(1 / (1 + drawn), max(least, bound))
    same(g["p"], least, "smallest p")
    needed = next((k for k in range(1, len(records) + 1) if least * len(records) / k < LEVEL), None)
    if g["needed"]:
        true(needed == int(g["needed"]), "how many must have it")
        true(int(g["of"]) == len(records), "of how many")
    else:
        true(needed is None, "none can")
        true(int(g["all"]) == len(records), "of how many")


PART = r"L\d+(?: MLP| attention|[HN]\d+| at position \d+)?"
AFTER = {
    "heads": "H{index}",
    "neurons": "N{index}",
    "positions": " at position {index}",
    "mlps": " MLP",
    "attentions": " attention",
}


def strongest(results: Raw, g: Groups, about: str) -> None:
    records = sorted(of_family(results, about), key=lambda r: -abs(r["effect"]))
    shown = re.findall(rf"({PART}) \(({NUMBER})\)", g["list"])
    true(len(shown) == min(5, len(records)), "how many are shown")
    for (name, effect), record in zip(shown, records, strict=False):
        after = AFTER.get(record["component"], "").format(index=record["index"])
        true(name == f"L{record['layer']}{after}", name)
        same(effect, record["effect"], name)


def runs(results: Raw, g: Groups, about: str) -> None:
    base, gap = results["baseline"], results["gap"]
    same(g["clean"], base["clean"]["value"])
    same(g["corrupted"], base["corrupted"]["value"])
    same(g["gap"], gap["value"])
    ends(g, gap["interval"])
    true(int(g["n"]) == results["records"][0]["n"], "n")
    true(
        math.isclose(
            gap["value"], base["clean"]["value"] - base["corrupted"]["value"], abs_tol=1e-5
        )
    )


def read_at(results: Raw, g: Groups, about: str) -> None:
    top = max(of_family(results, about), key=lambda r: r["decodable"])
    true(int(g["layer"]) == top["layer"], "layer")
    same(g["accuracy"], top["decodable"])
    ends(g, top["decodable_interval"])
    same(g["majority"], top["majority"])
    doubted(g, top["decodable_interval"], top["majority"])


def doubted(g: Groups, interval: Raw | None, majority: float) -> None:
    """A sentence doubts a score whose interval does not lie above the most frequent class."""
    true(bool(g["doubt"]) == (interval is None or interval["low"] <= majority), "doubt")


def erased(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == of_family(results, about)[0]["n"], "n")


def beyond_null(results: Raw, g: Groups, about: str) -> None:
    records = [r for r in of_family(results, about) if r["q"] is not None and r["q"] < LEVEL]
    compared = [r for r in records if r["null"] is not None]
    true(int(g["of"]) == len(compared), "compared")
    true(int(g["count"]) == sum(abs(r["effect"]) > r["null"] for r in compared), "beyond")


def untested(results: Raw, g: Groups, about: str) -> None:
    records = of_family(results, about)
    true(all(r["p"] is None and r["effect_interval"] is None for r in records), "tested")
    first = records[0]
    true(int(g["n"]) == first["n_clusters"] < int(g["least"]) == 6, "groups")
    true(("group" in g["kind"]) == (first["n"] != first["n_clusters"]), "groups or prompts")


SPAN = r"(?:95% CI <low> to <high>|no interval: one group)"
DOUBTED = r"<doubt:, a difference that is not significant|>"
SWEEP = [
    (rf"The clean <metric:\w+> is <value> <unit:[\w ]+?> \({SPAN}, n = <n>\)\.", clean),
    (r"There are too few prompts to test <of> [\w ]+ one by one\.", too_few),
    (
        r"With <n> (?:groups of )?prompts, the smallest possible p is <p>"
        r"(?:, which is too large for q < 0\.05 even if all <all> \w+ reach it\.|"
        r"\. For q < 0\.05, at least <needed> of <of> \w+ must reach it\.)",
        floor,
    ),
    (
        r"(?:[\w-]+ ablation changes it|This changes the \w+) significantly \(FDR < 0\.05\) at <count> of <of> \w+\.",
        passing,
    ),
    (rf"The largest effects are <list:{PART} \([^.]*(?:\.\d[^.]*)*>\.(?= |$)", strongest),
    (
        r"Effects of \w+ cannot be tested: <n> <kind:(?:groups? of )?prompts?>, and a test at 5% needs <least>\.",
        untested,
    ),
    (
        rf"The \w+ is <clean> \w+ on the clean prompts and <corrupted> on the corrupted ones, a difference of <gap> "
        rf"\({SPAN}, n = <n>\)\.",
        runs,
    ),
    (
        r"Denoising puts clean values into the corrupted run, one \w+ at a time\.",
        nothing,
    ),
    (
        r"Noising puts corrupted values into the clean run, one \w+ at a time\.",
        nothing,
    ),
    (
        r"\S+ is decoded best at layer <layer>, with an accuracy of <accuracy> \(95% CI <low> to <high>; most frequent class "
        rf"<majority>{DOUBTED}\)\.",
        read_at,
    ),
    (r"It was then erased at one layer at a time \(n = <n>\)\.", erased),
    (
        r"At <count> of <of> significant layers, the effect is larger than the mean effect of random changes of the same size\.",
        beyond_null,
    ),
]
