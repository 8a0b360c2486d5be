"""What ``layerscope lens`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import Interval, StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that a layer would predict."""

    token: str = entry("the token, decoded")
    probability: float = entry("its probability")


@dataclass(frozen=True, kw_only=True)
class ReadingRecord:
    """What one layer would predict behind one token of a text."""

    text: int = entry("number of the text, from 0")
    kind: str = entry("the lens")
    layer: int = entry(
        "the block after which the stream is read, from 0; -1 is the embedding, "
        "the last the model itself"
    )
    position: int = entry("the token's position, from 0")
    token: str = entry("the token there, decoded")
    top: list[Candidate] = entry("the ten most likely next tokens")
    target_probability: float | None = entry("probability of the target", default=None)
    target_rank: int | None = entry(
        "number of tokens that are more likely than the target", default=None
    )


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """How far one layer can be believed under one lens, on held-out texts."""

    kind: str = entry("the lens, or its control")
    layer: int = entry("the block after which the stream is read, from 0; -1 is the embedding")
    kl: float = entry("divergence of the model's prediction from the layer's", "bits a token")
    kl_interval: Interval | None = entry("95% interval over texts", "bits a token")
    loss: float = entry("cross-entropy of the next token", "bits a token")
    loss_interval: Interval | None = entry("95% interval over texts", "bits a token")
    agreement: float = entry("share of tokens with the same most likely next token as the model")
    agreement_interval: Interval | None = entry("95% interval over texts")
    median_rank: float = entry("median rank of the true next token; 0 is the most likely token")
    median_rank_interval: Interval | None = entry("95% interval over texts")
    n_texts: int = entry("held-out texts", "texts")
    n_tokens: int = entry("held-out tokens", "tokens")
    cosine: float | None = entry(
        "Jacobian: similarity of the estimates from two halves of the texts", default=None
    )
    overlap: float | None = entry(
        "Jacobian: share of the ten most likely tokens that the readings of two "
        "halves have in common",
        default=None,
    )
    texts_needed: int | None = entry(
        "Jacobian: texts for a reliability of .95", "texts", default=None
    )


@dataclass(frozen=True, kw_only=True)
class ReliabilityRecord:
    """How well so many texts determine the Jacobian of a layer."""

    layer: int = entry("the block after which the stream is read, from 0; -1 is the embedding")
    texts: int = entry("texts so far", "texts")
    reliability: float = entry("of their mean, from the cosine of two halves (Spearman-Brown)")


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """Two lenses on the same held-out texts."""

    a: str = entry("a lens")
    b: str = entry("another")
    layer: int = entry("the block after which the stream is read, from 0; -1 is the embedding")
    difference: float = entry(
        "divergence under b minus that under a, mean over texts: below 0, b is better",
        "bits a token",
    )
    difference_interval: Interval | None = entry("95% interval over texts", "bits a token")
    p: float = entry("p of no difference; below 0.05 exactly if the interval excludes 0")
    p_holm: float = entry(
        "p of no difference, paired over texts: sign flips and studentised bootstrap; "
        "Holm-corrected over layers and lenses"
    )


@dataclass(frozen=True, kw_only=True)
class ContributionRecord:
    """What one part adds to the target's logit (less the wrong one's)
    through the frozen final norm.
    """

    text: int = entry("number of the text, from 0")
    component: str = entry(
        "embedding, head, attention, attention bias, mlp, neuron, mlp bias, position, "
        "norm and head bias"
    )
    layer: int | None = entry("the block, from 0; null outside the blocks")
    index: int | None = entry("head, neuron or position")
    logit: float = entry("its direct contribution", "logits")
    exact: float | None = entry(
        "its whole effect: the logit with it minus with zero in its place", "logits", default=None
    )


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """Two tokens and what a circuit gives from one to the other."""

    source: str = entry("the token that is attended to (OV) or that attends (QK)")
    target: str = entry("the token that is promoted (OV) or attended to (QK)")
    value: float = entry("entry of the circuit of tokens: logits up to the final scale, or scores")


@dataclass(frozen=True, kw_only=True)
class CircuitRecord:
    """A head's circuits of tokens, from the weights."""

    layer: int = entry("the block, from 0")
    head: int = entry("the head, from 0")
    ov_share: float = entry(
        "eigenvalue share of OV: 1 if tokens raise themselves (copying), "
        "-1 if they lower themselves"
    )
    qk_share: float | None = entry(
        "eigenvalue share of QK: 1 if tokens attend to similar tokens; "
        "null if there is no QK circuit"
    )
    ov_pairs: list[PairRecord] = entry("largest entries of OV, for the requested heads")
    qk_pairs: list[PairRecord] = entry("largest entries of QK, for the requested heads")


@dataclass(frozen=True, kw_only=True)
class CompositionRecord:
    """How much of what one head writes a later one reads."""

    mode: str = entry("where the later head reads it: Q, K or V")
    writer_layer: int = entry("the block of the head that writes")
    writer_head: int = entry("that head")
    reader_layer: int = entry("the block of the head that reads")
    reader_head: int = entry("that head")
    score: float = entry("norm of the product of their circuits, over the product of their norms")
    baseline: float = entry("approximate value for unrelated matrices, 1 / sqrt(width)")


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """One text that was read."""

    text: str = entry("the text")
    tokens: list[str] = entry("its tokens, decoded")
    target: str | None = entry("the continuation that is followed")
    wrong: str | None = entry("the one that it is compared with")
    logit: float | None = entry(
        "the target's logit, minus that of the wrong answer", "logits", default=None
    )
    bias: float | None = entry(
        "the part of it from biases of the final norm and the head", "logits", default=None
    )
    sum_error: float | None = entry(
        "difference between the sum of the contributions and the logit", "logits", default=None
    )


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """Lenses of a model."""

    records: list[ReadingRecord] = entry("one for each text, lens, layer and position")
    texts: list[TextRecord] = entry("the texts that were read")
    layers: list[LayerRecord] = entry("one for each lens and layer, on the corpus")
    reliability: list[ReliabilityRecord] = entry("the Jacobian lens as texts were added")
    comparisons: list[ComparisonRecord] = entry("lenses against each other, on the corpus")
    contributions: list[ContributionRecord] = entry("direct logit attribution")
    circuits: list[CircuitRecord] = entry("OV and QK circuits of every head, if requested")
    compositions: list[CompositionRecord] = entry("the strongest compositions of each kind")

    @property
    def is_measured(self) -> bool:
        """Whether texts were read, or lenses tested, or circuits computed."""
        return bool(self.records or self.layers or self.circuits)
