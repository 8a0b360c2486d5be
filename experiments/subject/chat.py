"""A tokenizer's chat template around a message, rendered where it can do no harm.

A template is a program that comes with a model. It is rendered in a child process with bounds on
processor time, output and (on Linux) memory, so that one that loops or blows up is an error and not
a full machine. Without ``fork`` (Windows) the child is a program of its own, which is watched from
here (`chat_spawn`).
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

from . import chat_spawn
from .chat_child import outcome
from .errors import SubjectError

CPU_SECONDS, WALL_SECONDS = 5, 60
"""Time that a template may take for one message."""
MEMORY = 1 << 29
"""Bytes that it may take beside what the process holds."""


def render_chat(tokenizer: Any, message: str) -> str:
    """The text with which a model's turn begins, after a user's message.

    Raises:
        SubjectError: no template, or one that raises, takes too long, or writes too much.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise SubjectError("--chat: this tokenizer has no chat template")
    render = _forked if hasattr(os, "fork") else _spawned
    answer = render(tokenizer, message)
    if "text" not in answer:
        reason = " ".join(answer["error"].split())[:200]
        raise SubjectError(f"--chat: the chat template fails: {reason}")
    return answer["text"]


def _out_of_bounds() -> dict[str, str]:
    return {"error": f"expected a text within {CPU_SECONDS} s and {MEMORY >> 20} MB"}


def _spawned(tokenizer: Any, message: str) -> dict[str, str]:
    """The answer of a child that was started anew."""
    try:
        return chat_spawn.rendered(tokenizer, message, CPU_SECONDS, WALL_SECONDS, MEMORY)
    except chat_spawn.OutOfBoundsError:
        return _out_of_bounds()


def _forked(tokenizer: Any, message: str) -> dict[str, str]:
    """The answer of a child that is a copy of this process, with bounds."""
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
        return json.loads(data)
    except ValueError:  # the bounds ended the child while it wrote, or before
        return _out_of_bounds()


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

    It answers in JSON, which can do nothing to the parent: a template that broke out of its sandbox
    ends here.
    """
    try:
        os.close(reader)
        _bound()
        data = json.dumps(outcome(tokenizer, message)).encode()
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
