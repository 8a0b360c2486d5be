"""A shard is written while the next is made: a thread that writes, and the images it writes from.
Any thread may give it shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock

import torch
from jaxtyping import Int
from torch import Tensor

from .shards import Image

AHEAD = 2
"""Shards that wait to be written while the next is made."""


class Spool:
    """Shards on their way to disk, in order.

    Args:
        write: writes one shard from its image.
    """

    def __init__(self, write: Callable[[int, Image], None]) -> None:
        self._write = write
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[int, Image, Future[None]]] = deque()
        self._images: list[Image] = []
        self._turn = RLock()

    def __contains__(self, shard: int) -> bool:
        with self._turn:
            return any(number == shard for number, _, _ in self._waiting)

    def put(
        self,
        shard: int,
        index: Int[Tensor, "n 5"],
        values: Mapping[str, Tensor],
        dtype: torch.dtype | None,
    ) -> None:
        """Copy a shard's rows and return; what went wrong with an earlier one is raised here."""
        with self._turn:
            while len(self._waiting) >= AHEAD:
                self._settle()
            image = self._images.pop() if self._images else Image()
            image.fill(index, values, dtype)
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="store")
            self._waiting.append((shard, image, self._pool.submit(self._write, shard, image)))

    def flush(self) -> None:
        """Wait until all is written; raises what went wrong."""
        with self._turn:
            while self._waiting:
                self._settle()

    def close(self) -> None:
        """End the thread and give the memory back."""
        try:
            self.flush()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = None
            self._waiting.clear()
            self._images.clear()

    def _settle(self) -> None:
        _, image, done = self._waiting.popleft()
        self._images.append(image)
        done.result()
