"""Activations on disk: safetensors shards that are written once, checked on reading, and never half there.

A shard holds the rows of one batch for every site; a site is read without touching the others. A shard appears under
its final name only when it is whole, so an interrupted run continues with the shards that are missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_ROWS = "__rows__"
_FORMAT = "layerscope-activations-1"


class StoreError(ValueError):
    """A shard that is damaged, foreign or missing, or a disk without room."""


class ActivationStore:
    """A folder of shards, each the rows of some words at every site.

    Args:
        folder: where the shards are; made if absent.
        key: what the rows were made from (model, text and settings, as a hash). A shard with another key is refused.
    """

    def __init__(self, folder: Path | str, key: str) -> None:
        self.folder = Path(folder)
        self.key = key
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, shard: int) -> bool:
        """Whether a whole shard of this store's key is there."""
        path = self._path(shard)
        if not path.exists():
            return False
        with self._open(path):
            return True

    def write(
        self,
        shard: int,
        rows: Int[Tensor, " n"],
        values: Mapping[str, Float[Tensor, "n d"]],
    ) -> None:
        """Write one shard: the rows' numbers in the whole, and their vectors at each site."""
        path = self._path(shard)
        partial = path.with_suffix(".partial")
        tensors = {_ROWS: rows.cpu().contiguous(), **{k: v.detach().cpu().contiguous() for k, v in values.items()}}
        try:
            save_file(tensors, partial, metadata={"format": _FORMAT, "key": self.key})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            free = shutil.disk_usage(self.folder).free
            raise StoreError(
                f"cannot write {path}: {error}; {free / 1e9:.2f} GB free there. The shards already written are kept: "
                "make room and run the same command again"
            ) from error

    def read(self, site: str, n_rows: int) -> Float[Tensor, "n d"]:
        """All rows of one site, in order.

        Raises:
            StoreError: a shard is damaged or foreign, or some of the ``n_rows`` rows are in no shard.
        """
        values: Tensor | None = None
        seen = torch.zeros(n_rows, dtype=torch.bool)
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            with self._open(path) as shard:
                if site not in shard.keys():  # noqa: SIM118 (a safetensors handle, not a mapping)
                    raise StoreError(
                        f"{path}: expected site {site!r}, it holds {sorted(set(shard.keys()) - {_ROWS})[:5]}"
                    )
                rows, part = shard.get_tensor(_ROWS), shard.get_tensor(site)
            if values is None:
                values = torch.empty(n_rows, part.shape[1], dtype=part.dtype)
            values[rows] = part
            seen[rows] = True
        if values is None or not seen.all():
            raise StoreError(f"{self.folder}: {int((~seen).sum())} of {n_rows} rows are in no shard")
        return values

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("shard-*.safetensors"))

    def delete(self) -> None:
        """Remove the shards and the folder if nothing else is in it."""
        for pattern in ("shard-*.safetensors", "shard-*.partial"):
            for path in self.folder.glob(pattern):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.safetensors"

    def _open(self, path: Path) -> safe_open:
        try:
            handle = safe_open(path, framework="pt")
            metadata = handle.metadata() or {}
        except SafetensorError as error:
            raise StoreError(f"{path} is damaged ({error}): delete it and run again") from error
        if metadata.get("format") != _FORMAT or metadata.get("key") != self.key:
            raise StoreError(f"{path} was made from another model, corpus or setting: use another folder or delete it")
        return handle
