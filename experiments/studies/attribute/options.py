"""Options of ``layerscope attribute``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...attribution.methods import METHODS
from ...runs.options import option
from ...runs.shared_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(RunOptions):
    """Which words of a text the model's answer depends on."""

    text: tuple[str, ...] = option("a text (repeatable)", (), metavar="TEXT")
    text_pair: tuple[str, ...] = option(
        "the second text of each --text, for classifiers of pairs (repeatable)", (), metavar="TEXT"
    )
    image: tuple[str, ...] = option(
        "the picture that a vision-language model is shown with --text: one for all texts, or one each (repeatable)",
        (),
        metavar="FILE",
    )
    patches: int = option(
        "with a picture: cut it into N x N patches, each of which gets a score",
        6,
        metavar="N",
        least=1,
    )
    prompts: Path | None = option(
        "many texts, JSONL with prompt and perhaps answer, wrong, text_pair, image, label",
        None,
        metavar="FILE",
    )
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)
    target: str | None = option(
        "what is explained: a continuation (with its space), a class or a label (default: the model's own answer)",
        None,
    )
    wrong: str | None = option("another answer that the target is compared with", None)
    target_prefix: str | None = option(
        "of an encoder-decoder, which reads the text as its source: what its decoder has written before the target",
        None,
    )
    measure: str | None = option(
        "of the target (default: a logit for classes, labels and pairs of tokens, else a log-probability)",
        None,
        choices=("log-probability", "logit"),
    )
    generate: int = option(
        "continue each text by N tokens of the model's own and explain each", 0, metavar="N"
    )
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): explain its label instead",
        None,
        metavar="FILE",
    )
    word: int | None = option(
        "with --probe: the word that it reads, from 0 (default: the mean of all)", None
    )
    method: tuple[str, ...] = option(
        f"{', '.join(METHODS)} (repeatable; default: leave-one-out)", ()
    )
    level: str = option("what gets a score", "word", choices=("word", "token", "span"))
    removal: str | None = option(
        "what an absent word is: delete, mask, pad, word:W, zero, mean, random, noise, resample, propose (default: mask, "
        "else delete)",
        None,
    )
    proposals: str | None = option(
        "a masked language model whose words take the absent ones' places (removal propose)",
        None,
        metavar="MODEL",
    )
    samples: int | None = option(
        "changed texts of methods that draw (default: each method's own)",
        None,
        metavar="N",
        least=1,
    )
    error: float | None = option(
        "lime and leverage-shap stop at this standard error, a share of the largest score (default: 0.05, unless --samples)",
        None,
        metavar="SHARE",
    )
    verify: int | None = option(
        "leave-one-out: measure the K units of largest estimate exactly, and estimate the rest from one gradient",
        None,
        metavar="K",
        least=1,
    )
    steps: int | None = option(
        "gradients along a path: of conductance and dig (default: 50), of ig in its first round (default: 10)",
        None,
        metavar="N",
        least=1,
    )
    baseline: str | None = option(
        "where gradients are integrated from (default: the mean embedding, at a site zero)",
        None,
        choices=("zero", "pad", "mask", "mean", "sampled"),
    )
    site: str | None = option(
        "where gradients are taken (default: the embedding), or what hidden-out puts out", None
    )
    value: str = option(
        "with hidden-out: what takes the site's place: zero, mean, shuffle, layer:N",
        "zero",
        aliases=("hidden",),
    )
    reference: Path | None = option(
        "with hidden-out: prompts whose values give mean (default: the words of each text)",
        None,
        metavar="FILE",
    )
    null_draws: int = option(
        "random attributions to compare with; 0 skips them, which the report shows",
        5,
        aliases=("random",),
    )
    seeds: int = option("repeat methods that draw with so many seeds, for their stability", 2)
    sensitivity: int = option("repeat every method under so many small noises", 0)
    flips: int = option(
        "also change up to N words so that the model gives another answer", 0, metavar="N"
    )
    known: Path | None = option(
        "known texts, JSONL with prompt and perhaps answer: show the most similar ones",
        None,
        metavar="FILE",
    )
    known_site: str = option(
        "with --known: whose activations are compared", "blocks.-1.hook_resid_post"
    )
