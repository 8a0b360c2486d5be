"""A picture before a text: how a vision-language model reads the two, with cells of the picture
there or grey.

The picture is cut into cells, a grid laid over the file itself, so that nothing needs to be known
of how a processor resizes, crops, tiles or flattens it. A row of token ids holds the cells first
and then the text's tokens as the processor makes them: what removes and counts the tokens of a text
does the same with cells. A cell that is absent has the picture's mean colour.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..corpus.prompts import Prompt
from .batches import Batch
from .cells import as_cell
from .errors import SubjectError, first_line, reading
from .media import read_picture
from .medium import KEPT, Medium
from .word_spans import Encoded


class Picture(Medium):
    """One picture that a model is shown with a text.

    Args:
        path: of the file.
        processor: the model's own, of pictures and text.
        rows, columns: of the grid of cells.
        dtype: of the model's weights.

    Raises:
        SubjectError: a file that is no picture, a processor of one of the two alone.
    """

    kind, cell, absent_cell = "picture", "patch", "grey"

    def __init__(
        self,
        path: Path | str,
        processor: Any,
        rows: int = 1,
        columns: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.path, self.processor, self._dtype = str(path), processor, dtype
        self.rows, self.columns = rows, columns
        self.image = read_picture(self.path)
        width, height = self.image.size
        if columns > width or rows > height:
            raise SubjectError(
                f"{path}: expected at least {columns} x {rows} pixels for so many patches, "
                f"got {width} x {height}"
            )
        self._versions = functools.lru_cache(maxsize=KEPT)(self._processed)

    @property
    def n_cells(self) -> int:
        return self.rows * self.columns

    def cell_names(self) -> list[str]:
        """The cells by row and column, row by row."""
        places = (divmod(cell, self.columns) for cell in range(self.n_cells))
        return [f"patch {row + 1},{column + 1}" for row, column in places]

    def words_of(self, prompt: Prompt) -> str:
        """The prompt."""
        return prompt.prompt

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a cell, in pixels of the file."""
        width, height = self.image.size
        row, column = divmod(cell, self.columns)
        return (
            width * column // self.columns,
            height * row // self.rows,
            width * (column + 1) // self.columns,
            height * (row + 1) // self.rows,
        )

    def without(self, absent: frozenset[int]) -> Any:
        """The picture with some cells grey."""
        image = self.image.copy()
        for cell in absent:
            image.paste(self._grey, self.box(cell))
        return image

    @functools.cached_property
    def _grey(self) -> tuple[int, ...]:
        """The mean colour."""
        pixels = np.asarray(self.image.resize((64, 64)), dtype=float)
        return tuple(int(value) for value in pixels.mean((0, 1)).round())

    def jpeg(self, pixels: int = 480) -> str:
        """The picture for a page, its longer side at most so many pixels, base64."""
        small = self.image.copy()
        small.thumbnail((pixels, pixels))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=85)
        return base64.b64encode(file.getvalue()).decode()

    @functools.cached_property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the picture's tokens, where the processor gives them (Qwen's)."""
        known = self._versions(frozenset()).get("image_grid_thw")
        if known is None:
            return None
        merged = int(getattr(self.processor.image_processor, "merge_size", 1))
        _, rows, columns = known[0].tolist()
        return rows // merged, columns // merged

    @property
    def placeholder(self) -> str:
        """The token of a text in whose place the picture is read."""
        return str(self.processor.image_token)

    def encode(self, text: str) -> Encoded:
        """The cells, and the text's tokens as the processor makes them; a text without a
        placeholder follows the picture.

        ``text`` of what is returned is what the tokens spell without the picture's and special
        ones.

        Raises:
            SubjectError: a text with places for several pictures.
        """
        count = text.count(self.placeholder)
        if count > 1:
            raise SubjectError(
                f"expected a text with one {self.placeholder} for its one picture, got {count}"
            )
        whole = text if count else self.placeholder + text
        out = self._call(whole, self.image)
        ids = out["input_ids"][0].tolist()
        spelled, offsets, special = self._spelled(ids)
        cells = range(self.n_cells)
        return Encoded(
            spelled,
            (*map(as_cell, cells), *ids),
            (*((0, 0) for _ in cells), *offsets),
            (*(True for _ in cells), *special),
            picture=self,
        )

    def answer(self, encoded: Encoded, text: str, answer: str) -> tuple[int, ...]:
        """An answer's tokens as they follow a text,
        or by themselves where the processor closes every text.
        """
        whole = self.encode(text + answer).ids
        if whole[: len(encoded)] == encoded.ids:
            return whole[len(encoded) :]
        return tuple(self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def _call(self, text: str, image: Any) -> Any:
        with reading(self.processor, self.path):
            return self.processor(images=[image], text=[text], return_tensors="pt")

    def _spelled(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]], list[bool]]:
        """What tokens spell, and which characters are each one's:
        processors change a text before it is cut.
        """
        tokenizer = self.processor.tokenizer
        silent = {*tokenizer.all_special_ids, *self.token_ids}
        silent |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        text, offsets, special = "", [], []
        run: list[int] = []
        before = ""
        for token in ids:
            if token in silent:
                run, before = [], text
                offsets.append((0, 0))
                special.append(True)
                continue
            run.append(token)
            start = len(text)
            text = before + tokenizer.decode(run, clean_up_tokenization_spaces=False)
            offsets.append((min(start, len(text)), len(text)))
            special.append(False)
        return text, offsets, special

    @functools.cached_property
    def token_ids(self) -> frozenset[int]:
        """Tokens that the processor puts in the picture's place."""
        known = {getattr(self.processor, "image_token_id", None)}
        known |= set(getattr(self.processor, "image_token_ids", None) or ())
        return frozenset(token for token in known if token is not None)

    # -- what a model is given

    def given(self, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """The batch itself, and of each row the picture with its cells grey."""
        assert batch.absent is not None
        rows = zip(batch.input_ids, batch.absent, strict=True)
        shown = [self.inputs_of(row, absent) for row, absent in rows]
        inputs = {name: torch.cat([one[name] for one in shown]) for name in shown[0]}
        if self.forced_values is not None:
            inputs["pixel_values"] = self.forced_values
        return batch, inputs

    def inputs_of(self, row: Tensor, absent: frozenset[int]) -> dict[str, Tensor]:
        """What one row of tokens is given: the picture as the processor makes it,
        and what each token is.
        """
        inputs = dict(self._versions(absent))
        for name, kind_of in self._kinds.items():
            inputs[name] = torch.tensor([[kind_of.get(token, 0) for token in row.tolist()]])
        return inputs

    def processed(self, absent: frozenset[int] = frozenset()) -> Tensor:
        """The processed pixels with some cells grey."""
        return self._versions(absent)["pixel_values"]

    def _processed(self, absent: frozenset[int]) -> dict[str, Tensor]:
        """What the processor makes of the picture, without what belongs to tokens."""
        made = {}
        # Kept for later, where gradients may be asked for: no tensors of inference.
        with torch.inference_mode(False):
            out = self._call(self.placeholder, self.without(absent))
            n_tokens = out["input_ids"].shape
            for name, value in out.items():
                if isinstance(value, Tensor) and value.shape != n_tokens:
                    made[name] = value.to(self._dtype) if value.is_floating_point() else value
        return made

    @functools.cached_property
    def _kinds(self) -> dict[str, dict[int, int]]:
        """Inputs that say of each token what it is, such as part of a picture:
        the kind of every token id.
        """
        out = self._call(self.placeholder, self.image)
        ids = out["input_ids"][0].tolist()
        kinds = {}
        for name, value in out.items():
            is_of_tokens = isinstance(value, Tensor) and value.shape == out["input_ids"].shape
            if is_of_tokens and name not in ("input_ids", "attention_mask"):
                kinds[name] = dict(zip(ids, value[0].tolist(), strict=True))
        return kinds


def read_processor(name: str, **where: Any) -> Any:
    """A model's processor of pictures and text.

    Raises:
        SubjectError: a model of text alone, or one whose processor cannot be read.
    """
    import transformers as t

    try:
        processor = t.AutoProcessor.from_pretrained(name, **where)
    except Exception as error:  # settings of a model folder may be anything
        raise SubjectError(
            f"--image: {name} has no processor of pictures and text that can be read "
            f"({first_line(error)[:240]})"
        ) from None
    has_both = getattr(processor, "image_processor", None) is not None
    if not has_both or getattr(processor, "tokenizer", None) is None:
        raise SubjectError(
            f"--image: expected a model of pictures and text, {name} reads text alone"
        )
    return processor
