"""Options of ``layerscope attribute``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...attribution.methods import METHODS
from ...runs.options import option
from ...runs.shared_options import SKIP, RunOptions


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(RunOptions):
    """Attribution."""

    text: tuple[str, ...] = option("a text (repeatable)", (), metavar="TEXT")
    text_pair: tuple[str, ...] = option(
        "the second text of each --text, for classifiers of pairs (repeatable)", (), metavar="TEXT"
    )
    image: tuple[str, ...] = option(
        "picture shown to a vision-language model with --text: one for all texts, "
        "or one per text (repeatable)",
        (),
        metavar="FILE",
    )
    audio: tuple[Path, ...] = option(
        "sound for a speech model, in place of a text (repeatable)", (), metavar="FILE"
    )
    seconds: float = option(
        "with a sound: divide it into spans of about N seconds and score each",
        0.25,
        metavar="N",
        above=0,
    )
    patches: int = option(
        "with a picture: divide it into N x N patches and score each",
        6,
        metavar="N",
        least=1,
    )
    prompts: Path | None = option(
        "a file of texts, JSONL with prompt (or audio) and, optionally, answer, wrong, text_pair, "
        "image, target_prefix, label",
        None,
        metavar="FILE",
    )
    limit: int | None = option(
        "use only the first N prompts (default: all)", None, metavar="N", least=1
    )
    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)
    target: str | None = option(
        "what is explained: a continuation (with its space), a class or a label (default: "
        "the model's own answer)",
        None,
    )
    wrong: str | None = option("another answer that the target is compared with", None)
    target_prefix: str | None = option(
        "for encoder-decoder models: text that the decoder has produced before the target",
        None,
    )
    measure: str | None = option(
        "what is measured of the target (default: a logit for classes, "
        "labels and pairs of tokens, else a log-probability)",
        None,
        choices=("log-probability", "logit"),
    )
    generate: int = option(
        "let the model continue each text by N tokens, and explain each token", 0, metavar="N"
    )
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run) whose label is explained",
        None,
        metavar="FILE",
    )
    word: int | None = option(
        "with --probe: number of the word that it reads, from 0 (default: the mean of all words)",
        None,
    )
    method: tuple[str, ...] = option(
        f"attribution method: {', '.join(METHODS)} (repeatable; default: leave-one-out)", ()
    )
    level: str = option("unit that gets a score", "word", choices=("word", "token", "span"))
    removal: str | None = option(
        "how words are removed: delete, mask, pad, word:W, zero, mean, random, noise, "
        "resample, propose (default: mask if the model has a mask token, else delete)",
        None,
    )
    proposals: str | None = option(
        "with --removal propose: a masked language model that fills in the removed words",
        None,
        metavar="MODEL",
    )
    samples: int | None = option(
        "number of changed texts for sampling methods (default: each method's own)",
        None,
        metavar="N",
        least=1,
    )
    error: float | None = option(
        "lime and leverage-shap stop at this standard error, "
        "relative to the largest score (default: 0.05, unless --samples)",
        None,
        metavar="SHARE",
        above=0,
    )
    verify: int | None = option(
        "leave-one-out: estimate all units from one gradient, "
        "and measure only K units exactly, those that may be largest",
        None,
        metavar="K",
        least=1,
    )
    steps: int | None = option(
        "number of gradients along the path (default: 50 for conductance and dig; "
        "10 in the first round of ig)",
        None,
        metavar="N",
        least=1,
    )
    baseline: str | None = option(
        "starting point of integrated gradients (default: the mean embedding; zero at a --site)",
        None,
        choices=("zero", "pad", "mask", "mean", "sampled"),
    )
    site: str | None = option(
        "site of the gradients (default: the embedding), or the site that hidden-out replaces", None
    )
    value: str = option(
        "with hidden-out: what replaces the site's values: zero, mean, shuffle, layer:N",
        "zero",
        aliases=("hidden",),
    )
    reference: Path | None = option(
        "with hidden-out: prompts that supply the mean (default: the words of each text)",
        None,
        metavar="FILE",
    )
    null_draws: int = option(
        "number of random attributions to compare with; 0 skips them, and the report says so",
        5,
        aliases=("random",),
    )
    seeds: int = option("repeats of sampling methods with other seeds, to measure stability", 2)
    sensitivity: int = option("repeats of each method with small noise added to the text", 0)
    flips: int = option(
        "also search for changes of up to N words that flip the model's answer", 0, metavar="N"
    )
    known: Path | None = option(
        "reference texts, JSONL with prompt and, optionally, answer: "
        "show those most similar to each text",
        None,
        metavar="FILE",
    )
    known_site: str = option(
        "with --known: site whose activations are compared", "blocks.-1.hook_resid_post"
    )
