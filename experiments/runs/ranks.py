"""One run in several processes (torchrun): all compute, the first writes and prints.

Under tensor parallelism every process must run the same forward passes in the same order, as each
has a part of every layer. So each runs the whole study, the others in copies of the run folder that
they remove at their end: a run that is continued skips the same parts everywhere.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from .console import talk


def rank() -> int:
    """This process's number in the group that shares a model; 0 where it runs alone."""
    group = _group()
    return 0 if group is None else group.get_rank()


def own_folder(out: Path) -> Path:
    """The folder that this process writes: the run's own, or in any process but the first a copy
    of it; those then print errors alone.

    Call it once the model is loaded, which is when the group is known.
    """
    group = _group()
    if group is None:
        return out
    folder = out
    if group.get_rank() > 0:
        kept = tempfile.mkdtemp(prefix="layerscope-rank-")
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
        folder = Path(kept) / "run"
        if out.is_dir():
            shutil.copytree(out, folder)
        talk.level = 0
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115, for all that follows
    group.barrier()  # the first writes once all copies are made
    return folder


def _group() -> Any:
    """`torch.distributed` where this process is one of a group, else None."""
    torch = sys.modules.get("torch")
    group = getattr(torch, "distributed", None)
    return group if group is not None and group.is_available() and group.is_initialized() else None
