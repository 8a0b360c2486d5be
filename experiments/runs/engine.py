"""Execution backends: this process, one cell after the other, or Ray. Both give the same results.

    engine.map(work, cells)             cell, work(cell), ...          as they end
    engine.reduce(work, cells, merge)   ((w0 w1) (w2 w3)) ((w4 w5) w6)
        one tree, whoever computes it
    engine.stream(items, make)          worker(item), ...
        worker = make(), once a worker

Work may be done twice after a worker has died, so it leaves the same behind when it is: a file
under its name, whole or not at all. Scheduling, transport, retries and restarts are Ray's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from layerscope.errors import InputError

from .folder import RunError
from .shared_options import EngineOptions

Item = TypeVar("Item")
Result = TypeVar("Result")
Advance = Callable[[int], object]
Work = Callable[[Item, Advance], Result]

RETRIES = 3
"""How often Ray runs a task again whose worker died; an actor's it runs again until it ends."""
_TOGETHER = 8
"""Pieces of a reduction for each worker that wait or run at a time."""


def tree(parts: Iterable[Result], merge: Callable[[Result, Result], Result]) -> Result:
    """Merge neighbours, then neighbours of those; no more than one part of each size is held.

    >>> tree("abcdefg", lambda a, b: f"({a}{b})")
    '(((ab)(cd))((ef)g))'
    """
    waiting: list[
        tuple[int, Result]
    ] = []  # parts by falling size, as the digits of a binary number
    for part in parts:
        size = 1
        while waiting and waiting[-1][0] == size:
            _, left = waiting.pop()
            part, size = merge(left, part), 2 * size
        waiting.append((size, part))
    if not waiting:
        raise InputError("expected at least one value to merge, got none")
    _, whole = waiting.pop()
    while waiting:
        _, left = waiting.pop()
        whole = merge(left, whole)
    return whole


class Local:
    """Everything in this process, in order."""

    def map(
        self, work: Work[Item, Result], cells: Sequence[Item], advance: Advance = lambda n: None
    ) -> Iterator[tuple[Item, Result]]:
        """Each cell with what becomes of it.

        Args:
            work: is given a cell, and calls back with the steps done.
            advance: called with steps done, by whichever worker.
        """
        for cell in cells:
            yield cell, work(cell, advance)

    def reduce(
        self,
        work: Callable[[Item], Result],
        cells: Iterable[Item],
        merge: Callable[[Result, Result], Result],
    ) -> Result:
        """Collect the results of all cells, merged in a tree."""
        return tree(map(work, cells), merge)

    def stream(
        self, items: Callable[[], Iterator[Item]], make: Callable[[], Callable[[Item], Result]]
    ) -> Iterator[Result]:
        """What becomes of each item, made as it is needed,
        by workers that keep what they have loaded.
        """
        yield from map(make(), items())

    def close(self) -> None:
        """Nothing is held."""


class OnRay:
    """Workers of a Ray cluster, or of a Ray that is started here.

    Args:
        address: a running cluster's; None starts one here, or takes what this process is connected
            to.
        workers: at most so many at a time; None for as many as the cluster has room for.
        num_cpus: cores of each, and threads, which a last digit may depend on; None for as many
            threads as here.
        num_gpus: GPUs of each, or a share of one.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        num_cpus: int | None = None,
        num_gpus: float = 0,
    ) -> None:
        self.address, self.asked = address, workers
        self.threads = num_cpus or torch.get_num_threads()
        self.needs = {"num_cpus": self.threads, "num_gpus": num_gpus}
        self._started = False

    @functools.cached_property
    def ray(self) -> Any:
        """Ray, connected."""
        ray: Any = importlib.import_module("ray")
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            quiet: dict[str, Any] = {
                "log_to_driver": False,
                "configure_logging": False,
                "logging_level": "ERROR",
            }
            if self.address is None:
                # Ray refuses tasks that ask for more cores than it was told of.
                cores = max(os.cpu_count() or 1, self.threads * (self.asked or 1))
                quiet |= {"num_cpus": cores, "include_dashboard": False}
            try:
                ray.init(address=self.address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise RunError(
                    "--engine ray: cannot start or reach Ray at "
                    f"{self.address or 'this machine'}: {error}"
                ) from error
            self._started = True
        return ray

    @functools.cached_property
    def workers(self) -> int:
        """How many work at a time."""
        resources = self.ray.cluster_resources()
        # Of all machines together; whichever resource is scarcest decides.
        most = int(resources.get("CPU", 1) // self.needs["num_cpus"])
        if self.needs["num_gpus"]:
            most = min(most, int(resources.get("GPU", 0) // self.needs["num_gpus"]))
        if most < 1:
            wanted = []
            for name, value in self.needs.items():
                if value:
                    wanted.append(f"{value:g} {name.removeprefix('num_')}")
            raise RunError(
                f"--engine ray: a worker needs {', '.join(wanted)}, the cluster has "
                f"{resources.get('CPU', 0):g} cpus and {resources.get('GPU', 0):g} gpus"
            )
        return min(self.asked or most, most)

    def map(
        self, work: Work[Item, Result], cells: Sequence[Item], advance: Advance = lambda n: None
    ) -> Iterator[tuple[Item, Result]]:
        """Each cell with what becomes of it, in the order in which they end."""
        ray, task, rest, running = self.ray, self._task(_cell), iter(cells), {}
        shared = [ray.put(work)]  # in a list: each worker fetches it once, not once a cell
        with _worker_errors(ray):
            try:
                while True:
                    for cell in rest:
                        running[task.remote(self._place, shared, cell)] = cell
                        if len(running) == self.workers:
                            break
                    if not running:
                        return
                    (done,), _ = ray.wait(list(running))
                    result, steps = ray.get(done)
                    advance(steps)
                    yield running.pop(done), result
            finally:
                # Whoever stops reading stops the workers too.
                for left in running:
                    ray.cancel(left, force=True)

    def reduce(
        self,
        work: Callable[[Item], Result],
        cells: Iterable[Item],
        merge: Callable[[Result, Result], Result],
    ) -> Result:
        """What becomes of all cells, merged in a tree where they are:
        what comes back is the whole.
        """
        ray, task, join = self.ray, self._task(_part), self._task(_merged)
        shared, joined = [ray.put(work)], [ray.put(merge)]

        def parts() -> Iterator[Any]:
            running: list[Any] = []
            for cell in cells:
                if len(running) == _TOGETHER * self.workers:
                    # Parts in flight are bounded, or all of them would be in memory at once.
                    _, running = ray.wait(running, num_returns=1, fetch_local=False)
                running.append(task.remote(self._place, shared, cell))
                yield running[-1]

        with _worker_errors(ray):
            return ray.get(tree(parts(), lambda a, b: join.remote(self._place, joined, a, b)))

    def stream(
        self, items: Callable[[], Iterator[Item]], make: Callable[[], Callable[[Item], Result]]
    ) -> Iterator[Result]:
        """What becomes of each item, in the order in which they end: one task makes them, through
        Ray Data, as the actors take them."""
        data: Any = importlib.import_module("ray.data")
        # errors come back, and are said once
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        block_size = context.target_max_block_size
        context.target_max_block_size = 1  # an item goes on as soon as it is made
        try:
            source = data.from_items([0]).map_batches(
                _made, fn_args=(self._place, items), batch_size=None, num_cpus=0
            )
            done = source.map_batches(
                _Actor,
                fn_constructor_args=(self._place, make),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=self.workers),
                **self.needs,
            )
            with _worker_errors(self.ray):
                for row in done.iter_rows():
                    if isinstance(row["item"], Exception):
                        raise row["item"]
                    yield row["item"]
        finally:
            context.target_max_block_size = block_size

    def close(self) -> None:
        """Stop the Ray that was started here, or leave the cluster."""
        if self._started:
            self.ray.shutdown()
            self.__dict__.pop("ray")
            self._started = False

    @property
    def _place(self) -> tuple[int, str]:
        return self.threads, str(Path.cwd())

    def _task(self, function: Callable[..., Any]) -> Any:
        return self.ray.remote(max_retries=RETRIES, **self.needs)(function)


Engine = Local | OnRay


def engine_of(config: EngineOptions) -> Engine:
    """The engine that a configuration names.

    Raises:
        RunError: Ray is not installed, or its options are given to the local engine.
    """
    names = ("address", "workers", "num_cpus", "num_gpus")
    options = {name: getattr(config, name) for name in names}
    if config.engine == "local":
        for name, value in options.items():
            if value:
                flag = name.replace("_", "-")
                raise RunError(f"--{flag} is for workers of Ray: expected --engine ray with it")
        return Local()
    if importlib.util.find_spec("ray") is None:
        raise RunError('--engine ray: Ray is not installed: pip install "layerscope[ray]"')
    return OnRay(**options)


# -- in the workers


def _settle(place: tuple[int, str]) -> None:
    """Work as the process that asked would: as many threads, paths from the same folder."""
    threads, folder = place
    torch.set_num_threads(threads)
    with suppress(OSError):  # on another machine: paths are then absolute, or its own
        os.chdir(folder)


@functools.lru_cache(maxsize=2)
def _fetched(reference: Any) -> Any:
    """A shared object, fetched once a worker."""
    return importlib.import_module("ray").get(reference)


def _cell(place: tuple[int, str], shared: list[Any], cell: Any) -> tuple[Any, int]:
    _settle(place)
    steps: list[int] = []
    return _fetched(shared[0])(cell, steps.append), sum(steps)


def _part(place: tuple[int, str], shared: list[Any], cell: Any) -> Any:
    _settle(place)
    return _fetched(shared[0])(cell)


def _merged(place: tuple[int, str], shared: list[Any], left: Any, right: Any) -> Any:
    _settle(place)
    return _fetched(shared[0])(left, right)


_USER_ERRORS = (ValueError, LookupError, OSError)
"""What a user can mend: it goes the way of the results,
since Ray Data keeps no more of an error than its text.
"""


def _boxed(item: Any) -> dict[str, Any]:
    """An item as a column of one row: whatever it is, Ray carries it as it is."""
    import numpy as np

    column = np.empty(1, dtype=object)
    column[0] = item
    return {"item": column}


def _made(
    _: Any, place: tuple[int, str], items: Callable[[], Iterator[Any]]
) -> Iterator[dict[str, Any]]:
    _settle(place)
    try:
        yield from map(_boxed, items())
    except _USER_ERRORS as error:
        yield _boxed(error)


class _Actor:
    """A worker that keeps what it has loaded."""

    def __init__(self, place: tuple[int, str], make: Callable[[], Callable[[Any], Any]]) -> None:
        _settle(place)
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        item = batch["item"][0]
        try:
            return _boxed(item if isinstance(item, Exception) else self.work(item))
        except _USER_ERRORS as error:
            return _boxed(error)


@contextmanager
def _worker_errors(ray: Any) -> Iterator[None]:
    """What went wrong in a worker, as it would have here."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if not isinstance(cause, ray.exceptions.RaySystemError):
            raise cause from None
        # Such as a worker with another version of a package.
        reason = str(cause).splitlines()[0]
        raise RunError(
            f"--engine ray: a worker cannot read its task ({reason}): expected the same packages "
            "on all machines"
        ) from error
    except ray.exceptions.RayError as error:
        text = str(error).splitlines()[0]
        raise RunError(
            f"--engine ray: a worker died too often, or the cluster is gone ({text}); "
            "run again to go on"
        ) from error
