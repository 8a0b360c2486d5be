"""An edit as a person writes it: one line of text, in the address, on the command line and in a
message.

SITE=HOW[:VALUE][@POSITIONS]

blocks.3.attn.hook_z[5]=zero              head 5 of layer 3 adds nothing
blocks.3.hook_mlp_out=scale:0.5@2,3       half of the MLP's output at tokens 2 and 3
blocks.3.hook_resid_post=patch@4          what the compared text has there
blocks.3.attn.hook_attn_scores[5]=knockout:7>2    query 7 cannot attend to key 2
hook_embed=absent@4                       token 4 has the mean embedding
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from layerscope.errors import InputError

from ...hooks import Site

HOW = ("zero", "mean", "scale", "patch", "freeze", "knockout", "absent")
PATTERN, SCORES, EMBED = "attn.hook_pattern", "attn.hook_attn_scores", "hook_embed"
MOST_CHANGES = 64
"""Edits in force at a time."""
LONGEST = 200
"""Characters of one edit."""
_FORM = re.compile(r"(?P<site>.+)=(?P<how>[a-z]+)(?::(?P<value>[^@]+))?(?:@(?P<at>[\d,]+))?")


@dataclass(frozen=True)
class Change:
    """One edit.

    Args:
        site: the site, with its head or neuron.
        how: a name of ``HOW``.
        factor: of ``scale``.
        edge: query and key of ``knockout``.
        positions: the tokens it is limited to; None for all.
    """

    site: str
    how: str
    factor: float | None = None
    edge: tuple[int, int] | None = None
    positions: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read one edit.

        Raises:
            InputError: another form, an unknown kind of edit, a value that does not belong to it.
        """
        match = _FORM.fullmatch(text) if len(text) <= LONGEST else None
        if match is None:
            raise InputError(
                f"edit {text[:60]!r}: expected SITE=HOW[:VALUE][@POSITIONS], "
                "such as blocks.3.attn.hook_z[5]=zero"
            )
        site, how, value = str(Site.parse(match["site"])), match["how"], match["value"]
        positions = None
        if match["at"] is not None:
            positions = tuple(int(part) for part in match["at"].split(",") if part)
        if how not in HOW:
            raise InputError(f"edit {text!r}: {how!r} is not one of {', '.join(HOW)}")
        if (value is None) == (how in ("scale", "knockout")):
            raise InputError(
                f"edit {text!r}: scale takes a factor (scale:0.5), knockout a query and a key "
                "(knockout:7>2), the others no value"
            )
        change = cls(
            site,
            how,
            factor=_factor(text, value) if how == "scale" else None,
            edge=_edge(text, value) if how == "knockout" else None,
            positions=positions,
        )
        change._require_part(text)
        return change

    def _require_part(self, text: str) -> None:
        part = {"freeze": PATTERN, "knockout": SCORES, "absent": EMBED}.get(self.how)
        if part is not None and Site.parse(self.site).part != part:
            raise InputError(f"edit {text!r}: {self.how} is an edit of {part}")
        if self.how == "absent" and not self.positions:
            raise InputError(f"edit {text!r}: absent needs the tokens that are absent (absent@4)")

    def __str__(self) -> str:
        value = ""
        if self.factor is not None:
            value = f":{self.factor:g}"
        if self.edge is not None:
            value = f":{self.edge[0]}>{self.edge[1]}"
        at = "" if self.positions is None else f"@{','.join(map(str, self.positions))}"
        return f"{self.site}={self.how}{value}{at}"

    @property
    def layer(self) -> int | None:
        """The block it is in; None outside the blocks."""
        return Site.parse(self.site).layer


def read_changes(texts: Sequence[str]) -> tuple[Change, ...]:
    """The edits of a list.

    Raises:
        InputError: too many, or one that cannot be read.
    """
    if len(texts) > MOST_CHANGES:
        raise InputError(f"expected at most {MOST_CHANGES} edits, got {len(texts)}")
    return tuple(Change.parse(text) for text in texts)


def _factor(text: str, value: str) -> float:
    try:
        factor = float(value)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise InputError(f"edit {text!r}: expected a number behind 'scale:', got {value!r}")
    return factor


def _edge(text: str, value: str) -> tuple[int, int]:
    query, _, key = value.partition(">")
    if not (query.isdecimal() and key.isdecimal()):
        raise InputError(f"edit {text!r}: expected QUERY>KEY behind 'knockout:', got {value!r}")
    return int(query), int(key)
