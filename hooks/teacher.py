"""Teacher forcing: forwards of an encoder-decoder on sources and targets that are given, repeated
for edited copies.

The encoder runs once for all edits of the decoder. Edits of the encoder change what every block of
the decoder reads: there the whole model runs. `TeacherForced` has the face of `hooks.Resume`, where
a forward is repeated and not continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .reads import Reads
from .recording import repeat_texts

SOURCES = ("input_ids", "input_features")
"""What the encoder reads: a text, or a sound."""


class TeacherForced:
    """One forward of an encoder-decoder, kept so that it can be repeated.

    Args:
        model: a transformers encoder-decoder with its head, in evaluation mode.
        inputs: ``input_ids`` and ``attention_mask`` (or ``input_features``), ``decoder_input_ids``,
            ``decoder_attention_mask``.
        positions: pairs of text and position in the target whose logits are read.

    Attributes:
        logits: without an edit, at the positions.
    """

    exact = False
    causal = False

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], positions: Int[Tensor, "reads 2"]
    ) -> None:
        self.model = model
        self.inputs: dict[str, Any] = {**inputs, "use_cache": False}
        self.batch = len(inputs["decoder_input_ids"])
        self._reads = Reads(positions, self.batch)
        with torch.no_grad():
            out = model(**self.inputs)
        self._source = out.encoder_last_hidden_state.detach()
        self.logits = self._reads.of(out.logits)

    @property
    def width(self) -> int:
        """Numbers of a state that is kept for each read: none is."""
        return 0

    def again(self, copies: int, layer: int, edited: str, **_: Any) -> Float[Tensor, "*read vocab"]:
        """Logits of so many copies, under the intervention around this call.

        Args:
            layer: not needed here.
            edited: the whole name of the site that is edited; in the decoder the recorded source is
                given.
        """
        inputs = {k: repeat_texts(v, self.batch, copies) for k, v in self.inputs.items()}
        if edited.startswith("decoder_"):
            from transformers.modeling_outputs import BaseModelOutput

            for name in SOURCES:
                inputs.pop(name, None)
            source = repeat_texts(self._source, self.batch, copies)
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=source)
        return self._reads.of(self.model(**inputs).logits, copies)
