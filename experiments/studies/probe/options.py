"""Options of ``layerscope probe``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import OptionError, option
from ...runs.shared_options import (
    MEDIA,
    SKIP_FILES,
    EngineOptions,
    ProbesOptions,
    RunOptions,
    WordsOptions,
    media_of,
)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(WordsOptions, ProbesOptions, RunOptions, EngineOptions):
    """Probing."""

    property: tuple[str, ...] = option(
        "property to read: upos, deprel, feats:Number, misc:NER, depth, arc:deprel, ...; "
        "for pictures and sounds, a column of the table (repeatable; default: every column)",
        (),
        unless=MEDIA,
    )
    corpus: Path | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        "training sentences, CoNLL-U", None, metavar="FILE", unless=MEDIA
    )
    images: Path | None = option(
        "labelled pictures instead of sentences: a table with the columns file and label "
        "(or other labels)",
        None,
        metavar="FILE",
    )
    audio: Path | None = option(
        "labelled sounds instead of sentences: a table with the columns file and label, "
        "and optionally start and end in seconds",
        None,
        metavar="FILE",
    )
    skip: float = option(SKIP_FILES, 0.1, metavar="SHARE", most=1)
    site: str = option("site to read at every layer: a name or a glob", "hook_resid_post")
    sentence_pooling: str = option(
        "a sentence's vector: the mean over its words, or its first (CLS, BOS) or last token",
        "mean",
        choices=("mean", "first", "last"),
    )
    tol: float = option(
        "largest relative error of a probe's objective; a probe that misses it is marked",
        1e-5,
        above=0,
    )
    control_seeds: int = option(
        "number of control tasks per property; 0 skips them, and the report says so", 5
    )
    random_models: int = option(
        "number of random-weight models to compare with; 0 skips them, and the report says so",
        1,
        most=1000,
    )
    seeds: int = option(
        "repeat the study with N seeds (other sentences, splits and controls), "
        "and report mean and standard deviation",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = [name for name in ("corpus", *MEDIA) if getattr(self, name) is not None]
        if len(sources) > 1:
            raise OptionError(
                f"expected one of corpus, images and audio, got {' and '.join(sources)}"
            )
        media = media_of(self)
        if media is not None and self.structural:
            raise OptionError(f"structural needs sentences: it cannot be given with {media}")


def table_of(options: ProbeOptions) -> Path:
    """The file with the training data."""
    table = options.images or options.audio or options.corpus
    assert table is not None, "from_values asks for one of the three"
    return table
