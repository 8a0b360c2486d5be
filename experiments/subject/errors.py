"""What goes wrong with a model, its tokenizer or a text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from layerscope.errors import LayerscopeError


class SubjectError(LayerscopeError, ValueError):
    """A model, tokenizer or text that cannot be used as asked; the message is one line."""


class ReadsNoText(SubjectError):
    """A model that reads pictures or sounds, where one of text is expected.

    Attributes:
        reads: the name of what its forward takes.
    """

    def __init__(self, message: str, reads: str) -> None:
        super().__init__(message)
        self.reads = reads


_OF_SOUNDS = (
    "sounds are read by 'probe --audio' and 'capture --audio', and for speech recognition "
    "models (Whisper) by 'attribute --audio' and by ablate, attend and attribute with --prompts "
    "FILE that has a column audio"
)
COMMANDS_FOR = {
    "pixel_values": "pictures are read by 'probe --images' and 'capture --images'",
    "input_values": _OF_SOUNDS,
    "input_features": _OF_SOUNDS,
}
"""What a model reads that reads no text -> the commands for it."""


def reads_no_text(model: str, reads: str) -> ReadsNoText:
    """Why a model is no subject of texts, and what to do."""
    commands = COMMANDS_FOR.get(reads, "layerscope.capture and layerscope.verify take any model")
    return ReadsNoText(
        f"{model} reads {reads} and not the tokens of a text: expected a text model ({commands})",
        reads,
    )


def first_line(error: Exception) -> str:
    """The first line of an error that says something,
    and what to install where that is what is missing.
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if "torchvision" in first.lower():
        return f"{first.split(' Check out')[0]} pip install torchvision, the version for this torch"
    return first


@contextlib.contextmanager
def one_line(name: str) -> Iterator[None]:
    """Give what transformers raises over many lines as one that says what to do."""
    try:
        yield
    except SubjectError:
        raise
    except Exception as error:  # safetensors and tokenizers raise bare Exception subclasses
        first = first_line(error)
        if "ignore_mismatched_sizes" in first:
            first = "the weights have other shapes than its config.json describes"
        if "backend tokenizer" in first:
            first = "no tokenizer beside it: expected tokenizer.json or the tokenizer's own files"
        hint = (
            "; pass trust_remote_code=True (--trust-remote-code) if you trust its code"
            if "remote" in first
            else ""
        )
        raise SubjectError(
            f"model {name!r} could not be loaded ({type(error).__name__}: {first[:300]}){hint}"
        ) from error


@contextlib.contextmanager
def reading(reader: object, what: str) -> Iterator[None]:
    """Give what a tokenizer or a processor raises as one line: its files, which come from the
    model's folder, or the text are the cause.
    """
    try:
        yield
    except LayerscopeError:
        raise
    except Exception as error:
        # the tokenizers package raises bare exceptions, whose class tells nothing
        kind = "" if type(error) is Exception else f"{type(error).__name__}: "
        raise SubjectError(
            f"{type(reader).__name__} cannot read {what}: {kind}{first_line(error)[:200]}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back transformers' own bars and reports while loading; problems are raised instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
