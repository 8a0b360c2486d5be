"""What a prompt or pair is measured by: which logits are read, and the number they make.

    logit_difference   l(answer) - l(wrong) where the answer stands, in logits (nats)
    log_probability    log2 p(answer | prompt), summed over the answer's tokens, in bits
    answer_difference  log2 p(answer | prompt) - log2 p(wrong | prompt), all their tokens, in bits
    answer_accuracy    1 where that is above 0, else 0: BLiMP's one-prefix method
    pair_difference    log2 p(good) - log2 p(bad), whole sentences, in bits
    pair_accuracy      1 where log2 p(good) > log2 p(bad), else 0
    loss               -log2 p of the text's own tokens, mean over them, in bits
    kl                 sum_v p_clean(v) (log2 p_clean(v) - log2 p(v)) where the answer stands, in bits
    rank               how many tokens are likelier than the answer's first
    confidence         probability of the most probable token where the answer stands

Which positions are read, also in masked models, is in `experiments.metrics.reads`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Readout
from ..corpus.prompts import Pair, Prompt, Unusable, read_pairs, read_prompts
from ..runs.shared_options import TextsOptions
from ..subject import Subject
from .reads import MetricError, Reads, answer_reads, loss_reads, pair_reads, prediction_reads

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class Metric:
    """A metric: its unit, whether it is of pairs, and its two halves.

    Args:
        reads: from a subject and prompts to the reads.
        value: from logits at the reads' positions ``copies slots vocab``, those of the clean run ``slots vocab`` and the
            reads to ``copies prompts``.
        of_answers: it needs the prompts' answers.
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
    there = logits[:, reads.slots.to(logits.device)]
    return reads.sums((there > reads.at_targets(logits).unsqueeze(2)).sum(-1).float())


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
    )
}


def get_metric(name: str) -> Metric:
    """A metric by its name; raises `MetricError` with the names there are."""
    if name not in METRICS:
        raise MetricError(f"unknown metric {name!r}: expected {', '.join(METRICS)}")
    return METRICS[name]


def metric_and_texts(
    options: TextsOptions, of_prompts: str, unusable: list[Unusable] | None = None
) -> tuple[Metric, list[Prompt] | list[Pair]]:
    """What a run measures, and the prompts or pairs that it is measured on.

    Args:
        of_prompts: the metric of prompts where none is named; that of pairs is ``pair_difference``.
        unusable: is given the lines that are of no use, such as pairs of identical sentences.

    Raises:
        MetricError: both or neither of prompts and pairs, or a metric of the other.
        PromptError: a file that cannot be read.
    """
    if (options.prompts is None) == (options.pairs is None):
        raise MetricError("expected one of --prompts FILE and --pairs FILE")
    default = of_prompts if options.pairs is None else "pair_difference"
    metric = get_metric(options.metric or default)
    if metric.of_pairs != (options.pairs is not None):
        given = "--prompts" if metric.of_pairs else "--pairs"
        fitting = [name for name, other in METRICS.items() if other.of_pairs is not metric.of_pairs]
        kind = "pairs" if metric.of_pairs else "prompts"
        raise MetricError(
            f"metric {metric.name} is of {kind}: expected --{kind} FILE, or for {given} one of {', '.join(fitting)}"
        )
    if options.pairs is not None:
        return metric, read_pairs(options.pairs, options.limit, unusable)
    answers = metric.of_answers
    return metric, read_prompts(options.source, options.limit, answers, unusable)
