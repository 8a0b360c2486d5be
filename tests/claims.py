"""What each sentence of a finding claims, recomputed from the recorded numbers without the code that wrote the sentence.

A sentence is known by a pattern; its checker is given the run's results as raw JSON and the pattern's groups. `held` takes a
text apart from its beginning: each part must be known, and true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from scipy import stats

Raw = dict[str, Any]
Groups = dict[str, str]
Check = Callable[[Raw, Groups, str], None]
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?"
LEVEL = 0.05


class FalseClaim(AssertionError):
    """A sentence that the records do not bear out, or that no pattern knows."""


def held(results: Raw, kind: str, text: str, about: str = "") -> None:
    """Raise `FalseClaim` unless every part of a text is known and true of these results."""
    rest = text
    while rest:
        for pattern, check in CLAIMS[kind]:
            match = pattern.match(rest)
            if match is not None and match.end():
                groups = {name: text or "" for name, text in match.groupdict().items()}
                try:
                    check(results, groups, about)
                except (LookupError, ValueError, StopIteration) as error:
                    raise FalseClaim(f"it names what is not there: {error}") from error
                rest = rest[match.end() :].lstrip()
                break
        else:
            raise FalseClaim(f"no claim is known that begins {rest[:80]!r}")


def true(is_true: bool, what: str = "") -> None:
    """Raise `FalseClaim` unless it is."""
    if not is_true:
        raise FalseClaim(what)


def same(text: str, value: float | None, what: str = "") -> None:
    """A printed number is the value to within half a unit of its last place."""
    true(value is not None, f"{what}: {text} of nothing")
    assert value is not None
    scale = 100 if text.endswith("%") else 1
    printed = text.rstrip("%").replace(",", "")
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    half = 0.5 * 10.0**exponent
    true(abs(float(printed) - scale * value) <= half * (1 + 1e-6), f"{what}: {text}, {value}")


def ends(groups: Groups, interval: Raw | None, low: str = "low", high: str = "high") -> None:
    """Two printed ends, or none of none."""
    true(bool(groups[low]) == (interval is not None), "an interval")
    if interval is not None:
        same(groups[low], interval["low"], "low")
        same(groups[high], interval["high"], "high")


def compiled(text: str) -> re.Pattern[str]:
    """A pattern in which ``<name>`` is a number and ``<name:...>`` is what follows the colon."""
    escaped = re.sub(r"<(\w+)>", lambda m: f"(?P<{m[1]}>{NUMBER})", text)
    return re.compile(re.sub(r"<(\w+):(.*?)>", lambda m: f"(?P<{m[1]}>{m[2]})", escaped))


# -- sweeps


def of_family(results: Raw, about: str) -> list[Raw]:
    """The records that a sentence speaks of: of one direction of patches, of one kind of edit."""
    records = results["records"]
    if results["kind"] == "patch":
        return [r for r in records if r["value"] == about]
    return [r for r in records if r["value"] == "erase"] if results["kind"] == "usage" else records


def discoveries(records: list[Raw]) -> int:
    """How many pass, with q from the p by scipy's procedure; parts that were not tested count as 1."""
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
    least = max(2.0 ** (1 - n), 1 / (1 + max(10_000, 10 * len(records))))
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


def nothing(results: Raw, g: Groups, about: str) -> None:
    """A part without a number."""


def one_group(results: Raw, g: Groups, about: str) -> None:
    true(all(r["p"] is None for r in of_family(results, about)), "tested")


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
    (r"Effects of \w+ cannot be tested, because all prompts belong to one group\.", one_group),
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
    same(g["p"], named["p"])
    tested = [p for p in results["prompts"] if p["named_effect"] is not None]
    means = [sum(p[f"{kind}_effect"] for p in tested) / len(tested) for kind in ("named", "random")]
    same(g["effect"], means[0])
    same(g["random"], means[1])


def matter(results: Raw, g: Groups, about: str) -> None:
    named = results["records"][0]
    interval = named["over_random_interval"]
    is_significant = named["p"] < LEVEL and not interval["low"] <= 0 <= interval["high"]
    true(bool(g["no"]) == (not is_significant), "significance")


ASK = [
    *CONFIDENCE,
    (
        r"named words: removing them lowers the answer by <effect> \w+ \((?:95% CI <low> to <high>; )?<n> of <of> prompts\)\. Removing "
        r"as many random words lowers it by <random>, a difference of <over> \(<olow> to <ohigh>, p = <p>\)\.",
        named_words,
    ),
    (
        r"The words that the model names <no:do not |>matter significantly more than random words\.",
        matter,
    ),
]

# -- attention


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


ATTEND = [
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
    for value, name in re.findall(rf"({NUMBER}) on the (\w+) map", g["maps"]):
        same(value, told["places"][name]["accuracy"])


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
        r"The heads whose weights copy tokens most are <list:.*?\)>; 1 is pure copying \(eigenvalues of OV\)\.",
        copies,
    ),
    (
        r"The strongest compositions are <list:.*?>; unrelated matrices give about <baseline>\.",
        compositions,
    ),
]

# -- neurons


def one_neuron(results: Raw, g: Groups, about: str) -> None:
    probe = results["table"][0]["probe"]
    best = max(
        (r for r in results["table"] if r["probe"] == probe and r["k"] == 1),
        key=lambda r: r["accuracy"],
    )
    site = next(s for s in results["sites"] if s["site"] == best["site"])
    sets = [r for r in results["records"] if r["component"] == "sets" and r["value"] == "mean"]
    neuron = next(
        r["neurons"][0]
        for r in sets
        if (r["site"], r["ranking"]) == (best["site"], best["ranking"])
    )
    true((g["site"], int(g["neuron"])) == (best["site"], neuron), "neuron")
    true(g["ranking"] == best["ranking"], "ranking")
    same(g["accuracy"], best["accuracy"])
    ends(g, best["accuracy_interval"])
    same(g["random"], best["random"])
    same(g["width"], site["width"])
    same(g["whole"], site["whole"][probe])
    same(g["majority"], site["majority"])
    doubted(g, best["accuracy_interval"], site["majority"])


def taken_out(results: Raw, g: Groups, about: str) -> None:
    value = g["value"].lower()
    sets = [r for r in results["records"] if r["component"] == "sets" and r["value"] == value]
    count = sum(r["q"] is not None and r["q"] < LEVEL and r["null_p"] <= LEVEL for r in sets)
    true(int(g["count"]) == count, "sets")
    true(int(g["of"]) == len(sets), "of sets")
    same(g["n"], sets[0]["n"])
    top = max(sets, key=lambda r: abs(r["beyond"]))
    true((int(g["k"]), g["ranking"], g["site"]) == (top["k"], top["ranking"], top["site"]), "set")
    same(g["effect"], top["effect"])
    ends(g, top["null_interval"])


NEURONS = [
    (
        r"\S+: the best single neuron is <site:\S+?>\[<neuron:\d+>\] \(ranked by <ranking:\w+>\), with an accuracy of <accuracy> \(95% CI "
        rf"<low> to <high>; most frequent class <majority>{DOUBTED}\)\. A random neuron reaches <random>, and all <width> together "
        r"<whole>\.",
        one_neuron,
    ),
    (
        r"<value:\w+> ablation changes the \w+ significantly \(FDR < 0\.05\) and more than random sets do for <count> of <of> sets of "
        r"neurons \(n = <n>\)\. The set furthest beyond random is the first <k> by <ranking:\w+> at <site:\S+>: <effect> [\w ]+ "
        r"\(random sets <low> to <high>\)\.",
        taken_out,
    ),
]

# -- probes


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
        ("of", len(trees)),
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
        r"tree: structural probes of rank <rank> work best at layer <layer:\w+> of <of>, where they recover <uuas> of the undirected "
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

# -- pruning, swaps


def pruned(results: Raw, g: Groups, about: str) -> None:
    whole = results["records"][0]
    record = next(r for r in results["records"] if str(r["heads"]) == g["heads"])
    same(g["of"], whole["heads"])
    same(g["before"], whole["value"])
    same(g["after"], record["value"])
    same(g["random"], record["random"])
    same(g["gone"], 1 - record["parameters"] / whole["parameters"])


PRUNE = [
    (
        r"With <heads> of <of> heads per layer, the \w+ changes from <before> to <after> [\w ]+ \(<random> with random heads\), and "
        r"the model has <gone> fewer parameters\.",
        pruned,
    )
]


def of_list(results: Raw, about: str) -> Raw:
    return next(r for r in results["records"] if (r["list"], r["kind"]) == (about, "swap"))


def swapped(results: Raw, g: Groups, about: str) -> None:
    record = of_list(results, about)
    is_log_odds = record["metric"] == "class_log_odds"
    what = f"the log-odds of {results['positive']}" if is_log_odds else record["metric"]
    true(g["what"] == what, "what is moved")
    same(g["effect"], record["effect"])
    same(g["n"], record["n"])
    ends(g, record["effect_interval"])
    same(g["p"], record["p_holm"])
    same(g["size"], record["size"])


def against_random(results: Raw, g: Groups, about: str) -> None:
    record = of_list(results, about)
    drawn = next(r for r in results["records"] if (r["list"], r["kind"]) == (about, "random"))
    same(g["random"], drawn["size"])
    same(g["beyond"], record["beyond"])
    same(g["p"], record["beyond_p_holm"])


def another_class(results: Raw, g: Groups, about: str) -> None:
    same(g["share"], of_list(results, about)["flips"])


SWAP = [
    (
        r"Swapping \w+ from a to b changes <what:.+?> by <effect> \w+ on average \(n = <n>(?:, 95% CI <low> to <high>)?, p = <p>\)\. "
        r"The mean size of the change is <size>\.",
        swapped,
    ),
    (
        r"With random swaps of as many words it is <random> \(difference <beyond>, p = <p>\)\.",
        against_random,
    ),
    (r"The predicted class changes in <share> of the texts\.", another_class),
]

_CLAIMS: dict[str, list[tuple[str, Check]]] = {
    "ablate": SWEEP,
    "patch": SWEEP,
    "usage": SWEEP,
    "calibrate": CONFIDENCE,
    "ask": ASK,
    "attend": ATTEND,
    "attribute": ATTRIBUTE,
    "capture": CAPTURE,
    "doctor": DOCTOR,
    "geometry": GEOMETRY,
    "lens": LENS,
    "neurons": NEURONS,
    "probe": PROBE,
    "prune": PRUNE,
    "swap": SWAP,
}
CLAIMS = {
    kind: [(compiled(pattern), check) for pattern, check in claims]
    for kind, claims in _CLAIMS.items()
}
"""The sentences of each command."""
