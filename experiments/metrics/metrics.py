"""What a prompt or pair is measured by: which logits are read, and the number they make.

    logit_difference   l(answer) - l(wrong) where the answer stands, in logits (nats)
    log_probability    log2 p(answer | prompt), summed over the answer's tokens, in bits
    answer_difference  log2 p(answer | prompt) - log2 p(wrong | prompt), all their tokens, in bits
    answer_accuracy    1 where that is above 0, else 0: BLiMP's one-prefix method
    pair_difference    log2 p(good) - log2 p(bad), whole sentences, in bits
    pair_accuracy      1 where log2 p(good) > log2 p(bad), else 0
    loss               -log2 p of the text's own tokens, mean over them, in bits
    kl                 sum_v p_clean(v) (log2 p_clean(v) - log2 p(v)) where the answer stands, in
                       bits
    rank               how many tokens are likelier than the answer's first
    confidence         probability of the most probable token where the answer stands
    class_log_odds     log2 of the odds of a text's own label, in bits: classifiers, see
                       `experiments.metrics.class_metrics`
    class_logit        its logit, in nats
    class_accuracy     1 where it is the most probable class, else 0

Which positions are read, also in masked models, is in `experiments.metrics.reads`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Readout
from ...probes.resampling import Kind
from ..corpus.prompts import Pair, Prompt, Unusable, read_labelled, read_pairs, read_prompts
from ..runs.execute import DataFile, Load
from ..runs.shared_options import RunOptions, TextsOptions
from ..subject import Subject
from ..subject.pictures import read_processor
from .class_metrics import class_reads, is_most_probable, log_odds
from .reads import (
    BITS,
    MetricError,
    Reads,
    answer_reads,
    loss_reads,
    pair_reads,
    prediction_reads,
)


@dataclass(frozen=True)
class Metric:
    """A metric: its unit, whether it is of pairs, and its two halves.

    Args:
        reads: from a subject and prompts to the reads.
        value: from logits at the reads' positions ``copies slots vocab``, those of the clean run
            ``slots vocab`` and the reads to ``copies prompts``.
        of_answers: it needs the prompts' answers.
        of_classes: it is of a classifier's labels.
        readout: what gives the logits in place of the model's own head.
        baseline_is_zero: an unedited model has the value 0 by definition.
        of_targets: its value needs no logits but those of the reads' targets.
    """

    name: str
    unit: str
    reads: Callable[[Subject, Any], Reads]
    value: Callable[[Tensor, Tensor, Reads], Tensor]
    of_pairs: bool = False
    of_answers: bool = True
    baseline_is_zero: bool = False
    readout: Readout | None = None
    of_targets: bool = False
    of_classes: bool = False

    @property
    def texts(self) -> str:
        """The option whose file it is measured on."""
        return "labelled" if self.of_classes else "pairs" if self.of_pairs else "prompts"

    @property
    def value_kind(self) -> Kind | None:
        """What its values are (`ClusterBootstrap.mean`), where a prompt's is 1 or 0."""
        return "share" if self.value in (_accuracy, is_most_probable) else None

    @property
    def difference_kind(self) -> Kind | None:
        """What differences of two of its values are."""
        return "difference" if self.value_kind else None


def _log2p(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return reads.sums(BITS * reads.at_targets(torch.log_softmax(logits.float(), dim=-1)))


def _logits(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return reads.sums(reads.at_targets(logits.float()))


def _accuracy(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return (_log2p(logits, clean, reads) > 0).float()


def _kl(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    before = torch.log_softmax(clean.float(), dim=-1)
    after = torch.log_softmax(logits.float(), dim=-1)
    return reads.sums(
        BITS * (before.exp() * (before - after)).sum(-1)[:, reads.slots.to(after.device)]
    )


def _rank(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    at_reads = logits[:, reads.slots.to(logits.device)]
    return reads.sums((at_reads > reads.at_targets(logits).unsqueeze(2)).sum(-1).float())


def _confidence(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    most = torch.softmax(logits.float(), dim=-1).amax(-1)
    return reads.sums(most[:, reads.slots.to(most.device)])


BOTH = (("answer", 1.0), ("wrong", -1.0))
ANSWER = (("answer", 1.0),)


def _of_answers(
    name: str,
    unit: str,
    what: Sequence[tuple[str, float]],
    several: bool,
    value: Callable[[Tensor, Tensor, Reads], Tensor],
    of_targets: bool = False,
) -> Metric:
    """A metric of the prompts' answers, of one token or of ``several``."""

    def reads(subject: Subject, prompts: Any) -> Reads:
        return answer_reads(subject, prompts, what, name, several)

    return Metric(name, unit, reads, value, of_targets=of_targets)


def _of_classes(name: str, unit: str, value: Callable[[Tensor, Tensor, Reads], Tensor]) -> Metric:
    """A metric of the labels of texts that a classifier is given."""

    def reads(subject: Subject, texts: Any) -> Reads:
        return class_reads(subject, texts, name)

    return Metric(name, unit, reads, value, of_answers=False, of_classes=True)


METRICS = {
    metric.name: metric
    for metric in (
        _of_answers("logit_difference", "nats", BOTH, False, _logits, of_targets=True),
        _of_answers("log_probability", "bits", ANSWER, True, _log2p),
        _of_answers("answer_difference", "bits", BOTH, True, _log2p),
        _of_answers("answer_accuracy", "share", BOTH, True, _accuracy),
        _of_answers("rank", "tokens", ANSWER, False, _rank),
        Metric("confidence", "share", prediction_reads, _confidence, of_answers=False),
        Metric("pair_difference", "bits", pair_reads, _log2p, of_pairs=True),
        Metric("pair_accuracy", "share", pair_reads, _accuracy, of_pairs=True),
        Metric("loss", "bits a token", loss_reads, _log2p, of_answers=False),
        Metric("kl", "bits", prediction_reads, _kl, of_answers=False, baseline_is_zero=True),
        _of_classes("class_log_odds", "bits", log_odds),
        _of_classes("class_logit", "nats", _logits),
        _of_classes("class_accuracy", "share", is_most_probable),
    )
}


def get_metric(name: str) -> Metric:
    """A metric by its name; raises `MetricError` with the names there are."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        hint = f": did you mean {near[0]}?" if near else f": expected {', '.join(METRICS)}"
        raise MetricError(f"unknown metric {name!r}{hint}")
    return METRICS[name]


DEFAULTS = {"pairs": "pair_difference", "labelled": "class_log_odds"}
"""Metric of each kind of texts where none is named; that of prompts is the command's own."""


def metric_and_texts(
    options: TextsOptions,
    of_prompts: str,
    unusable: list[Unusable] | None = None,
    audio: bool = False,
) -> tuple[Metric, list[Prompt] | list[Pair]]:
    """What a run measures, and the texts that it is measured on.

    Args:
        of_prompts: the metric of prompts where none is named.
        unusable: is given the lines that are of no use, such as pairs of identical sentences.
        audio: whether prompts may be sounds.

    Raises:
        MetricError: none or several kinds of texts, or a metric of another kind.
        PromptError: a file that cannot be read.
    """
    given = options.given
    if len(given) != 1:
        expected = ", ".join(f"--{name}" for name in options.KINDS)
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise MetricError(f"expected one of {expected}, got {got}")
    (kind,) = given
    metric = get_metric(options.metric or DEFAULTS.get(kind, of_prompts))
    # One text on the command line is a prompt without a file.
    needed = "prompts" if kind == "text" else kind
    if metric.texts != needed:
        fitting = [name for name, other in METRICS.items() if other.texts == kind]
        raise MetricError(
            f"metric {metric.name} is of {metric.texts}: expected --{metric.texts} FILE, "
            f"or for --{kind} one of {', '.join(fitting)}"
        )
    if kind == "text":
        return metric, _prompts_of(options, metric)
    if kind == "pairs":
        return metric, read_pairs(options.source, options.limit, unusable)
    if kind == "labelled":
        return metric, read_labelled(options.source, options.limit, unusable)
    return metric, read_prompts(options.source, options.limit, metric.of_answers, unusable, audio)


def _prompts_of(options: TextsOptions, metric: Metric) -> list[Prompt]:
    """The texts of the command line, with the answers beside them."""
    if options.target is None and metric.of_answers:
        raise MetricError(
            f"metric {metric.name} needs an answer: expected --target (with its space) "
            "beside --text"
        )
    target = (options.target or "", options.wrong)
    return [Prompt(text, *target, target_prefix=options.target_prefix) for text in options.text]


def files_of(options: TextsOptions, count: int) -> list[DataFile]:
    """The file that a run measures, with how many of its texts;
    none where the texts are on the command line.
    """
    (kind,) = options.given
    return [] if kind == "text" else [DataFile.of(kind, options.source, count)]


def load_for(metric: Metric, load: Load, speech: bool = False) -> Subject:
    """The model that a metric is measured on: with its head, unless something else reads it.

    Args:
        speech: whether the prompts are sounds.

    Raises:
        MetricError: a model whose head is of another kind; the message says which option fits it.
    """
    # A probe reads the stream, and needs no head.
    has_head = metric.readout is None
    subject = load(body_only=not has_head, classifier=has_head, speech=speech)
    if metric.readout is not None or metric.of_classes:
        return subject
    kind = type(subject.model).__name__
    if subject.classes:
        raise MetricError(
            f"{subject.name} classifies texts ({kind}): expected --labelled FILE, "
            "texts with their labels"
        )
    if not (subject.gives_tokens or subject.has_decoder):
        raise MetricError(
            f"{subject.name} has no language-model head ({kind}): metric {metric.name} "
            "needs a language model; expected another --model, "
            "or --probe FILE to measure what a probe reads"
        )
    return subject


def images_of(prompts: Sequence[Any]) -> list[Path]:
    """The files of the prompts' pictures; see `sounds_of`."""
    return _files(prompts, "image", "picture")


def sounds_of(prompts: Sequence[Any]) -> list[Path]:
    """The files of the prompts' sounds, each once; they must be there before a model is loaded.

    Raises:
        MetricError: one that is not there, or prompts of which only some are sounds.
    """
    sounds = _files(prompts, "audio", "sound")
    if sounds and not all(prompt.audio for prompt in prompts):
        raise MetricError(
            "expected prompts that are all sounds (column audio) or all texts, got both"
        )
    return sounds


def _files(prompts: Sequence[Any], field: str, kind: str) -> list[Path]:
    names = (getattr(prompt, field, None) for prompt in prompts)
    paths = list(dict.fromkeys(Path(name) for name in names if name))
    for path in paths:
        if not path.is_file():
            raise MetricError(f"{path}: no such {kind}")
    return paths


def show_pictures(subject: Subject, options: RunOptions, images: Sequence[Path]) -> None:
    """Give the subject what prepares pictures for its model, where there are any.

    Raises:
        MetricError: a model of text alone.
        SubjectError: a model whose processor cannot be read.
    """
    if not images:
        return
    if not hasattr(subject.config, "vision_config"):
        raise MetricError(
            f"{images[0]}: {subject.name} ({type(subject.model).__name__}) "
            "reads text alone; expected a vision-language model"
        )
    if subject.processor is None:
        subject.processor = read_processor(
            subject.name, trust_remote_code=options.trust_remote_code
        )
