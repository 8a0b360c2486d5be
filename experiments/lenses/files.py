"""Lenses on disk: our own safetensors file, and the published layouts of tuned-lens and of the
Jacobian lens.

    layerscope      one file; ``weight`` [layer, d, d] and ``bias`` [layer, d], the rest as JSON in
                    the header
    tuned-lens      a folder with ``config.json`` and ``params.safetensors``: ``N.weight``,
                    ``N.bias``, added to the stream
                    in front of block N:  h + W h + b
    Jacobian lens   one file; ``J.N`` is the matrix of the stream behind block N, and the header has
                    ``n_prompts``, ``d_model`` and ``source_layers``

Both projects write their tensors as pickles (``params.pt``, ``lens.pt``), which can run code when
they are read: a pickle is refused, and the message says how its tensors become safetensors.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..subject import Subject
from .lens import KINDS, Lens
from .streams import LensError, require_lens

KEY = "layerscope_lens"
CONFIG, PARAMETERS = "config.json", "params.safetensors"
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def save_lens(lens: Lens, path: Path) -> None:
    """Write a lens as one safetensors file, with what it was fitted on in the header."""
    tensors = {
        name: value
        for name, value in (("weight", lens.weight), ("bias", lens.bias))
        if value is not None
    }
    about = {"kind": lens.kind, "missing": sorted(lens.missing), **lens.about}
    _write(path, tensors, {KEY: json.dumps(about)})


def lens_files(path: Path) -> list[Path]:
    """The files that make up a lens: one, or the two of tuned-lens."""
    folder = path if path.is_dir() else path.parent
    is_tuned = path.is_dir() or (path.name == PARAMETERS and (folder / CONFIG).exists())
    return [folder / CONFIG, folder / PARAMETERS] if is_tuned else [path]


def load_lenses(paths: Sequence[Path], subject: Subject) -> list[Lens]:
    """Lenses of different kinds, for a model that lenses can read.

    Raises:
        LensError: two of one kind, a model without a next token, or as for `load_lens`.
    """
    if paths:
        require_lens(subject)
    of_kind: dict[str, Path] = {}
    lenses = []
    for path in paths:
        lens = load_lens(path, subject)
        if (other := of_kind.setdefault(lens.kind, path)) is not path:
            raise LensError(f"expected one {lens.kind} lens, got {other} and {path}")
        lenses.append(lens)
    return lenses


def load_lens(path: Path, subject: Subject) -> Lens:
    """A lens from a file or folder in any of the layouts.

    Raises:
        LensError: no lens, a pickle, or a lens of another model, width or number of layers.
    """
    if path.is_dir():
        return _read_tuned(path, subject)
    tensors, header = _read(path)
    if KEY in header:
        return _read_own(path, tensors, _object(path, header[KEY]), subject)
    if any(name.startswith("J.") for name in tensors):
        return _read_jacobian(path, tensors, header, subject)
    if (path.parent / CONFIG).exists() and "0.weight" in tensors:
        return _read_tuned(path.parent, subject)
    names = ", ".join(sorted(tensors)[:3])
    raise LensError(f"{path}: expected a lens that layerscope lens wrote, got tensors {names}")


def export_tuned(lens: Lens, folder: Path, subject: Subject) -> None:
    """Write an affine lens in the layout of tuned-lens, whose translators add to the stream: W = A
    - I.

    Raises:
        LensError: a lens without matrices, or without one for some layer.
    """
    if lens.weight is None or lens.missing:
        raise LensError(f"{lens.kind}: expected a lens with a matrix for every layer")
    folder.mkdir(parents=True, exist_ok=True)
    n_layers, width = lens.weight.shape[:2]
    identity = torch.eye(width, device=lens.weight.device)
    tensors = {}
    for layer, weight in enumerate(lens.weight):
        bias = torch.zeros(width) if lens.bias is None else lens.bias[layer]
        tensors[f"{layer}.weight"] = weight - identity
        tensors[f"{layer}.bias"] = bias
    config = {
        "base_model_name_or_path": subject.name,
        "d_model": width,
        "num_hidden_layers": n_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": unembedding_hash(subject),
        "lens_type": "linear_tuned_lens",
    }
    _write(folder / PARAMETERS, tensors, {})
    (folder / CONFIG).write_text(json.dumps(config, indent=1))


def export_jacobian(lens: Lens, path: Path) -> None:
    """Write a Jacobian lens by the names of its published files; they hold nothing for the
    embedding.

    Raises:
        LensError: another kind of lens.
    """
    if lens.kind != "jacobian" or lens.weight is None:
        raise LensError(f"{lens.kind}: expected a Jacobian lens")
    layers = [layer for layer in range(1, len(lens.weight)) if layer not in lens.missing]
    tensors = {f"J.{layer - 1}": lens.weight[layer] for layer in layers}
    metadata = {
        "model_name": lens.about.get("model"),
        "model_sha256": lens.about.get("model_sha256"),
        "skip_first_positions": lens.about.get("first_position"),
    }
    header = {
        "n_prompts": lens.about.get("texts", 0),
        "d_model": lens.weight.shape[-1],
        "source_layers": [layer - 1 for layer in layers],
        "metadata": metadata,
    }
    _write(path, tensors, {name: json.dumps(value) for name, value in header.items()})


def unembedding_hash(subject: Subject) -> str | None:
    """What tuned-lens knows a model by: a hash of how NumPy prints its head to one digit;
    None without a plain head.
    """
    head: Any = subject.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False):
        printed = np.array_str(weight.detach().cpu().float().numpy(), precision=1)
    return hashlib.sha256(printed.encode()).hexdigest()


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """A whole file or none: an interrupted run leaves no half of one."""
    partial = path.with_name(f".{path.name}.partial")
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, partial, header)
    partial.replace(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        LensError: a pickle, or no safetensors file.
    """
    if path.suffix in PICKLES or (path.is_file() and zipfile.is_zipfile(path)):
        raise LensError(
            f"{path}: expected safetensors, got a pickle, which can run code when it is "
            "read: where you trust it, read it with torch.load(weights_only=True) "
            "and write its tensors with safetensors.torch.save_file"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LensError(f"{path}: expected a lens that layerscope lens wrote ({error})") from None


def _of_another(path: Path, subject: Subject, model: Any) -> LensError:
    """A lens whose hash is another model's, which may have the same name."""
    return LensError(
        f"{path}: expected a lens of {subject.name}, it is of {model} with other weights, "
        "configuration or tokenizer"
    )


def _read_own(
    path: Path, tensors: dict[str, Tensor], about: dict[str, Any], subject: Subject
) -> Lens:
    """Our own file."""
    if about.get("model_sha256") != subject.sha256:
        raise _of_another(path, subject, about.get("model"))
    n_layers, width = subject.n_layers, subject.d_model
    shapes = {"weight": (n_layers, width, width), "bias": (n_layers, width)}
    parts = {}
    for name in tensors:
        if name not in shapes:
            raise LensError(f"{path}: expected the tensors weight and bias, got {name}")
        parts[name] = _matrix(path, tensors, name, shapes[name]).to(subject.device)
    absent = about.pop("missing", [])
    is_known = isinstance(absent, list) and all(layer in range(n_layers) for layer in absent)
    if not is_known:
        raise LensError(f"{path}: expected missing to list layers below {n_layers}, got {absent!r}")
    missing = frozenset(absent)
    kind = str(about.pop("kind", ""))
    if kind not in KINDS:
        raise LensError(f"{path}: expected a lens of kind {', '.join(KINDS)}, got {kind!r}")
    return Lens(kind, parts.get("weight"), parts.get("bias"), about, missing)


def _read_tuned(folder: Path, subject: Subject) -> Lens:
    """A folder of tuned-lens."""
    parameters = folder / PARAMETERS
    if not (folder / CONFIG).is_file() or not parameters.is_file():
        if (folder / "params.pt").is_file():
            _read(folder / "params.pt")
        raise LensError(f"{folder}: expected a tuned lens, {CONFIG} and {PARAMETERS}")
    config = _object(
        folder / CONFIG, (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    )
    model = str(config.get("base_model_name_or_path"))
    _require_shape(folder, model, subject, config.get("d_model"), config.get("num_hidden_layers"))
    known = config.get("unembed_hash")
    if known and known != unembedding_hash(subject):
        raise LensError(
            f"{folder}: expected a lens of {subject.name}, it is of {model}: "
            "the hash of its head differs"
        )
    tensors, _ = _read(parameters)
    layers, width = range(subject.n_layers), subject.d_model
    identity = torch.eye(width)
    weights = [identity + _matrix(folder, tensors, f"{n}.weight", (width, width)) for n in layers]
    biases = [torch.zeros(width)] * len(layers)
    if config.get("bias", True):
        biases = [_matrix(folder, tensors, f"{n}.bias", (width,)) for n in layers]
    weight, bias = (torch.stack(parts).to(subject.device) for parts in (weights, biases))
    return Lens("tuned", weight, bias, {"model": model, "file": str(folder)})


def _read_jacobian(
    path: Path, tensors: dict[str, Tensor], header: dict[str, str], subject: Subject
) -> Lens:
    """A file of the Jacobian lens: layer n of ours is behind block n - 1."""
    metadata = _object(path, header.get("metadata", "{}"))
    model = str(metadata.get("model_name"))
    named = [name[2:] for name in tensors if name.startswith("J.")]
    for number in named:
        if not NUMBER.fullmatch(number):
            raise LensError(f"{path}: expected matrices J.0, J.1, ..., got J.{number}")
    blocks = sorted(map(int, named))
    shapes = [tuple(tensors[f"J.{number}"].shape) for number in named]
    widths = [shape[-1] for shape in shapes if len(shape) == 2]
    _require_shape(path, model, subject, max(widths, default=None), None)
    if (known := metadata.get("model_sha256")) and known != subject.sha256:
        raise _of_another(path, subject, model)
    n_layers, width = subject.n_layers, subject.d_model
    if blocks[-1] > n_layers - 1:
        raise LensError(
            f"{path}: expected a lens of {subject.name} with {n_layers} blocks, "
            f"it has a matrix behind block {blocks[-1]}"
        )
    target = metadata.get("target_layer", n_layers - 1)
    if target != n_layers - 1:
        raise LensError(
            f"{path}: expected a lens to the last block, {n_layers - 1}, it leads to block {target}"
        )
    weight = torch.eye(width).repeat(n_layers, 1, 1)
    read = [block for block in blocks if block + 1 < n_layers]
    for block in read:
        weight[block + 1] = _matrix(path, tensors, f"J.{block}", (width, width))
    missing = frozenset(range(n_layers)) - {block + 1 for block in read}
    n_texts = header.get("n_prompts", "0").strip()
    if not NUMBER.fullmatch(n_texts):
        raise LensError(f"{path}: expected n_prompts to be a number, got {n_texts[:20]!r}")
    about = {
        "model": model,
        "texts": int(n_texts),
        "first_position": metadata.get("skip_first_positions"),
        "file": str(path),
    }
    return Lens("jacobian", weight.to(subject.device), None, about, missing)


def _require_shape(
    path: Path, model: str, subject: Subject, width: int | None, n_layers: int | None
) -> None:
    """Refuse a lens of another width or depth."""
    if width is not None and width != subject.d_model:
        raise LensError(
            f"{path}: expected a lens of {subject.name}, width {subject.d_model}; "
            f"it is of {model}, width {width}"
        )
    if n_layers is not None and n_layers != subject.n_layers:
        raise LensError(
            f"{path}: expected a lens of {subject.name}, {subject.n_layers} layers; "
            f"it is of {model}, {n_layers} layers"
        )


def _matrix(path: Path, tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of a file, float32.

    Raises:
        LensError: it is not there, or has another shape.
    """
    value = tensors.get(name)
    if value is None or tuple(value.shape) != shape:
        actual = "none" if value is None else f"shape {tuple(value.shape)}"
        raise LensError(f"{path}: expected {name} of shape {shape}, got {actual}")
    if not value.is_floating_point():
        raise LensError(f"{path}: expected {name} in floating point, got {value.dtype}")
    if not bool(value.isfinite().all()):
        raise LensError(f"{path}: expected numbers in {name}, got NaN or infinity")
    return value.float()


def _object(path: Path, text: str) -> dict[str, Any]:
    """A JSON object that stands in a file.

    Raises:
        LensError: it is none.
    """
    try:
        value = json.loads(text) or {}
    except ValueError as error:
        raise LensError(f"{path}: expected a JSON object, got {text[:20]!r} ({error})") from None
    if not isinstance(value, dict):
        raise LensError(f"{path}: expected a JSON object, got {text[:20]!r}")
    return value
