"""Notes with a number: what was left out, estimated or drawn."""

from __future__ import annotations

import re

from .reading import Groups, Raw, ends, nothing, same, true

MIN_TESTED, MIN_UNWARNED = 6, 20
"""Groups below which nothing is tested, and below which intervals are warned of."""


def group_counts(results: Raw) -> set[int]:
    """How many groups, texts or items the results were resampled over."""
    rows = [*results["records"], *results.get("layers", [])]
    counts = {row[name] for row in rows for name in ("n_clusters", "n_texts") if name in row}
    # Of a probing study the sentences, which the provenance counts.
    files = results["provenance"].get("data", [])
    return counts | {
        file[name] for file in files for name in ("n_items", "sentences") if name in file
    }


def few(results: Raw, g: Groups, about: str) -> None:
    n = int(g["n"])
    true(MIN_TESTED <= n < MIN_UNWARNED, "it is not few, or too few for a test")
    true(n in group_counts(results), "groups")
    if g["of"]:
        true(int(g["of"]) in {r["n"] for r in results["records"]}, "items")


def few_of_unequal_size(results: Raw, g: Groups, about: str) -> None:
    n = int(g["n"])
    true(MIN_TESTED <= n < 2 * MIN_UNWARNED, "it is not few, or too few for a test")
    true(n in group_counts(results), "groups")


def untested(results: Raw, g: Groups, about: str) -> None:
    n = int(g["n"])
    true(n < MIN_TESTED == int(g["least"]), "groups")
    true(n in group_counts(results), "groups")
    tested = [r for r in results["records"] if r.get("p") is not None]
    true(not tested, "something is tested")


def not_normalised(results: Raw, g: Groups, about: str) -> None:
    base = results["baseline"]
    ends(g, base["interval"])
    true(base["interval"]["low"] <= 0 <= base["interval"]["high"], "it differs from 0")
    true(all(r["normalised"] is None for r in results["records"]), "normalised")


def certified(results: Raw, g: Groups, about: str) -> None:
    certificate = results["certificates"][g["grid"]]
    for name, field in (("top", "n_top"), ("sample", "n_sample"), ("rho", "spearman")):
        same(g[name], certificate[field], field)
    same(g["overlap"], certificate["overlap"])
    same(g["sign"], certificate["same_sign"])
    misleads = [part for part in g["misleads"].split("; ") if part]
    true(misleads == certificate["misleads"], "what misleads")


def unchanged(results: Raw, g: Groups, about: str) -> None:
    """What changed no activation changed no metric either, so that its effects are 0."""
    value = {"denoising ": "denoising", "noising ": "noising"}.get(g["direction"])
    measured = [r for r in results["records"] if r["exact"] and value in (None, r["value"])]
    true(int(g["of"]) == len(measured), "measured")
    true(int(g["n"]) <= sum(abs(r["effect"]) < 1e-6 for r in measured), "effects of 0")


def reasons(results: Raw, g: Groups, about: str) -> None:
    names = {
        "refused": "refused",
        "named no word of the text": "unparsable",
        "named every word of the text": "everything",
    }
    rows = results["prompts"]
    true(int(g["n"]) == sum(r["reason"] == names[g["why"]] for r in rows), g["why"])
    true(int(g["of"]) == len(rows), "answers")


def absent(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == sum(bool(r["absent"]) for r in results["prompts"]), "absent words")
    true(int(g["of"]) == len(results["prompts"]), "answers")


def of_method(results: Raw, name: str) -> Raw:
    return next(r for r in results["records"] if r["method"] == name)


def unparsable(results: Raw, g: Groups, about: str) -> None:
    record = of_method(results, g["method"])
    same(g["n"], record[f"n_{g['why']}"])
    same(g["of"], record["n"])


def too_few_confidences(results: Raw, g: Groups, about: str) -> None:
    record = of_method(results, g["method"])
    same(g["n"], record["n_answered"])
    true(not record["measured"], "measured")


def unlikely_choices(results: Raw, g: Groups, about: str) -> None:
    """How often is in no record; of how many is."""
    true(int(g["n"]) <= int(g["of"]) == of_method(results, g["method"])["n"], "questions")


def small_group(results: Raw, g: Groups, about: str) -> None:
    rows = [r for r in results["groups"] if (r["by"], r["group"]) == (g["by"], g["group"])]
    true(int(g["n"]) == max(r["n"] for r in rows), "rows")


def impossible(results: Raw, g: Groups, about: str) -> None:
    record = next(r for r in results["records"] if r["method"].startswith(g["method"]))
    same(g["n"], record["n_impossible"])


def fitted_on(results: Raw, g: Groups, about: str) -> None:
    """A temperature that divides logits makes confidences flatter above 1 and sharper below;
    its rows are in no record.
    """
    plain = results["records"][0]
    scaled = next(r for r in results["records"] if "temperature" in r["method"])
    if plain["confidence"] is not None and scaled["confidence"] is not None:
        is_flatter = scaled["confidence"] <= plain["confidence"]
        true((float(g["temperature"]) >= 1) == is_flatter, "temperature")


def words_drawn(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == results["records"][0]["n"], "words")
    true(int(g["n"]) < int(g["of"].replace(",", "")), "of how many")
    true(int(g["seed"]) == results["provenance"]["config"]["seed"], "seed")


def sentences_drawn(results: Raw, g: Groups, about: str) -> None:
    config = results["provenance"]["config"]
    true(int(g["n"].replace(",", "")) == config["sample"], "sentences")
    true(int(g["seed"]) == config["seed"], "seed")


def still_read(results: Raw, g: Groups, about: str) -> None:
    rows = [r for r in results["records"] if r["value"] == "erase"]
    true(int(g["of"]) == len(rows), "layers")
    read = [r for r in rows if r["erased_mlp"] is not None and r["erased_mlp"] > r["majority"]]
    true(int(g["n"]) <= len(read), "layers that are read")
    same(g["most"], max(r["erased_mlp"] for r in rows))


def random_sets(results: Raw, g: Groups, about: str) -> None:
    true(int(g["n"]) == results["provenance"]["config"]["null_draws"], "draws")
    # 1 / (1 + n) is above 5%
    true(1 / (1 + int(g["n"])) > 0.05 >= 1 / (1 + int(g["least"])), "what they can show")


def completeness(results: Raw, g: Groups, about: str) -> None:
    rows = [r for r in results["records"] if r["method"] == g["method"]]
    steps = int(g["steps"])
    mine = [r["more"] for r in rows if r["more"].get("steps") == steps]
    shares = [100 * more["gap_share"] for more in mine]
    printed = float(g["gap"].rstrip("%"))
    half = 0.5 * 10.0 ** -len(g["gap"].rstrip("%").partition(".")[2])
    true(any(abs(abs(share) - printed) <= half * 1.001 for share in shares), "gap")


def conserved(results: Raw, g: Groups, about: str) -> None:
    for record in results["records"]:
        by_block = list((record["more"].get("conservation") or {}).values())
        shown = re.findall(r"[-+][\d.]+", g["blocks"])
        if len(shown) != len(by_block) - 1:
            continue
        same(g["sum"], by_block[0])
        same(g["value"], record["value"])
        same(g["lost"], 1 - by_block[0] / record["value"])
        for text, value in zip(shown, by_block[1:], strict=True):
            same(text, value)
        return
    true(False, "no such relevance")


def outside(results: Raw, g: Groups, about: str) -> None:
    values = [r["more"].get("outside") for r in results["records"] if r["method"] == g["method"]]
    same(g["value"], next(v for v in values if v is not None))


def half_ranked(results: Raw, g: Groups, about: str) -> None:
    limit = results["provenance"]["config"]["limit"]
    true(int(g["n"]) + results["records"][0]["n"] == limit, "texts")


def trainings_apart(results: Raw, g: Groups, about: str) -> None:
    least = float(g["least"].rstrip("%")) / 100
    sites = [r["site"] for r in results["trees"] if (r.get("apart") or 0.0) > least]
    true(g["sites"].split(", ") == sites, "sites")


COUNTED = r"(?:items?|held-out texts|sentences|groups? of <of> items?)"
NOTES = [
    (
        r"tree: trainings at two rates end more than <least> apart in dev loss at <sites:[\w., ]+>; the better one is kept, "
        r"and a still better one may exist",
        trainings_apart,
    ),
    (
        rf"(?:\S+: )?(?:only )?<n> {COUNTED}: if effects are skewed, 95% intervals cover the truth in only about 90% of cases",
        few,
    ),
    (
        rf"(?:\S+: )?(?:only )?<n> {COUNTED} of unequal size: if effects are skewed, 95% intervals cover the truth in only about 90% of cases",
        few_of_unequal_size,
    ),
    (
        rf"(?:\S+: )?(?:only )?<n> {COUNTED}: differences have no interval and cannot be tested, for which <least> are needed",
        untested,
    ),
    (
        r"effects are not normalised: the clean \w+ is not significantly different from 0 \(95% CI <low> to <high>\)",
        not_normalised,
    ),
    (
        r"<grid:\w+>: effects are estimated from gradients and exact for <top> of the largest and <sample> drawn at random: Spearman "
        r"<rho>, top-half overlap <overlap>, same sign <sign>(?:\. The estimate misleads here: <misleads:.*>)?",
        certified,
    ),
    (
        r"<n> of <of> measured <direction:denoising |noising |>\w+ changed no activation.*",
        unchanged,
    ),
    (
        r"<n> of <of> answers <why:refused|named no word of the text|named every word of the text>, such as .*",
        reasons,
    ),
    (r"<n> of <of> answers name words that are not in the text", absent),
    (
        r"<method:\w+>: A and B together have less than half of the probability in <n> of <of> questions",
        unlikely_choices,
    ),
    (r"<method:\w+>: <n> of <of> answers <why:unparsable|refused>, such as .*", unparsable),
    (r"<method:\w+>: <n> confidences are too few to measure", too_few_confidences),
    (r"<by:\w+> <group:\w+>: <n> rows are too few for precise rates", small_group),
    (
        r"<method:[\w ]+> scaling: <n> rows give their label zero probability, so the log-likelihood is infinite",
        impossible,
    ),
    (r"temperature <temperature>, fitted on \d+ validation rows", fitted_on),
    (r"temperature scaling did not converge: \{.*\}", nothing),
    (
        r"all figures are for <n> of <of> words, drawn at random \(seed <seed>\)\. Maps other than PCA start from 50 principal "
        r"components and are rotated to match the previous layer",
        words_drawn,
    ),
    (r"<n> of [\d,]+ training sentences drawn at random \(seed <seed>\)", sentences_drawn),
    (
        r"at <n> of <of> layers, a small network still reads the property after the erasure \(accuracy up to <most>\), .*",
        still_read,
    ),
    (
        r"<n> random sets are too few to show that an effect exceeds them; at least <least> are needed",
        random_sets,
    ),
    (
        r"the gradient ranks neurons on <n> texts or pairs; effects are measured on the others",
        half_ranked,
    ),
    (
        r"<method:[\w-]+>: integrated from [\w ]+ in <steps> steps; the completeness gap is <gap> of the change",
        completeness,
    ),
    (
        r"lrp: relevance at the input sums to <sum> of <value>; <lost> is absorbed by the softmax's constant terms\. The sums by block "
        r"are <blocks:.*>",
        conserved,
    ),
    (
        r"<method:[\w-]+>: <value> of the value is attributed to positions outside all units .*",
        outside,
    ),
    (r"input-reduction: .* \(1 stayed longest\), not shares of the value", nothing),
    # Constants of the method, which no record holds.
    (
        r"heads are compared on at most 16 tokens per text; preferred offsets are searched from -5 to \+5 words; a head is chosen for a "
        r"dependency on one half of the texts and scored on the other",
        nothing,
    ),
    (r"\d+ \w+ weights are absent, but they are not used", nothing),
    (r"no BOS: the first word of each text is at position 0, .*", nothing),
    (r"\w+: the selectivity of a number \(R2 minus the control's R2\) has no interval", nothing),
]
