"""Results of calibration and of self-explanations."""

from __future__ import annotations

from typing import Any

from made_up.probing import provenance


def make_calibration(evil: str = "") -> dict[str, Any]:
    """A study of calibration: token probabilities, numbers in words with refusals, and one that gave too few."""
    bins = [
        {
            "low": k / 15,
            "high": (k + 1) / 15,
            "n": 10 * (k - 6),
            "confidence": (k + 0.5) / 15,
            "accuracy": (k - 1) / 15,
            "accuracy_low": (k - 3) / 15,
            "accuracy_high": (k + 1) / 15,
            "chance_low": (k - 1) / 15,
            "chance_high": min(1.0, (k + 2) / 15),
        }
        for k in range(7, 15)
    ]
    spreads = (
        "accuracy",
        "confidence",
        "overconfidence",
        "ece",
        "ece_mass",
        "squared_error",
        "squared_error_all",
        "auroc",
        "aurc",
    )
    record = {
        "method": f"token probabilities{evil}",
        "n": 360,
        "n_answered": 360,
        "n_clusters": 360,
        "measured": True,
        "ece_chance": 0.04,
        "ece_p": 0.001,
        "ece_mass_chance": 0.05,
        "maximum_error": 0.2,
        "aurc_best": 0.05,
        "n_values": 300,
        "commonest": 0.9,
        "commonest_share": 0.1,
        **{
            name + end: 0.3 + number / 100 + by
            for number, name in enumerate(spreads)
            for end, by in (("", 0.0), ("_low", -0.05), ("_high", 0.05))
        },
        "bins": bins,
        "coverage": {
            "share": [k / 20 for k in range(1, 21)],
            "risk": [0.3] * 20,
            "best": [0.01 * k for k in range(20)],
        },
    }
    whole = {
        **{"brier": 0.5, "brier_low": 0.45, "brier_high": 0.55, "reliability": 0.05, "resolution": 0.2},
        **{"uncertainty": 0.65, "within": 0.0, "nll": None, "classwise": 0.1, "classwise_chance": 0.03},
        "classes": [
            {
                "label": f"choice {k}{evil}",
                "support": 90,
                "share": 0.25,
                "probability": 0.2,
                "ece": 0.1,
                "ece_chance": 0.03,
            }
            for k in range(4)
        ],
    }
    asked = {"method": f"verbalised{evil}", "n_answered": 300, "n_refused": 20, "n_unparsable": 40}
    known = ("n", "accuracy", "squared_error_all")
    few = {k: v if k.startswith(known) else None for k, v in record.items() if k not in ("bins", "coverage")}
    return {
        "schema": 1,
        "kind": "calibrate",
        "source": "questions",
        "provenance": {**provenance(6), "command": f"layerscope calibrate{evil}"},
        "records": [
            {**record, **whole},
            {**record, **asked},
            {**few, "method": f"sampled{evil}", "n_answered": 3, "n_refused": 357, "measured": False},
        ],
        "comparisons": [
            {
                "a": f"token probabilities{evil}",
                "b": f"verbalised{evil}",
                "n": 300,
                "difference": 0.02,
                "difference_low": -0.01,
                "difference_high": 0.05,
                "p_holm": 0.2,
            }
        ],
        "errors": [
            {
                "method": "token probabilities",
                "text": f"What?{evil}",
                "gold": f"a{evil}",
                "predicted": f"b{evil}",
                "confidence": 0.9,
            }
        ],
        "findings": [{"property": f"verbalised{evil}", "text": f"verbalised{evil}: accuracy 0.3{evil}"}],
        "notes": [{"kind": "dropped", "text": f"verbalised: 20 of 360 answers refused{evil}"}],
    }


def make_ask(evil: str = "") -> dict[str, Any]:
    """A self-explanation without effect: two prompts tested, one refused."""
    spread = {"effect": 0.4, "low": 0.1, "high": 0.7, "unit": "bits", "n": 2, "n_clusters": 2}
    over = {"over_random": 0.1, "over_random_low": -0.2, "over_random_high": 0.4, "p": 0.5}
    row = {"answer": f" are{evil}", "named": [f"keys{evil}"], "absent": [], "reason": "", "n_words": 4, "clean": 2.0}
    effects = {"named_effect": 0.5, "random_effect": 0.2, "attribution_effect": 1.5}
    return {
        "schema": 1,
        "kind": "ask",
        "provenance": {**provenance(6), "command": f"layerscope ask{evil}"},
        "records": [
            {"words": "named", **spread, **over},
            {"words": "random", **spread, **dict.fromkeys(over)},
            {"words": "attribution", **spread, **over},
        ],
        "prompts": [
            {"text": f"The keys to the{evil}", "said": f"keys{evil}", **row, **effects},
            {"text": "The keys of a", "said": "keys", **row, **effects, "absent": ["zebra"]},
            {"text": "The key", "said": f"I cannot{evil}", **row, **dict.fromkeys(effects), "reason": "refused"},
        ],
        "findings": [{"property": "named", "text": f"named words: taking them out costs the answer 0.4 bits{evil}"}],
        "notes": [{"kind": "dropped", "text": f"1 of 3 answers refused{evil}"}],
    }
