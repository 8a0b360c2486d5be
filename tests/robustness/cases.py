"""Cases of the battery: each kind makes command lines from a random generator, and edits files
before and between them.

A case runs in a copy of the workplace of its own (`place.linked_copy`), so that it may break what
it likes.
"""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerscope.experiments.explorer.options import ExploreOptions
from layerscope.experiments.making.options import DATASETS, MakeOptions
from layerscope.experiments.runs.shared_options import CallOptions
from layerscope.experiments.studies import STUDIES
from recorded import make
from robustness import readers
from robustness.edits import STRANGE, change_value, damaged, dumped, edit
from robustness.inputs import inputs_of, runnable, words_of

Rng = random.Random
Case = Iterator[list[str]]
OUT = "out"

SOUND = {
    "model": ("small",) * 12 + ("gpt", "classifier", "masked", "translator", "seeing", "vision", "hearing", "chatty"),
    "prompts": ("prompts.jsonl", "prompts.csv", "prompts.json", "texts.jsonl", "pictures.jsonl"),
    "pairs": ("pairs.tsv", "prompts.jsonl"),
    "labelled": ("labelled.jsonl", "swapped.jsonl"),
    "questions": ("questions.jsonl",),
    "predictions": ("predictions.jsonl", "predictions.csv", "predictions.npz"),
    "validation": ("more.jsonl", "predictions.jsonl"),
    "clean": ("prompts.jsonl",), "corrupted": ("corrupted.jsonl", "texts.jsonl"), "reference": ("texts.jsonl",),
    "known": ("prompts.jsonl",), "corpus": ("test.conllu", "train.conllu", "lines.txt"), "dev": ("dev.conllu",),
    "test": ("test.conllu",), "lines": ("lines.txt",), "images": ("pictures.csv",), "audio": ("sounds.csv",),
    "image": ("0.png",), "words": ("words.csv",), "templates": ("wording",), "lens": ("lens.safetensors", "small"),
    "probe": (make.PROBE, "probe-plain/probes/upos"), "store": ("captured",), "effects": ("effects",), "checkpoints": ("steps",),
    "adapter": ("adapter", "small"), "config": ("capture.toml",), "compare": ("steps/step-1", "gpt"), "proposals": ("masked",),
    "property": ("upos", "deprel", "depth", "feats:Number", "arc:exists", "colour", "sentence_length"),
    "site": ("hook_resid_post", "attn.hook_z", "mlp.hook_post", "hook_embed"), "text": ("The old dog", "The guards near the"),
    "target": (" barks", "answer"), "wrong": (" bark",), "bos": ("auto", "always", "never", "the"), "device": ("cpu",),
    "metric": ("loss", "kl", "log_probability", "logit_difference", "pair_difference", "class_log_odds", "rank"),
    "method": ("pca", "tsne", "ig", "leave-one-out", "lime", "lrp"), "max_ram": ("2GB", "4GiB"), "max_disk": ("1GB",),
    "edit": ("blocks.0.attn.hook_z[1]=zero", "blocks.1.mlp.hook_post[3]=2.5", "blocks.9.attn.hook_z=zero"),
    "attn": ("eager", "sdpa", "flex_attention"),
    "head": ("1.2", "0.0"), "swap": ("John:Mary",), "positions": ("last", "all", "auto", "first"), "removal": ("delete", "mask"),
}  # fmt: skip
"""Values that an option is made for, by its name."""
SOURCES = (
    "prompts",
    "pairs",
    "questions",
    "predictions",
    "text",
    "clean",
    "corpus",
    "labelled",
    "lines",
)
"""Options of which most commands need one."""
LEFT_OUT = {
    "out",
    "engine",
    "address",
    "workers",
    "num_cpus",
    "num_gpus",
    "trust_remote_code",
    "host",
    "port",
    "verbose",
    "to",
}
"""Options that reach outside of the workplace, or change what is printed."""
ON_RAY = [name for name, study in STUDIES.items() if hasattr(study.options, "engine")]
"""Commands that run on Ray too."""
OF_ENGINES = {"workers": ("1", "2"), "num_cpus": ("1",), "num_gpus": ("0",)}
"""Options of Ray's workers, and values that they are made for."""


def option_of(field: dataclasses.Field[Any], rng: Rng) -> list[str]:
    """An option with a sound value, or a strange one."""
    flag = f"--{field.name.replace('_', '-')}"
    kind = str(field.type)
    if kind == "bool":
        return [flag]
    choices = SOUND.get(field.name) or field.metadata.get("choices") or ()
    is_strange = rng.random() < (0.05 if field.name == "model" else 0.3)
    if choices and not is_strange:
        value = rng.choice(tuple(choices))
        return [f"{flag}={value if rng.random() < 0.9 else spoiled(value, rng)}"]
    if ("int" in kind or "float" in kind) and not is_strange:
        return [f"{flag}={rng.choice(('1', '2', '4', '0', '0.5'))}"]
    return [f"{flag}={rng.choice(STRANGE)}"]


def spoiled(value: str, rng: Rng) -> str:
    """A sound value with something wrong in it."""
    at = rng.randrange(len(value) + 1)
    others = (value[:at], value[at:], value * 2, value[:at] + rng.choice(STRANGE) + value[at:])
    return rng.choice(
        (*others, re.sub(r"\d", "9" * 5000, value, count=1), f"{value}[{'9' * 5000}]")
    )


def fields_of(*options: Any) -> list[dataclasses.Field[Any]]:
    """The options that a case may give."""
    fields = [field for one in options for field in dataclasses.fields(one)]
    return [field for field in fields if field.name not in LEFT_OUT]


def edit_one(words: list[str], rng: Rng) -> None:
    """Edit a file that a command line reads; small files are as likely as the model's."""
    files = inputs_of(words)
    if files:
        folders = sorted({path.parts[0] for path in files})
        chosen = rng.choice(folders)
        edit(rng.choice([path for path in files if path.parts[0] == chosen]), rng)


# -- the kinds


def options(rng: Rng) -> Case:
    """Any options of any study, as a plan."""
    name = rng.choice(list(STUDIES))
    fields = {field.name: field for field in fields_of(STUDIES[name].options)}
    needed = [field.name for field in fields.values() if field.default is dataclasses.MISSING]
    chosen = {field for field in needed if rng.random() < 0.95}
    if sources := [name for name in SOURCES if name in fields]:
        chosen.add(rng.choice(sources))
    chosen |= set(rng.sample(sorted(fields), min(len(fields), rng.choice((0, 1, 1, 2, 3)))))
    words = [name]
    for field in sorted(chosen):
        words += option_of(fields[field], rng)
    if rng.random() < 0.3:
        edit_one(words, rng)
    yield [*words, "--out", OUT, "--dry-run", "--quiet"]


def files(rng: Rng) -> Case:
    """A line that works, with a file that it reads edited or an option added; mostly as a plan."""
    words = words_of(rng.choice(runnable()))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.75:
            edit_one(words, rng)
        else:
            fields = fields_of(STUDIES[words[0]].options, CallOptions)
            words += option_of(rng.choice(fields), rng)
    if rng.random() < 0.2:
        words.append("--force")
    yield [*words, "--out", OUT, *(["--dry-run"] if rng.random() < 0.75 else [])]


def again(rng: Rng) -> Case:
    """A run, an edit of a file in its folder, the same run again, and its page again."""
    words = [*words_of(rng.choice(runnable())), "--out", OUT]
    yield words
    written = [path for path in Path(OUT).rglob("*") if path.is_file()]
    if written:
        edit(rng.choice(written), rng)
    if rng.random() < 0.3:  # as if it were not finished
        Path(OUT, "results.json").unlink(missing_ok=True)
    yield words
    yield ["report", OUT]


def results(rng: Rng) -> Case:
    """The page of a recorded run whose results a person edited, alone or compared."""
    name = rng.choice(sorted(path.parent.name for path in make.HERE.glob("*/results.json")))
    edited = make.recorded(name)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # A quarter of the edits fall on the provenance, which is small.
        part = edited if rng.random() < 0.75 else edited.get("provenance")
        if isinstance(part, dict) and part:
            change_value(part, rng)
    data = dumped(edited, rng)
    Path("edited").mkdir()
    Path("edited/results.json").write_bytes(damaged(data, rng) if rng.random() < 0.05 else data)
    if rng.random() < 0.6:
        yield ["report", "edited"]
    else:
        yield ["report", str(make.HERE / name), "edited", "--out", "compared.html"]


def reading(rng: Rng) -> Case:
    """An edited file of data in a plan; what is read of it is what another reader reads."""
    name = rng.choice(sorted(readers.READERS))
    line = rng.choice(readers.READERS[name].lines)
    for _ in range(rng.choice((0, 1, 1, 2))):
        edit(Path(name), rng)
    yield [*words_of(line), "--out", OUT, "--dry-run"]
    readers.compare(Path(name))


def ray(rng: Rng) -> Case:
    """A line on Ray, with a file edited or an option added."""
    words = words_of(rng.choice([line for line in runnable() if line.split()[0] in ON_RAY]))
    for _ in range(rng.choice((0, 1, 1, 2))):
        if rng.random() < 0.6:
            edit_one(words, rng)
        else:
            words += option_of(rng.choice(fields_of(STUDIES[words[0]].options)), rng)
    for name, values in OF_ENGINES.items():
        if rng.random() < 0.5:
            value = rng.choice(values if rng.random() < 0.8 else STRANGE)
            words.append(f"--{name.replace('_', '-')}={value}")
    yield [*words, "--engine", "ray", "--out", OUT]


def faces(rng: Rng) -> Case:
    """``report``, ``explore``, ``make``, ``completion``, no command at all,
    and folders that are no run's.
    """
    kinds = (_report, _explore, _make, _completion, _no_command, _odd_folder)
    yield rng.choice(kinds)(rng)


def _odd(rng: Rng) -> str:
    """A path where no run is: nothing, a file, a folder of something else,
    results that are none.
    """
    path = Path("odd")
    way = rng.randrange(8)
    if way == 0:
        path.write_text("x")
    elif way == 1:
        path.symlink_to(path)
    elif way > 2:
        path.mkdir()
    if way == 3:
        (path / "notes.txt").write_text("x")
    elif way == 4:
        (path / "results.json").mkdir()
    elif way == 5:
        (path / "results.json").symlink_to("results.json")
    elif way == 6:
        texts = (
            "",
            "null",
            "[]",
            "{}",
            '{"kind": "probe"}',
            '{"schema": 2, "kind": "x"}',
            "[" * 5000,
            "\0",
        )
        (path / "results.json").write_text(rng.choice(texts))
    elif way == 7:
        shutil.copytree(make.HERE / "prune", path, dirs_exist_ok=True)
    return rng.choice((str(path), str(path / "sub"), rng.choice(STRANGE)))


def _report(rng: Rng) -> list[str]:
    folders = [_odd(rng), *([str(make.HERE / "prune")] * rng.choice((0, 0, 1)))]
    outs = (
        "/dev/full",
        "",
        "page.html",
        "small",
        "no/such/page.html",
        "small/config.json/x",
        "x" * 300,
    )
    return ["report", *folders, *(["--out", rng.choice(outs)] if rng.random() < 0.5 else [])]


def _explore(rng: Rng) -> list[str]:
    words = ["explore", "--model", "small", "--json", "--device", "cpu"]
    for field in rng.sample(fields_of(ExploreOptions), rng.choice((0, 1, 2))):
        words += option_of(field, rng)
    if rng.random() < 0.3:
        edit_one(words, rng)
    return words


def _make(rng: Rng) -> list[str]:
    name = rng.choice((*DATASETS, *DATASETS, rng.choice(STRANGE)))
    words = ["make", name, "--model", "small", "--n", "3"]
    for field in rng.sample(fields_of(MakeOptions), rng.choice((0, 1, 2))):
        words += option_of(field, rng)
    outs = ("made.jsonl", "small", "/dev/full", "no/such/file.jsonl", *STRANGE)
    return [*words, f"--out={rng.choice(outs)}"]


def _completion(rng: Rng) -> list[str]:
    return ["completion", rng.choice(("bash", "zsh", "fish", *STRANGE))]


def _no_command(rng: Rng) -> list[str]:
    words = [rng.choice(STRANGE), *(rng.choice(STRANGE) for _ in range(rng.randrange(3)))]
    return rng.choice((words, [rng.choice((*STUDIES, "report", "demo", "make")), *words]))


def _odd_folder(rng: Rng) -> list[str]:
    """A run whose folder is something else."""
    line = (
        "capture --model small --site hook_embed --corpus test.conllu --limit 2 "
        "--device cpu --quiet"
    )
    return [*line.split(), f"--out={_odd(rng)}"]


KINDS: dict[str, tuple[float, Callable[[Rng], Case]]] = {
    "options": (0.42, options),
    "results": (0.20, results),
    "reading": (0.15, reading),
    "files": (0.15, files),
    "faces": (0.06, faces),
    "again": (0.02, again),
    "ray": (0.0, ray),  # seconds each: by ``--kind ray`` alone
}
"""Kind of a case -> its share, and its command lines."""


def drawn(number: int, seed: int, kind: str | None = None) -> tuple[str, Case]:
    """The kind and the command lines of a number."""
    rng = Rng(f"{seed}-{number}")
    names, shares = list(KINDS), [share for share, _ in KINDS.values()]
    name = rng.choices(names, shares)[0]
    name = kind or name
    return name, KINDS[name][1](rng)
