"""The paper of a drawing: its size and margins, its coordinates, and the SVG element around it.

Colours come from style sheets through classes, so that one drawing serves light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Box:
    """The drawing's size and margins, in the units of its viewBox."""

    width: float
    height: float
    left: float = 46.0
    right: float = 14.0
    top: float = 30.0
    bottom: float = 40.0

    @property
    def x_end(self) -> float:
        """Right edge of the plotting area."""
        return self.width - self.right

    @property
    def y_end(self) -> float:
        """Bottom edge of the plotting area."""
        return self.height - self.bottom


def px(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def rect(attributes: str, x: float, y: float, width: float, height: float, tip: str = "") -> str:
    """A rectangle; a width or height below 0 is drawn as 0, because browsers reject it.

    Args:
        attributes: such as its class, written before its place.
        tip: the text that the pointer shows.
    """
    place = f'x="{px(x)}" y="{px(y)}"'
    size = f'width="{px(max(width, 0.0))}" height="{px(max(height, 0.0))}"'
    if not tip:
        return f"<rect {attributes} {place} {size}/>"
    return f"<rect {attributes} {place} {size}><title>{escape(tip)}</title></rect>"


def svg(box: Box, body: Sequence[str], *, title: str, desc: str, uid: str, attrs: str = "") -> str:
    """The drawing with its text alternative: title and description, read out as one image."""
    uid = escape(uid)
    return (
        f'<svg role="img" viewBox="0 0 {px(box.width)} {px(box.height)}" '
        f'aria-labelledby="{uid}-t {uid}-d"'
        f'{attrs}><title id="{uid}-t">{escape(title)}</title>'
        f'<desc id="{uid}-d">{escape(desc)}</desc>'
        f"{''.join(body)}</svg>"
    )
