"""What ``layerscope lens`` reads before it measures: texts, model, saved lenses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ...corpus import read_conllu
from ...corpus.prompts import Prompt, Unusable, numbered_lines, read_prompts
from ...lenses.files import lens_files, load_lenses
from ...lenses.lens import KINDS, Lens
from ...lenses.streams import LensError, require_lens
from ...metrics.usable import joined_notes, unusable_notes, usable_each, usable_texts
from ...report.schema import Note
from ...runs.execute import DataFile, Inputs, Load
from ...subject import Subject
from ...subject.word_spans import Encoded
from .head_circuits import parsed_heads
from .options import LensOptions

RECORDS = (".jsonl", ".json", ".csv", ".tsv")
"""Ends of the names of files of records; any other corpus but CoNLL-U has a text a line."""
MOST_TOKENS = 512
"""Of a text that is read position by position."""


@dataclass(kw_only=True)
class LensInputs(Inputs):
    """What the study has read.

    Args:
        kinds: the lenses that are read, in the order of `KINDS`.
        prompts: texts to read, with what is followed.
        train, test: texts of the corpus to fit and to test on.
        saved: lenses from files.
        heads: (block, head) whose token pairs are asked for.
        notes: texts of the corpus that are left out or cut.
    """

    kinds: tuple[str, ...]
    prompts: list[Prompt]
    train: list[Encoded]
    test: list[Encoded]
    saved: list[Lens]
    heads: set[tuple[int, int]]
    notes: list[Note]


def prepare(options: LensOptions, load: Load) -> LensInputs:
    """Texts, model and saved lenses.

    Raises:
        LensError: nothing to read, a lens that has no corpus to be fitted on, a text that is too
            long or too short.
    """
    from_weights = options.circuits or options.head
    if not (options.text or options.prompts or options.corpus or from_weights):
        raise LensError("expected --text, --prompts or --corpus, or --circuits")
    if options.wrong is not None and options.target is None:
        raise LensError("--wrong needs --target")
    if not all(text.strip() for text in options.text):
        raise LensError("--text: expected a text with words, got none")
    if options.corpus is not None and not 0 < options.held_out < 1:
        raise LensError(f"--held-out: expected a share between 0 and 1, got {options.held_out}")
    prompts = [Prompt(text, options.target or "", options.wrong) for text in options.text]
    data = []
    unusable: list[Unusable] = []
    if options.prompts is not None:
        read = read_prompts(options.prompts, options.limit, answers=False, unusable=unusable)
        for prompt in read:
            answer, wrong = options.target or prompt.answer, options.wrong or prompt.wrong
            prompts.append(replace(prompt, answer=answer, wrong=wrong))
        data.append(DataFile.of("prompts", options.prompts, len(read)))
    texts, of_corpus = _corpus(options)
    if options.corpus is not None:
        data.append(DataFile.of("corpus", options.corpus, len(texts)))
    subject = load()
    require_lens(subject)
    heads = parsed_heads(options.head, subject)
    saved = load_lenses(options.lens, subject)
    for number, path in enumerate(options.lens, 1):
        data += [DataFile.of(f"lens {number}", file, 1) for file in lens_files(path)]
    kinds = tuple(
        kind for kind in KINDS if kind in options.kind or kind in {lens.kind for lens in saved}
    ) or ("logit",)
    fitted = [
        kind for kind in kinds if kind != "logit" and kind not in {lens.kind for lens in saved}
    ]
    if fitted and not texts:
        raise LensError(
            f"--kind {fitted[0]}: expected --corpus to fit it on, or --lens FILE of another run"
        )
    fitting = usable_each(prompts, lambda one: _check_length(subject, one), unusable, options.skip)
    prompts = [prompt for prompt, _ in fitting]
    left_out = unusable_notes(unusable, sum(prompt.line is not None for prompt in prompts))
    joined = joined_notes(prompts, subject)
    train, test, notes = _halves(subject, texts, options)
    return LensInputs(
        options=options,
        subject=subject,
        data=data,
        kinds=kinds,
        prompts=prompts,
        train=train,
        test=test,
        saved=saved,
        heads=heads,
        notes=[*left_out, *joined, *of_corpus, *notes],
    )


def _check_length(subject: Subject, prompt: Prompt) -> None:
    """Raise `LensError` for a text that is too long to be read at every position."""
    (encoded,) = subject.encode([prompt.prompt])
    if len(encoded) > MOST_TOKENS or encoded.cut is not None:
        most = min(MOST_TOKENS, subject.max_length)
        raise LensError(
            f"{encoded.text[:40]!r}: expected a text of at most {most} tokens, got a longer one"
        )


def _corpus(options: LensOptions) -> tuple[list[str], list[Note]]:
    """The texts of the corpus, and what of it is left out."""
    if options.corpus is None:
        return [], []
    if options.corpus.suffix == ".conllu":
        return [sentence.text for sentence in read_conllu(options.corpus, options.limit)], []
    if options.corpus.suffix in RECORDS:
        prompts, notes = usable_texts(
            options.corpus, options.skip, options.limit, "texts of the corpus"
        )
        return [prompt.prompt for prompt in prompts], notes
    lines = islice(numbered_lines(options.corpus), options.limit)
    return [line.strip() for _, line in lines], []


def _halves(
    subject: Subject, texts: Sequence[str], options: LensOptions
) -> tuple[list[Encoded], list[Encoded], list[Note]]:
    """The corpus divided at random, equal texts on one side only, and what of it is left out."""
    if not texts:
        return [], [], []
    different = list(dict.fromkeys(texts))
    order = np.random.default_rng(options.seed).permutation(len(different))
    n_test = max(1, round(options.held_out * len(different)))
    encoded = subject.encode([different[i] for i in order])
    train = [text for text in encoded[n_test:] if len(text) > 1]
    test = [text for text in encoded[:n_test] if len(text) > 1]
    if not train or not test:
        raise LensError(
            f"{options.corpus}: expected texts of two tokens or more to fit and to test on, "
            f"got {len(different)} texts"
        )
    counts = {
        "are duplicates, which are read once": len(texts) - len(different),
        "have a single token and no next one": sum(len(text) < 2 for text in encoded),
        f"are truncated to {subject.max_length} tokens": sum(
            text.cut is not None for text in encoded
        ),
    }
    notes = [
        Note(kind="dropped", text=f"corpus: {count} texts {what}")
        for what, count in counts.items()
        if count
    ]
    return train, test, notes
