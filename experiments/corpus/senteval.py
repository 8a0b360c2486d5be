"""SentEval's files of labelled sentences: ``tr|va|te <tab> label <tab> sentence``, tokens apart.

The sentences are put together again as people write them, since a tokenizer that learned running
text reads odd spacing as something else; the words keep their places in the text.
"""

from __future__ import annotations

from pathlib import Path

from . import SPLITS, Corpus, CorpusError, Sentence, Split, Word, read_text
from .spooled import Spool

PARTS: dict[str, Split] = {"tr": "train", "va": "dev", "te": "test"}
_NO_SPACE_BEFORE = {
    ".",
    ",",
    ";",
    ":",
    "!",
    "?",
    ")",
    "]",
    "}",
    "%",
    "''",
    "”",
    "’",
    "...",
    "n't",
    "'",
}
_NO_SPACE_AFTER = {"(", "[", "{", "``", "“", "$", "#", "‘"}
_WRITTEN = {"``": '"', "''": '"', "-lrb-": "(", "-rrb-": ")", "-LRB-": "(", "-RRB-": ")"}


def read_senteval(path: str | Path) -> dict[Split, Corpus]:
    """The three splits of a file; each sentence has its ``label``, and words without annotation,
    which are all roots.

    Raises:
        CorpusError: a file that is not there or no UTF-8, a line of another form, a split without
            sentences.
    """
    path = Path(path)
    text, digest = read_text(path)
    spools: dict[Split, Spool] = {split: Spool() for split in SPLITS}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):  # as U+0085 ends no line
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if not _is_labelled(fields):
            raise CorpusError(
                f"{path}:{number}: expected tr, va or te, a label and a sentence, "
                f"with tabs between, got {line[:60]!r}"
            )
        part, label, tokens = fields
        sentence = _sentence(f"{path.stem}-{number}", label, tokens.split())
        spools[PARTS[part]].append(sentence)
    for split, spool in spools.items():
        if not spool.sentences:
            raise CorpusError(f"{path}: expected sentences of the {split} split, got none")
    return {split: Corpus(spool.sentences, path, digest) for split, spool in spools.items()}


def _is_labelled(fields: list[str]) -> bool:
    """Whether a line has a part, a label and a sentence."""
    if len(fields) != 3:
        return False
    part, label, tokens = fields
    return part in PARTS and bool(label.strip()) and bool(tokens.split())


def _sentence(name: str, label: str, tokens: list[str]) -> Sentence:
    text, words = "", []
    opened, is_quoted = False, False
    for place, token in enumerate(tokens, 1):
        written = _WRITTEN.get(token, token)
        is_bracket = written == ")" or token.lower() == "-rrb-"
        closes = token in _NO_SPACE_BEFORE or token.startswith("'") or is_bracket
        opens = token in _NO_SPACE_AFTER or written == "("
        if token == '"':  # one sign for both: it closes where one is open
            closes, opens, is_quoted = is_quoted, not is_quoted, not is_quoted
        # No space behind an opening sign, before a closing one, or at the start.
        gap = "" if not text or closes or opened else " "
        start = len(text) + len(gap)
        text += gap + written
        words.append(Word(place, written, "_", "_", "_", {}, 0, "_", start, len(text)))
        opened = opens
    return Sentence(name, text, tuple(words), label=label)
