"""Nothing stale: a finished run is refused, by the name of what changed, when anything that decides
its numbers did.

    # by hand; only lines that hold one of the words
    python tests/robustness/identity.py [WORD ...]

Every line of `inputs.LINES` runs once. Then one ingredient is changed at a time, in a copy of the
workplace, and the same command is asked for the same folder again.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np
from robustness import inputs, place
from safetensors import safe_open
from safetensors.torch import load_file, save_file

OUT = "run"
REFUSED = "another configuration"


def _rewrite(path: Path, data: bytes) -> None:
    """Replace a file, which may be a hard link."""
    path.unlink()
    path.write_bytes(data)


# -- what can change in a model's folder


def _with_settings(name: str, **settings: object) -> Callable[[Path], bool]:
    """A change of settings in one of its JSON files; none where it has no such file."""

    def change(model: Path) -> bool:
        path = model / name
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            _rewrite(path, json.dumps({**held, **settings}).encode())
        return path.exists()

    return change


def _norm(model: Path) -> bool:
    """The smallest setting that decides numbers."""
    path = model / "config.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    names = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
    present = [name for name in names if name in held]
    for name in present[:1]:
        _rewrite(path, json.dumps({**held, name: 0.01}).encode())
    return bool(present)


def _weights(model: Path) -> bool:
    paths = sorted(model.glob("*.safetensors"))
    for path in paths[:1]:
        scale(path)
    return bool(paths)


def scale(path: Path) -> None:
    """Other numbers in a safetensors file."""
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor * 1.5
    path.unlink()
    save_file(tensors, path, about)


def _tokenizer(model: Path, change: Callable[[dict], None]) -> bool:
    path = model / "tokenizer.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        change(held)
        _rewrite(path, json.dumps(held).encode())
    return path.exists()


def _vocabulary(model: Path) -> bool:
    def swap(held: dict) -> None:
        ids = held["model"]["vocab"]
        one, other = [word for word in ids if word.isalpha()][:2]
        ids[one], ids[other] = ids[other], ids[one]

    return _tokenizer(model, swap)


def _added_token(model: Path) -> bool:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    token = {"id": 7, "content": "garden", **flags}
    return _tokenizer(model, lambda held: held["added_tokens"].append(token))


def _template(model: Path) -> bool:
    path = model / "chat_template.jinja"
    path.unlink(missing_ok=True)
    path.write_text("{{ messages[0]['content'] }}!", encoding="utf-8")
    return (model / "tokenizer.json").exists()


OF_MODEL: dict[str, Callable[[Path], bool]] = {
    "configuration: norm": _norm,
    "configuration: activation": _with_settings(
        "config.json", hidden_act="relu", activation_function="relu"
    ),
    "weights": _weights,
    "tokenizer: vocabulary": _vocabulary,
    "tokenizer: added token": _added_token,
    "longest input": _with_settings("tokenizer_config.json", model_max_length=33),
    "chat template": _template,
    "generation settings": _with_settings("generation_config.json", repetition_penalty=1.5),
    "image processor": _with_settings("preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
    "sound processor": _with_settings(
        "preprocessor_config.json", do_normalize=False, padding_value=0.5
    ),
}
"""Ingredient -> its change; False where the folder has no such thing."""
OF_TEXTS = ("tokenizer: vocabulary", "tokenizer: added token", "longest input", "chat template")
"""The ingredients that decide how a text becomes tokens."""
OPTIONS = ("--dtype bfloat16", "--attn eager", "--bos never", "--seed 5", "--adapter adapter")


# -- what can change in a file of data


def change_data(path: Path) -> None:
    """Another word, or other numbers."""
    if path.suffix == ".safetensors":
        scale(path)
    elif path.suffix == ".png":
        from PIL import Image

        path.unlink()
        Image.new("RGB", (16, 16), (1, 2, 3)).save(path)
    elif path.suffix == ".wav":
        data = path.read_bytes()
        _rewrite(path, data[:200] + bytes(200) + data[400:])
    elif path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {name: values[::-1] for name, values in file.items()}
        path.unlink()
        np.savez(path, **arrays)
    elif path.name == "results.json":
        held = json.loads(path.read_text(encoding="utf-8"))
        held["records"][0]["effect"] = 0.125
        _rewrite(path, json.dumps(held).encode())
    else:
        _rewrite(path, _another_word(path.read_bytes()))


def _another_word(data: bytes) -> bytes:
    for old, new in (
        (b"garden", b"market"),
        (b"Mary", b"Jane"),
        (b"red", b"green"),
        (b"low", b"deep"),
    ):
        if old in data:
            return data.replace(old, new, 1)
    # Numbers, or a template: the last line once more.
    return data + data.rstrip(b"\n").rpartition(b"\n")[2] + b"\n"


WITHIN = {
    "effects": "results.json",
    "wording": "*p_true.txt",
    "pictures.csv": "3.png",
}
WITHIN |= {"sounds.csv": "3.wav"}
"""An input -> the file in its folder that is changed, as a pattern. Not of a capture, whose shards
carry their checksums: bytes that were changed since are refused when they are read (`stores.py`).
"""


def data_of(words: Sequence[str]) -> list[Path]:
    """The files that decide a line's numbers, beside those of its models."""
    files = []
    for word in words[1:]:
        path = Path(word)
        if path.is_file() and path.suffix != ".toml":
            files.append(path)
        if word in WITHIN:
            folder = path if path.is_dir() else path.parent
            files += sorted(folder.rglob(WITHIN[word]))[:1]
    return files


def models_of(words: Sequence[str]) -> list[Path]:
    """The folders of models that a line reads: the first is that of ``--model``."""
    folders = []
    for word in words:
        path = Path(word)
        if word not in inputs.PREPARED and (path / "config.json").exists():
            folders.append(path)
        elif word == "steps":
            folders.append(path / "step-2")
    return folders


# -- the check


@contextmanager
def _as_version(version: str) -> Iterator[None]:
    """Layerscope as another version."""
    known = importlib.metadata.version
    with mock.patch(
        "importlib.metadata.version", lambda name: version if name == "layerscope" else known(name)
    ):
        yield


def changes(
    words: Sequence[str],
) -> Iterator[tuple[str, Callable[[], object], Sequence[str], AbstractContextManager]]:
    """Name, edit, options and surroundings of each change."""
    nothing = lambda: True  # noqa: E731
    models = models_of(words)
    for model in models:
        for name, change in OF_MODEL.items():
            if model.parent.name == "steps" and name in OF_TEXTS:
                continue  # a checkpoint reads the tokens of the model
            yield (
                f"{model}: {name}",
                lambda change=change, model=model: change(model),
                (),
                nullcontext(),
            )
    for path in data_of(words):
        yield f"data: {path}", lambda path=path: change_data(path), (), nullcontext()
    for option in OPTIONS if models else ():
        if option.split()[0] not in words:
            yield option, nothing, option.split(), nullcontext()
    yield "version", nothing, (), _as_version("9")


GENERATING = ("ask", "calibrate")
"""Commands that let a model write."""


def stale(work: Path, words: Sequence[str], only: Sequence[str] = ()) -> tuple[int, list[str]]:
    """How many ingredients were changed, and what was wrong with the answers to these.

    Args:
        work: a workplace, in whose folder `OUT` the run of this line is finished.
    """
    count, wrong = 0, []
    for name, change, options, surroundings in changes(words):
        if only and not any(one in name for one in only):
            continue
        with place.linked_copy(work), surroundings:
            if change() is False:
                continue
            count += 1
            outcome = place.call([*words, *options, "--out", OUT, "--dry-run"])
        if "generation" in name and words[0] not in GENERATING and outcome.status == 0:
            continue  # a body without a head writes nothing
        is_refused = outcome.status == 2 and REFUSED in outcome.message
        # What cannot be read any more stands for itself.
        is_unreadable = outcome.status == 2 and not outcome.wrong
        if not is_refused and not is_unreadable:
            wrong.append(f"{name}: status {outcome.status}: {outcome.message[-200:]}")
        elif is_refused and not _names(name, outcome.message):
            wrong.append(f"{name}: is not named: {outcome.message[:300]}")
    return count, wrong


NAMED = {
    "configuration": "model: configuration", "weights": "model: ", "tokenizer": "model: tokenizer", "chat template": "model: chat",
    "generation settings": "model: generation", "processor": "model: ", "version": "layerscope", "data": "data: ",
    "longest input": "model: longest input",
}  # fmt: skip
"""What a refusal must name, by a word of the ingredient's name."""


def _names(ingredient: str, message: str) -> bool:
    """Whether a refusal names what changed; a second model of a run is data."""
    wanted = [name for word, name in NAMED.items() if word in ingredient]
    if ingredient.startswith("--"):
        wanted = [ingredient.split()[0].removeprefix("--"), "model: "]
    return any(name in message for name in [*wanted, "data: "])


def main(names: list[str]) -> int:
    """All lines, or those that hold one of the words; returns 1 where something is stale."""
    total, n_wrong = 0, 0
    with place.workplace() as work:
        for line in inputs.LINES:
            if names and not any(name in line for name in names):
                continue
            with place.linked_copy(work) as copy:
                words = inputs.words_of(line)
                outcome = place.call([*words, "--out", OUT])
                if outcome.status not in (0, 1):
                    print(f"cannot run: {line}\n    {outcome.message}", flush=True)
                    n_wrong += 1
                    continue
                count, wrong = stale(copy, words)
            total += count
            n_wrong += len(wrong)
            for one in wrong:
                print(f"{line}\n    {one}", flush=True)
    print(f"{total} changes, {n_wrong} wrong")
    return int(bool(n_wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
