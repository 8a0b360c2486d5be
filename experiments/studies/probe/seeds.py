"""A probing study repeated with other seeds: other draws of the sentences, splits, control tasks and random models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from ...report.words import layer_label
from ...runs import console
from .options import ProbeOptions


def over_seeds(config: ProbeOptions, results: dict[str, Any], study: Callable[[ProbeOptions], dict[str, Any]]) -> None:
    """Repeat a study and set the spread beside its records.

    Each repetition is a run of its own in ``seeds/SEED``, finished ones are not run again. Records get ``score_seeds`` and
    ``selectivity_seeds``, a value a seed, this run's first; ``seeds`` has one record a property: ``property, seeds, best``
    (the best layer's site by seed), ``scores`` there, ``mean, sd, sd_selectivity`` at this run's best site.

    Args:
        results: of this run's seed; changed in place.
        study: runs one configuration.
    """
    every = [results]
    for seed in range(config.seed + 1, config.seed + config.seeds):
        console.say(f"seed {seed}, {len(every) + 1} of {config.seeds}")
        every.append(study(replace(config, seed=seed, seeds=1, out=config.out / "seeds" / str(seed))))
    of = [{(r["property"], r["site"]): r for r in one["records"]} for one in every]
    for record in results["records"]:
        found = [one.get((record["property"], record["site"]), {}) for one in of]
        record |= {f"{name}_seeds": [r.get(name) for r in found] for name in ("score", "selectivity")}
    results["seeds"] = [
        _of_property(name, of, config) for name in dict.fromkeys(r["property"] for r in results["records"])
    ]
    results["findings"] += [{"property": r["property"], "text": _finding(r, results)} for r in results["seeds"]]
    if config.dev and config.test and not config.sample:
        text = "the files are the same for every seed: control tasks, random models and intervals differ, not sentences"
        results["notes"].append({"kind": "info", "text": f"seeds: {text}"})


def _of_property(name: str, of: list[dict[tuple[str, str], dict[str, Any]]], config: ProbeOptions) -> dict[str, Any]:
    tops = [max((r for (prop, _), r in one.items() if prop == name), key=lambda r: r["score"]) for one in of]
    site = tops[0]["site"]
    here = [one[name, site] for one in of if (name, site) in one]
    selectivity = [r["selectivity"] for r in here if r["selectivity"] is not None]
    return {
        "property": name,
        "seeds": [config.seed + k for k in range(len(of))],
        "best": [r["site"] for r in tops],
        "scores": [r["score"] for r in tops],
        "mean": fmean(r["score"] for r in here),
        "sd": stdev(r["score"] for r in here),
        "sd_selectivity": stdev(selectivity) if len(selectivity) > 1 else None,
    }


def _finding(record: dict[str, Any], results: dict[str, Any]) -> str:
    places = {r["site"]: layer_label(r["layer"], r["site"]) for r in results["records"]}
    best = ", ".join(places[site] for site in record["best"])
    return (
        f"{record['property']}: over {len(record['seeds'])} seeds the best layer is {best}; at this run's best the score is "
        f"{record['mean']:.3f} on average, with a standard deviation of {record['sd']:.4f}."
    )
