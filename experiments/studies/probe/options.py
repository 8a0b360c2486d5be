"""Options of ``layerscope probe``."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.options import option
from ...runs.shared_options import EngineOptions, ProbesOptions, RunOptions, WordsOptions


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(WordsOptions, ProbesOptions, RunOptions, EngineOptions):
    """A layer-wise probing study."""

    property: tuple[str, ...] = option(
        "what to read: upos, deprel, feats:Number, misc:NER, depth, arc:deprel, ... (repeatable)"
    )
    site: str = option("site to read at every layer: a name or a glob", "hook_resid_post")
    sentence_pooling: str = option(
        "a sentence's vector: the mean over its words, or its first (CLS, BOS) or last token",
        "mean",
        choices=("mean", "first", "last"),
    )
    tol: float = option(
        "largest relative error of a probe's objective; a probe that misses it is marked", 1e-5
    )
    control_seeds: int = option(
        "control tasks per property; 0 skips them, and the report says so", 5
    )
    random_models: int = option(
        "random-weight models to compare with; 0 skips them, and the report says so", 1
    )
    seeds: int = option(
        "repeat the study with N seeds (other sentences, splits and controls), and report mean and standard deviation",
        1,
        least=1,
        metavar="N",
    )
    code_length: bool = option(
        "also report the online (MDL) code length of each task and control", False
    )
    information: bool = option(
        "also report the bits that each layer adds to the embedding layer", False
    )
    scalar_mix: bool = option(
        "also train a probe of all layers at once, and report its weights and expected layer", False
    )
    structural: int = option(
        "also train structural probes of this rank on the syntax trees; 0 skips them", 0
    )
    calibration: bool = option(
        "also keep the probes' predictions and measure their calibration", False
    )
    batch_tokens: int = option("tokens per batch", 4096, least=1)
    keep_features: bool = option(
        "keep the features on disk when the run is done", False, decides=False
    )
