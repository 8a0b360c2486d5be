"""Activations of a text on disk: the model runs once, and every later study reads.

Text goes by in windows of `features.WINDOW` texts, sorted by length within each, so that memory does not grow with it. A
batch is a shard; interrupted, the next start continues with the batch that is missing, to the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ....hooks import ActivationStore, Site
from ...corpus import Corpus, Sentence, read_conllu
from ...corpus.prompts import numbered_lines
from ...features.layout import WINDOW, End, Layout, Piece, Writer, pieces, sealed, windows
from ...features.memory import Need, as_bytes, site_widths
from ...features.sites import vector_sites
from ...features.stored import made_from
from ...forecast import pass_seconds
from ...runs import console
from ...runs.engine import Engine, Local
from ...runs.execute import Run
from ...runs.folder import RunError, file_sha256
from ...subject import Subject
from .options import CaptureOptions


def run(config: CaptureOptions) -> dict[str, Any]:
    """Write a store, or continue it; returns what ``results.json`` holds.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this, source = Run("capture", config), Source.of(config)
    subject = this.load(body_only=True)
    places = vector_sites(subject, config.site)
    kind = getattr(torch, config.store_as)
    widths = site_widths(subject, places)
    need = Need.of(subject, widths, kind)
    ram = None if config.max_ram is None else as_bytes(config.max_ram, "--max-ram")
    rows, mean_length = source.expected(subject)
    batch_tokens = need.batch_tokens(config.batch_tokens, ram, mean_length)
    where = config.to or config.out / "store"
    _check_room(config, ActivationStore(where), rows * need.row)
    hashes = {d["path"]: d["sha256"] for d in source.data}
    if (finished := this.open(subject, hashes)) is not None:
        if not ActivationStore(where).sealed:
            raise RunError(f"{config.out}: this capture is finished, but not at --to {where}: use another --out")
        return finished

    batch_tokens = this.folder.cell("batch_tokens") or batch_tokens  # what was chosen holds until the store is whole
    plan = {
        "held_bytes": need.memory(batch_tokens, round(WINDOW * mean_length)),
        "disk_bytes": rows * need.row,
        "batch_tokens": batch_tokens,
    }
    smaller = "" if batch_tokens == config.batch_tokens else f" (asked: {config.batch_tokens:,})"
    text = (
        f"about {rows:,} rows at {len(places)} sites, one pass; {plan['disk_bytes'] / 1e9:.2f} GB on disk; in memory "
        f"up to {plan['held_bytes'] / 1e9:.2f} GB, {need.held / 1e9:.2f} GB of it held already, with batches of "
        f"{batch_tokens:,} tokens{smaller}"
    )
    cost = {"held": plan["held_bytes"] - need.held, "disk": plan["disk_bytes"]}
    if (planned := this.plan(text, **cost, seconds=lambda: source.seconds(subject, batch_tokens))) is not None:
        return planned
    this.folder.save_cell("batch_tokens", batch_tokens)
    texts = [{"sha256": d["sha256"], "texts": d["sentences"]} for d in source.data]
    about = made_from(subject, source.unit, config.pooling)
    about |= {"data": texts, "sites": places, "batch_tokens": batch_tokens}
    store = ActivationStore(where, about, dtype=kind)
    begun, mark = store.n_shards, time.perf_counter()
    reader = Reader(subject.without_model(), source, need, ram, batch_tokens)
    with console.progress() as bars:
        bar = bars.add_task("texts", total=sum(d["sentences"] for d in source.data))
        written = _written(config, this.engine, subject, reader, places, store)
        end = sealed(store, written, lambda n: bars.advance(bar, n))
    seconds = time.perf_counter() - mark
    records = [
        {
            "site": place,
            "layer": Site(place).layer,
            "unit": source.unit,
            "rows": end.rows,
            "width": widths[place],
            "dtype": config.store_as,
            "bytes": end.rows * widths[place] * kind.itemsize,
            "largest": store.largest(place),
        }
        for place in places
    ]
    held = {
        "rows": end.rows,
        "texts": end.texts,
        "shards": end.shards,
        "bytes": store.size(),
        "tokens_per_second": None if begun else round(end.tokens / seconds),
    }
    top = max(records, key=lambda r: r["largest"])
    text = (
        f"{end.rows:,} {source.unit}s of {end.texts:,} texts at {len(places)} sites: {held['bytes'] / 1e9:.2f} GB in "
        f"{store.folder}. The largest value is {top['largest']:.4g}, at {top['site']}."
    )
    findings = [{"property": "store", "text": text}]
    return this.finish(
        {"records": records, "findings": findings, "notes": _notes(end), "store": held},
        data=source.data,
        timings={"capture": round(seconds, 1)},
        memory=plan,
    )


def _written(
    config: CaptureOptions, engine: Engine, subject: Subject, reader: Reader, places: list[str], store: ActivationStore
) -> Iterator[End]:
    """The shards, by this process's model or by one in each worker."""
    pooling: Any = config.pooling
    if isinstance(engine, Local):
        return map(Writer(subject, places, store, pooling), reader())
    theirs = ActivationStore(str(store.folder), store.about, dtype=getattr(torch, config.store_as), shared=True)
    return engine.stream(reader, partial(_worker, config, places, theirs))


def _worker(config: CaptureOptions, places: list[str], store: ActivationStore) -> Writer:
    """A worker of an engine, with a model of its own."""
    pooling: Any = config.pooling
    return Writer(Run("capture", config).load(body_only=True), places, store, pooling, at_once=True)


@dataclass(frozen=True)
class Reader:
    """From the texts to the pieces that become shards, window by window; without a model.

    Raises:
        RunError: a text that ``ram`` does not suffice for.
    """

    subject: Subject
    source: Source
    need: Need
    ram: int | None
    batch_tokens: int

    def __call__(self) -> Iterator[Piece]:
        """The pieces, as they are needed."""
        return pieces(self.subject, self._layouts(), self.batch_tokens)

    def _layouts(self) -> Iterator[Layout]:
        for window in windows(self.source.texts(), WINDOW):
            layout = (
                Layout.of(self.subject, window)
                if self.source.unit == "word"
                else Layout.of_tokens(self.subject, window)
            )
            self.need.check(layout, self.ram)
            yield layout


@dataclass(frozen=True)
class Source:
    """The texts of a capture, and where they are from."""

    corpora: tuple[Corpus, ...]
    lines: Path | None
    limit: int | None
    unit: str
    data: list[dict[str, Any]]

    @classmethod
    def of(cls, config: CaptureOptions) -> Source:
        """What the configuration names.

        Raises:
            RunError: both or neither of corpus and text, words of plain text, no text at all.
            CorpusError, OSError: a file that cannot be read.
        """
        if bool(config.corpus) == (config.text is not None):
            raise RunError("expected --corpus or --text, one of the two")
        unit = config.unit or ("word" if config.corpus else "token")
        if unit == "word" and not config.corpus:
            raise RunError("--unit word needs annotated sentences (--corpus): plain text has tokens only")
        corpora = tuple(read_conllu(path, config.limit) for path in config.corpus)
        found = [(c.path, c.sha256, len(c)) for c in corpora]
        if config.text is not None:
            size = sum(1 for _ in islice(numbered_lines(config.text), config.limit))
            if not size:
                raise RunError(f"{config.text}: expected at least one text, got none")
            found = [(config.text, file_sha256(config.text), size)]
        data = [{"split": "text", "path": str(p), "sha256": sha, "sentences": size} for p, sha, size in found]
        return cls(corpora, config.text, config.limit, unit, data)

    def texts(self) -> Iterator[Sentence | str]:
        """The texts in order; lines are read as they are needed."""
        if self.lines is not None:
            yield from islice((line.strip() for _, line in numbered_lines(self.lines)), self.limit)
        for corpus in self.corpora:
            yield from corpus

    def expected(self, subject: Subject) -> tuple[int, float]:
        """Rows in all and tokens a text: words are counted, tokens taken to be as many as in the first texts."""
        some = self._first()
        tokens = sum(map(len, subject.encode(some))) / len(some)
        if self.unit == "word":
            return sum(c.n_words for c in self.corpora), tokens
        return round(sum(d["sentences"] for d in self.data) * tokens), tokens

    def seconds(self, subject: Subject, batch_tokens: int) -> float:
        """One pass over all texts, taken to be like the first."""
        some = self._first()
        return (
            sum(d["sentences"] for d in self.data)
            / len(some)
            * pass_seconds(subject, subject.encode(some), batch_tokens)
        )

    def _first(self) -> list[str]:
        return [t if isinstance(t, str) else t.text for t in islice(self.texts(), 256)]


def _check_room(config: CaptureOptions, there: ActivationStore, need: int) -> None:
    """Refuse a disk that does not suffice.

    Raises:
        RunError: more than is allowed, or than is free.
    """
    free, done = there.folder.free(), there.size()
    if config.max_disk is not None and need > (most := as_bytes(config.max_disk, "--max-disk")):
        raise RunError(
            f"--max-disk {most / 1e9:.2f} GB: the rows need about {need / 1e9:.2f} GB: take fewer sites, a smaller type "
            f"(--store-as) or fewer texts (--limit)"
        )
    if free is not None and need - done > free:
        raise RunError(
            f"{there.folder}: the rows need {(need - done) / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there"
        )


def _notes(end: End) -> list[dict[str, str]]:
    """What was cut, lost or halved."""
    said = [
        ("warning", end.cut, f"{end.cut} texts are longer than the model takes: cut at their end"),
        ("dropped", end.lost, f"{end.lost} words have no tokens (cut): no row"),
        ("warning", end.halved, f"memory did not suffice for every batch: {end.halved} times one was halved"),
    ]
    return [{"kind": kind, "text": text} for kind, count, text in said if count]
