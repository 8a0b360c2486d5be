"""What a person looks at: a text, edits, a contrast; and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from layerscope.errors import InputError

from .changes import Change, read_changes

MOST_CHARACTERS = 20_000
"""Of a text."""


@dataclass(frozen=True)
class View:
    """What is looked at; two views that are equal show the same numbers.

    Args:
        text: what the model reads.
        other: a second text, which patches take values from.
        changes: the edits in force, in order.
        answer: the token (or class) whose logit is followed; None for the likeliest of the unedited
            text.
        wrong: the one it is compared with; None for the second likeliest.
    """

    text: str
    other: str = ""
    changes: tuple[Change, ...] = ()
    answer: int | None = None
    wrong: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> View:
        """Read what a browser or an address gives.

        Raises:
            InputError: a field that is missing, unknown, of another type, or too long.
        """
        known = {"text", "other", "edits", "answer", "wrong"}
        if unknown := sorted(map(str, set(given) - known)):
            raise InputError(
                f"unknown field {unknown[0][:40]!r}: expected {', '.join(sorted(known))}"
            )
        text, other = given.get("text"), given.get("other", "")
        edits = given.get("edits", [])
        for name, value in (("text", text), ("other", other)):
            if not isinstance(value, str):
                raise InputError(f"{name}: expected text, got {value!r:.60}")
            if len(value) > MOST_CHARACTERS:
                raise InputError(
                    f"{name}: expected at most {MOST_CHARACTERS:,} characters, got {len(value):,}"
                )
        if not isinstance(edits, list) or not all(isinstance(edit, str) for edit in edits):
            raise InputError(f"edits: expected a list of texts, got {edits!r:.60}")
        tokens = {}
        for name in ("answer", "wrong"):
            value = given.get(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise InputError(f"{name}: expected the number of a token, got {value!r:.60}")
            tokens[name] = value
        return cls(str(text), str(other), read_changes(edits), **tokens)

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "text": self.text,
            "other": self.other,
            "edits": [str(change) for change in self.changes],
            "answer": self.answer,
            "wrong": self.wrong,
        }


class Session:
    """A view, and those before and behind it.

    >>> session = Session("The keys to the cabinet")
    >>> session.edit("blocks.0.attn.hook_z[1]=zero").changes
    (Change(site='blocks.0.attn.hook_z[1]', how='zero', factor=None, edge=None, positions=None),)
    >>> session.undo().changes, len(session.redo().changes)
    ((), 1)
    """

    def __init__(self, text: str | View) -> None:
        self._views = [text if isinstance(text, View) else View(text)]
        self._at = 0

    @property
    def view(self) -> View:
        """What is looked at now."""
        return self._views[self._at]

    def show(self, view: View) -> View:
        """Look at something else; what was undone is forgotten."""
        if view != self.view:
            self._views[self._at + 1 :] = [view]
            self._at += 1
        return self.view

    def edit(self, change: Change | str) -> View:
        """One more edit."""
        new = change if isinstance(change, Change) else Change.parse(change)
        return self.show(replace(self.view, changes=(*self.view.changes, new)))

    def remove(self, number: int) -> View:
        """Without one of the edits in force."""
        changes = self.view.changes
        if not 0 <= number < len(changes):
            raise InputError(f"expected an edit below {len(changes)}, got {number}")
        return self.show(replace(self.view, changes=changes[:number] + changes[number + 1 :]))

    def undo(self) -> View:
        """The view before; the first one stays."""
        self._at = max(0, self._at - 1)
        return self.view

    def redo(self) -> View:
        """The view that was undone last; the last one stays."""
        self._at = min(len(self._views) - 1, self._at + 1)
        return self.view
