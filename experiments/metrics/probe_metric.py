"""A saved probe as what is measured: how well a property can still be read once a part of the model
is taken out.

    probe_log_probability   mean over a sentence's words of log2 p(label | the probe's logits), in
                            bits
    probe_accuracy          share of the words whose most probable class is the label

A word's vector is the first, the last or the mean of its tokens', as it was when the probe was
trained. The probe is linear, so the mean of its logits at the tokens is its logit of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Readout, Site
from ...probes.fit import Fit
from ..corpus import Corpus, Sentence
from ..features.layout import Layout
from ..report.schema import Note, from_json
from ..runs.folder import file_name
from ..subject import Subject
from ..tasks.properties import Value, get_property
from .metrics import BITS, Metric
from .reads import ItemError, MetricError, Reads

if TYPE_CHECKING:
    from ...probes import LogisticProbe


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence and the property's value of each of its words, None where it does not apply."""

    sentence: Sentence
    labels: Sequence[Value]
    group: str | None = None


def save_probe(
    folder: Path, subject: Subject, site: str, pooling: str, name: str, fit: Fit
) -> Path:
    """Write a study's probe of a property at a site, with what must be known to use it again."""
    target = folder / file_name(name) / f"{file_name(site)}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "property": name,
        "site": site,
        "pooling": pooling,
        "model_sha256": subject.sha256,
        "bos": subject.bos,
    }
    from ...probes import LogisticProbe

    return LogisticProbe.of(fit).save(target, about)


@dataclass(frozen=True)
class ProbeFacts:
    """What a saved probe says of itself.

    Args:
        bos: the id in front of its texts, or None for none.
    """

    property: str
    site: str
    pooling: Literal["mean", "first", "last"] = "mean"
    model_sha256: str | None = None
    bos: int | None = None


def load_probe(path: Path, subject: Subject | None = None) -> LogisticProbe:
    """A probe that a run saved.

    Args:
        subject: whose probe it must be.

    Raises:
        FileNotFoundError, InputError: no probe there, or a damaged one.
        ResultsError: it says nothing of its site or property, or something else than a run writes.
        MetricError: a probe of another model, or of another token in front.
    """
    from ...probes import LogisticProbe

    probe = LogisticProbe.load(path)
    from_json(ProbeFacts, probe.about_, f"{path}: about")
    if subject is not None:
        check_model(probe, subject, str(path))
    return probe


def check_model(probe: LogisticProbe, subject: Subject, name: str = "the probe") -> None:
    """Refuse a probe that was trained on something else than a model gives.

    Args:
        name: what a message calls it.

    Raises:
        MetricError: another model, or another token in front.
    """
    about = probe.about_
    if about.get("model_sha256") not in (None, subject.sha256):
        raise MetricError(
            f"{name} was trained on another model than {subject.name}: "
            "expected the model of its run"
        )
    if about.get("bos", subject.bos) != subject.bos:
        raise MetricError(
            f"{name} was trained with BOS {about['bos']}, this run has {subject.bos}: give --bos"
        )


def probed_words(
    path: Path, corpus: Corpus, metric: str | None = None
) -> tuple[Metric, list[LabelledSentence], list[Note]]:
    """The metric of a saved probe, those of a corpus's sentences that it is measured on, and notes
    of what was left out.

    Raises:
        MetricError: a probe that reads no block's output, a property of arcs or sentences, a metric
            of another kind.
        FileNotFoundError, ValueError: a probe that cannot be read.
    """
    probe = load_probe(path)
    about = probe.about_
    site = Site(about["site"])
    # The probe stands in the place of the unembedding: what it reads must be the residual stream,
    # to which every head and neuron below it adds.
    if site.layer is None or not site.name.endswith("hook_resid_post"):
        raise MetricError(
            f"--probe {path}: expected a probe of a block's hook_resid_post, got {site.name:.80}"
        )
    name = metric or "probe_log_probability"
    if name not in _VALUES:
        raise MetricError(f"unknown metric {name!r} of a probe: expected {', '.join(_VALUES)}")
    prop = get_property(about["property"], corpus)
    # Classes of words come from the corpus itself; a frequency is of the training corpus, which is
    # not at hand here.
    if prop.level != "word" or prop.name == "frequency":
        raise MetricError(
            f"--probe {path}: expected a property that words have by themselves, got {prop.name}"
        )
    known = set(probe.classes_.tolist())
    items = []
    for sentence in corpus:
        labels = cast("Sequence[Value]", prop.read(sentence, corpus))
        item = LabelledSentence(sentence, labels)
        if known & set(item.labels):
            items.append(item)
    if not items:
        raise MetricError(
            f"{corpus.path}: expected words with a {prop.name} that the probe knows, got none"
        )
    notes = []
    n_dropped = len(corpus) - len(items)
    if n_dropped:
        text = f"{n_dropped} sentences left out: no word has a {prop.name} that the probe knows"
        notes.append(Note(kind="dropped", text=text))

    def reads(subject: Subject, items: Sequence[LabelledSentence]) -> Reads:
        return word_reads(subject, items, probe)

    value, unit = _VALUES[name]
    readout = Readout(site.layer, _logits_of(probe))
    return Metric(name, unit, reads, value, of_answers=False, readout=readout), items, notes


def _logits_of(probe: LogisticProbe) -> Callable[[Tensor], Tensor]:
    """The probe as a function of the residual stream."""
    coef, bias = torch.from_numpy(probe.coef_).float(), torch.from_numpy(probe.intercept_).float()

    def logits(residual: Float[Tensor, "*places d_model"]) -> Float[Tensor, "*places classes"]:
        return residual.float() @ coef.T.to(residual.device) + bias.to(residual.device)

    return logits


def word_reads(subject: Subject, items: Sequence[LabelledSentence], probe: LogisticProbe) -> Reads:
    """Reads of all words that have tokens and a label that the probe knows.

    Raises:
        MetricError: a probe of another model or BOS, or no word that can be read.
    """
    check_model(probe, subject)
    pooling = probe.about_.get("pooling", "mean")
    layout = Layout.of(subject, [item.sentence for item in items])
    label_of = {label: i for i, label in enumerate(probe.classes_.tolist())}
    places, weights, words = [], [], []
    n_words = 0
    for text, (item, spans) in enumerate(zip(items, layout.spans, strict=True)):
        n_before = n_words
        for span, value in zip(spans, item.labels, strict=True):
            if span is None or value not in label_of:
                continue
            positions = range(span.start, span.stop)
            ends = {"first": positions[:1], "last": positions[-1:]}
            tokens = ends.get(pooling, positions)
            places += [(text, token, label_of[value], text) for token in tokens]
            # The probe is linear: the mean of its logits at a word's tokens is its logit of the
            # word's mean.
            weights += [1 / len(tokens)] * len(tokens)
            words += [n_words] * len(tokens)
            n_words += 1
        if n_words == n_before:
            raise ItemError(
                f"{item.sentence.text[:40]!r} is cut before its first word that can be read"
            )
    return Reads(layout.encoded, torch.tensor(places), torch.tensor(weights), torch.tensor(words))


def _by_word(
    logits: Tensor, reads: Reads
) -> tuple[Float[Tensor, "copies words classes"], Tensor, Tensor]:
    """Each word's logits, its label and its prompt."""
    assert reads.words is not None
    # Words of this batch, numbered from 0.
    _, words = torch.unique(reads.words, return_inverse=True)
    words, places = words.to(logits.device), reads.places.to(logits.device)
    of_tokens = logits[:, reads.slots.to(logits.device)] * reads.weights.to(logits)[:, None]
    copies, _, n_classes = of_tokens.shape
    n_words = int(words.max()) + 1
    of_words = of_tokens.new_zeros(copies, n_words, n_classes).index_add_(1, words, of_tokens)
    label = words.new_zeros(n_words).scatter_(0, words, places[:, 2])
    prompt = words.new_zeros(n_words).scatter_(0, words, places[:, 3])
    return of_words, label, prompt


def _mean(values: Float[Tensor, "copies words"], prompt: Tensor) -> Float[Tensor, "copies prompts"]:
    """Mean over the words of each prompt."""
    total = values.new_zeros(len(values), int(prompt.max()) + 1).index_add_(1, prompt, values)
    # A sentence counts once, however many words it has.
    return total / torch.bincount(prompt)


def _log2p(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    words, label, prompt = _by_word(logits.float(), reads)
    index = label.expand(len(words), -1)[:, :, None]
    log_p = torch.log_softmax(words, dim=-1).gather(2, index).squeeze(2)
    return _mean(BITS * log_p, prompt)


def _accuracy(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    words, label, prompt = _by_word(logits.float(), reads)
    return _mean((words.argmax(-1) == label).float(), prompt)


_VALUES = {"probe_log_probability": (_log2p, "bits"), "probe_accuracy": (_accuracy, "share")}
"""The metrics of a probe, and their units."""
