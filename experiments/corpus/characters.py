"""What characters make a word, in any script."""

from __future__ import annotations

import unicodedata


def is_letter(character: str) -> bool:
    """A letter, or a mark that a letter carries: the vowel signs of Indic scripts are no letters of
    their own.

    >>> [is_letter(c) for c in ("a", "\u0940", "1", "-")]
    [True, True, False, False]
    """
    return unicodedata.category(character)[0] in "LM"


def is_word(form: str) -> bool:
    """Letters and their marks alone, with at least one letter.

    ``str.isalpha`` says no to any word with a vowel sign.

    >>> is_word("na\u00efve"), is_word("\u0928\u0926\u0940"), is_word("3rd"), is_word("")
    (True, True, False, False)
    """
    return all(map(is_letter, form)) and any(character.isalpha() for character in form)


def bare(text: str) -> str:
    """A text without case, white space and punctuation: what is left when two sentences are nearly
    the same.

    >>> bare("Don't panic!") == bare("dont PANIC")
    True
    """
    return "".join(c for c in text.casefold() if unicodedata.category(c)[0] in "LMN")
