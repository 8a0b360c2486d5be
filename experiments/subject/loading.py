"""Models and tokenizers from a hub id, a folder or a GGUF file, with the hash of what was read."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...hooks.folders import expanded
from ...hooks.placement import dtype_of
from .checkpoint_files import find_gguf, is_offline, quick_gguf, require_safetensors, weight_files
from .claims import check_folder, check_gguf, check_parameters, stored_weights
from .errors import COMMANDS_FOR, SubjectError, one_line, quiet, reads_no_text
from .modes import Modes, base_of_adapter, with_adapter


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with its tokenizer, where they came from, and what to know."""

    model: nn.Module
    tokenizer: Any
    name: str
    weight_files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """Which part of a checkpoint is read, and what its author is trusted with.

    Args:
        body_only: leave out a language-model head.
        classifier: keep the head of a model that classifies texts.
        allow_pickle: also read .bin weights.
        trust_remote_code: run model code that comes with the weights.
    """

    body_only: bool = False
    classifier: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


def read_model(
    name_or_path: str | os.PathLike[str], tokenizer: Any, modes: Modes, parts: Parts
) -> Loaded:
    """Read a model and its tokenizer; see `experiments.subject.load` for the arguments.

    Raises:
        SubjectError: one line that says what was tried and what to do.
    """
    name = os.fspath(name_or_path)
    path = expanded(name)
    if path.is_dir() and (base := base_of_adapter(path)) is not None:
        if modes.adapter is not None:
            raise SubjectError(f"{name} is an adapter itself: leave out --adapter {modes.adapter}")
        has_tokenizer = (path / "tokenizer_config.json").exists()
        loaded = read_model(
            base,
            str(path) if tokenizer is None and has_tokenizer else tokenizer,
            replace(modes, adapter=path),
            parts,
        )
        return replace(loaded, name=name)
    modes.to_read()  # what is wrong with the modes is reported before anything is read
    gguf = find_gguf(path)
    where: dict[str, Any] = {"trust_remote_code": parts.trust_remote_code}
    if gguf is not None:
        source, where = str(gguf.parent), {"gguf_file": gguf.name}
        check_gguf(gguf)
    elif path.is_dir():
        source = str(path)
        require_safetensors(path, parts.allow_pickle)
        _check_claims(path)
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SubjectError(
            f"no model at {name!r}: expected a folder with config.json, a .gguf file or a hub id"
        )
    else:
        source = name
        where["local_files_only"] = is_offline()
        if modes.revision is not None:
            where["revision"] = modes.revision
    if modes.revision is not None and "revision" not in where:
        raise SubjectError(
            f"--revision {modes.revision}: expected with a hub id, {name!r} is on this machine"
        )
    silence = quick_gguf() if gguf is not None else contextlib.nullcontext()
    with silence, quiet(), one_line(name):
        return _read(name, source, where, gguf, tokenizer, modes, parts)


def _read(
    name: str,
    source: str,
    where: dict[str, Any],
    gguf: Path | None,
    tokenizer: Any,
    modes: Modes,
    parts: Parts,
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
        try:
            tokenizer = reader.from_pretrained(source, **where)
        except Exception:
            require_reader_of_text(auto_class(config), config)
            raise
    elif isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    auto = auto_class(config, body_only=parts.body_only, classifier=parts.classifier)
    arguments = modes.to_read()
    if gguf is None:
        arguments["use_safetensors"] = None if parts.allow_pickle else True
        if Path(source).is_dir() and (stored := stored_weights(weight_files(source))) is not None:
            check_parameters(name, config, auto, stored)
    elif arguments["dtype"] == "auto":
        arguments["dtype"] = torch.float32  # a GGUF file holds quantised blocks, which are unpacked
    model, info = auto.from_pretrained(
        source, config=config, output_loading_info=True, **where, **arguments
    )
    notes = [*_missing(name, model, info["missing_keys"]), *_about_modes(model, modes)]
    files = (gguf,) if gguf is not None else weight_files(source, modes.revision)
    if modes.adapter is not None:
        model, files = _with_adapter(model, modes.adapter, files)
    return Loaded(model.eval(), tokenizer, name, files, tuple(notes))


def _check_claims(folder: Path) -> None:
    """Refuse a folder whose configuration asks for far more than its weights hold."""
    stored = stored_weights(weight_files(str(folder)))
    if stored is not None:
        check_folder(folder, stored)


def _with_adapter(
    model: nn.Module, adapter: str | os.PathLike[str], files: tuple[Path, ...]
) -> tuple[nn.Module, tuple[Path, ...]]:
    """The model with its adapter, and the files of both."""
    folder = expanded(adapter)
    weights = sorted(folder.glob("adapter_*.safetensors"))
    return with_adapter(model, folder), (*files, *weights)


def _missing(name: str, model: nn.Module, keys: Any) -> list[str]:
    """A note on weights that a checkpoint may lack.

    Raises:
        SubjectError: it lacks others.
    """
    missing = sorted(key for key in keys if not _is_computed(model, key))
    needed = [key for key in missing if "pooler" not in key]
    if needed:
        raise SubjectError(
            f"{name} lacks {len(needed)} of the weights that {type(model).__name__} needs "
            f"(first: {needed[0]}): the checkpoint does not fit its config.json"
        )
    return [f"{len(missing)} pooler weights are absent, but they are not used"] if missing else []


def _is_computed(model: nn.Module, key: str) -> bool:
    """Whether checkpoints leave a weight out on purpose, as a model computes it when it is made
    (Marian's positions); its body names it by the whole model's path.
    """
    left_out = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    paths = (key, f"{getattr(model, 'base_model_prefix', '')}.{key}")
    return any(re.search(pattern, path) for pattern in left_out for path in paths)


def _about_modes(model: nn.Module, modes: Modes) -> list[str]:
    """What a reader of the numbers should know of how the weights are held."""
    notes = []
    dtype = dtype_of(model)
    if modes.dtype is None and dtype.itemsize < 4:
        kind = str(dtype).removeprefix("torch.")
        notes.append(
            f"weights and activations are in {kind}, the checkpoint's own type (--dtype "
            "float32 rounds less); means, norms and probes are computed in float32"
        )
    if modes.load_in is not None:
        notes.append(
            f"linear layers are quantised to {modes.load_in}: "
            "all numbers describe the quantised model"
        )
    if modes.adapter is not None:
        notes.append(f"the adapter in {modes.adapter} is applied")
    if modes.device_map is not None:
        devices = sorted({str(device) for device in getattr(model, "hf_device_map", {}).values()})
        notes.append(f"the model is spread over {', '.join(devices) or modes.device_map}")
    return notes


def read_media_model(
    name_or_path: str | os.PathLike[str],
    kind: str,
    modes: Modes,
    parts: Parts,
) -> Loaded:
    """Read a model of images or audio and its processor, which stands in the tokenizer's place.

    Of a model of pictures and texts (CLIP) the tower of pictures is read.

    Raises:
        SubjectError: one line that says what was tried and what to do.
    """
    import transformers as t

    source = os.fspath(name_or_path)
    if Path(source).is_dir():
        require_safetensors(Path(source), parts.allow_pickle)
        _check_claims(Path(source))
    where: dict[str, Any] = {"trust_remote_code": parts.trust_remote_code}
    if not Path(source).is_dir():
        where |= {"local_files_only": is_offline(), "revision": modes.revision}
    processors = {"images": t.AutoImageProcessor, "audio": t.AutoFeatureExtractor}
    with quiet(), one_line(source):
        processor = processors[kind].from_pretrained(source, **where)
        config = t.AutoConfig.from_pretrained(source, **where)
        build = t.AutoModel
        if kind == "images" and hasattr(config, "vision_config"):
            prefix = str((config.architectures or [""])[0]).removesuffix("Model")
            build = getattr(t, f"{prefix}VisionModel", t.AutoModel)
        arguments = {**modes.to_read(), "use_safetensors": True}
        model = build.from_pretrained(source, **where, **arguments)
    files = weight_files(source, modes.revision)
    notes = _about_modes(model, modes)
    if modes.adapter is not None:
        model, files = _with_adapter(model, modes.adapter, files)
    return Loaded(model.eval(), processor, source, files, tuple(notes))


def require_reader_of_text(auto: Any, config: Any) -> None:
    """Refuse a configuration whose model reads pictures or sounds, before it is built."""
    known = auto._model_mapping.get(type(config), None)
    for model in known if isinstance(known, tuple) else (known,):
        reads = getattr(model, "main_input_name", "input_ids")
        if reads in COMMANDS_FOR:
            raise reads_no_text(model.__name__, reads)


def auto_class(config: Any, *, body_only: bool = False, classifier: bool = False) -> Any:
    """The transformers Auto class that builds what `config.architectures` names.

    A head other than a language model's is left out and its body built; a classifier of texts keeps
    its own if asked. With ``body_only`` a causal model still comes with its head, which has a say
    in the BOS; `load` drops it then.
    """
    import transformers as t
    from transformers.models.auto import modeling_auto as names

    kind = config.model_type
    architecture = (getattr(config, "architectures", None) or [None])[0]
    # T5Gemma's encoder class takes only checkpoints of an encoder: the pair's is a part of its
    # body.
    encoder = kind in names.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES and kind != "t5gemma"
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
    # Models of pictures or sounds and text: with text alone they are causal language models.
    if offers(names.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
        return t.AutoModelForMultimodalLM
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
    if offers(names.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES):
        return t.AutoModelForSpeechSeq2Seq
    if encoder and str(architecture).endswith("EncoderModel"):
        return t.AutoModelForTextEncoding
    return t.AutoModel
