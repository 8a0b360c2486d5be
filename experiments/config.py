"""What a run is told: frozen dataclasses whose fields carry their help; the command line, the TOML file and Python's
functions are read from them (`experiments.options`). What commands share is in `experiments.run_config`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from .options import option
from .run_config import (
    EffectsConfig,
    EngineConfig,
    ProbesConfig,
    RunConfig,
    StoreConfig,
    TextsConfig,
    WordsConfig,
)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(WordsConfig, ProbesConfig, RunConfig, EngineConfig):
    """A layer-wise probing study."""

    property: tuple[str, ...] = option("what to read: upos, deprel, feats:Number, depth, arc:deprel, ... (repeatable)")
    site: str = option("what to read at every layer: a site's name or a glob", "hook_resid_post")
    sentence_pooling: str = option(
        "a sentence's vector: the mean over its words', or that of its first (CLS, BOS) or last token",
        "mean",
        choices=("mean", "first", "last"),
    )
    tol: float = option("largest relative error of a probe's objective; a probe that misses it is flagged", 1e-5)
    control_seeds: int = option("control tasks a property; 0 skips them, and the report says so", 5)
    random_models: int = option("random-weight models to compare with; 0 skips them, and the report says so", 1)
    seeds: int = option(
        "repeat the study with this many seeds, other draws of sentences, splits and controls; the spread is told",
        1,
        least=1,
    )
    code_length: bool = option("also the bits that the labels take, by online code, and the control tasks'", False)
    information: bool = option("also the bits that each layer tells of the labels beyond the embedding layer", False)
    scalar_mix: bool = option(
        "also a probe of all layers at once, what it reads of each, and the expected layer", False
    )
    structural: int = option("also structural probes of this rank, of the tree's distances and depths; 0 skips", 0)
    calibration: bool = option("also keep the probes' predictions and measure their calibration", False)
    batch_tokens: int = option("tokens of the texts that share a batch", 4096, least=1)
    keep_features: bool = option("keep the features on disk when the run is done", False, decides=False)


@dataclass(frozen=True, kw_only=True)
class AblateConfig(TextsConfig, EffectsConfig, EngineConfig):
    """Every part of a kind ablated on its own."""

    component: str = option("what is ablated", "heads", choices=("heads", "neurons", "mlps", "attentions", "layers"))
    value: str = option(
        "what takes its place", "zero", choices=("zero", "mean", "mean-position", "resample", "optimal")
    )
    steps: int = option("with --value optimal: steps of gradient descent", 50, least=1)
    reference: Path | None = option(
        "prompts whose values give mean and resample (default: the measured ones)", None, metavar="FILE"
    )
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): measure what it reads instead", None, metavar="FILE"
    )
    corpus: Path | None = option("with --probe: annotated sentences, CoNLL-U", None, metavar="FILE")

    @property
    def source(self) -> Path:
        """The file of prompts, pairs or sentences."""
        return self.corpus or super().source


@dataclass(frozen=True, kw_only=True)
class UsageConfig(WordsConfig, ProbesConfig, TextsConfig, EffectsConfig, EngineConfig):
    """A property probed at every layer, erased there, and missed or not by the model."""

    property: str = option("a property of words: upos, feats:Number, ...", metavar="P")
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): measure what it still reads of the test sentences instead",
        None,
        metavar="FILE",
    )
    eraser: str = option("how it is erased", "leace", choices=("leace", "inlp"))
    push: float = option("also put the property where each class has its mean, times this; 0 does not", 0.0, least=-inf)
    null: int = option("random changes as large as the erasure to compare with", 5)


@dataclass(frozen=True, kw_only=True)
class NeuronsConfig(WordsConfig, StoreConfig, TextsConfig):
    """Neurons ranked by what they say of a property, read by probes, and changed in the running model."""

    property: str = option("a property of words: upos, feats:Number, ...", metavar="P")
    dev: Path | None = option("sentences kept out of training (default: a tenth of the corpus)", None, metavar="FILE")
    test: Path | None = option(
        "sentences that are scored, and measured where no prompts or pairs are given (default: a tenth of the corpus)",
        None,
        metavar="FILE",
    )
    site: str = option("whose neurons: a block's own site, or a glob", "mlp.hook_post")
    layer: tuple[int, ...] = option("a layer (repeatable; default: all)", ())
    ranking: tuple[str, ...] = option("how neurons are ranked (repeatable; default: every way there is)", ())
    gradient: bool = option(
        "also rank by the gradient of the metric, on half of the texts; effects are then measured on the others", False
    )
    k: tuple[int, ...] = option(
        "how many of the first neurons (repeatable; 1 is always there)", (1, 4, 16, 64), least=1
    )
    value: str = option("what takes the neurons' place", "mean", choices=("mean", "zero"))
    translate: float = option("also move the neurons towards each class, times this; 0 does not", 0.0, least=-inf)
    random: int = option("random sets of as many neurons to compare with", 20)
    rotations: int = option("random rotations to compare with; 0 skips them, and the report says so", 3)
    show: int = option("how many of each ranking's first neurons the page names", 3)


@dataclass(frozen=True, kw_only=True)
class CaptureConfig(RunConfig, EngineConfig):
    """Activations of a text, written to disk."""

    site: tuple[str, ...] = option("what is captured: names, globs, or shorthands of a block's (repeatable)")
    corpus: tuple[Path, ...] = option("annotated sentences, CoNLL-U (repeatable)", (), metavar="FILE")
    text: Path | None = option("plain text, one text a line", None, metavar="FILE")
    unit: str | None = option(
        "what a row is (default: a word of --corpus, a token of --text)", None, choices=("word", "token")
    )
    pooling: str = option("a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean"))
    store_as: str = option("values on disk", "float32", choices=("float32", "float16", "bfloat16"))
    to: str | None = option("folder or URL of the shards (default: DIR/store)", None, decides=False, metavar="WHERE")
    limit: int | None = option("use the first N sentences or lines of each file", None, metavar="N", least=1)
    batch_tokens: int = option("tokens of the texts that share a batch, and a shard", 4096, least=1)
    max_ram: str | None = option("memory of the process that is not exceeded, as 2GB: batches are made as small", None)
    max_disk: str | None = option("bytes on disk that are not exceeded, as 500GB: more is refused beforehand", None)


@dataclass(frozen=True, kw_only=True)
class PatchConfig(EffectsConfig):
    """Values of one run put into another, one head, position or layer at a time."""

    clean: Path = option("prompts, JSONL with prompt, answer, wrong and perhaps corrupted", metavar="FILE")
    corrupted: Path | None = option(
        "the corrupted prompts, a line for each of --clean (default: their 'corrupted')", None, metavar="FILE"
    )
    by: str = option("what is patched", "head", choices=("head", "position", "layer"))
    site: str | None = option(
        "another site of a block (default: by head attn.hook_z, by position hook_resid_pre)", None
    )
    direction: str = option(
        "clean into corrupted, corrupted into clean", "both", choices=("both", "denoising", "noising")
    )
    metric: str = option("what is measured", "logit_difference")
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(RunConfig):
    """Confidence against correctness, of predictions in a file or of a language model."""

    model: str | Any | None = option(
        "hub id, local folder or GGUF file; none with --predictions", None, metavar="M", in_memory=True
    )
    predictions: Path | None = option("any classifier's probabilities and labels, JSONL or npz", None, metavar="FILE")
    questions: Path | None = option("JSONL with question, choices and answer", None, metavar="FILE")
    prompts: Path | None = option("JSONL with prompt and answer, and perhaps wrong", None, metavar="FILE")
    pairs: Path | None = option("minimal pairs, JSONL with sentence_good, sentence_bad", None, metavar="FILE")
    limit: int | None = option("use the first N rows", None, metavar="N", least=1)
    validation: Path | None = option("another such file, which scalings are fitted on", None, metavar="FILE")
    split: float = option("fit scalings on this share of the groups, drawn at random, and measure the rest", 0.0)
    bins: int = option("bins of equal width", 15, least=2)
    choices: str = option("a question's choices are judged by their", "text", choices=("text", "letter"))
    ask: tuple[str, ...] = option(
        "also ask the model how sure it is: p_true, verbalised or sampled (repeatable)",
        (),
        choices=("p_true", "verbalised", "sampled"),
    )
    samples: int = option("answers drawn for each question with --ask sampled", 10, least=1)
    templates: Path | None = option("a folder whose files take the place of the wording", None, metavar="DIR")
    chat: bool = option("ask through the tokenizer's chat template", False)

    @property
    def source(self) -> Path:
        """The file that is measured."""
        return self.predictions or self.questions or self.prompts or self.pairs or Path()


@dataclass(frozen=True, kw_only=True)
class AskConfig(RunConfig):
    """A model says which words mattered, and they are taken out."""

    prompts: Path = option("JSONL with prompt and answer, and perhaps wrong", metavar="FILE")
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)
    random: int = option("draws of as many random words", 20, least=1)
    attribution: str = option("the attribution method whose first words are compared with", "leave-one-out")
    removal: str | None = option(
        "what a word becomes that is taken out: delete, mask, pad, mean, ... (default: deleted where something stays)",
        None,
    )
    templates: Path | None = option("a folder whose files take the place of the wording", None, metavar="DIR")
    chat: bool = option("ask through the tokenizer's chat template", False)


@dataclass(frozen=True, kw_only=True)
class AttributeConfig(RunConfig):
    """Which words of a text made the model say what it says."""

    text: tuple[str, ...] = option("a text (repeatable)", (), metavar="TEXT")
    prompts: Path | None = option("many texts, JSONL with prompt and perhaps answer, wrong", None, metavar="FILE")
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)
    target: str | None = option(
        "what is explained: a continuation (with its space), a class, a label (default: what the model says)", None
    )
    wrong: str | None = option("another answer that the target is compared with", None)
    measure: str | None = option(
        "of the target (default: a logit for classes, labels and pairs of tokens, else a log-probability)",
        None,
        choices=("log-probability", "logit"),
    )
    generate: int = option("continue each text by N tokens of the model's own and explain each", 0, metavar="N")
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): explain its label instead", None, metavar="FILE"
    )
    word: int | None = option("with --probe: the word that it reads, from 0 (default: the mean of all)", None)
    method: tuple[str, ...] = option(
        "leave-one-out, windows, input-reduction, hidden-out, saliency, grad-input, ig, dig, smoothgrad, conductance, lrp, "
        "cp-lrp, deep-taylor, chefer, lime, tree, shapley, kernel-shap, permutation-shap (repeatable; default: leave-one-out)",
        (),
    )
    level: str = option("what gets a score", "word", choices=("word", "token", "span"))
    removal: str | None = option(
        "what an absent word is: delete, mask, pad, word:W, zero, mean, random, noise, resample, propose (default: mask, "
        "else delete)",
        None,
    )
    proposals: str | None = option(
        "a masked language model whose words take the absent ones' places (removal propose)", None, metavar="MODEL"
    )
    samples: int | None = option(
        "changed texts of methods that draw (default: each method's own)", None, metavar="N", least=1
    )
    steps: int = option("of integrated gradients, doubled until complete", 50, least=1)
    baseline: str | None = option(
        "where gradients are integrated from (default: the mean embedding, at a site zero)",
        None,
        choices=("zero", "pad", "mask", "mean", "sampled"),
    )
    site: str | None = option("where gradients are taken (default: the embedding), or what hidden-out puts out", None)
    hidden: str = option("what hidden-out puts in the site's place: zero, shuffle, layer:N", "zero")
    random: int = option("random attributions to compare with; 0 skips them, and the report says so", 5)
    seeds: int = option("repeat methods that draw with so many seeds, for their stability", 2)
    sensitivity: int = option("repeat every method under so many small noises", 0)
    flips: int = option("also change up to N words so that the model says something else", 0, metavar="N")
    known: Path | None = option(
        "known texts, JSONL with prompt and perhaps answer: show the most similar ones", None, metavar="FILE"
    )
    known_site: str = option("with --known: whose activations are compared", "blocks.-1.hook_resid_post")


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TextsConfig):
    """The least important heads cut out of the weights, step by step."""

    steps: int | None = option("stop after so many steps (default: at one head a layer)", None, metavar="N", least=1)
    random: int = option("models with as many heads drawn at random to compare with; 0 skips them", 2)


@dataclass(frozen=True, kw_only=True)
class AttendConfig(RunConfig):
    """What every head looks at."""

    corpus: Path | None = option("annotated sentences, CoNLL-U", None, metavar="FILE")
    prompts: Path | None = option("or texts without annotation, JSONL with prompt", None, metavar="FILE")
    limit: int | None = option("use the first N sentences or prompts", None, metavar="N", least=1)
    effects: Path | None = option("a finished ablation of heads, to set beside what they look at", None, metavar="DIR")
    checkpoints: Path | None = option(
        "a folder of models of one training run, named by their step: how each head comes to look where it looks",
        None,
        metavar="DIR",
    )
    show: int = option("texts whose patterns the page shows", 6, metavar="N")
    flow: bool = option("also attention flow through all layers, for the texts that are shown", False)
    batch_tokens: int = option("tokens of the texts that share a batch", 4096, least=1)

    @property
    def source(self) -> Path:
        """The file of sentences or prompts."""
        return self.corpus or self.prompts or Path()


@dataclass(frozen=True, kw_only=True)
class GeometryConfig(StoreConfig, RunConfig):
    """What the space of each layer looks like."""

    corpus: Path = option("annotated sentences, CoNLL-U", metavar="FILE")
    property: tuple[str, ...] = option(
        "what colours the maps: upos, deprel, depth, ... (repeatable; default: upos)", ()
    )
    limit: int | None = option("use the first N sentences", 400, metavar="N", least=1)
    words: int = option("words that are drawn", 1000, metavar="N", least=1)
    method: tuple[str, ...] = option("pca, tsne, umap (repeatable; default: pca and tsne)", ())
    perplexity: float = option("of t-SNE", 30.0, least=1)
    site: str = option("what is read at every layer: a site's name or a glob", "hook_resid_post")
    pooling: str = option("a word's vector from its tokens' vectors", "mean", choices=("first", "last", "mean"))
    compare: str | None = option("another model, whose layers are compared with this one's", None, metavar="M")
    lens: int = option("texts whose every layer is read by the model's own head; 0 skips them", 24, metavar="N")
    export: tuple[str, ...] = option("also write npz, parquet, projector (repeatable)", ())
    batch_tokens: int = option("tokens of the texts that share a batch", 4096, least=1)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(RunConfig):
    """Proof, on this model, that what is read is what the model does."""
