"""Captions, section texts and stats of pages that hold a number."""

from __future__ import annotations

import re
from collections.abc import Callable

from .reading import LEVEL, Check, Groups, Raw, ends, nothing, same, true
from .sweeps import discoveries, floor

MINUS = "−"


def plain(g: Groups) -> Groups:
    """The groups with signs that Python reads."""
    return {name: text.replace(MINUS, "-") for name, text in g.items()}


def some(results: Raw, field: str, holds: Callable[[Raw], None], rows: str = "records") -> None:
    """Raise unless the claim is true of one of the records: a caption does not say of which."""
    for row in results[rows]:
        try:
            holds(row)
            return
        except (AssertionError, TypeError, KeyError):
            continue
    true(False, f"no record has this {field}")


def of_field(name: str, rows: str = "records") -> Check:
    """A check of a number of a record, with the ends of its interval where they are printed."""

    def check(results: Raw, g: Groups, about: str) -> None:
        numbers = plain(g)

        def holds(row: Raw) -> None:
            same(numbers["value"], row[name])
            if numbers.get("low"):
                ends(numbers, row[f"{name}_interval"])

        some(results, name, holds, rows)

    return check


def sizes(results: Raw, g: Groups, about: str) -> None:
    def holds(row: Raw) -> None:
        for name in ("train", "dev", "test", "classes"):
            if g.get(name):
                same(g[name], row[f"n_{name}"])

    some(results, "size", holds)


def above_types(results: Raw, g: Groups, about: str) -> None:
    numbers = plain(g)

    def holds(row: Raw) -> None:
        same(numbers["value"], row["score"] - row["type_majority"])
        same(numbers["types"], row["type_majority"])

    some(results, "score above types", holds)


def unseen(results: Raw, g: Groups, about: str) -> None:
    numbers = plain(g)

    def holds(row: Raw) -> None:
        same(numbers["unseen"], row["score_unseen"])
        same(numbers["seen"], row["score_seen"])

    some(results, "unseen", holds)


def pairs(results: Raw, g: Groups, about: str) -> None:
    metric = {"R²": "r2"}.get(g["metric"], g["metric"])
    names = {r["property"] for r in results["records"] if r["metric"] == metric}

    def of(name: str) -> tuple[int, int, int]:
        rows = [c for c in results["comparisons"] if c["property"] == name]
        called = [c for c in rows if c["p_holm"] is not None and c["p_holm"] < LEVEL]
        # A comparison is of the deeper layer less the other.
        return (
            len(rows),
            sum(c["difference"] > 0 for c in called),
            sum(c["difference"] < 0 for c in called),
        )

    said = int(g["of"]), int(g["better"]), int(g["worse"])
    true(int(g["count"]) == said[1] + said[2], "how many differ")
    true(said in [of(name) for name in names], "pairs")


def trainings(results: Raw, g: Groups, about: str) -> None:
    same(g["most"], max(r["apart"] for r in results["trees"] if r.get("apart") is not None))


def spans_of_sound(results: Raw, g: Groups, about: str) -> None:
    records = [r for r in results["records"] if r["method"] == g["method"]]
    scores = [r["scores"][: r["patches"]] for r in records]
    true(any(len(one) == int(g["n"]) for one in scores), "spans")
    largest = [max(map(abs, one)) for one in scores]
    same(g["largest"], min(largest, key=lambda value: abs(value - float(g["largest"]))))


def trees(results: Raw, g: Groups, about: str) -> None:
    row = results["trees"][0]
    for name, field in (
        ("rank", "rank"),
        ("n", "n"),
        ("uuas", "chain_uuas"),
        ("rho", "chain_spearman"),
    ):
        same(g[name], row[field])


def n_records(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"].replace(",", "")) == len(results["records"]), "records")


def strongest_of(results: Raw, g: Groups, about: str) -> None:
    records = results["records"]
    values = {r.get("value") for r in records}
    counts = [len(records)] + [sum(r["value"] == v for r in records) for v in values]
    true(int(g["of"]) in counts, "of how many")
    true(int(g["n"]) == min(40, int(g["of"])), "how many")


def passing(results: Raw, g: Groups, about: str) -> None:
    records = results["records"]
    families = [[r for r in records if r["value"] == v] for v in {r["value"] for r in records}]
    found = [(discoveries(family), len(family)) for family in families]
    if g["of"]:
        true((int(g["n"]), int(g["of"])) in found, "significant")
    else:
        true(int(g["n"]) in [count for count, _ in found], "significant")


def cells(results: Raw, g: Groups, about: str) -> None:
    passing(results, {"n": g["n"], "of": g["of"]}, about)
    if g["end"]:
        largest = max(abs(r["effect"]) for r in results["records"])
        true(abs(float(g["end"]) / largest - 1) < 1e-3, "end of the scale")


def smallest(results: Raw, g: Groups, about: str) -> None:
    records = results["records"]
    only = [r for r in records if r["value"] == records[0]["value"]]
    floor({**results, "kind": "ablate", "records": only}, g, about)


def estimates(results: Raw, g: Groups, about: str) -> None:
    exact = sum(r["exact"] for r in results["records"])
    n = len(results["records"])
    true((int(g["estimated"]), int(g["of"]), int(g["exact"])) == (n - exact, n, exact), "exact")


def both(results: Raw, g: Groups, about: str) -> None:
    rows = [r for r in results["records"] if r["exact"] and r["estimate"] is not None]
    by_value = [sum(r["value"] == v for r in rows) for v in {r["value"] for r in rows}]
    true(int(g["n"]) in [len(rows), *by_value], "parts")


def base(results: Raw, g: Groups, about: str) -> None:
    numbers, whole = plain(g), results["baseline"]
    values = [v["value"] for v in ([whole] if "value" in whole else whole.values())]
    values += [r["baseline"] for r in results["records"] if r.get("baseline") is not None]
    printed = numbers["value"]
    for value in values:
        try:
            same(printed, value)
            return
        except AssertionError:
            continue
    true(False, "the clean metric")


def gap(results: Raw, g: Groups, about: str) -> None:
    numbers = plain(g)
    same(numbers["value"], results["gap"]["value"])
    ends(numbers, results["gap"]["interval"])


def all_neurons(results: Raw, g: Groups, about: str) -> None:
    name = g["probe"].replace(" ", "_")
    some(results, "probe of all", lambda row: same(g["value"], row["whole"][name]), "sites")


def chance(results: Raw, g: Groups, about: str) -> None:
    def holds(row: Raw) -> None:
        same(g["value"], row["ece_chance"])
        same(g["p"], row["ece_p_holm"])

    some(results, "chance", holds)


def group_count(results: Raw, g: Groups, about: str) -> None:
    rows = results["group_differences"]
    called = sum(r["p_holm"] is not None and r["p_holm"] < LEVEL for r in rows)
    true((int(g["n"]), int(g["of"])) == (called, len(rows)), "significant")


def heads(results: Raw, g: Groups, about: str) -> None:
    rows = results["records"]
    true(int(g["n"]) == len(rows), "heads")
    true(int(g["roles"]) == sum(bool(r["role"]) for r in rows), "roles")


def head_count(field: str, least: float) -> Check:
    def check(results: Raw, g: Groups, about: str) -> None:
        true(int(g["n"]) == sum(r[field] >= least for r in results["records"]), field)

    return check


def followers(results: Raw, g: Groups, about: str) -> None:
    heads_of = {(r["layer"], r["head"]) for r in results["relations"] if r["syntactic"]}
    true(int(g["n"]) == len(heads_of), "syntactic heads")


def rank_correlation(results: Raw, g: Groups, about: str) -> None:
    same(g["value"].replace(MINUS, "-"), results["effects"]["spearman"][g["name"]])
    true(int(g["n"]) == results["effects"]["n"], "heads")


def units(results: Raw, g: Groups, about: str) -> None:
    counts = {len(r["units"]) for r in results["records"] if r.get("units")}
    counts |= {len(r["units"]) + 4 for r in results["records"] if r.get("units")}
    true(int(g["n"]) in counts, "units")


def removed(results: Raw, g: Groups, about: str) -> None:
    values = [r["baseline"] for r in results["records"] if r.get("baseline") is not None]
    for text in re.findall(r"[−\d][\d.]*\d", g["list"]):
        one = text.replace(MINUS, "-")
        true(any(abs(float(one) - value) < 6e-4 for value in values), text)


def asked(results: Raw, g: Groups, about: str) -> None:
    tested = [p for p in results["prompts"] if p["named_effect"] is not None]
    true((int(g["n"]), int(g["of"])) == (len(tested), len(results["prompts"])), "tested")


def with_reason(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == sum(p["reason"] == g["why"] for p in results["prompts"]), g["why"])


def absent(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == sum(bool(p["absent"]) for p in results["prompts"]), "absent")


def status(results: Raw, g: Groups, about: str) -> None:
    name = {"not supported": "UNSUPPORTED"}.get(g["status"], g["status"])
    true(int(g["n"]) == sum(r["status"] == name for r in results["records"]), name)


def stored(results: Raw, g: Groups, about: str) -> None:
    true(int(g["rows"]) == results["store"]["rows"], "rows")
    true(int(g["texts"]) == results["store"]["texts"], "texts")


def pruned(results: Raw, g: Groups, about: str) -> None:
    last = results["records"][-1]
    true(int(g["heads"]) == last["heads"], "heads")
    same(g["value"], last["value"])
    ends(g, last["value_interval"])


def parameters(results: Raw, g: Groups, about: str) -> None:
    rows = results["records"]
    same(g["share"], rows[-1]["parameters"] / rows[0]["parameters"])
    same(g["n"], rows[-1]["parameters"])


def held_out(results: Raw, g: Groups, about: str) -> None:
    same(g["texts"], results["layers"][0]["n_texts"])
    same(g["tokens"], results["layers"][0]["n_tokens"])


def parts_of_logit(results: Raw, g: Groups, about: str) -> None:
    counts = [
        sum(c["text"] == t for c in results["contributions"]) for t in range(len(results["texts"]))
    ]
    true(int(g["of"]) in counts and int(g["n"]) <= int(g["of"]), "contributions")
    error = float(g["error"].replace(MINUS, "-"))
    true(error <= max(t["sum_error"] or 0.0 for t in results["texts"]) + 1e-6, "error")


SPAN = "(?:<low> to <high>)?"
SIGNED = r"[+−-]?\d[\d.,]*(?:e[+−-]?\d+)?"
CAPTIONS: list[tuple[str, Check]] = [
    (
        r"\w+ level · (?:<classes> classes · )?<train> train items · <dev> dev items · <test> test items",
        sizes,
    ),
    (r"best layers: [\w–, ]+; highest: \w+", nothing),
    (rf"(?:accuracy|R²): <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>", of_field("score")),
    (rf"macro-F1: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>", of_field("macro_f1")),
    (
        rf"selectivity: <value:{SIGNED}>; (?:<low:{SIGNED}> to <high:{SIGNED}>)?",
        of_field("selectivity"),
    ),
    (rf"above type majority: <value:{SIGNED}>; which is <types:{SIGNED}>", above_types),
    (rf"unseen word types: <unseen:{SIGNED}>; seen: <seen:{SIGNED}>", unseen),
    (
        r"Of <of> pairs of layers, <count> differ after Holm's correction \(p < 0\.05\): the deeper layer is better in <better> and worse "
        r"in <worse>\. Cells: <metric:.+?> of the row's layer minus the column's, in points\. Intervals are of one pair each, without the "
        r"correction\.",
        pairs,
    ),
    (
        r"Structural probes of rank <rank> on <n> test sentences; words chained in a row have UUAS <uuas> and distance ρ <rho>",
        trees,
    ),
    (r"<n> records in results\.json\. Choose a heading to sort\.", n_records),
    (r"The <n> strongest of <of>, with 95% intervals in small print", strongest_of),
    (r"significant: <n> of <of>; false discovery rate below 0\.05", passing),
    (rf"strongest: <value:{SIGNED}>; \S+(?: at position \d+)?", of_field("effect")),
    (
        r"With <n> (?:groups of )?prompts, the smallest possible p is <p>"
        r"(?:, which is too large for q < 0\.05 even if all <all> \w+ reach it\.|"
        r"\. For q < 0\.05, at least <needed> of <of> \w+ must reach it\.)",
        smallest,
    ),
    (
        r"<of> cells, layers from top to bottom\. Colour: (?:effect, on a scale to <end>|recovery, on a scale from 0 to 1)\. <n> outlined "
        r"cells? (?:is|are) significant \(false discovery rate below 0\.05\)\.",
        cells,
    ),
    (
        r"<estimated> of the <of> effects are estimates from one gradient; the other <exact> are exact\. Only exact effects are tested\.",
        estimates,
    ),
    (r"Exact effect over estimate of <n> parts; on the line they are equal\.", both),
    (rf"(?:clean metric|clean run|corrupted run|whole model): <value:{SIGNED}>; [\w, ]+", base),
    (rf"difference: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>", gap),
    (
        rf"decodable best at layer \d+: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>",
        of_field("decodable"),
    ),
    (rf"largest effect at layer \d+: <value:{SIGNED}>; [\w, ]+", of_field("effect")),
    (
        rf"one neuron, [\w ]+: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>",
        of_field("accuracy", "table"),
    ),
    (rf"all \d+: <value:{SIGNED}>; <probe:[\w ]+> probe", all_neurons),
    (rf"largest effect: \d+, \w+: <value:{SIGNED}>; random .*", of_field("effect")),
    (rf"ECE: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>", of_field("ece")),
    (r"by chance: <value>; p <p>", chance),
    (
        rf"overconfidence: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>",
        of_field("overconfidence"),
    ),
    (rf"AUROC: <value:{SIGNED}>; <low:{SIGNED}> to <high:{SIGNED}>", of_field("auroc")),
    (
        r"<n> of <of> differences are significant \(Holm over this column\)\. Intervals of shares are Wilson's; .*",
        group_count,
    ),
    (r"heads: <n>; <roles> with a named role", heads),
    (r"half on the first token: <n>; weight 0\.5 or more", head_count("first", 0.5)),
    (r"uniform: <n>; entropy 0\.95 or more", head_count("entropy", 0.95)),
    (r"follow a dependency: <n>; 10 points above the best fixed offset", followers),
    (
        rf"Spearman with <name:\w+>: <value:{SIGNED}>; of \|effect\|, <n> heads",
        rank_correlation,
    ),
    (r"Scores of <n> units", units),
    (r"; the dev losses of two trainings at each layer differ by <most> at most", trainings),
    (
        r"<method:[\w-]+>: <n> spans of \S+ over its loudness\. Blue spans raise the explained value, orange spans lower it; "
        r"the strongest has <largest> \w+\.",
        spans_of_sound,
    ),
    (r"Score with all words removed: <list:.*>\.", removed),
    (r"tested: <n> of <of>; prompts", asked),
    (r"<why:unparsable|refused|everything>: <n>; answers", with_reason),
    (r"words not in the text: <n>; answers name some", absent),
    (r"<status:OK|not supported|WRONG>: <n>; .*", status),
    (r"rows: <rows>; of <texts> texts", stored),
    (r"with <heads> heads a layer: <value>; <low> to <high>", pruned),
    (r"parameters left: <share>; <n>", parameters),
    (r"<texts> held-out texts, <tokens> tokens\.", held_out),
    (
        r"The <n> largest of <of> contributions; all sum to the logit \(error <error>\)",
        parts_of_logit,
    ),
]
"""Numbers of a run."""
OTHERS = (
    # Names, years and levels: nothing of the run.
    r"Bands?: 95%.*",
    r"Every .* with 95% intervals in small print",
    r"Every lens at every layer, 95% intervals in small print",
    r"Each .* with 95% intervals in small print\.?",
    r"Each named neuron changed alone \(mean\)\. Bars: 95% intervals over texts\. Filled: significant \(FDR < 0\.05\)\. .*",
    r"Scalar mixes, with 95% intervals over sentences in small print",
    r"Mean F1 over classes",
    r"The weight of each layer in the probe that reads all layers; the weights sum to 1\.",
    r"A structural probe learns .* \(Hewitt & Manning 2019\)\. .*",
    r"How many directions .* \(Facco et al\. 2017\)\.",
    r"Neighbours from other sentences, in the whole space \(band: 95% over sentences\) and on the maps\.",
    r"Linear CKA .* 1 means equal up to rotation and scale\. .*",
    r"Text \d+: each layer's prediction of the next token",
    r"Means over tokens of the texts, with 95% intervals over texts in small print\. .*",
    r"Attention weight is not importance\. .* \(FDR < 0\.05\)\. .*",
    r"1 is uniform attention: .*",
    r"An expected calibration error \(ECE\) is above 0 by chance alone, .*",
    r"The most likely next token .* rank 1 .* rank 100\. .*",
    r"Lower is closer to the model's prediction\. Bands: 95% intervals over held-out texts\.",
    r"Agreement of the matrices .* 1: known exactly\.",
    r"(?:OV|QK|Token pairs) of L\d+H\d+",
    r"Bars a.*",
    # Numbers that no record holds, or that hold for one picture.
    r"Effect of ablating each of \d+ heads over its confidence\.",
    r"Units (?:removed|added), .* The first \d+ of \d+ methods\. .*",
    r"\d+ words? changed: the model gives another answer\.",
    r"(?:Calibration of each class|Class by class) \(\d+\)",
    r"L\d+N\d+: .* of its farthest 100 words\)",
    r"[\w-]+: \d+ x \d+ patches of \S+\. .*",
    r"\S+, (?:mean over all heads|L\d+H\d+, \d+% of its attention); the largest weight is [\d.]+\.",
    r"on disk: .*",
    r"written at: .*",
    r"speed: .*",
    r"\d+ heads\. Gains of norms are folded in; .*",
    r"logit of .*: [+−]?[\d.]+; after the last token",
)
CAPTIONS += [(pattern, nothing) for pattern in OTHERS]
