"""The controls of every kind of run: what each keeps a reader from believing, and whether this run has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .parts import Cell, Column, Section, Table
from .words import finite

Results = Mapping[str, Any]


def always(results: Results) -> bool:
    """Every run of this kind has it."""
    return True


@dataclass(frozen=True)
class Control:
    """One control.

    Args:
        name: what is done.
        guards: what would be believed wrongly without it.
        ran: whether a run's results have it.
        asked: the option that asks for it, where it is not always there.
        applies: whether a run of this kind can have it.
    """

    name: str
    guards: str
    ran: Callable[[Results], bool]
    asked: str = ""
    applies: Callable[[Results], bool] = always


def field(name: str) -> Callable[[Results], bool]:
    """Any record has a number there."""
    return lambda results: any(finite(record.get(name)) is not None for record in results.get("records") or ())


def told(name: str) -> Callable[[Results], bool]:
    """The option was given."""
    return lambda results: bool(((results.get("provenance") or {}).get("config") or {}).get(name))


def holds(name: str) -> Callable[[Results], bool]:
    """The results have such a part."""
    return lambda results: bool(results.get(name))


_OVER_PROMPTS = Control("interval and sign-flip test over prompts", "an effect of a few prompts", field("p"))
_GRID = Control("false-discovery rate over the grid", "one of many parts that stands out by luck", field("q"))
_TURNED = Control(
    "changes as large in random directions", "any change of that size would do it", field("null"), "--null 20"
)
CONTROLS: dict[str, tuple[Control, ...]] = {
    "probe": (
        Control("control task", "the probe's own memory for words", field("control"), "--control-seeds 5"),
        Control("type majority", "the word alone tells it, the layer adds nothing", field("type_majority")),
        Control("embedding layer", "it was there before the first block", field("embedding")),
        Control("random weights", "the architecture gives it, no training", field("random_model"), "--random-models 1"),
        Control("unseen word types", "words of the training sentences are remembered", field("score_unseen")),
        Control("interval over sentences", "a difference within the test sentences' chance", field("low")),
    ),
    "ablate": (_OVER_PROMPTS, _GRID, _TURNED),
    "patch": (
        _OVER_PROMPTS,
        _GRID,
        _TURNED,
        Control(
            "both directions",
            "a part that is enough is taken for one that is needed",
            lambda results: len({record.get("value") for record in results.get("records") or ()}) > 1,
            "--direction both",
        ),
    ),
    "prune": (
        Control("as many heads at random", "any heads could have left", field("random"), "--random 2"),
        Control("interval over texts", "a loss within the texts' chance", field("low")),
    ),
    "usage": (
        Control("random changes as large", "any change of that size would do it", field("null"), "--null 5"),
        Control("a probe after the erasure", "what was to be erased is still there", field("erased_linear")),
        Control("a network after the erasure", "it is still there, but not linearly", field("erased_mlp")),
        _GRID,
    ),
    "neurons": (
        Control("as many neurons at random", "any neurons of that number would do", field("null_p")),
        Control("random rotations", "any basis would do, not the neurons' own", told("rotations"), "--rotations 3"),
        _GRID,
    ),
    "attribute": (
        Control("random attributions", "the measure rewards any ranking", told("random"), "--random 5"),
        Control(
            "other seeds of methods that draw",
            "a ranking by one draw",
            field("stability"),
            "--seeds 2",
            applies=lambda results: field("stability")(results) or not told("seeds")(results),
        ),
        Control("small noise", "a ranking that the next text overturns", told("sensitivity"), "--sensitivity 10"),
    ),
    "attend": (
        Control("uniform attention", "a number that looking everywhere alike has too", holds("uniform")),
        Control(
            "the best fixed offset", "a head that looks one word back is said to follow syntax", holds("relations")
        ),
        Control(
            "effects of ablation", "what a head looks at is taken for what it does", holds("effects"), "--effects DIR"
        ),
    ),
    "geometry": (
        Control(
            "trustworthiness of the maps",
            "neighbours that only the map made",
            lambda results: any(key.startswith("trust_") for r in results.get("records") or () for key in r),
        ),
        Control(
            "separability in the space itself",
            "clusters that only the map made",
            lambda results: any(key.endswith(":space") for r in results.get("records") or () for key in r),
        ),
        Control("anisotropy after centring", "a common direction is taken for likeness", field("anisotropy_centred")),
    ),
    "calibrate": (
        Control("ECE of a perfectly calibrated model by chance", "an error that the bins make", field("ece_chance")),
        Control("interval over groups", "a difference within the rows' chance", field("ece_low")),
    ),
    "ask": (
        Control("as many random words", "any words would have cost as much", field("over_random")),
        Control("the first words of an attribution", "no words could have cost more", told("attribution")),
    ),
    "capture": (Control("checksums of every shard", "damaged values are read as true", always),),
    "doctor": (Control("a bound for every check", "an error is small because it is called so", field("bound")),),
}
_DOCTOR = Control(
    "the doctor's quick checks",
    "a site that is not what it is called",
    lambda results: bool((results.get("provenance") or {}).get("doctor")),
)


def controls(results: Results) -> Section | None:
    """Every control of this kind of run, and whether it ran."""
    known = CONTROLS.get(str(results.get("kind")), ())
    if not known or not results.get("records"):
        return None
    if results.get("kind") != "doctor" and (results.get("provenance") or {}).get("model"):
        known = (*known, _DOCTOR)
    rows = [
        [Cell(one.name, head=True), _status(one, one.ran(results)), Cell(one.guards)]
        for one in known
        if one.applies(results)
    ]
    columns = [
        Column("control", False),
        Column("in this run", False),
        Column("what it rules out", False),
    ]
    table = Table("controls-table", "Controls of this run", columns, rows, sortable=False)
    about = "What stands beside the numbers, and what would be believed without it."
    return Section("controls", "Controls", [table], about)


def _status(control: Control, ran: bool) -> Cell:
    if ran:
        return Cell("yes", "1")
    return Cell("not supported", "0", f"ask with {control.asked}" if control.asked else "", tone="badge")
