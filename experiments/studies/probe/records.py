"""What ``layerscope probe`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...calibration.records import JudgedRecord
from ...report.schema import Interval, StudyResults, entry

METRICS = {"accuracy": "accuracy", "r2": "R²"}
"""The scores that probes have, and what a reader calls them."""

Score = Literal["accuracy", "r2"]


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """One property at one site."""

    site: str = entry("site that the probe reads")
    layer: int = entry("number of the block; -1 is the embedding layer")
    property: str = entry("what the probe reads")
    level: Literal["word", "sentence", "arc", "pair"] = entry("what has a label")
    kind: Literal["class", "number"] = entry("whether labels are classes or numbers")
    metric: Score = entry("what the score is")
    score: float = entry("of the probe on the test items")
    score_interval: Interval | None = entry(
        "the score's 95% interval over sentences; null for one sentence"
    )
    control: float | None = entry("mean score over the control tasks")
    control_scores: list[float] = entry("score of each control task")
    selectivity: float | None = entry("score minus control")
    selectivity_interval: Interval | None = entry(
        "its 95% interval over sentences and control tasks; null for numbers"
    )
    majority: float = entry("score of the most frequent training class, or of the training mean")
    type_majority: float = entry("score of each word type's most frequent class, or of its mean")
    embedding: float = entry("score at the embedding layer")
    random_model: float | None = entry("mean score at the same site of the random-weight models")
    score_seen: float | None = entry("score on word types that occur in training")
    score_unseen: float | None = entry("score on word types that do not occur in training")
    n_seen: int = entry("test items of word types that occur in training")
    n_unseen: int = entry("test items of word types that do not occur in training")
    macro_f1: float | None = entry("mean F1 over classes; null for numbers")
    macro_f1_interval: Interval | None = entry("its 95% interval over sentences")
    n_train: int = entry("training items")
    n_dev: int = entry("dev items")
    n_test: int = entry("test items")
    n_classes: int | None = entry("classes in training; null for numbers")
    l2: float = entry("the penalty, chosen on dev where there are several")
    converged: bool = entry("whether the probe reached its optimum")
    gradient_norm: float = entry("norm of the objective's gradient at the end")
    information: float | None = entry(
        "information about a label in the probe's distribution (V-information)", "bits per item"
    )
    information_interval: Interval | None = entry(
        "its 95% interval over sentences", "bits per item"
    )
    gain: float | None = entry("information minus that of the embedding layer", "bits per item")
    gain_interval: Interval | None = entry("its 95% interval over sentences", "bits per item")
    conditional: float | None = entry(
        "what the site adds when a probe sees it and the embedding layer", "bits per item"
    )
    conditional_interval: Interval | None = entry(
        "its 95% interval over sentences", "bits per item"
    )
    code_bits: float | None = entry("online code length of the training labels", "bits")
    compression: float | None = entry("uniform code length divided by the online code length")
    control_compression: float | None = entry("mean compression of the control tasks")
    best: bool = entry("in the model confidence set: not shown to be worse than the others")
    p_worse: float = entry("p at which the layer leaves the model confidence set")
    distance_majority: float | None = entry(
        "of arcs and pairs: score of the most frequent class of each distance", default=None
    )
    ece: float | None = entry("expected calibration error in bins of equal width", default=None)
    ece_interval: Interval | None = entry("its 95% interval over sentences", default=None)
    ece_chance: float | None = entry(
        "mean ECE of a calibrated probe with these confidences", default=None
    )
    ece_p: float | None = entry("p of an ECE this large from a calibrated probe", default=None)
    ece_mass: float | None = entry("ECE in bins of equal numbers of items", default=None)
    classwise: float | None = entry(
        "mean over classes of the ECE of each class's own probability", default=None
    )
    brier: float | None = entry("Brier score of the whole distributions", default=None)
    nll: float | None = entry("mean negative log-likelihood", "nats", default=None)
    auroc: float | None = entry(
        "how often a right item is more confident than a wrong one", default=None
    )
    temperature: float | None = entry(
        "fitted on dev; above 1 the probe was overconfident", default=None
    )
    ece_scaled: float | None = entry("ECE with that temperature", default=None)
    score_seeds: list[float | None] | None = entry(
        "the score with each seed, this run's first", default=None
    )
    selectivity_seeds: list[float | None] | None = entry(
        "the selectivity with each seed", default=None
    )


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class at one site."""

    property: str = entry("what the probe reads")
    site: str = entry("site that the probe reads")
    layer: int = entry("number of the block; -1 is the embedding layer")
    label: str = entry("the class")
    support: int = entry("test items of this class")
    precision: float | None = entry("share of items predicted as this class that belong to it")
    recall: float | None = entry("share of its items that are predicted as this class")
    f1: float = entry("harmonic mean of precision and recall")


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """A wrong test item at the best layer, with its sentence."""

    property: str = entry("what the probe reads")
    site: str = entry("site that the probe reads")
    layer: int = entry("number of the block; -1 is the embedding layer")
    sentence_id: str = entry("the sentence in its file")
    words: list[str] = entry("its words")
    index: int | None = entry("the item's word, from 0; null for a sentence")
    gold: str = entry("its class")
    predicted: str = entry("the class that the probe gives")
    confidence: float = entry("the probability of that class")


@dataclass(frozen=True, kw_only=True)
class ConfusionRecord:
    """How often one class is taken for another at the best layer."""

    property: str = entry("what the probe reads")
    gold: str = entry("the class")
    predicted: str = entry("the predicted class")
    count: int = entry("test items")


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """Two layers compared on the same test items."""

    property: str = entry("what the probe reads")
    layer_a: int = entry("the one layer; -1 is the embedding layer")
    layer_b: int = entry("the other layer")
    difference: float = entry("score at b minus score at a")
    difference_interval: Interval | None = entry(
        "its 95% interval over sentences, not corrected; null below 6 sentences"
    )
    p: float | None = entry(
        "p of no difference: sign flips and studentised bootstrap over sentences, "
        "below 0.05 exactly if the interval excludes 0; null below 6 sentences"
    )
    p_holm: float | None = entry("Holm-corrected over all pairs of the property")


@dataclass(frozen=True, kw_only=True)
class MixRecord:
    """A probe of all layers at once."""

    property: str = entry("what the probe reads")
    sites: list[str] = entry("the sites that are mixed, the embedding layer first")
    mix: list[float] = entry("weight of each site in the mix; they sum to 1")
    centre_of_gravity: float = entry("sum of layer times weight; the embedding layer is -1")
    centre_above: float | None = entry(
        "the same without the embedding layer, weights scaled to sum to 1"
    )
    peakedness: float = entry("Kullback-Leibler divergence of the weights from equal ones", "bits")
    cumulative: list[float] = entry("accuracy of the probe of the first k sites, for each k")
    headroom: float = entry("accuracy of all sites minus that of the embedding layer")
    headroom_interval: Interval | None = entry("its 95% interval over sentences")
    expected_layer: float | None = entry(
        "mean layer of the gain; null if the headroom's interval includes 0 or the mix is "
        "weaker than one site"
    )
    expected_layer_interval: Interval | None = entry("its 95% interval over sentences")
    stationary: bool = entry(
        "whether every mix's regression is solved and no site would gain by more weight: "
        "a stationary point of a loss that is not convex",
        was="converged",
    )
    margin: float | None = entry(
        "accuracy of all sites minus that of the best single site's probe", default=None
    )
    margin_interval: Interval | None = entry("its 95% interval over sentences", default=None)

    def is_weaker(self) -> bool:
        """Whether the mix is significantly worse than a probe of one site, which it can imitate."""
        return self.margin_interval is not None and self.margin_interval.high < 0


@dataclass(frozen=True, kw_only=True)
class TreeRecord:
    """Structural probes of the tree's distances and depths at one site."""

    site: str = entry("site that the probes read")
    layer: int = entry("number of the block; -1 is the embedding layer")
    rank: int = entry("rows of the probes' matrices")
    uuas: float = entry(
        "share of the gold edges in the minimum spanning tree, punctuation left out"
    )
    uuas_interval: Interval | None = entry("its 95% interval over sentences")
    distance_spearman: float | None = entry(
        "Spearman's correlation of distances, by word and then by length"
    )
    root_accuracy: float | None = entry("share of sentences in which the root has the least depth")
    root_accuracy_interval: Interval | None = entry("its 95% interval over sentences")
    depth_spearman: float | None = entry(
        "Spearman's correlation of depths, by sentence and then by length"
    )
    n: int = entry("test sentences")
    epochs: int = entry("epochs of the longer training of the two")
    stationary: bool = entry(
        "whether further training lowers the dev loss of neither probe, at several rates: a "
        "stationary point of a loss that is not convex",
        was="converged",
    )
    apart: float | None = entry(
        "difference between the dev losses of two trainings at different rates, as a share of the "
        "lower one; the larger of both probes",
        "share",
        default=None,
    )
    chain_uuas: float = entry("UUAS of words chained in a row")
    chain_root: float | None = entry("root accuracy of the first word")
    chain_spearman: float | None = entry("distance correlation of words chained in a row")
    random_uuas: float | None = entry("UUAS of the same probe on a random-weight model")
    random_root: float | None = entry("its root accuracy")


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord(JudgedRecord):
    """The calibration of one probe."""

    property: str = entry("what the probe reads")
    site: str = entry("site that the probe reads")
    layer: int = entry("number of the block; -1 is the embedding layer")


@dataclass(frozen=True, kw_only=True)
class SeedsRecord:
    """One property over several seeds."""

    property: str = entry("what the probe reads")
    seeds: list[int] = entry("the seeds, this run's first")
    best: list[str] = entry("site of the highest score with each seed")
    scores: list[float] = entry("the score there")
    mean: float = entry("mean score over seeds at this run's best site")
    sd: float = entry("its standard deviation")
    sd_selectivity: float | None = entry("standard deviation of the selectivity there")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A layer-wise probing study."""

    records: list[ProbeRecord] = entry("one for each property and site")
    classes: list[ClassScores] = entry("one for each class, property and site")
    errors: list[ErrorRecord] = entry("the most confident mistakes at each property's best layer")
    confused: list[ConfusionRecord] = entry(
        "the most frequent confusions at each property's best layer"
    )
    comparisons: list[ComparisonRecord] = entry("every pair of layers, for each property")
    mixes: list[MixRecord] = entry("one for each property of classes, with --scalar-mix")
    trees: list[TreeRecord] = entry("one for each site, with --structural")
    calibration: list[CalibrationRecord] = entry(
        "one for each calibrated probe, with its bins and classes", default=[]
    )
    seeds: list[SeedsRecord] = entry("one for each property, with --seeds", default=[])
