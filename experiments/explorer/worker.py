"""One thread that owns the model.

The latest request of a screen wins; one that is given up leaves the model clean.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from layerscope.errors import LayerscopeError

from ..subject.soundness import blaming_model
from .bench import Bench
from .requests import REPLACES, Message, answered

WAITING = 8
"""Requests of one screen that wait at most."""


class GivenUp(BaseException):
    """Ends a forward whose result nobody waits for; no library catches it on its way."""


@dataclass
class Job:
    """One request.

    Args:
        screen: whose it is.
        send: takes its messages, in the worker's thread.
    """

    screen: object
    request: Mapping[str, Any]
    send: Callable[[Message], None]
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """What is asked for."""
        return str(self.request.get("do"))


class Worker:
    """The thread and its queue; screens take turns."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._jobs: deque[Job] = deque()
        self._now: Job | None = None
        self._change = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="explore", daemon=True)
        self._thread.start()

    def ask(
        self, screen: object, request: Mapping[str, Any], send: Callable[[Message], None]
    ) -> None:
        """Queue a request; what it replaces is given up."""
        job = Job(screen, request, send)
        with self._change:
            for other in self._of(screen):
                if job.name in REPLACES or other.name == job.name:
                    other.given_up.set()
            waiting = [other for other in self._of(screen) if other is not self._now]
            for other in waiting[: max(0, len(waiting) - WAITING + 1)]:
                other.given_up.set()
            self._jobs = deque(job for job in self._jobs if not job.given_up.is_set())
            self._jobs.append(job)
            self._change.notify_all()

    def stop(self, screen: object, name: str | None = None) -> None:
        """Give up the requests of a screen: all, or those of one name."""
        with self._change:
            for job in self._of(screen):
                if name is None or job.name == name:
                    job.given_up.set()
            self._jobs = deque(job for job in self._jobs if not job.given_up.is_set())

    def idle(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs and nothing waits."""
        with self._change:
            return self._change.wait_for(lambda: self._now is None and not self._jobs, timeout)

    def close(self) -> None:
        """End the thread; a forward that runs is given up."""
        with self._change:
            self._ended = True
            for job in [*self._jobs, *([self._now] if self._now else [])]:
                job.given_up.set()
            self._change.notify_all()
        self._thread.join(timeout=60)

    def _of(self, screen: object) -> list[Job]:
        jobs = [*self._jobs, *([self._now] if self._now is not None else [])]
        return [job for job in jobs if job.screen is screen]

    def _next(self) -> Job | None:
        with self._change:
            self._now = None
            self._change.notify_all()
            self._change.wait_for(lambda: self._ended or self._jobs)
            if self._ended:
                return None
            self._now = self._jobs.popleft()
            return self._now

    def _work(self) -> None:
        while (job := self._next()) is not None:
            with contextlib.suppress(GivenUp):
                self._do(job)

    def _do(self, job: Job) -> None:
        number = job.request.get("id")

        def send(message: Message) -> None:
            if job.given_up.is_set():
                raise GivenUp
            job.send({**message, "id": number, "of_request": job.name})

        try:
            subject = self.bench.subject
            with interruptible(self.bench.model, job.given_up), blaming_model(lambda: subject):
                for message in answered(self.bench, job.request):
                    send(message)
        except LayerscopeError as error:
            send({"part": "problem", "text": str(error)})
        except (MemoryError, torch.OutOfMemoryError):
            send({"part": "problem", "text": "not enough memory for this: shorten the text"})
        except Exception as error:
            if "memory" in str(error).lower():  # the CPU's allocator raises a RuntimeError
                send({"part": "problem", "text": "not enough memory for this: shorten the text"})
            else:
                traceback.print_exc()
                text = (
                    f"this is a bug in layerscope ({type(error).__name__}); the terminal shows it"
                )
                send({"part": "problem", "text": text})
        send({"part": "done"})


@contextlib.contextmanager
def interruptible(model: nn.Module, given_up: threading.Event) -> Iterator[None]:
    """Inside the block a forward ends at its next block of layers once it is given up."""

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if given_up.is_set():
            raise GivenUp

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = list(itertools.chain.from_iterable(lists)) or [model]
    handles = [block.register_forward_pre_hook(look) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
