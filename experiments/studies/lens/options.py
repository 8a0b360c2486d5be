"""Options of ``layerscope lens``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import SKIP, RunOptions


@dataclass(frozen=True, kw_only=True)
class LensOptions(RunOptions):
    """Lenses, direct logit attribution and circuits."""

    text: tuple[str, ...] = option(
        "a text to read at every layer and position (repeatable)", (), metavar="TEXT"
    )
    prompts: Path | None = option(
        "texts to read, JSONL with prompt and, optionally, answer and wrong", None, metavar="FILE"
    )
    corpus: Path | None = option(
        "texts to fit and test the lenses on: one text a line, CoNLL-U (.conllu), "
        "or prompts (.jsonl, .json, .csv, .tsv)",
        None,
        metavar="FILE",
    )
    limit: int | None = option(
        "use only the first N texts of the corpus and of the prompts (default: all)",
        None,
        metavar="N",
        least=1,
    )
    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)
    kind: tuple[str, ...] = option(
        "kind of lens (repeatable; default: logit); all but logit are fitted on --corpus or "
        "loaded with --lens",
        (),
        choices=("logit", "least-squares", "tuned", "jacobian"),
    )
    lens: tuple[Path, ...] = option(
        "a lens that another run saved, or one in a published layout; one of each kind "
        "(repeatable)",
        (),
        metavar="FILE",
    )
    published: bool = option(
        "also write tuned and Jacobian lenses in the layouts of tuned-lens and of the "
        "Jacobian lens",
        False,
        aliases=("export",),
    )
    target: str | None = option(
        "continuation whose rank and logit are shown, with its leading space", None
    )
    wrong: str | None = option("another continuation that the target is compared with", None)
    by: str | None = option(
        "also attribute the target's logit directly to these parts (default: head, "
        "if there is a target)",
        None,
        choices=("head", "layer", "mlp", "neuron", "position"),
    )
    verify: int = option(
        "number of largest contributions to measure exactly by ablation",
        10,
        metavar="N",
        aliases=("exact",),
    )
    circuits: bool = option(
        "also compute the OV and QK circuits of every head, and composition between heads, "
        "from the weights",
        False,
    )
    head: tuple[str, ...] = option(
        "also compute circuits, and list the largest token pairs of this head (repeatable)",
        (),
        metavar="LAYER.HEAD",
    )
    held_out: float = option("share of the corpus that the lenses are tested on", 0.3, most=1)
    steps: int = option("steps of gradient descent of the tuned lens", 60, least=1)
    jacobian_texts: int = option(
        "maximum number of texts for the Jacobian lens", 24, metavar="N", least=2
    )
    first_position: int = option(
        "number of positions at the start of each text that the Jacobian lens leaves out", 16
    )
    reliability: float = option(
        "stop fitting the Jacobian lens once its worst layer reaches this reliability; 1: never",
        0.95,
        most=1,
    )
    random_models: int = option(
        "number of random-weight models whose logit lens is compared; 0 skips them", 1
    )
