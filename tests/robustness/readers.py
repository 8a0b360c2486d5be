"""Independent readers: what a command reads of a file must be what these read, or the file is
refused.

They share nothing with the product: JSON is read by pydantic's parser, tables by the grammar of RFC
4180, corpora line by line as universaldependencies.org/format.html has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from layerscope.experiments.calibration.predictions import read_predictions
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.corpus.prompts import (
    numbered_lines,
    read_labelled,
    read_pairs,
    read_prompts,
)
from pydantic_core import from_json
from robustness.edits import first_difference

from layerscope.errors import LayerscopeError

MARK = "\ufeff"


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Args:
        lines: command lines that read it.
        ours: what the product reads, as plain values.
        other: what the independent reader reads.
    """

    lines: tuple[str, ...]
    ours: Callable[[Path], Any]
    other: Callable[[Path], Any]


def compare(path: Path) -> None:
    """Raise `AssertionError` where the product reads something else than the independent reader."""
    reader = READERS[path.name]
    try:
        ours = reader.ours(path)
    except (LayerscopeError, OSError):
        return
    try:
        other = reader.other(path)
    except Exception as error:
        raise AssertionError(f"{path.name}: the other reader cannot read it: {error!r}") from error
    assert ours == other, f"{path.name}: {first_difference(ours, other)}"


# -- rows


def _lines(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8-sig")
    return [line.removeprefix(MARK) for line in re.split(r"\r\n|\r|\n", text)]


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file in any of the formats."""
    lines = _lines(path)
    first = next((line for line in lines if line.strip()), "").lstrip()
    if first[:1] == "[":
        return from_json("\n".join(lines))
    if first[:1] != "{" and path.suffix in (".csv", ".tsv"):
        return list(_table("\n".join(lines), path.suffix == ".csv"))
    return [from_json(line) for line in lines if line.strip()]


def _table(text: str, is_csv: bool) -> Iterator[dict[str, Any]]:
    """Rows of RFC 4180, or lines with tabs."""
    if is_csv:
        rows = list(_quoted(text, max(",;\t", key=text.strip().split("\n")[0].count)))
    else:
        rows = [line.split("\t") for line in text.split("\n")]
    names: list[str] = []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        names = names or row
        if row != names:
            cells = zip(names, row, strict=True)
            yield {name: _cell(cell) for name, cell in cells if cell != ""}


def _quoted(text: str, separator: str) -> Iterator[list[str]]:
    """Cells with quotation marks, which may hold separators and ends of lines."""
    row, cell, is_open, was_open = [], "", False, False
    for character in f"{text}\n":
        if character == '"' and (is_open or was_open or not cell):
            cell += '"' if was_open and not is_open else ""  # two of them within a cell are one
            is_open, was_open = not is_open, is_open
        elif is_open or character not in (separator, "\n"):
            cell += character
            was_open = False
        else:
            row.append(cell)
            cell, was_open = "", False
            if character == "\n":
                yield row
                row = []


def _cell(text: str) -> Any:
    if text[0] + text[-1] in ("[]", "{}"):
        try:
            return from_json(text)
        except ValueError:
            return text
    return text


def _first(row: dict[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _prompts(path: Path) -> list[Any]:
    out = []
    for row in _rows(path):
        if "one_prefix_prefix" in row:
            answer, wrong = row["one_prefix_word_good"], row["one_prefix_word_bad"]
            row = {
                **row,
                "prompt": row["one_prefix_prefix"],
                "answer": f" {answer}",
                "wrong": f" {wrong}",
            }
        prompt = _first(row, "prompt", "sentence", "text")
        rest = [row.get(name) for name in ("answer", "wrong", "corrupted")]
        out.append((prompt, *rest, _text(row.get("group")), _text(row.get("label"))))
    return out


def _labelled(path: Path) -> list[Any]:
    return [(_first(row, "prompt", "sentence", "text"), str(row["label"])) for row in _rows(path)]


def _pairs(path: Path) -> list[Any]:
    out = []
    for row in _rows(path):
        good = _first(row, "sentence_good", "good_sentence", "sent_more")
        bad = _first(row, "sentence_bad", "bad_sentence", "sent_less")
        both = row.get("sentences", (good, bad))
        out.append((*both, _text(row.get("group"))))
    return out


# -- predictions


def _predictions(path: Path) -> Any:
    """Probabilities to six digits, and the places of the labels."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            kind = "logits" if "logits" in file else "probabilities"
            classes = [str(place) for place in range(file[kind].shape[1])]
            labels = [_place(label, classes) for label in file["labels"].tolist()]
            return _distributions(file[kind].astype(float), kind), labels
    values, labels, kind, classes = [], [], "", None
    for row in _rows(path):
        columns = [name for name in row if name.startswith(("p_", "probability_", "logit_"))]
        kind = (
            "logits"
            if "logits" in row or any(name.startswith("logit_") for name in columns)
            else "probabilities"
        )
        given = row.get(kind)
        if given is None:
            given = {name.partition("_")[2]: float(row[name]) for name in columns}
        names = (
            list(given) if isinstance(given, dict) else [str(place) for place in range(len(given))]
        )
        classes = classes or names
        values.append([given[name] for name in classes] if isinstance(given, dict) else given)
        labels.append(_place(row["label"], classes))
    return _distributions(np.array(values, float), kind), labels


def _place(label: Any, classes: list[str]) -> int:
    spelled = [
        str(label),
        str(label).lower()
        if isinstance(label, bool)
        else f"{label:g}"
        if isinstance(label, float)
        else "",
    ]
    for one in spelled:
        if one in classes:
            return classes.index(one)
    return int(float(label))


def _distributions(values: np.ndarray, kind: str) -> Any:
    if kind == "logits":
        values = np.exp(values - values.max(1, keepdims=True))
    return (values / values.sum(1, keepdims=True)).round(6).tolist()


def _ours_of_predictions(path: Path) -> Any:
    read = read_predictions(path)
    return read.probabilities.round(6).tolist(), read.labels.tolist()


# -- corpora


def _corpus(path: Path) -> list[Any]:
    """Of each sentence the columns of its words."""
    text = path.read_bytes().decode()
    lines = text.split("\n") if "\n" in text else text.split("\r")
    order = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]
    columns, sentences, words = order, [], []
    for line in [*(line.rstrip("\r").lstrip(MARK) for line in lines), ""]:
        named = re.match(r"#\s*global\.columns\s*=(.*)", line)
        if named:
            columns = named[1].lower().split()
        elif not line.strip():
            sentences += [words] if words else []
            words = []
        elif not line.startswith("#"):
            row = dict(zip(columns, line.split("\t"), strict=True))
            if row["id"].isdecimal():
                words.append([_column(row, name) for name in order[1:8]])
    if all(word[5] == "_" for sentence in sentences for word in sentence):
        for word in (word for sentence in sentences for word in sentence):
            word[5] = "0"
    return sentences


def _column(row: dict[str, str], name: str) -> Any:
    value = row.get(name, "_")
    if name != "feats":
        return str(int(value)) if name == "head" and value.isdecimal() else value
    features: dict[str, str] = {}
    for part in value.split("|") if value != "_" else ():
        key, _, one = part.partition("=")
        key, one = key.strip(), one.strip()
        features[key] = f"{features[key]},{one}" if key in features else one
    return features


def _ours_of_corpus(path: Path) -> list[Any]:
    sentences = []
    for sentence in read_conllu(path):
        words = []
        for w in sentence.words:
            words.append([w.form, w.lemma, w.upos, w.xpos, dict(w.feats), str(w.head), w.deprel])
        sentences.append(words)
    return sentences


def _ours_of_prompts(path: Path) -> list[Any]:
    read = read_prompts(path)
    return [(p.prompt, p.answer, p.wrong, p.corrupted, p.group, p.label) for p in read]


def _ours_of_pairs(path: Path) -> list[Any]:
    return [(pair.good, pair.bad, pair.group) for pair in read_pairs(path)]


def _ours_of_labelled(path: Path) -> list[Any]:
    return [(one.prompt, one.label) for one in read_labelled(path)]


_ABLATE = "ablate --model small --component layers --"
READERS = {
    **{
        f"prompts.{kind}": Reader((f"{_ABLATE}prompts prompts.{kind}",), _ours_of_prompts, _prompts)
        for kind in ("jsonl", "json", "csv")
    },
    "pairs.tsv": Reader((f"{_ABLATE}pairs pairs.tsv",), _ours_of_pairs, _pairs),
    "labelled.jsonl": Reader(
        ("ablate --model classifier --component layers --labelled labelled.jsonl",),
        _ours_of_labelled,
        _labelled,
    ),
    **{
        f"predictions.{kind}": Reader(
            (f"calibrate --predictions predictions.{kind} --bins 3",),
            _ours_of_predictions,
            _predictions,
        )
        for kind in ("jsonl", "csv", "npz")
    },
    "test.conllu": Reader(
        (
            "geometry --model small --corpus test.conllu --method pca --sample 30",
            "capture --model small --site hook_embed --corpus test.conllu",
        ),
        _ours_of_corpus,
        _corpus,
    ),
    "lines.txt": Reader(
        ("capture --model small --site hook_embed --lines lines.txt",),
        lambda path: [line.rstrip("\n") for _, line in numbered_lines(path)],
        lambda path: [line for line in _lines(path) if line.strip()],
    ),
}
"""A file of the workplace -> how it is read."""
