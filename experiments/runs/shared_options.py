"""What several commands are told: the fields that they share, declared once (`experiments.config` has the commands' own)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .options import as_values, command_of, option

RUNS = Path("runs")
"""Where a run's folder is made that has no name."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The model, and where and how it runs."""

    model: str | Any = option("hub id, local folder or GGUF file", metavar="M", in_memory=True)
    out: Path = option(
        "the run's folder (default: one in runs/, named after command, model and options)",
        RUNS,
        decides=False,
        metavar="DIR",
    )
    bos: str = option("token in front of each text: auto, always, never, or a token", "auto")
    batch_tokens: int = option("tokens of the texts that share a batch", 512, least=1)
    device: str | None = option("cpu, cuda, ... (default: a GPU where there is one)", None)
    dtype: str = option("weights in memory", "float32", choices=("float32", "float16", "bfloat16"))
    seed: int = option("everything random comes from it", 0)
    trust_remote_code: bool = option("run model code that comes with the weights", False)
    force: bool = option("go on where the doctor finds the model WRONG, and say so in the report", False, decides=False)

    def __post_init__(self) -> None:
        if self.out == RUNS:
            values = as_values(self, deciding=True)
            model = re.sub(r"[^\w.-]+", "-", Path(str(values["model"] or "")).name).strip("-.")
            digest = hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:8]
            object.__setattr__(self, "out", RUNS / "-".join(filter(None, (command_of(type(self)), model, digest))))


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How a command is called, whatever it does."""

    config: Path | None = option(
        "options from a TOML file, such as the run.toml that every run leaves in its folder; flags win over it",
        None,
        metavar="FILE",
    )
    dry_run: bool = option("print the plan with its time, memory and disk, as far as they can be told, and stop", False)
    json: bool = option("print the results as JSON on standard output in place of tables", False)
    quiet: bool = option("say nothing while it runs", False)
    verbose: bool = option("say more while it runs; errors with their traceback", False)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the work runs; no result depends on it."""

    engine: str = option("here, or by workers of Ray", "local", decides=False, choices=("local", "ray"))
    address: str | None = option(
        "with --engine ray: a running cluster's (default: a Ray of its own, on this machine)",
        None,
        decides=False,
        metavar="WHERE",
    )
    workers: int | None = option(
        "with --engine ray: at most so many at a time (default: as many as fit)",
        None,
        decides=False,
        metavar="N",
        least=1,
    )
    num_cpus: int | None = option(
        "with --engine ray: cores and threads of each worker (default: the threads of this process)",
        None,
        decides=False,
        metavar="C",
        least=1,
    )
    num_gpus: float = option(
        "with --engine ray: GPUs of each worker, or a share of one", 0.0, decides=False, metavar="G"
    )


@dataclass(frozen=True, kw_only=True)
class TextsOptions(RunOptions):
    """What is measured, and on which texts."""

    prompts: Path | None = option(
        "JSONL with prompt and, where the metric needs them, answer, wrong", None, metavar="FILE"
    )
    pairs: Path | None = option("minimal pairs, JSONL with sentence_good, sentence_bad", None, metavar="FILE")
    limit: int | None = option("use the first N prompts or pairs", None, metavar="N", least=1)
    metric: str | None = option(
        "what is measured (default: logit_difference; for pairs pair_difference, for neurons, prune and usage loss, with a probe "
        "probe_log_probability)",
        None,
    )

    @property
    def source(self) -> Path:
        """The file of prompts or pairs."""
        return self.prompts or self.pairs or Path()


@dataclass(frozen=True, kw_only=True)
class EffectsOptions(RunOptions):
    """Estimates that stand for exact effects, and the null."""

    estimate: str = option(
        "estimate all effects from gradients, and measure the largest exactly",
        "none",
        choices=("none", "gradient", "graddrop"),
    )
    verify: int = option("with --estimate: how many of the largest are measured exactly", 64, least=1)
    verify_drawn: int = option("with --estimate: how many others, drawn at random, are measured exactly", 32)
    null_draws: int = option(
        "repeat the exact effects with changes as large in N random directions", 0, metavar="N", aliases=("null",)
    )


@dataclass(frozen=True, kw_only=True)
class WordsOptions:
    """Annotated sentences, and a vector of each of their words."""

    corpus: Path = option("training sentences, CoNLL-U", metavar="FILE")
    dev: Path | None = option(
        "sentences that choose the penalty (default: a tenth of the corpus)", None, metavar="FILE"
    )
    test: Path | None = option("sentences that are scored (default: a tenth of the corpus)", None, metavar="FILE")
    sample: int | None = option(
        "draw N training sentences at random", None, metavar="N", least=1, aliases=("limit_sentences",)
    )
    pooling: str = option("a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean"))


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where vectors are that were captured before."""

    store: str | None = option(
        "read the features that layerscope capture wrote there, a run's folder or a URL, instead of running the model for them",
        None,
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class ProbesOptions(StoreOptions):
    """Linear probes, and where their vectors come from and stay."""

    l2: tuple[float, ...] = option("penalties to choose from (repeatable; default: the probes' own path)", ())
    max_ram: str | None = option(
        "memory of the process that is not exceeded, as 2GB: smaller batches, vectors left on disk", None
    )
