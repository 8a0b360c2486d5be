"""A child process that is started anew (no ``fork``) and renders one tokenizer's chat templates,
within bounds.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import psutil

from layerscope.errors import LayerscopeError

PROGRAM = Path(__file__).with_name("chat_child.py")
START_SECONDS = 120
"""Time in which the child must be ready: it imports transformers."""
_LOOK = 0.02
"""Seconds between two looks at the child's time and memory."""
_CHILDREN: weakref.WeakKeyDictionary[Any, Renderer] = weakref.WeakKeyDictionary()


class OutOfBoundsError(LayerscopeError):
    """A child that took more time or memory than it may, or ended."""


class Renderer:
    """One child, for the messages of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        # by its path, and without its folder among the places of imports
        self._folder = tempfile.mkdtemp()
        tokenizer.save_pretrained(self._folder)
        command = [sys.executable, "-P", str(PROGRAM), self._folder]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._watched = psutil.Process(self._child.pid)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        weakref.finalize(self, _end, self._child, self._folder)
        self._wait(START_SECONDS, None, None)

    def render(self, message: str, cpu: int, wall: int, memory: int) -> dict[str, str]:
        """The child's answer.

        Raises:
            OutOfBoundsError: more seconds or bytes than these, or no answer; the child is ended.
        """
        self._write(json.dumps(message).encode() + b"\n")
        return self._wait(wall, self._seconds() + cpu, self._bytes() + memory)

    def _write(self, data: bytes) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):  # a child that ended is noticed by its silence
            self._child.stdin.write(data)
            self._child.stdin.flush()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def _wait(self, wall: int, cpu: float | None, memory: int | None) -> dict[str, str]:
        deadline = time.monotonic() + wall
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                line = self._answers.get(timeout=_LOOK)
                if not line:
                    break
                return json.loads(line)
            if cpu is not None and self._seconds() > cpu:
                break
            if memory is not None and self._bytes() > memory:
                break
        _end(self._child, self._folder)
        raise OutOfBoundsError

    def _seconds(self) -> float:
        with contextlib.suppress(psutil.Error):
            times = self._watched.cpu_times()
            return times.user + times.system
        return 0.0

    def _bytes(self) -> int:
        with contextlib.suppress(psutil.Error):
            return self._watched.memory_info().rss
        return 0


def _end(child: subprocess.Popen[bytes], folder: str) -> None:
    """End a child, and take its pipes and its tokenizer's folder away."""
    child.kill()
    shutil.rmtree(folder, ignore_errors=True)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
    child.wait()


def rendered(tokenizer: Any, message: str, cpu: int, wall: int, memory: int) -> dict[str, str]:
    """A message in the tokenizer's template, by a child that is kept for the next one.

    Raises:
        OutOfBoundsError: see `Renderer`.
    """
    if tokenizer not in _CHILDREN:
        _CHILDREN[tokenizer] = Renderer(tokenizer)
    try:
        return _CHILDREN[tokenizer].render(message, cpu, wall, memory)
    except OutOfBoundsError:
        del _CHILDREN[tokenizer]
        raise
