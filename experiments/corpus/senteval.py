"""SentEval's files of labelled sentences: ``tr|va|te <tab> label <tab> sentence``, tokens apart.

The sentences are put together again as people write them, since a tokenizer that learned running text reads odd spacing as
something else; the words keep their places in the text.
"""

from __future__ import annotations

from pathlib import Path

from . import SPLITS, Corpus, CorpusError, Sentence, Split, Word, read_text

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
    """The three splits of a file; each sentence has its ``label``, and words without annotation, which are all roots.

    Raises:
        CorpusError: a file that is not there or no UTF-8, a line of another form, a split without sentences.
    """
    path = Path(path)
    text, digest = read_text(path)
    found: dict[Split, list[Sentence]] = {split: [] for split in SPLITS}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):  # as U+0085 ends no line
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if (
            len(fields) != 3
            or fields[0] not in PARTS
            or not fields[1].strip()
            or not fields[2].split()
        ):
            raise CorpusError(
                f"{path}:{number}: expected tr, va or te, a label and a sentence, with tabs between, got {line[:60]!r}"
            )
        part, label, tokens = fields
        found[PARTS[part]].append(_sentence(f"{path.stem}-{number}", label, tokens.split()))
    for split, sentences in found.items():
        if not sentences:
            raise CorpusError(f"{path}: expected sentences of the {split} split, got none")
    return {split: Corpus(tuple(sentences), path, digest) for split, sentences in found.items()}


def _sentence(name: str, label: str, tokens: list[str]) -> Sentence:
    text, words, before, quoted = "", [], "", False
    for place, token in enumerate(tokens, 1):
        written = _WRITTEN.get(token, token)
        closes = (
            token in _NO_SPACE_BEFORE
            or token.startswith("'")
            or token.lower() in ("-rrb-",)
            or written == ")"
        )
        opens = token in _NO_SPACE_AFTER or written == "("
        if token == '"':
            closes, opens, quoted = quoted, not quoted, not quoted
        gap = "" if not text or closes or before == "opens" else " "
        start = len(text) + len(gap)
        text += gap + written
        words.append(Word(place, written, "_", "_", "_", {}, 0, "_", start, len(text)))
        before = "opens" if opens else ""
    return Sentence(name, text, tuple(words), label=label)
