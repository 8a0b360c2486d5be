"""The doctor: `hooks.verify` on a subject, and what only a tokenizer shows; whole as a command, quick before every study."""

from __future__ import annotations

import difflib
import itertools
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table

from ..hooks import Site, sites, verify
from ..hooks.anatomy import ORDER
from ..hooks.verify import CHECKS, Finding, Verdict, kind_of, worst
from .config import DoctorConfig
from .run import Run
from .subject import Subject
from .subject.bos import SENTENCES
from .subject.word_spans import Encoded, word_spans

TEXTS = (
    "She didn't say they'll come; it's rock 'n' roll (or isn't it?).",
    "A naïve café, déjà vu in Ångström's house, e\u0301 and ñ.",
    "日本語と中文 beside English words.",
    "A party 🎉 at 5 pm with 👩\u200d👩\u200d👧, 3.14% and $20.",
    "Tabs\tand  double  spaces, and a long-hyphenated-word.",
    "Ελληνικά, русский, العربية and हिन्दी.",
)
"""Texts whose words a tokenizer may lose."""
SENTENCES_READ, LONGEST = 3, 8
"""Sentences that the checks run on, and their tokens; for the quick part 2 of 6."""


def run(config: DoctorConfig) -> dict[str, Any]:
    """Examine a model; returns what ``results.json`` holds. ``status`` is WRONG where anything is.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("doctor", config)
    subject = this.load()
    if (finished := this.open(subject, {}, examine=False)) is not None:
        return finished
    plan = f"{len(CHECKS) + len(TEXT_CHECKS)} checks of every site on a few sentences"
    if (planned := this.plan(plan, seconds=_predicted(subject))) is not None:
        return planned
    verdict = examine(subject)
    results = {
        "status": verdict.status,
        "records": verdict.records(),
        "checks": {check.name: check.about for check in CHECKS}
        | {n: (f.__doc__ or "").strip() for n, f in TEXT_CHECKS.items()},
        "findings": [{"property": "doctor", "text": finding(verdict)}],
        "notes": [{"kind": "wrong", "text": str(f).removeprefix("WRONG ")} for f in verdict.wrong],
    }
    return this.finish(results, data=[])


def _predicted(subject: Subject) -> Callable[[], float] | None:
    """What all checks take, from those of one layer and of two; None where these are nearly all."""
    if subject.n_layers < 4:
        return None
    names = {name: Site(name).layer for name in sites(subject.model)}

    def of(layers: Sequence[int]) -> float:
        some = [name for name, layer in names.items() if layer is None or layer in layers]
        return verify(subject.model, sample(subject), sites=some, padding=subject.padding).seconds

    def seconds() -> float:
        of([0])  # the first forwards also allocate
        one, two = of([0]), of([0, subject.n_layers - 1])
        return one + (subject.n_layers - 1) * max(0.0, two - one)

    return seconds


def finding(verdict: Verdict) -> str:
    """The verdict in a sentence."""
    counts = Counter(f.status for f in verdict)
    wrong = f"WRONG: {verdict.line()}" if verdict.wrong else verdict.line()
    return (
        f"{len(verdict.checks())} checks, {len(verdict):,} findings in {verdict.seconds:.1f} s: {counts['OK']:,} OK, within "
        f"their bounds; {counts['UNSUPPORTED']} UNSUPPORTED, not to be had or not to be checked here; {wrong}."
    )


def examine(subject: Subject, quick: bool = False) -> Verdict:
    """Every check, or those that every study runs first, on plain sentences as the subject encodes them."""
    start = time.perf_counter()
    verdict = verify(subject.model, sample(subject, quick), quick=quick, padding=subject.padding)
    texts = [replace(f, check=name) for name, check in TEXT_CHECKS.items() if not quick for f in check(subject)]
    return Verdict((*verdict, *texts), time.perf_counter() - start)


def sample(subject: Subject, quick: bool = False) -> dict[str, torch.Tensor]:
    """A few sentences, cut to one length so that nothing is padded."""
    texts, longest = (2, 6) if quick else (SENTENCES_READ, LONGEST)
    encoded = [e.ids for e in subject.encode(SENTENCES[:texts])]
    length = min(longest, *map(len, encoded))
    ids = torch.tensor([row[:length] for row in encoded])
    pair = getattr(subject.config, "is_encoder_decoder", False) and hasattr(subject.model, "get_decoder")
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, : length // 2]} if pair else {})}


def summary(verdict: Verdict) -> dict[str, Any]:
    """What a study's provenance says of the examination before it."""
    return {
        "status": verdict.status,
        "checks": len(verdict.checks()),
        "findings": len(verdict),
        "seconds": round(verdict.seconds, 2),
        "wrong": [str(f).removeprefix("WRONG ") for f in verdict.wrong],
    }


# -- text


def round_trip(subject: Subject) -> Iterator[Finding]:
    """The tokens of a text, put together again, are the text: exactly, or up to case, accents and white space."""
    for text in TEXTS:
        (encoded,) = subject.encode([text])
        ids = [i for i, special in zip(encoded.ids, encoded.special, strict=True) if not special]
        again = subject.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if again.strip() == text:
            yield Finding("", "", "OK", 0.0, 0.0)
            continue
        lost = 1 - difflib.SequenceMatcher(None, _folded(again), _folded(text), autojunk=False).ratio()
        if lost == 0:
            yield Finding("", "", "OK", 0.0, 0.0, "up to case, accents and white space")
        else:
            why = f"{lost:.0%} of {text[:24]!r} is not in its tokens: the vocabulary has no such characters"
            yield Finding("", "", "UNSUPPORTED", lost, 0.0, why)


def _folded(text: str) -> str:
    """Without case, accents, white space and characters that are not shown."""
    flat = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in flat if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cf", "Cc"))


def spans(subject: Subject) -> Iterator[Finding]:
    """Every visible word has tokens, every token of the text belongs to a word or stands between two, and order is kept."""
    for text in TEXTS:
        (encoded,) = subject.encode([text])
        words = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text) if _folded(m[0])]
        found = word_spans(encoded, words)
        lost = [text[a:b] for (a, b), span in zip(words, found, strict=True) if span is None]
        if encoded.cut is not None:
            yield Finding("", "", "UNSUPPORTED", reason=f"{text[:24]!r} is longer than the model reads")
            continue
        kept = [span for span in found if span is not None]
        ordered = all(a.start <= b.start and a.stop <= b.stop for a, b in itertools.pairwise(kept))
        stray = _stray(encoded, text, kept)
        if not ordered or stray:
            why = (
                "words are out of order"
                if not ordered
                else f"{len(stray)} tokens with visible characters belong to no word"
            )
            yield Finding("", "", "WRONG", float(len(stray)), 0.0, f"{text[:24]!r}: {why}")
        elif lost:
            yield Finding(
                "", "", "UNSUPPORTED", len(lost) / len(words), 0.0, f"no token carries {', '.join(lost[:5])!r}"
            )
        else:
            yield Finding("", "", "OK", 0.0, 0.0)


def _stray(encoded: Encoded, text: str, kept: list[slice]) -> list[int]:
    """Tokens with characters that are shown, in no word's span."""
    inside = {i for span in kept for i in range(span.start, span.stop)}
    there = [i for i, special in enumerate(encoded.special) if not special and i not in inside]
    return [i for i in there if _folded(text[slice(*encoded.offsets[i])])]


def opener(subject: Subject) -> Iterator[Finding]:
    """Which token stands in front of every text, and why."""
    yield Finding("", "", "OK", reason=subject.bos_reason)


TEXT_CHECKS = {"tokens round-trip": round_trip, "word spans": spans, "beginning of text": opener}
"""Checks that need a tokenizer: name -> function."""


def map_of(records: list[Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, list[Mapping[str, Any]]]]]:
    """Kinds of sites in the order of a forward (``""``, the whole model, last), and check -> kind -> its records."""
    grid: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        grid.setdefault(str(record["check"]), {}).setdefault(kind_of(str(record["site"])), []).append(record)
    there = dict.fromkeys(kind for row in grid.values() for kind in row)
    outside = [k for k in there if k and k not in ORDER]
    first = [k for k in outside if "embed" in k]
    last = [k for k in outside if k not in first]
    return [*first, *(k for k in ORDER if k in there), *last, *([""] if "" in there else [])], grid


def tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The map: checks by kinds of sites; then what is not OK, with its reasons."""
    kinds, grid = map_of(list(records))
    table = Table(
        title="the doctor's map: worst of all layers", title_justify="left", title_style="bold", padding=(0, 0, 0, 1)
    )
    table.add_column("check")
    for kind in kinds:
        table.add_column(_short(kind), justify="center")
    marks = {"OK": "ok", "UNSUPPORTED": "-", "WRONG": "WRONG"}
    for check, row in grid.items():
        table.add_row(check, *(marks[worst(row[kind])] if kind in row else "" for kind in kinds))
    reasons = Table(title="not supported", title_justify="left", title_style="bold")
    for heading in ("check", "site", "findings", "why"):
        reasons.add_column(heading)
    rows: dict[tuple[str, str, str], int] = {}
    for check, row in grid.items():
        for kind, found in row.items():
            for r in (r for r in found if r["status"] == "UNSUPPORTED"):
                rows[check, kind, r["reason"]] = rows.get((check, kind, r["reason"]), 0) + 1
    for (check, kind, reason), count in rows.items():
        reasons.add_row(check, kind or "model", str(count), reason)
    return [table, reasons] if rows else [table]


def _short(kind: str) -> str:
    """``blocks.attn.hook_z`` in a narrow column."""
    name = kind.removeprefix("attn.").removeprefix("hook_").replace("mlp.hook_", "mlp.").replace(".hook_normalized", "")
    return name.replace("resid_", "r.").replace("attn_scores", "scores").replace("_embed", ".emb") or "model"
