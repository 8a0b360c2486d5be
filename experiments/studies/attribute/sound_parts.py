"""What the page shows of a sound: its spans shaded by each method over the loudness."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ...report.axes import Scale, draw_values_across
from ...report.canvas import Box, px, rect, svg
from ...report.matrix import step_of
from ...report.parts import Drawing, Picture
from ...report.words import number, signed
from .records import MethodRecord, ShownSound

FAINT = 0.05
"""Share of the strongest span below which a span is not shaded."""
OPACITY = 0.62
"""Of a span's colour: what is under it can be seen."""
WIDTH, HEIGHT = 620.0, 116.0
"""Pixels of a drawing."""


def spans_picture(sound: ShownSound, records: Sequence[MethodRecord]) -> Picture:
    """The sound once for each method."""
    return Picture([_drawing(sound, record, number) for number, record in enumerate(records)])


def _drawing(sound: ShownSound, record: MethodRecord, method_number: int) -> Drawing:
    """The sound with its spans coloured by one method's scores."""
    box = Box(WIDTH, HEIGHT, left=10.0, right=10.0, top=6.0, bottom=34.0)
    time = Scale.across(box, 0.0, sound.seconds)
    scores = record.scores[: record.patches]
    largest = max(map(abs, scores), default=0.0)
    body = _loudness(sound, box, time)
    for place, ((start, end), score) in enumerate(zip(sound.spans, scores, strict=True)):
        tip = f"{record.units[place]}: {signed(score)} {record.unit}"
        is_strong = largest > 0 and abs(score) >= FAINT * largest
        colour = f"m-{'up' if score > 0 else 'down'}{step_of(score, largest)}" if is_strong else ""
        opacity = OPACITY if is_strong else 0.0
        style = f'class="{colour}" fill-opacity="{opacity:.2f}"'
        left, right = time(start), time(end)
        body.append(rect(style, left, box.top, right - left, box.y_end - box.top, tip))
    body += draw_values_across(box, time, lines=False)
    body.append(f'<text class="name" x="{px(box.left)}" y="{px(HEIGHT - 2)}">seconds</text>')
    caption = (
        f"{record.method}: {len(scores)} spans of {sound.file} over its loudness. "
        "Blue spans raise the explained value, orange spans lower it; "
        f"the strongest has {number(largest)} {record.unit}."
    )
    uid, title = f"spans-{sound.item}-{method_number}", f"Spans by {record.method}"
    drawing = svg(
        box, body, title=title, desc=caption, uid=f"{uid}-svg", attrs=f' width="{px(WIDTH)}"'
    )
    return Drawing(uid, Markup(drawing), caption, title)


def _loudness(sound: ShownSound, box: Box, time: Scale) -> list[str]:
    """A bar for each stretch of the sound, above and below the middle."""
    middle, half = (box.top + box.y_end) / 2, (box.y_end - box.top) / 2
    # A quiet sound fills the drawing too.
    loudest = max(sound.loudness, default=0.0) or 1.0
    width = (box.x_end - box.left) / max(len(sound.loudness), 1)
    bars = []
    for place, loudness in enumerate(sound.loudness):
        height = max(half * loudness / loudest, 0.5)
        style, left = 'class="m-even" fill-opacity="0.9"', box.left + place * width
        bars.append(rect(style, left, middle - height, width, 2 * height))
    return bars
