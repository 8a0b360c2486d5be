"""What ``layerscope attend`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...attention.text_patterns import ShownTexts
from ...report.schema import Interval, StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Where attention goes, as means over the tokens of the texts."""

    entropy: float = entry("normalised entropy: 1 is uniform attention")
    confidence: float = entry("largest weight on a token of the text, mean over tokens")
    distance: float = entry("mean distance to the attended tokens of the text", "tokens")
    first: float = entry("weight on the first token, a BOS or CLS if there is one")
    end: float = entry("weight on special tokens after the text")
    punctuation: float = entry("weight on punctuation")
    self: float = entry("weight on the token itself")
    previous: float = entry("weight on the token before")
    next: float = entry("weight on the token after")
    sink: float | None = entry("weight on the learned sink, which is not a token", default=None)
    norm_first: float | None = entry(
        "the first token's share of the attended values' norm", default=None
    )
    norm_end: float | None = entry("the same of special tokens after the text", default=None)
    norm_punctuation: float | None = entry("the same of punctuation", default=None)
    output: float | None = entry("size of the head's output to the residual stream", default=None)


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """The 95% intervals of the statistics, over texts."""

    entropy_interval: Interval | None = entry("95% interval of entropy")
    confidence_interval: Interval | None = entry("95% interval of confidence")
    distance_interval: Interval | None = entry("95% interval of distance", "tokens")
    first_interval: Interval | None = entry("95% interval of first")
    end_interval: Interval | None = entry("95% interval of end")
    punctuation_interval: Interval | None = entry("95% interval of punctuation")
    self_interval: Interval | None = entry("95% interval of self")
    previous_interval: Interval | None = entry("95% interval of previous")
    next_interval: Interval | None = entry("95% interval of next")
    sink_interval: Interval | None = entry("95% interval of sink", default=None)
    norm_first_interval: Interval | None = entry("95% interval of norm_first", default=None)
    norm_end_interval: Interval | None = entry("95% interval of norm_end", default=None)
    norm_punctuation_interval: Interval | None = entry(
        "95% interval of norm_punctuation", default=None
    )
    output_interval: Interval | None = entry("95% interval of output", default=None)


@dataclass(frozen=True, kw_only=True)
class HeadEffect:
    """What an ablation of the head did, from the run that ``--effects`` names."""

    effect: float = entry("effect of ablating the head on the metric")
    effect_interval: Interval | None = entry("its interval")
    q: float | None = entry("false discovery rate over all heads; null for an estimate")
    exact: bool | None = entry("whether the effect was measured, not estimated")


@dataclass(frozen=True, kw_only=True)
class HeadRecord(Statistics, Intervals):
    """One head."""

    site: str = entry("the head's pattern")
    layer: int = entry("the block")
    index: int = entry("the head's number")
    component: str = entry("heads")
    duplicate: float = entry("weight on the earlier copy of the token, on repeated random tokens")
    induction: float = entry(
        "weight on the token after the earlier copy, on repeated random tokens"
    )
    positional: float = entry(
        "share of words that attend most to the word at the head's most frequent offset"
    )
    offset: int = entry("that offset", "words")
    relation: str | None = entry("the dependency that the head follows", default=None)
    direction: str | None = entry("to governor or to dependent", default=None)
    relation_score: float | None = entry(
        "share of these dependencies that it follows", default=None
    )
    relation_baseline: float | None = entry("the same for the best fixed offset", default=None)
    nearest: str | None = entry(
        "the head with the most similar attention; null for a model of one head"
    )
    nearest_similarity: float | None = entry("overlap of the two: 1 for identical attention")
    role: str = entry("the head's roles, from where it attends; empty for none")
    measured: HeadEffect | None = entry("its measured effect", default=None)

    @property
    def name(self) -> str:
        """How people call the head."""
        return head_name(self.layer, self.index)

    @property
    def effect(self) -> float | None:
        """The effect of ablating the head, where it is known."""
        return None if self.measured is None else self.measured.effect


def head_name(layer: int, index: int) -> str:
    """How people call a head.

    >>> head_name(3, 5)
    'L3H5'
    """
    return f"L{layer}H{index}"


@dataclass(frozen=True, kw_only=True)
class LayerRecord(Statistics):
    """One layer: means over its heads."""

    layer: int = entry("the block")
    change: float | None = entry(
        "1 - overlap of its mean pattern with that of the layer before; null for the first"
    )


@dataclass(frozen=True, kw_only=True)
class RelationRecord:
    """One dependency and direction: the head that follows it best,
    scored on texts that did not choose it.
    """

    layer: int = entry("the head's block")
    head: int = entry("its number")
    relation: str = entry("the dependency")
    direction: str = entry("to governor or to dependent")
    score: float = entry("share of dependencies in which the head attends most to the other end")
    baseline: float = entry("the same for the best fixed offset")
    offset: int = entry("that offset", "words")
    gain: float = entry("score - baseline")
    gain_interval: Interval | None = entry("the gain's 95% interval over texts")
    n: int = entry("dependencies that were scored")
    syntactic: bool = entry("whether the head significantly beats every fixed offset")


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """One head at one checkpoint."""

    step: int = entry("the checkpoint's step")
    name: str = entry("its folder")
    layer: int = entry("the block")
    index: int = entry("the head's number")
    entropy: float = entry("normalised entropy: 1 is uniform attention")
    entropy_interval: Interval | None = entry("its 95% interval over texts")
    change: float | None = entry(
        "squared Hellinger distance to the checkpoint before; null for the first"
    )


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Where attention and effect disagree, over the heads that have an effect."""

    n: int = entry("heads")
    spearman: dict[str, float | None] = entry(
        "rank correlation of the effect's size with each statistic"
    )
    sharp_unneeded: list[str] = entry(
        "sites of the most confident quarter without a significant effect"
    )
    diffuse_needed: list[str] = entry(
        "sites of the least confident quarter with a significant effect"
    )
    metric: str | None = entry("what the ablation measured", default=None)
    unit: str | None = entry("its unit", default=None)
    value: str | None = entry("replacement of the heads", default=None)
    baseline: float | None = entry("the metric without ablation", default=None)


@dataclass(frozen=True, kw_only=True)
class TargetHeadRecord:
    """One head of a decoder that is given targets, or of an encoder that hears."""

    site: str = entry("the head's pattern")
    stack: str = entry("D: the decoder's own text; X: the source; E: the encoder's own sound")
    layer: int = entry("the block")
    index: int = entry("the head's number")
    entropy: float = entry("normalised entropy: 1 is uniform attention")
    confidence: float = entry("largest weight, mean over the target's tokens, or over frames")
    first: float = entry("weight on the first token or frame")
    previous: float | None = entry("weight on the token or frame before; null for X")
    end: float | None = entry(
        "weight on special tokens after the source, or on the padding after a sound; null for D"
    )
    monotone: float | None = entry(
        "rank correlation of a token's place with the mean place that it attends to; null for D "
        "and E"
    )
    distance: float | None = entry(
        "mean distance of a frame to the frames that it attends to; null for D and X",
        "s",
        default=None,
    )
    n: int = entry("texts")

    @property
    def name(self) -> str:
        """How people call it: D3H5."""
        return f"{self.stack}{self.layer}H{self.index}"


@dataclass(frozen=True, kw_only=True)
class ShownTarget:
    """Attention of one target to its source, or of a sound to itself."""

    stack: str = entry("X: from the target to the source; E: from the sound to itself", default="X")
    source: list[str] = entry("tokens that the encoder reads, or the spans of a sound")
    target: list[str] = entry("tokens that the decoder reads; of E the spans of the sound")
    mean: list[list[float]] = entry("mean weights over heads and layers, by target and source")
    heads: list[list[list[list[float]]]] = entry(
        "weights by layer, head, target and source; empty where they would be too many"
    )


@dataclass(frozen=True, kw_only=True)
class PictureHeadRecord:
    """One head's attention to pictures."""

    site: str = entry("the head's pattern")
    layer: int = entry("the block")
    index: int = entry("the head's number")
    picture: float = entry(
        "weight of the text's last token on the picture's tokens, mean over prompts"
    )
    n: int = entry("prompts")


@dataclass(frozen=True, kw_only=True)
class ShownHead:
    """One head over one picture."""

    layer: int = entry("the block")
    index: int = entry("the head's number")
    picture: float = entry("its weight on the picture")
    weights: list[float] = entry("by the picture's token, row by row")


@dataclass(frozen=True, kw_only=True)
class ShownAttention:
    """One picture under the attention of its text's last token."""

    file: str = entry("its file")
    rows: int = entry("rows of the picture's tokens; 1 where their grid is not known")
    columns: int = entry("columns of the picture's tokens")
    width: int = entry("of the file", "pixels")
    height: int = entry("of the file", "pixels")
    jpeg: str = entry("the picture, made smaller, base64")
    mean: list[float] = entry("mean weights over heads and layers, row by row")
    heads: list[ShownHead] = entry("the heads with the largest weight on it, in order")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A model's heads, by what they attend to."""

    records: list[HeadRecord | TargetHeadRecord] = entry(
        "one for each head; of prompts with sounds one for each head of every stack"
    )
    layers: list[LayerRecord] = entry("one for each layer")
    relations: list[RelationRecord] = entry("one for each dependency and direction")
    uniform: dict[str, float] = entry("score of uniform attention on the same texts")
    shown: ShownTexts = entry("patterns of a few texts")
    checkpoints: list[CheckpointRecord] = entry("one for each checkpoint and head", default=[])
    effects: Disagreement | None = entry("attention against measured effects", default=None)
    target_heads: list[TargetHeadRecord] = entry(
        "one for each head of an encoder-decoder's decoder, where prompts have answers", default=[]
    )
    shown_targets: list[ShownTarget] = entry(
        "attention to the source, of a few texts or sounds", default=[]
    )
    picture_heads: list[PictureHeadRecord] = entry(
        "one for each head, where prompts have pictures", default=[]
    )
    shown_pictures: list[ShownAttention] = entry("attention to a few pictures", default=[])

    @property
    def text_heads(self) -> list[HeadRecord]:
        """The heads of a run on texts."""
        return [record for record in self.records if isinstance(record, HeadRecord)]

    @property
    def stack_heads(self) -> list[TargetHeadRecord]:
        """The heads of a decoder that was given targets; of sounds those of every stack."""
        of_sounds = [record for record in self.records if isinstance(record, TargetHeadRecord)]
        return of_sounds or self.target_heads
