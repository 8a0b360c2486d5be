"""A language model of any make as a subject: a module, or a function, from token ids to logits.

>>> subject = of_function(lstm, tokenizer, embedding="embed")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import SubjectError
from .subject import Subject

IdsToLogits = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocab"]]


class _Settings:
    """What a subject asks of a configuration."""

    def __init__(self, vocabulary: int) -> None:
        self.vocab_size = vocabulary

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


class OwnModel(nn.Module):
    """A module or function under the face of a transformers model; what it computes is its own."""

    def __init__(self, function: IdsToLogits, embedding: str | None, vocabulary: int) -> None:
        super().__init__()
        self.config = _Settings(vocabulary)
        self.inner = function  # a module becomes a part, by whose paths its sites are found
        self.embedding = None if embedding is None else f"inner.{embedding}"

    def forward(self, input_ids: Int[Tensor, "batch pos"], **_: Any) -> Any:
        """Its logits; nothing is padded on the left, so a mask has nothing to say."""
        logits = self.inner(input_ids)
        return SimpleNamespace(logits=logits, last_hidden_state=logits)

    def get_output_embeddings(self) -> nn.Module:
        """What makes logits: the whole."""
        return self

    def get_input_embeddings(self) -> Any:
        """The embedding layer, where one is known."""
        return None if self.embedding is None else self.get_submodule(self.embedding)


def of_function(
    function: IdsToLogits,
    tokenizer: Any,
    *,
    embedding: str | None = None,
    name: str = "",
    bos: str | int = "never",
) -> Subject:
    """A subject from a module or function of token ids ``batch pos`` that gives logits ``batch pos
    vocab``.

    Args:
        function: a causal one may be given longer rows than a text: padding stands behind it.
        tokenizer: a fast tokenizer, or a vocabulary: word -> id, of texts that are words and spaces
            (an unknown word is ``<unk>``).
        embedding: path of the module's embedding layer, for gradients and for vectors in a word's
            place; without it words are deleted or replaced by other tokens.
        bos: the token in front of every text, as in `Subject`.

    Raises:
        SubjectError: no such embedding layer, logits of another shape.
    """
    if isinstance(tokenizer, Mapping):
        tokenizer = _of_words(tokenizer)
    if embedding is not None:
        modules = dict(function.named_modules()) if isinstance(function, nn.Module) else {}
        layer = modules.get(embedding)
        if not isinstance(getattr(layer, "weight", None), Tensor):
            raise SubjectError(
                f"embedding {embedding!r}: expected the path of an embedding layer in "
                f"{type(function).__name__}"
            )
    with torch.no_grad():
        logits = function(torch.zeros(1, 2, dtype=torch.long))
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, 2):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise SubjectError(f"expected logits of 'batch pos vocab' for ids of (1, 2), got {got}")
    model = OwnModel(function, embedding, logits.shape[-1]).eval()
    return Subject(model, tokenizer, name=name or type(function).__name__, bos=bos)


def _of_words(vocabulary: Mapping[str, int]) -> Any:
    """A tokenizer whose tokens are the words between spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if "<unk>" not in vocabulary:
        raise SubjectError("vocabulary: expected a word <unk> for all words that are not in it")
    backend = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    special = {"bos_token": "<s>"} if "<s>" in vocabulary else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)
