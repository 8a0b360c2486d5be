"""Options of ``layerscope probe``."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.options import option
from ...runs.shared_options import EngineOptions, ProbesOptions, RunOptions, WordsOptions


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(WordsOptions, ProbesOptions, RunOptions, EngineOptions):
    """A layer-wise probing study."""

    property: tuple[str, ...] = option("what to read: upos, deprel, feats:Number, depth, arc:deprel, ... (repeatable)")
    site: str = option("what to read at every layer: a site's name or a glob", "hook_resid_post")
    sentence_pooling: str = option(
        "a sentence's vector: the mean over its words', or that of its first (CLS, BOS) or last token",
        "mean",
        choices=("mean", "first", "last"),
    )
    tol: float = option("largest relative error of a probe's objective; a probe that misses it is flagged", 1e-5)
    control_seeds: int = option("control tasks a property; 0 skips them, and the report says so", 5)
    random_models: int = option("random-weight models to compare with; 0 skips them, and the report says so", 1)
    seeds: int = option(
        "repeat the study with this many seeds, other draws of sentences, splits and controls; the spread is told",
        1,
        least=1,
    )
    code_length: bool = option("also the bits that the labels take, by online code, and the control tasks'", False)
    information: bool = option("also the bits that each layer tells of the labels beyond the embedding layer", False)
    scalar_mix: bool = option(
        "also a probe of all layers at once, what it reads of each, and the expected layer", False
    )
    structural: int = option("also structural probes of this rank, of the tree's distances and depths; 0 skips", 0)
    calibration: bool = option("also keep the probes' predictions and measure their calibration", False)
    batch_tokens: int = option("tokens of the texts that share a batch", 4096, least=1)
    keep_features: bool = option("keep the features on disk when the run is done", False, decides=False)
