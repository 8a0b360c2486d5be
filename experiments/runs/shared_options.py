"""Options that several commands share, declared once;
each study's own are in its ``options.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from .options import as_values, command_of, option

RUNS = Path("runs")
"""Default location of run folders."""
MEDIA = ("images", "audio")
"""Options that name tables of pictures or sounds, where a study reads more than text."""


def media_of(options: Any) -> Literal["images", "audio"] | None:
    """What the model reads, where that is not text."""
    if options.images:
        return "images"
    return "audio" if options.audio else None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Model and runtime."""

    model: str | Any = option("hub id, local folder or GGUF file", metavar="M", in_memory=True)
    out: Path = option(
        "run folder (default: runs/COMMAND-MODEL-HASH)",
        RUNS,
        decides=False,
        metavar="DIR",
    )
    bos: str = option("token placed in front of each text: auto, always, never, or a token", "auto")
    batch_tokens: int = option("tokens per batch", 512, least=1)
    device: str | None = option("cpu, cuda, ... (default: a GPU where there is one)", None)
    device_map: str | None = option(
        "spread the model: auto, balanced, sequential, a JSON file (module: device, "
        "cpu or disk), or tensor-parallel under torchrun",
        None,
        metavar="MAP",
    )
    dtype: str | None = option(
        "precision of the weights in memory (default: the checkpoint's own)",
        None,
        choices=("float32", "float16", "bfloat16"),
    )
    load_in: str | None = option(
        "quantise linear layers while loading (bitsandbytes or torchao)",
        None,
        choices=("8bit", "4bit"),
    )
    adapter: Path | None = option("a folder with a PEFT adapter for the model", None, metavar="DIR")
    revision: str | None = option("branch, tag or commit of a hub id", None)
    attn: str | None = option(
        "attention kernel (default: the model's)",
        None,
        choices=("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"),
    )
    seed: int = option("seed of every random draw", 0, most=2**32 - 1)
    trust_remote_code: bool = option(
        "allow model code that is stored with the weights to run", False
    )
    force: bool = option(
        "continue even if the doctor finds a WRONG site; the report is marked", False, decides=False
    )

    def __post_init__(self) -> None:
        if self.out == RUNS:
            values = as_values(self, deciding=True)
            model = re.sub(r"[^\w.-]+", "-", Path(str(values["model"] or "")).name).strip("-.")
            digest = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:8]
            object.__setattr__(
                self, "out", RUNS / "-".join(filter(None, (command_of(type(self)), model, digest)))
            )


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """Output and configuration."""

    config: Path | None = option(
        "read options from a TOML file, such as the run.toml in a run folder; "
        "flags take precedence",
        None,
        metavar="FILE",
    )
    dry_run: bool = option(
        "print the plan with estimated time, memory and disk use, and stop", False
    )
    json: bool = option("print the results as JSON instead of tables", False)
    quiet: bool = option("print no progress", False)
    verbose: bool = option("print more detail, and tracebacks of errors", False)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Execution backend (results do not depend on it)."""

    engine: str = option(
        "run in this process, or on Ray workers", "local", decides=False, choices=("local", "ray")
    )
    address: str | None = option(
        "with --engine ray: address of a running cluster (default: start Ray on this machine)",
        None,
        decides=False,
        metavar="WHERE",
    )
    workers: int | None = option(
        "with --engine ray: maximum number of workers (default: as many as fit)",
        None,
        decides=False,
        metavar="N",
        least=1,
    )
    num_cpus: int | None = option(
        "with --engine ray: cores per worker (default: the threads of this process)",
        None,
        decides=False,
        metavar="C",
        least=1,
    )
    num_gpus: float = option(
        "with --engine ray: GPUs per worker; may be a fraction", 0.0, decides=False, metavar="G"
    )


SKIP = "largest share of the items that may be left out because they cannot be measured"
SKIP_FILES = (
    "with --images and --audio: largest share of a table's lines that may be left out "
    "because their files cannot be used"
)


@dataclass(frozen=True, kw_only=True)
class TextsOptions(RunOptions):
    """Texts and metric."""

    KINDS: ClassVar[tuple[str, ...]] = ("prompts", "pairs", "labelled", "text")
    """Options of which one says what is measured."""

    text: tuple[str, ...] = option(
        "a text to measure instead of a file of prompts (repeatable)", (), metavar="TEXT"
    )
    target: str | None = option("with --text: its answer, with its leading space", None)
    wrong: str | None = option("with --text: the answer that --target is compared with", None)
    target_prefix: str | None = option(
        "with --text, for encoder-decoder models: text that the decoder has "
        "produced before the answer",
        None,
    )
    prompts: Path | None = option(
        "prompts (JSONL, JSON, CSV or TSV) with prompt and, if the metric needs them, "
        "answer and wrong",
        None,
        metavar="FILE",
    )
    pairs: Path | None = option(
        "minimal pairs (JSONL, JSON, CSV or TSV) with sentence_good and sentence_bad",
        None,
        metavar="FILE",
    )
    labelled: Path | None = option(
        "labelled texts for a text classifier (JSONL, JSON, CSV or TSV with text and label)",
        None,
        metavar="FILE",
    )
    limit: int | None = option(
        "use only the first N texts of the file (default: all)", None, metavar="N", least=1
    )
    metric: str | None = option(
        "metric (default: logit_difference; pair_difference for pairs; class_log_odds for "
        "labelled texts; loss for neurons, prune and usage; "
        "probe_log_probability with a probe)",
        None,
    )

    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)

    @property
    def source(self) -> Path:
        """The file of prompts, pairs or labelled texts."""
        return self.prompts or self.pairs or self.labelled or Path()

    @property
    def given(self) -> list[str]:
        """The kinds of texts that are given."""
        return [name for name in self.KINDS if getattr(self, name)]


@dataclass(frozen=True, kw_only=True)
class EffectsOptions(RunOptions):
    """Estimated effects and null distribution."""

    estimate: str = option(
        "estimate all effects from gradients and measure only the largest exactly",
        "none",
        choices=("none", "gradient", "graddrop"),
    )
    verify: int = option(
        "with --estimate: number of largest effects to measure exactly", 64, least=1
    )
    verify_drawn: int = option(
        "with --estimate: number of other effects, drawn at random, to measure exactly", 32
    )
    null_draws: int = option(
        "also measure N random changes of the same size",
        0,
        metavar="N",
        aliases=("null",),
    )


@dataclass(frozen=True, kw_only=True)
class WordsOptions:
    """Corpus and word vectors."""

    corpus: Path = option("training sentences, CoNLL-U", metavar="FILE")
    dev: Path | None = option(
        "sentences used to choose the penalty (default: a tenth of the corpus)",
        None,
        metavar="FILE",
    )
    test: Path | None = option(
        "sentences used for scoring (default: a tenth of the corpus)", None, metavar="FILE"
    )
    sample: int | None = option(
        "draw N training sentences at random (default: all)",
        None,
        metavar="N",
        least=1,
        aliases=("limit_sentences",),
    )
    pooling: str = option(
        "how the vectors of a word's tokens are combined", "mean", choices=("first", "last", "mean")
    )


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Reuse captured activations."""

    store: str | None = option(
        "read features written by layerscope capture (run folder or URL) "
        "instead of running the model",
        None,
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class ProbesOptions(StoreOptions):
    """Probe fitting."""

    l2: tuple[float, ...] = option(
        "candidate L2 penalties (repeatable; default: a built-in path)", (), above=0
    )
    max_ram: str | None = option(
        "memory limit, such as 2GB: batches become smaller and vectors stay on disk", None
    )
