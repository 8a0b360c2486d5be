"""Single neurons, pruned heads, and swapped words."""

from __future__ import annotations

from .reading import LEVEL, Groups, Raw, ends, same, true
from .sweeps import DOUBTED, doubted

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
    true(
        (int(g["k"] or 1), g["ranking"], g["site"]) == (top["k"], top["ranking"], top["site"]),
        "set",
    )
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
        r"neurons \(n = <n>\)\. The set furthest beyond random is the top (?:neuron|<k> neurons) by <ranking:\w+> at <site:\S+>: <effect> [\w ]+ "
        r"\(random sets <low> to <high>\)\.",
        taken_out,
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
        r"Swapping \w+ from a to b changes <what:.+?> by <effect> \w+ on average \(n = <n>(?:, 95% CI <low> to <high>)?, p = <p> "
        r"\(Holm\)\)\. "
        r"The mean size of the change is <size>\.",
        swapped,
    ),
    (
        r"With random swaps of as many words it is <random> \(difference <beyond>, p = <p>, Holm\)\.",
        against_random,
    ),
    (r"The predicted class changes in <share> of the texts\.", another_class),
]
