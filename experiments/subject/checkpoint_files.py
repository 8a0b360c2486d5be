"""The files of a checkpoint: a GGUF file, a folder, or what the hub's cache holds."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import SubjectError


def find_gguf(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        if files:
            raise SubjectError(
                f"{path} holds {len(files)} GGUF files: name one, such as {files[0].name}"
            )
        raise SubjectError(f"no model in the folder {path}: expected config.json or a .gguf file")
    return None


def require_safetensors(folder: Path, allow_pickle: bool) -> None:
    if allow_pickle or any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise SubjectError(
            f"{folder} has pickled weights (.bin) and no .safetensors: convert them, or pass "
            "allow_pickle=True to experiments.subject.load if you trust where they come from"
        )
    raise SubjectError(
        f"no weights in the folder {folder}: expected .safetensors next to config.json"
    )


def weight_files(source: str, revision: str | None = None) -> tuple[Path, ...]:
    folder = Path(source)
    if not folder.is_dir():
        from transformers.utils.hub import cached_file

        config = cached_file(source, "config.json", revision=revision, local_files_only=True)
        if config is None:
            return ()
        folder = Path(config).parent
    for pattern in ("model*.safetensors", "*.safetensors", "*.bin"):
        if files := sorted(folder.glob(pattern)):
            return tuple(files)
    return ()


def is_offline() -> bool:
    """Whether the hub is out of reach, found at once rather than after a minute of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return False
    host = constants.ENDPOINT.split("//")[-1].split("/")[0]
    try:
        socket.getaddrinfo(host.split(":")[0], 443)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def quick_gguf() -> Iterator[None]:
    """Let one GGUF load parse the header once and build its name table once, without a bar.

    transformers parses the whole header for the config and again for the weights, and builds the
    same table of tensor names for each of several hundred modules: minutes for a small model.
    The same functions are memoised here for the length of the load; nothing they return changes.
    """
    try:
        import gguf
        import numpy as np
        from transformers import modeling_gguf_pytorch_utils as unpacking
    except ImportError as error:
        raise SubjectError(
            "reading a GGUF file needs the package gguf: pip install gguf"
        ) from error

    class Reader(gguf.GGUFReader):
        # Slices of a plain array cost a tenth of slices of a memmap, and there are millions.
        @property
        def data(self) -> Any:
            return self._array

        @data.setter
        def data(self, value: Any) -> None:
            self._array = np.asarray(value)

    reading: Any = unpacking
    bar = reading.tqdm  # which asks nobody whether it may be shown
    replaced = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.cache(Reader)
    gguf.get_tensor_name_map = functools.cache(replaced[1])
    reading.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = replaced
        reading.tqdm = bar
