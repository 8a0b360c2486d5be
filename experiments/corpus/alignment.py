"""Where the words of a CoNLL-U sentence are in its text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from .conllu_format import Failure, TokenLines

Span: TypeAlias = tuple[int, int]


def align(
    tokens: TokenLines, text: str | None, text_line: int, fail: Failure
) -> tuple[str, list[Span]]:
    """The text, and the character span of every word."""
    forms = tokens.column("form")
    if text is None:
        text, of_surface = _built(tokens, forms)
    else:
        of_surface = _surface_spans(tokens, forms, text, text_line, fail)
    if len(of_surface) == len(tokens.words):  # no multiword token
        return text, of_surface
    spans: list[Span] = []
    for (row, first, last), span in zip(tokens.surface, of_surface, strict=True):
        if last == first:
            spans.append(span)
            continue
        # Words of "don't" or "zum" have no place of their own in the text; each gets a share of the
        # token's characters.
        parts = [forms[word_row] for word_row in tokens.words[first - 1 : last]]
        spans += _deal(forms[row], parts, span)
    return text, spans


def _surface_spans(
    tokens: TokenLines, forms: Sequence[str], text: str, text_line: int, fail: Failure
) -> list[Span]:
    """Where a text has its surface tokens, one after the other."""
    spans: list[Span] = []
    cursor = 0
    for row, _, _ in tokens.surface:
        form = forms[row]
        # The text decides where a word is, not the SpaceAfter of its column.
        start = text.find(form, cursor)
        end: int | None = start + len(form)
        is_next = start == cursor or (start == cursor + 1 and text[cursor] == " ")
        if not is_next:
            start = _skip_blank(text, cursor, form)
            end = _match(text, start, form)
        if end is None:
            expected = f"{form!r} in the text at character {start}"
            fail(tokens.offsets[row], expected, _instead(text, start, form))
        spans.append((start, end))
        cursor = end
    rest = text[_skip_blank(text, cursor, "") :]
    if rest:
        fail(text_line, "the text to end with the last token", f"{rest[:30]!r} after it")
    return spans


def _built(tokens: TokenLines, forms: Sequence[str]) -> tuple[str, list[Span]]:
    """A text made of the forms, and the spans of the surface tokens."""
    misc = tokens.column("misc")
    built = gap = ""
    spans: list[Span] = []
    for row, _, _ in tokens.surface:
        form = forms[row]
        built += gap
        spans.append((len(built), len(built) + len(form)))
        built += form
        gap = "" if "SpaceAfter=No" in misc[row].split("|") else " "
    return built, spans


def _instead(text: str, start: int, form: str) -> str:
    """What a text has in the place of a form."""
    rest = text[start:]
    normal = unicodedata.normalize("NFC", form)
    if unicodedata.normalize("NFC", rest).startswith(normal):
        return (
            f"it in another Unicode form ({_unicode_form(rest)}, "
            f"and {_unicode_form(form)} in column form)"
        )
    return repr(text[start : start + len(form) + 10])


_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\xad"
"""Zero width, and the soft hyphen."""


def _skip_blank(text: str, cursor: int, form: str) -> int:
    """The next character that is neither white space nor invisible (zero width, soft hyphen)."""
    while cursor < len(text) and not text.startswith(form or "\0", cursor):
        is_blank = text[cursor].isspace() or text[cursor] in _INVISIBLE
        if not is_blank:
            break
        cursor += 1
    return cursor


def _unicode_form(text: str) -> str:
    for form in ("NFC", "NFD"):
        if unicodedata.is_normalized(form, text):
            return form
    return "neither NFC nor NFD"


def _match(text: str, start: int, form: str) -> int | None:
    """Where `form` ends if the text holds it at `start`; any white space equals any other."""
    if text.startswith(form, start):
        return start + len(form)
    pieces = form.split()
    if len(pieces) < 2:
        return None
    spaced = re.compile(r"\s+".join(map(re.escape, pieces)))
    match = spaced.match(text, start)
    return match.end() if match else None


def _deal(surface: str, parts: list[str], span: Span) -> list[Span]:
    """Each word its own part of a multiword token if the parts make up the surface, else all."""
    is_made_of_parts = "".join(parts) == surface and span[1] - span[0] == len(surface)
    if not is_made_of_parts:
        return [span] * len(parts)
    edges = [span[0]]
    for part in parts:
        # The parts of "im" are not "in" and "dem": only parts that spell the surface are dealt out.
        edges.append(edges[-1] + len(part))
    return list(pairwise(edges))
