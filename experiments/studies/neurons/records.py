"""What ``layerscope neurons`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...report.schema import Interval, StudyResults, entry
from ...sweep.records import EffectRecord, Mean


@dataclass(frozen=True, kw_only=True)
class SetRecord(EffectRecord):
    """One set of neurons changed in the running model, or one neuron alone."""

    index: int | None = entry("the neuron that is changed alone; null for a set")
    component: Literal["sets", "neurons"] = entry("a ranking's first neurons, or one neuron alone")
    value: str = entry("the change: mean, zero or translate CLASS")
    ranking: str = entry("the ranking that they come first in; alone for a single neuron")
    k: int = entry("how many neurons")
    neurons: list[int] = entry("which")
    null: float = entry("mean effect of as many random neurons of the site", "the metric's")
    null_interval: Interval = entry("the middle 95% of the draws' effects", "the metric's")
    null_p: float = entry("share of the random draws with at least this effect")
    beyond: float = entry("effect minus the mean effect of the random draws", "the metric's")
    beyond_interval: Interval | None = entry(
        "its 95% interval over texts; null for one group", "the metric's"
    )
    accuracy: float | None = entry(
        "of the first kind of probe on this set; none for a single neuron", default=None
    )


@dataclass(frozen=True, kw_only=True)
class ReadRecord:
    """What one kind of probe reads from a ranking's first neurons."""

    site: str = entry("site of the neurons")
    layer: int = entry("the site's block")
    ranking: str = entry("how the neurons are ranked")
    probe: str = entry("the kind of probe")
    k: int = entry("how many of the first neurons")
    accuracy: float = entry("on the test words")
    accuracy_interval: Interval | None = entry("its 95% interval over sentences")
    random: float | None = entry("mean accuracy from as many neurons in random order")
    random_interval: Interval | None = entry("the middle 95% of the draws")
    rotated: float | None = entry(
        "mean accuracy from as many directions of random rotations, ranked alike"
    )
    rotated_interval: Interval | None = entry("the middle 95% of the rotations")


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """One site as a whole."""

    site: str = entry("site of the neurons")
    layer: int = entry("the site's block")
    width: int = entry("how many neurons it has")
    whole: dict[str, float] = entry("accuracy of each kind of probe on all of them")
    majority: float = entry("accuracy of the most frequent class")
    unconverged: int = entry("probes that did not converge")
    n_train: int = entry("training words")
    n_test: int = entry("test words")


@dataclass(frozen=True, kw_only=True)
class WordRecord:
    """A word that moves a neuron far from its mean."""

    words: list[str] = entry("the words of its sentence")
    index: int = entry("which of them, from 0")
    sentence_id: str = entry("the sentence in its file")
    split: str = entry("train, dev or test")
    value: float = entry("the neuron's activation")
    deviations: float = entry("its distance from the mean of all words", "standard deviations")
    label: str | None = entry("the word's class; null where the property does not apply")


@dataclass(frozen=True, kw_only=True)
class NeuronRecord:
    """A neuron that a ranking puts among its first."""

    site: str = entry("site of the neuron")
    layer: int = entry("the site's block")
    index: int = entry("which")
    ranks: dict[str, int] = entry("its place in each ranking, from 1")
    classes: dict[str, float] = entry(
        "each class's mean minus the mean of all words, over training words", "standard deviations"
    )
    top_form: str = entry(
        "the most frequent word form among the hundred words farthest from the mean"
    )
    top_share: float = entry("its share of them")
    words: list[WordRecord] = entry("the words farthest from the mean, at most two per form")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A study of neurons."""

    records: list[SetRecord] = entry("one for each ranked set and named neuron, and change")
    table: list[ReadRecord] = entry("one for each site, ranking, kind of probe and k")
    sites: list[SiteRecord] = entry("one for each site")
    neurons: list[NeuronRecord] = entry("the neurons that the page names")
    property: str = entry("what the neurons are ranked by")
    baseline: Mean = entry("the metric without a change")
