"""What the heads of a vision-language model attend to in a picture, from the text's last token.

picture   weight of a head on the picture's tokens
map       that weight by token, laid out as the picture's patches where their grid is known
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ...hooks import capture
from ..subject import Subject
from ..subject.pictures import Picture
from ..subject.word_spans import Encoded
from .passes import PATTERN, layers_with_patterns


@dataclass(frozen=True)
class PictureAttention:
    """One text with its picture.

    Args:
        rows, columns: of the picture's tokens; a single row where their grid is not known.
        weights: on each of these tokens, from the last token of the text.
    """

    picture: Picture
    rows: int
    columns: int
    weights: Float[np.ndarray, "layer head token"]

    @property
    def shares(self) -> Float[np.ndarray, "layer head"]:
        """Each head's weight on the whole picture."""
        return self.weights.sum(-1)


def picture_attention(subject: Subject, row: Encoded) -> PictureAttention:
    """The attention of the last token of a text to its picture."""
    (batch,) = subject.batches([row])
    names = [f"blocks.{layer}.{PATTERN}" for layer in layers_with_patterns(subject.model)]
    with torch.inference_mode(), capture(subject.model, *names) as acts:
        subject.forward(batch, logits=True)
    last = torch.stack([acts[name][0, :, -1].float().cpu() for name in names]).numpy()
    picture: Picture = row.picture
    is_picture = [token in picture.token_ids for token in batch.input_ids[0].tolist()]
    weights = last[..., np.flatnonzero(is_picture)]
    rows, columns = _grid(picture, weights.shape[-1])
    return PictureAttention(picture, rows, columns, weights)


def _grid(picture: Picture, count: int) -> tuple[int, int]:
    """Rows and columns of a picture's tokens: as the processor says, or a square; else one row."""
    grid = picture.grid
    if grid is not None and grid[0] * grid[1] == count:
        return grid
    side = math.isqrt(count)
    return (side, side) if side * side == count else (1, count)
