"""What a classifier of texts says of each text's own label, from the logits of one forward.

    class_log_odds  log2 p(label) - log2 (1 - p(label)), in bits: of two classes the difference of
                    their logits
    class_logit     l(label), in logits (nats)
    class_accuracy  1 where the label is the most probable class, else 0

A classifier pools one position: an encoder's first token, a causal model's last. A read stands
there, so that a sweep continues from the edited block and projects that position alone; where a
model pools otherwise, which is measured (`hooks.Resume`), it runs whole and only its logits are
read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus.prompts import Prompt
from ..corpus.records import place_of
from ..subject import Subject
from .reads import BITS, ItemError, MetricError, Reads, naming, whole_text


def class_reads(subject: Subject, texts: Sequence[Prompt], name: str) -> Reads:
    """One read a text, of its label.

    Raises:
        MetricError: a model that does not classify texts, or not so; a text that is a pair.
        ItemError: a label that is none of the model's classes, a text that is too long.
    """
    check_classifier(subject, name)
    encoded, places = [], []
    for number, text in enumerate(texts):
        with naming(text, number, "text"):
            if text.pair is not None:
                raise ItemError(
                    "pairs of texts (text_pair) cannot be measured by metrics of classes"
                )
            whole = whole_text(subject, text.prompt)
            label = label_place(subject, text.label)
        # A decoder's head reads the last token, an encoder's the first.
        position = len(whole.ids) - 1 if subject.causal else 0
        encoded.append(whole)
        places.append((number, position, label, number))
    return Reads(encoded, torch.tensor(places), torch.ones(len(encoded)))


def check_classifier(subject: Subject, name: str) -> None:
    """Refuse a model that a metric of classes cannot be measured on.

    Raises:
        MetricError: no classifier, one number a text, labels that do not exclude each other, no
            padding token.
    """
    kind = type(subject.model).__name__
    if not subject.classes:
        raise MetricError(
            "--labelled: expected a model that classifies texts "
            f"(...ForSequenceClassification), {subject.name} is {kind}"
        )
    if len(subject.classes) == 1:
        raise MetricError(f"--labelled: {subject.name} gives one number a text, and no classes")
    # A softmax over labels that may all be right is no probability.
    many = getattr(subject.config, "problem_type", None) == "multi_label_classification"
    if many and name != "class_logit":
        raise MetricError(
            f"metric {name}: the labels of {subject.name} do not exclude each other: "
            "choose --metric class_logit"
        )
    if subject.causal and getattr(subject.config, "pad_token_id", None) is None:
        raise MetricError(
            f"{subject.name} finds a text's last token by the padding token, "
            "and its configuration has none: set pad_token_id in its config.json"
        )


def label_place(subject: Subject, label: str | None) -> int:
    """The place of a label among the model's classes: by its name, or by its number where no class
    is called so.

    Raises:
        ItemError: no label, or none of the classes.
    """
    if label is None:
        raise ItemError("the line has no 'label'")
    place = place_of(label, subject.classes)
    if place is None:
        raise ItemError(f"expected a label of {', '.join(subject.classes[:6])}, got {label[:40]!r}")
    return place


def log_odds(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    """The label's logit against the log-sum-exp of all others', in bits."""
    wide = logits.float()
    at_label = reads.at_targets(wide)
    of_read = wide[:, reads.slots.to(wide.device)]
    label = reads.places[:, 2].to(wide.device)
    others = of_read.scatter(2, label.expand(len(of_read), -1)[:, :, None], -torch.inf)
    return reads.sums(BITS * (at_label - others.logsumexp(-1)))


def is_most_probable(
    logits: Tensor, clean: Tensor, reads: Reads
) -> Float[Tensor, "copies prompts"]:
    """Whether the label has the largest logit."""
    best = logits[:, reads.slots.to(logits.device)].argmax(-1)
    return reads.sums((best == reads.places[:, 2].to(best.device)).float())
