"""How a model is held in memory: its precision, its devices, its quantisation, an adapter on top,
its attention.

Weights go straight to where they stay: no whole copy on the CPU first.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.arguments import exists

from ...hooks.folders import expanded
from .errors import SubjectError

BITS = {"8bit": 8, "4bit": 4}
"""Names of quantised weights -> bits of a weight."""
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads a model by itself."""
TENSOR_PARALLEL = "tensor-parallel"
"""The device map that splits each layer over the processes that torchrun started."""


@dataclass(frozen=True, kw_only=True)
class Modes:
    """How weights are read and held.

    Args:
        dtype: of the weights in memory; None is the checkpoint's own.
        device: None is a GPU where there is one.
        device_map: how a model is spread: a name of accelerate's, a JSON file or a mapping from
            modules to devices, or ``tensor-parallel``.
        load_in: "8bit" or "4bit": linear layers are quantised as they are read.
        adapter: a folder that PEFT saved.
        revision: branch, tag or commit of a hub id.
        attention: transformers' name of the attention kernel; None is the model's default.
    """

    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    device_map: str | dict[str, Any] | None = None
    load_in: str | None = None
    adapter: str | os.PathLike[str] | None = None
    revision: str | None = None
    attention: str | None = None

    def to_read(self) -> dict[str, Any]:
        """What transformers' ``from_pretrained`` is told.

        Raises:
            SubjectError: a mode that is unknown, or that needs a package or a device that is not
                there.
        """
        arguments: dict[str, Any] = {"dtype": as_dtype(self.dtype) or "auto"}
        if self.device_map == TENSOR_PARALLEL:
            arguments["tp_plan"] = _tensor_parallel()
        elif self.device_map is not None:
            arguments["device_map"] = _spread(self.device_map, self.device)
            arguments["offload_folder"] = _offload_folder(arguments["device_map"])
        else:
            arguments["device_map"] = {"": str(as_device(self.device))}
        if self.load_in is not None:
            arguments["quantization_config"] = _quantised(self.load_in)
        if self.attention is not None:
            arguments["attn_implementation"] = self.attention
        return arguments


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type of weights by its name; None stays None."""
    if dtype is None:
        return None
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise SubjectError(f"dtype {dtype!r} is not one of float32, bfloat16, float16, float64")
    return known


def as_device(device: torch.device | str | None) -> torch.device:
    """A device by its name; by default a GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise SubjectError(
            f"device {device!r}: expected cpu, cuda, cuda:1, mps or another of torch's devices"
        ) from None
    if parsed.type == "meta":
        raise SubjectError("device 'meta' has no values: expected cpu, cuda, ...")
    if not exists(parsed):
        raise SubjectError(
            f"device {str(device)!r}: this machine has none, "
            f"or torch {torch.__version__} was built without it"
        )
    return parsed


def _spread(device_map: str | dict[str, Any], device: Any) -> Any:
    """A device map as accelerate takes it."""
    if device is not None:
        raise SubjectError(f"--device {device} and --device-map {device_map}: expected one of them")
    if not isinstance(device_map, str):
        return dict(device_map)
    if device_map in MAPS:
        return device_map
    path = Path(device_map)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SubjectError(
            f"--device-map {device_map!r}: expected {', '.join(MAPS)}, {TENSOR_PARALLEL}, "
            f"or a JSON file of modules and their devices ({type(error).__name__})"
        ) from None
    if not isinstance(read, dict) or not all(isinstance(v, str | int) for v in read.values()):
        raise SubjectError(
            f'--device-map {device_map}: expected an object such as {{"model.embed_tokens": '
            '0, "lm_head": "cpu"}'
        )
    return read


def _offload_folder(device_map: Any) -> str | None:
    """Where the weights lie that a map keeps on disk; they are removed with the process."""
    if isinstance(device_map, dict) and "disk" not in device_map.values():
        return None
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="layerscope-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _tensor_parallel() -> str:
    """transformers' own plan, in a process that torchrun started."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise SubjectError(
            f"--device-map {TENSOR_PARALLEL}: expected to be started by torchrun, "
            "such as torchrun --nproc-per-node 8 -m layerscope ..."
        )
    return "auto"


def _quantised(load_in: str) -> Any:
    """transformers' quantisation: by bitsandbytes, or where it is not installed by torchao.

    Raises:
        SubjectError: neither is installed.
    """
    if load_in not in BITS:
        raise SubjectError(f"--load-in {load_in!r}: expected {' or '.join(BITS)}")
    if importlib.util.find_spec("bitsandbytes") is not None:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=load_in == "8bit",
            load_in_4bit=load_in == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if importlib.util.find_spec("torchao") is not None:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            Int4WeightOnlyConfig,
            Int8WeightOnlyConfig,
        )
        from transformers import TorchAoConfig

        kind = Int8WeightOnlyConfig if load_in == "8bit" else Int4WeightOnlyConfig
        return TorchAoConfig(kind())
    raise SubjectError(
        f"--load-in {load_in} needs bitsandbytes or torchao, and neither is installed: "
        "pip install bitsandbytes"
    )


def with_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> nn.Module:
    """The model inside PEFT's, with the adapter of a folder in force.

    Raises:
        SubjectError: no adapter there, or PEFT is not installed.
    """
    path = expanded(folder)
    if not (path / "adapter_config.json").exists():
        raise SubjectError(
            f"--adapter {folder}: expected a folder with adapter_config.json, "
            "as PEFT's save_pretrained writes it"
        )
    if importlib.util.find_spec("peft") is None:
        raise SubjectError(f"--adapter {folder} needs the package peft: pip install peft")
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(path)).eval()  # type: ignore[arg-type]


def base_of_adapter(folder: Path) -> str | None:
    """What a folder's adapter was trained on, as it says itself;
    None where there is a whole model in the folder.
    """
    settings = folder / "adapter_config.json"
    if not settings.exists() or (folder / "config.json").exists():
        return None
    try:
        base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise SubjectError(f"{settings}: expected JSON: {error}") from None
    if not base:
        raise SubjectError(
            f"{settings} does not name its base model: give --model BASE --adapter {folder}"
        )
    return str(base)
