"""Models and tokenizers from a hub id, a folder or a GGUF file, with the hash of what was read."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.errors import LayerscopeError


class SubjectError(LayerscopeError, ValueError):
    """A model, tokenizer or text that cannot be used as asked; the message is one line."""


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with its tokenizer, where they came from, and what to know."""

    model: nn.Module
    tokenizer: Any
    name: str
    weight_files: tuple[Path, ...]
    notes: tuple[str, ...]


def read_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    tokenizer: Any,
    body_only: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
    classifier: bool = False,
) -> Loaded:
    """Read a model and its tokenizer; see `experiments.subject.load` for the arguments.

    Raises:
        SubjectError: one line that says what was tried and what to do.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    gguf = _find_gguf(path)
    where: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is not None:
        source, where = str(gguf.parent), {"gguf_file": gguf.name}
    elif path.is_dir():
        source = str(path)
        _require_safetensors(path, allow_pickle)
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SubjectError(
            f"no model at {name!r}: expected a folder with config.json, a .gguf file or a hub id"
        )
    else:
        source = name
        where["local_files_only"] = _offline()
    device = _as_device(device)
    silence = _quick_gguf() if gguf is not None else contextlib.nullcontext()
    with silence, _quiet(), _one_line(name):
        return _read(
            name,
            source,
            where,
            gguf,
            _as_dtype(dtype),
            device,
            tokenizer,
            body_only,
            allow_pickle,
            classifier,
        )


def _read(
    name: str,
    source: str,
    where: dict[str, Any],
    gguf: Path | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
    tokenizer: Any,
    body_only: bool,
    allow_pickle: bool,
    classifier: bool,
) -> Loaded:
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    try:
        config = AutoConfig.from_pretrained(source, **where)
    except OSError as error:
        if not where.get("local_files_only"):
            raise
        raise SubjectError(
            f"model {name!r} is neither a local path nor in the local hub cache, and the hub "
            "cannot be reached: give a folder or a .gguf file, or connect once to fetch it"
        ) from error
    if tokenizer is None:
        # AutoTokenizer would parse the whole GGUF header once more only to choose a class.
        reader = AutoTokenizer if gguf is None else PreTrainedTokenizerFast
        tokenizer = reader.from_pretrained(source, **where)
    elif isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    auto = auto_class(config, body_only=body_only, classifier=classifier)
    notes: list[str] = []
    extra = {} if gguf is not None else {"use_safetensors": None if allow_pickle else True}
    model, info = auto.from_pretrained(
        source, config=config, dtype=dtype, output_loading_info=True, **where, **extra
    )
    missing = sorted(info["missing_keys"])
    needed = [key for key in missing if "pooler" not in key]
    if needed:
        raise SubjectError(
            f"{name} lacks {len(needed)} of the weights that {type(model).__name__} needs "
            f"(first: {needed[0]}): the checkpoint does not fit its config.json"
        )
    if missing:
        notes.append(f"{len(missing)} pooler weights are absent and unused")
    files = (gguf,) if gguf is not None else _weight_files(source)
    return Loaded(model.to(device).eval(), tokenizer, name, files, tuple(notes))


def read_media_model(
    name_or_path: str | os.PathLike[str],
    kind: str,
    *,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    trust_remote_code: bool,
) -> Loaded:
    """Read a model of images or audio and its processor, which stands in the tokenizer's place.

    Of a model of pictures and texts (CLIP) the tower of pictures is read.

    Raises:
        SubjectError: one line that says what was tried and what to do.
    """
    import transformers as t

    source = os.fspath(name_or_path)
    if Path(source).is_dir():
        _require_safetensors(Path(source), False)
    where: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not Path(source).is_dir():
        where["local_files_only"] = _offline()
    processors = {"images": t.AutoImageProcessor, "audio": t.AutoFeatureExtractor}
    with _quiet(), _one_line(source):
        processor = processors[kind].from_pretrained(source, **where)
        config = t.AutoConfig.from_pretrained(source, **where)
        build = t.AutoModel
        if kind == "images" and hasattr(config, "vision_config"):
            prefix = str((config.architectures or [""])[0]).removesuffix("Model")
            build = getattr(t, f"{prefix}VisionModel", t.AutoModel)
        model = build.from_pretrained(source, dtype=_as_dtype(dtype), use_safetensors=True, **where)
    model = model.to(_as_device(device)).eval()
    return Loaded(model, processor, source, _weight_files(source), ())


def auto_class(config: Any, *, body_only: bool = False, classifier: bool = False) -> Any:
    """The transformers Auto class that builds what `config.architectures` names.

    A head other than a language model's is left out and its body built; a classifier of texts keeps its own if asked.
    With ``body_only`` a causal model still comes with its head, which has a say in the BOS; `load` drops it then.
    """
    import transformers as t
    from transformers.models.auto import modeling_auto as names

    kind = config.model_type
    architecture = (getattr(config, "architectures", None) or [None])[0]
    encoder = kind in names.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    masked = names.MODEL_FOR_MASKED_LM_MAPPING_NAMES

    def offers(table: Any) -> bool:
        known = table.get(kind, ())
        return architecture in ((known,) if isinstance(known, str) else known)

    # GGUF files name no class; what llama.cpp runs are language models.
    nameless = architecture is None and kind in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if classifier and offers(names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        return t.AutoModelForSequenceClassification
    if offers(names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) or (nameless and kind not in masked):
        return t.AutoModelForCausalLM
    if body_only:
        return (
            t.AutoModelForTextEncoding
            if encoder and getattr(config, "is_encoder_decoder", False)
            else t.AutoModel
        )
    if (
        offers(masked)
        or nameless
        or (kind in masked and str(architecture).endswith("ForPreTraining"))
    ):
        return t.AutoModelForMaskedLM
    if offers(names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES):
        return t.AutoModelForSeq2SeqLM
    if encoder and str(architecture).endswith("EncoderModel"):
        return t.AutoModelForTextEncoding
    return t.AutoModel


def build_seeded(build: Any, seed: int, dtype: torch.dtype) -> Any:
    """`build()` on the CPU under its own random stream: the global one is left where it was.

    What a checkpoint would hold gets the type; rotary tables and the like keep theirs, as in a model that is loaded.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    held = model.state_dict().keys()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in held and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model.eval()


def random_twin(model: Any, seed: int, config: Any = None) -> Any:
    """The same class and configuration (or another) with fresh weights, by the model's own init."""
    if not hasattr(type(model), "_from_config"):
        raise SubjectError(
            f"{type(model).__name__} cannot be built from a configuration: expected a "
            "transformers model; build the random one yourself and pass it to Subject"
        )
    config = copy.deepcopy(model.config if config is None else config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the twin holds plain tensors
    attention = getattr(model.config, "_attn_implementation", None)
    first = next(model.parameters())
    build = functools.partial(type(model)._from_config, config, attn_implementation=attention)
    return build_seeded(build, seed, first.dtype).to(first.device)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise SubjectError(f"dtype {dtype!r} is not one of float32, bfloat16, float16, float64")
    return found


def _as_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise SubjectError(
            f"device {device!r}: expected cpu, cuda, cuda:1, mps or another of torch's devices"
        ) from None
    if found.type == "meta":
        raise SubjectError("device 'meta' holds no values: expected cpu, cuda, ...")
    return found


def _find_gguf(path: Path) -> Path | None:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) == 1:
            return found[0]
        if found:
            raise SubjectError(
                f"{path} holds {len(found)} GGUF files: name one, such as {found[0].name}"
            )
        raise SubjectError(f"no model in the folder {path}: expected config.json or a .gguf file")
    return None


def _require_safetensors(folder: Path, allow_pickle: bool) -> None:
    if allow_pickle or any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise SubjectError(
            f"{folder} holds pickled weights (.bin) and no .safetensors: convert them, or pass "
            "allow_pickle=True to experiments.subject.load if you trust where they come from"
        )
    raise SubjectError(
        f"no weights in the folder {folder}: expected .safetensors beside config.json"
    )


def _weight_files(source: str) -> tuple[Path, ...]:
    folder = Path(source)
    if not folder.is_dir():
        from transformers.utils.hub import cached_file

        config = cached_file(source, "config.json", local_files_only=True)
        if config is None:
            return ()
        folder = Path(config).parent
    for pattern in ("model*.safetensors", "*.safetensors", "*.bin"):
        if found := sorted(folder.glob(pattern)):
            return tuple(found)
    return ()


def _offline() -> bool:
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
def _one_line(name: str) -> Iterator[None]:
    """Give what transformers raises over many lines as one that says what to do."""
    try:
        yield
    except SubjectError:
        raise
    except Exception as error:  # safetensors and tokenizers raise bare Exception subclasses
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        hint = (
            "; pass trust_remote_code=True (--trust-remote-code) if you trust its code"
            if "remote" in first
            else ""
        )
        raise SubjectError(
            f"model {name!r} could not be loaded ({type(error).__name__}: {first[:300]}){hint}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' own bars and reports while loading; problems are raised instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _quick_gguf() -> Iterator[None]:
    """Let one GGUF load parse the header once and build its name table once.

    transformers parses the whole header for the config and again for the weights, and builds the
    same table of tensor names for each of several hundred modules: minutes for a small model.
    The same functions are memoised here for the length of the load; nothing they return changes.
    """
    try:
        import gguf
        import numpy as np
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

    found = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.cache(Reader)
    gguf.get_tensor_name_map = functools.cache(found[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = found
