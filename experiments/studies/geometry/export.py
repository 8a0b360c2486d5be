"""The drawn words with their vectors and maps, for other tools: ``.npz``, Parquet,
TensorBoard's embedding projector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...runs.folder import RunError, write_text

FORMATS = ("npz", "parquet", "projector")


def require(formats: Sequence[str]) -> None:
    """Raise `RunError` for a format that is not known, or whose library is missing."""
    if unknown := [f for f in formats if f not in FORMATS]:
        raise RunError(f"--export {unknown[0]}: expected {', '.join(FORMATS)}")
    if "parquet" in formats:
        import importlib.util

        if importlib.util.find_spec("pyarrow") is None:
            raise RunError(
                "--export parquet: pyarrow is not installed: pip install 'layerscope[geometry]'"
            )


def write(
    formats: Sequence[str],
    folder: Path,
    words: Mapping[str, Sequence[Any]],
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    maps: Mapping[str, Mapping[str, Float[np.ndarray, "n 2"]]],
) -> None:
    """Write what was asked for.

    Args:
        words: a column of each property of the words, ``form`` among them.
        vectors: site -> vectors.
        maps: site -> method -> coordinates.
    """
    if "npz" in formats:
        arrays = {f"vectors/{site}": value for site, value in vectors.items()}
        for site, of_site in maps.items():
            for method, coordinates in of_site.items():
                arrays[f"{method}/{site}"] = coordinates
        for name, column in words.items():
            # Text only, so that the file opens without pickle.
            arrays[f"words/{name}"] = np.array([str(value) for value in column])
        _whole(folder / "words.npz", lambda path: _npz(path, arrays))
    if "parquet" in formats:
        _whole(folder / "words.parquet", lambda path: _parquet(path, words, vectors, maps))
    if "projector" in formats:
        _projector(folder / "projector", words, vectors)


def _whole(path: Path, make: Callable[[Path], None]) -> None:
    """A file that is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        make(partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def _npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()}
        )


def _parquet(
    path: Path,
    words: Mapping[str, Sequence[Any]],
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    maps: Mapping[str, Mapping[str, Float[np.ndarray, "n 2"]]],
) -> None:
    """A row for each word and site: its columns, coordinates on each map, and its vector."""
    import pyarrow as pa
    from pyarrow import parquet

    parts = []
    for site, value in vectors.items():
        columns: dict[str, Any] = {name: pa.array(list(column)) for name, column in words.items()}
        columns["site"] = pa.array([site] * len(value))
        for method, xy in maps[site].items():
            columns |= {f"{method}_x": pa.array(xy[:, 0]), f"{method}_y": pa.array(xy[:, 1])}
        flat = pa.array(np.ascontiguousarray(value, dtype=np.float32).ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
        parts.append(pa.table(columns))
    parquet.write_table(pa.concat_tables(parts), path)


def _projector(
    folder: Path,
    words: Mapping[str, Sequence[Any]],
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
) -> None:
    """Tab-separated vectors and labels and the configuration that
    ``tensorboard --logdir`` looks for.
    """
    folder.mkdir(exist_ok=True)

    def line(values: Sequence[Any]) -> str:
        # A tab or line break within a label would shift every column behind it.
        return "\t".join(" ".join(str(v).split()) for v in values) + "\n"

    rows = zip(*words.values(), strict=True)
    write_text(folder / "metadata.tsv", line(list(words)) + "".join(map(line, rows)))
    config = []
    for site, value in vectors.items():
        write_text(
            folder / f"{site}.tsv",
            "".join("\t".join(f"{x:.6g}" for x in row) + "\n" for row in value),
        )
        config.append(
            f'embeddings {{\n  tensor_name: "{site}"\n  tensor_path: '
            f'"{site}.tsv"\n  metadata_path: "metadata.tsv"\n}}\n'
        )
    write_text(folder / "projector_config.pbtxt", "".join(config))
