"""What ``layerscope geometry`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import Interval, StudyResults, entry

NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
"""Method -> the name of its map."""


@dataclass(frozen=True, kw_only=True)
class NeighbourAccuracy:
    """How often a word's ten nearest neighbours from other sentences have its class."""

    accuracy: float = entry("accuracy of the majority vote of the nearest neighbours")
    accuracy_interval: Interval | None = entry("its 95% interval over sentences")


@dataclass(frozen=True, kw_only=True)
class Separability:
    """How well neighbours tell one property at one site."""

    majority: float = entry("accuracy of the most frequent class alone")
    places: dict[str, NeighbourAccuracy] = entry("in the space, and on each method's map")


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """The space of one site."""

    site: str = entry("the site")
    layer: int = entry("the block's number; -1 for the embedding layer")
    n: int = entry("words")
    explained: list[float] = entry(
        "shares of the first ten principal components", "share of the variance"
    )
    explained_2: float = entry(
        "share of the first two, which a PCA map shows", "share of the variance"
    )
    components_90: int = entry("number of principal components for 90% of the variance")
    anisotropy: float = entry("mean cosine between two words")
    anisotropy_centred: float = entry("the same with the mean removed")
    intrinsic_dimension: float = entry("TwoNN: directions of a word's near neighbourhood")
    trust_pca: float | None = entry(
        "trustworthiness of the PCA map; 1: all its neighbours are neighbours", default=None
    )
    trust_tsne: float | None = entry("trustworthiness of the t-SNE map", default=None)
    trust_umap: float | None = entry("trustworthiness of the UMAP map", default=None)
    separability: dict[str, Separability] = entry(
        "by property, how well neighbours predict it", default={}
    )
    norms: list[float | None] = entry("mean length of the vector at each of the first positions")
    norm_first: float | None = entry("mean length at the first position, a BOS included")
    norm_others: float = entry("median length at all later positions")

    def trust(self, method: str) -> float | None:
        """Trustworthiness of a method's map."""
        return getattr(self, f"trust_{method}")

    def separated(self, name: str, where: str) -> NeighbourAccuracy | None:
        """How well neighbours tell a property in the ``space`` or on a method's map;
        None where it has no classes.
        """
        return self.separability[name].places.get(where) if name in self.separability else None


@dataclass(frozen=True, kw_only=True)
class DrawnPoints:
    """One map's points, as 16-bit numbers between its ends."""

    low: float = entry("smallest coordinate")
    high: float = entry("largest coordinate")
    xy: str = entry("x and y of each word, base64 of little-endian 16-bit numbers")


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words that are drawn."""

    sentences: list[list[str]] = entry("the words of each sentence with a sampled word")
    at: list[list[int]] = entry("sentence of each sampled word, and its place there")
    labels: dict[str, list[str | float | None]] = entry(
        "value of each property for each sampled word"
    )


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """CKA of every two layers."""

    rows: list[str] = entry("sites of this model")
    columns: list[str] = entry("sites of this model, or of the other one")
    values: list[list[float]] = entry(
        "linear CKA without the bias of few words: 1 for the same cloud"
    )
    model: str = entry("the other model's name", default="")


@dataclass(frozen=True, kw_only=True)
class LensRecord:
    """What one layer says of the next token, over places."""

    layer: int = entry(
        "the block after which the residual stream is read; -1 for the embedding layer"
    )
    log2p: float = entry("mean log2 p(next token)", "bits")
    log2p_interval: Interval | None = entry("its 95% interval over texts", "bits")
    top1: float = entry("share of positions at which the next token is the most likely one")
    top1_interval: Interval | None = entry("its 95% interval over texts")
    median_rank: float = entry("median number of tokens that are more likely than the next one")


@dataclass(frozen=True, kw_only=True)
class LensText:
    """One text as each layer continues it: a row a layer, a column a place."""

    tokens: list[str] = entry("the text's tokens")
    top: list[list[str]] = entry("the most likely next token")
    p: list[list[float]] = entry("its probability")
    rank: list[list[int]] = entry("number of tokens that are more likely than the one that follows")
    log2p: list[list[float]] = entry("log2 p of the token that follows", "bits")


@dataclass(frozen=True, kw_only=True)
class LensResults:
    """The logit lens."""

    records: list[LensRecord] = entry("one for each layer, the model itself last")
    texts: list[LensText] = entry("texts that the page shows")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A model's layers as spaces."""

    records: list[LayerRecord] = entry("one for each site")
    words: Words = entry("the sampled words")
    maps: dict[str, list[DrawnPoints]] = entry("for each method the map of each site")
    near: list[str] = entry(
        "the 5 nearest words of each word at each site, base64 of 16-bit numbers"
    )
    cka: Similarity = entry("CKA of each pair of sites")
    cka_between: Similarity | None = entry(
        "CKA of each site of this model with each site of the compared model", default=None
    )
    lens: LensResults | None = entry("the logit lens", default=None)
