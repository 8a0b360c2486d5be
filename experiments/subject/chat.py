"""A tokenizer's chat template around a message, rendered where it can do no harm.

A template is a program that comes with a model. It is rendered in a child process with bounds on processor time, output and (on
Linux) memory, so that one that loops or blows up is an error and not a full machine. Without ``fork`` (Windows) it is rendered
here, without bounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from .loading import SubjectError

CPU_SECONDS, WALL_SECONDS = 5, 60
"""Time that a template may take for one message."""
MEMORY = 1 << 29
"""Bytes that it may take beside what the process holds."""
MOST_TEXT = 1_000_000
"""Characters that it may write."""


def render_chat(tokenizer: Any, message: str) -> str:
    """The text with which a model's turn begins, after a user's message.

    Raises:
        SubjectError: no template, or one that raises, takes too long, or writes too much.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise SubjectError("--chat: this tokenizer has no chat template")
    rendered = (
        _in_child(tokenizer, message) if hasattr(os, "fork") else _outcome(tokenizer, message)
    )
    if isinstance(rendered, Exception):
        reason = " ".join(str(rendered).split())[:200]
        raise SubjectError(f"--chat: the chat template fails: {type(rendered).__name__}: {reason}")
    return rendered


def _outcome(tokenizer: Any, message: str) -> str | Exception:
    """The text, or what went wrong."""
    try:
        turn = [{"role": "user", "content": message}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {str(error)[:300]}")
    if not isinstance(text, str) or len(text) > MOST_TEXT:
        return RuntimeError(f"expected a text of at most {MOST_TEXT:,} characters")
    return text


def _in_child(tokenizer: Any, message: str) -> str | Exception:
    """The same in a child of this process, with bounds."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # the child runs no thread and takes no lock of ours
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _render_and_exit(tokenizer, message, reader, writer)
    os.close(writer)
    try:
        data = _read_until(reader, time.monotonic() + WALL_SECONDS)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        answer = json.loads(data)
    except ValueError:  # the bounds ended the child while it wrote, or before
        return TimeoutError(f"expected a text within {CPU_SECONDS} s and {MEMORY >> 20} MB")
    return answer["text"] if "text" in answer else RuntimeError(answer["error"])


def _read_until(reader: int, deadline: float) -> bytes:
    """What the child writes until it ends, or until the deadline."""
    data = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(reader, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            part = os.read(reader, 1 << 16) if waiting.select(left) else b""
            if not part:
                break
            data += part
    return data


def _render_and_exit(tokenizer: Any, message: str, reader: int, writer: int) -> None:
    """The child: nothing of the parent's is cleaned up or flushed here.

    It answers in JSON, which can do nothing to the parent: a template that broke out of its sandbox ends here.
    """
    try:
        os.close(reader)
        _bound()
        outcome = _outcome(tokenizer, message)
        answer = {"text": outcome} if isinstance(outcome, str) else {"error": str(outcome)}
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _bound() -> None:
    """Bounds on the child: more time ends it, more memory is a MemoryError."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
