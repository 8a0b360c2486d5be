"""The doctor's checks of a subject: `hooks.verify` on plain sentences,
and what only a tokenizer shows.
"""

from __future__ import annotations

import difflib
import itertools
import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ...hooks import verify
from ...hooks.verify import Finding, Verdict
from .bos import SENTENCES
from .subject import Subject
from .word_spans import Encoded, word_spans

SENTENCES_READ, LONGEST = 3, 8
"""Sentences that the checks run on, and their tokens; for the quick part 2 of 6."""
TEXTS = (
    "She didn't say they'll come; it's rock 'n' roll (or isn't it?).",
    "A naïve café, déjà vu in Ångström's house, e\u0301 and ñ.",
    "日本語と中文 beside English words.",
    "A party 🎉 at 5 pm with 👩\u200d👩\u200d👧, 3.14% and $20.",
    "Tabs\tand  double  spaces, and a long-hyphenated-word.",
    "Ελληνικά, русский, العربية and हिन्दी.",
)
"""Texts whose words a tokenizer may lose."""


def examine(subject: Subject, quick: bool = False) -> Verdict:
    """Every check, or those that every study runs first,
    on plain sentences as the subject encodes them.
    """
    start = time.perf_counter()
    if not subject.reads_text:
        return verify(subject.model, quick=quick)
    verdict = verify(subject.model, sample(subject, quick), quick=quick, padding=subject.padding)
    texts = [
        replace(f, check=name)
        for name, check in TEXT_CHECKS.items()
        if not quick
        for f in check(subject)
    ]
    return Verdict((*verdict, *texts), time.perf_counter() - start)


def sample(subject: Subject, quick: bool = False) -> dict[str, torch.Tensor]:
    """A few sentences, cut to one length so that nothing is padded."""
    texts, longest = (2, 6) if quick else (SENTENCES_READ, LONGEST)
    encoded = [e.ids for e in subject.encode(SENTENCES[:texts])]
    length = min(longest, *map(len, encoded))
    ids = torch.tensor([row[:length] for row in encoded])
    pair = getattr(subject.config, "is_encoder_decoder", False) and hasattr(
        subject.model, "get_decoder"
    )
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, : length // 2]} if pair else {})}


def summary(verdict: Verdict) -> dict[str, Any]:
    """What a study's provenance says of the examination before it."""
    return {
        "status": verdict.status,
        "checks": len(verdict.checks()),
        "findings": len(verdict),
        "wrong": [f.text for f in verdict.wrong],
    }


def round_trip(subject: Subject) -> Iterator[Finding]:
    """The tokens of a text, put together again, are the text: exactly, or up to case,
    accents and white space.
    """
    for text in TEXTS:
        (encoded,) = subject.encode([text])
        ids = [i for i, special in zip(encoded.ids, encoded.special, strict=True) if not special]
        again = subject.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if again.strip() == text:
            yield Finding("", "", "OK", 0.0, 0.0)
            continue
        lost = (
            1 - difflib.SequenceMatcher(None, _folded(again), _folded(text), autojunk=False).ratio()
        )
        if lost == 0:
            yield Finding("", "", "OK", 0.0, 0.0, "up to case, accents and white space")
        else:
            why = (
                f"{lost:.0%} of {text[:24]!r} is not in its tokens: "
                "the vocabulary has no such characters"
            )
            yield Finding("", "", "UNSUPPORTED", lost, 0.0, why)


def _folded(text: str) -> str:
    """Without case, accents, white space and characters that are not shown."""
    flat = unicodedata.normalize("NFKD", text).casefold()
    return "".join(
        c for c in flat if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cf", "Cc")
    )


def spans(subject: Subject) -> Iterator[Finding]:
    """Every visible word has tokens,
    every token of the text belongs to a word or stands between two, and order is kept.
    """
    for text in TEXTS:
        (encoded,) = subject.encode([text])
        words = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text) if _folded(m[0])]
        word_places = word_spans(encoded, words)
        lost = [text[a:b] for (a, b), span in zip(words, word_places, strict=True) if span is None]
        if encoded.cut is not None:
            yield Finding(
                "", "", "UNSUPPORTED", reason=f"{text[:24]!r} is longer than the model reads"
            )
            continue
        with_tokens = [span for span in word_places if span is not None]
        ordered = all(
            a.start <= b.start and a.stop <= b.stop for a, b in itertools.pairwise(with_tokens)
        )
        stray = _stray(encoded, text, with_tokens)
        if not ordered or stray:
            why = (
                "words are out of order"
                if not ordered
                else f"{len(stray)} tokens with visible characters belong to no word"
            )
            yield Finding("", "", "WRONG", float(len(stray)), 0.0, f"{text[:24]!r}: {why}")
        elif lost:
            yield Finding(
                "",
                "",
                "UNSUPPORTED",
                len(lost) / len(words),
                0.0,
                f"no token carries {', '.join(lost[:5])!r}",
            )
        else:
            yield Finding("", "", "OK", 0.0, 0.0)


def _stray(encoded: Encoded, text: str, kept: list[slice]) -> list[int]:
    """Tokens with characters that are shown, in no word's span."""
    inside = {i for span in kept for i in range(span.start, span.stop)}
    outside = [i for i, special in enumerate(encoded.special) if not special and i not in inside]
    return [i for i in outside if _folded(text[slice(*encoded.offsets[i])])]


def opener(subject: Subject) -> Iterator[Finding]:
    """Which token stands in front of every text, and why."""
    yield Finding("", "", "OK", reason=subject.bos_reason)


TEXT_CHECKS = {"tokens round-trip": round_trip, "word spans": spans, "beginning of text": opener}
"""Checks that need a tokenizer: name -> function."""
