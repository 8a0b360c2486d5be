"""Activations of a text, or of files, on disk: the model runs once, and every later study reads.

Text goes by in windows of `features.WINDOW` texts, sorted by length within each, so that memory
does not grow with it. A batch is a shard; interrupted, the next start continues with the batch that
is missing, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ....hooks import ActivationStore, Site
from ...corpus import Corpus, Sentence, read_conllu
from ...corpus.items import all_items
from ...corpus.prompts import numbered_lines
from ...features.layout import WINDOW, End, Layout, Piece, Writer, pieces, sealed, windows
from ...features.memory import Need, as_bytes, as_limit, site_widths
from ...features.sites import vector_sites
from ...features.stored import made_from
from ...metrics.usable import usable_items
from ...report.schema import Finding, Note
from ...report.words import plural, size
from ...runs import console
from ...runs.engine import Engine, Local
from ...runs.execute import Cost, DataFile, Inputs, Load, Run, load_subject
from ...runs.folder import RunError, file_sha256
from ...runs.shared_options import MEDIA, media_of
from ...subject import Subject
from ...subject.media import checker
from .options import CaptureOptions
from .records import Results, SiteRecord, StoreRecord, texts_of

LEVELS = {
    "corpus": ("word", "token"),
    "lines": ("token",),
    "images": ("item",),
    "audio": ("item",),
}
"""Option that names the data -> what a row can be, the default first."""


@dataclass(kw_only=True)
class CaptureInputs(Inputs):
    """What a capture has read.

    Args:
        source: the texts.
        sites: whose values are written.
        widths: values of a row at each site.
        need: bytes that it takes.
        rows: how many rows are expected, and ``mean_length`` the tokens of a text.
        notes: what was left out.
    """

    source: Source
    sites: list[str]
    widths: dict[str, int]
    need: Need
    rows: int
    mean_length: float
    notes: Sequence[Note]

    @property
    def max_ram(self) -> int | None:
        """What ``--max-ram`` allows, in bytes."""
        return as_limit(self.options.max_ram)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch: as many as asked, or as the memory allows."""
        return self.need.batch_tokens(self.options.batch_tokens, self.max_ram, self.mean_length)

    @property
    def folder(self) -> Path | str:
        """Where the shards go."""
        return self.options.to or self.options.out / "store"

    @property
    def disk(self) -> int:
        """Bytes of all shards."""
        return self.rows * self.need.row

    def memory(self, batch_tokens: int) -> int:
        """Peak of the process with batches of so many tokens."""
        return self.need.memory(batch_tokens, round(WINDOW * self.mean_length))


def prepare(options: CaptureOptions, load: Load) -> CaptureInputs:
    """The texts, the model, and the room that its values take.

    Raises:
        RunError: more memory or disk than is allowed or free; a run that is finished with its store
            elsewhere.
    """
    # Bad options are found before the model is loaded.
    as_limit(options.max_ram)
    kind_and_level(options)
    media = media_of(options)
    left_out: list[Note] = []
    # Before tables of files: which of them it can be given is the model's to say.
    subject = None if media is None else load(body_only=True, media=media)
    source = Source.of(options, subject, left_out)
    subject = subject or load(body_only=True)
    sites = vector_sites(subject, options.site)
    widths = site_widths(subject, sites)
    rows, mean_length = source.expected(subject)
    inputs = CaptureInputs(
        options=options,
        subject=subject,
        data=source.data,
        source=source,
        sites=sites,
        widths=widths,
        need=Need.of(subject, widths, getattr(torch, options.store_as)),
        rows=rows,
        mean_length=mean_length,
        notes=left_out,
    )
    store = ActivationStore(inputs.folder)
    if (options.out / "results.json").exists():
        if not store.sealed:
            raise RunError(
                f"{options.out}: this capture is finished, but not at --to {inputs.folder}: "
                "use another --out"
            )
    else:
        _check_room(options, store, inputs.disk)
    return inputs


def cost(inputs: CaptureInputs) -> Cost:
    """One pass over the texts, and the shards."""
    batch_tokens, asked = inputs.batch_tokens, inputs.options.batch_tokens
    memory = inputs.memory(batch_tokens)
    smaller = "" if batch_tokens == asked else f" (asked: {asked:,})"
    text = (
        f"about {plural(inputs.rows, 'row')} at {plural(len(inputs.sites), 'site')}, one pass; "
        f"{size(inputs.disk)} on disk; in memory up to {size(memory)}, "
        f"{size(inputs.need.resident)} of it already in use, with batches of {batch_tokens:,} "
        f"tokens{smaller}"
    )
    return Cost(text, memory=memory - inputs.need.resident, disk=inputs.disk)


def measure(inputs: CaptureInputs, run: Run) -> Results:
    """Write the shards, or those that are missing."""
    options, subject = inputs.options, inputs.subject
    # the same until the store is whole
    batch_tokens = run.folder.kept("batch_tokens", lambda: inputs.batch_tokens)
    run.memory |= {
        "held_bytes": inputs.memory(batch_tokens),
        "disk_bytes": inputs.disk,
        "batch_tokens": batch_tokens,
    }
    about = made_from(subject, inputs.source.level, options.pooling)
    about |= {
        "data": [{"sha256": data.sha256, "texts": data.size} for data in inputs.data],
        "sites": inputs.sites,
        "batch_tokens": batch_tokens,
    }
    store = ActivationStore(inputs.folder, about, dtype=getattr(torch, options.store_as))
    # Read before anything is written.
    is_resumed = store.n_shards > 0
    reader = Reader(
        subject.without_model(), inputs.source, inputs.need, inputs.max_ram, batch_tokens
    )
    with run.timed("capture"), console.progress() as bars:
        bar = bars.add_task("texts", total=inputs.source.size)
        written = _written(options, run.engine, subject, reader, inputs.sites, store)
        end = sealed(store, written, lambda n: bars.advance(bar, n))
    # Of a run that was resumed the shards of before took no time.
    speed = round(end.tokens / max(run.seconds["capture"], 0.1))
    run.speed["tokens_per_second"] = None if is_resumed else speed
    records = _records(inputs, store, end)
    whole = StoreRecord(rows=end.rows, texts=end.texts, shards=end.shards, bytes=store.size())
    top, level = max(records, key=lambda record: record.largest), inputs.source.level
    text = (
        f"{store.folder} holds {end.rows:,} {level}s of {end.texts:,} {texts_of(level)} at "
        f"{len(records)} sites ({size(whole.bytes)}). The largest value is "
        f"{top.largest:.4g}, at {top.site}."
    )
    return Results(
        records=records,
        store=whole,
        findings=[Finding(property="store", text=text)],
        notes=[*inputs.notes, *_notes(end, level)],
    )


def _records(inputs: CaptureInputs, store: ActivationStore, end: End) -> list[SiteRecord]:
    """One record a site."""
    dtype = inputs.options.store_as
    value_bytes = getattr(torch, dtype).itemsize
    records = []
    for site in inputs.sites:
        width = inputs.widths[site]
        records.append(
            SiteRecord(
                site=site,
                layer=Site(site).layer,
                level=inputs.source.level,
                rows=end.rows,
                width=width,
                dtype=dtype,
                bytes=end.rows * width * value_bytes,
                largest=store.largest(site),
            )
        )
    return records


def _written(
    options: CaptureOptions,
    engine: Engine,
    subject: Subject,
    reader: Reader,
    sites: list[str],
    store: ActivationStore,
) -> Iterator[End]:
    """The shards, by this process's model or by one in each worker."""
    pooling: Any = options.pooling
    if isinstance(engine, Local):
        return map(Writer(subject, sites, store, pooling), reader())
    theirs = ActivationStore(
        str(store.folder), store.about, dtype=getattr(torch, options.store_as), shared=True
    )
    return engine.stream(reader, partial(_worker, options, sites, theirs))


def _worker(options: CaptureOptions, sites: list[str], store: ActivationStore) -> Writer:
    """A worker of an engine, with a model of its own."""
    pooling: Any = options.pooling
    subject = load_subject(options, body_only=True, media=media_of(options))
    return Writer(subject, sites, store, pooling, at_once=True)


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
        of_window = Layout.of_tokens if self.source.level == "token" else Layout.of
        for window in windows(self.source.texts(), WINDOW):
            layout = of_window(self.subject, window)
            self.need.check(layout, self.ram)
            yield layout


def kind_and_level(options: CaptureOptions) -> tuple[str, str]:
    """The option that names the texts, and what their rows are.

    Raises:
        RunError: none or several kinds of data, or a level that they do not have.
    """
    kinds = [name for name in LEVELS if getattr(options, name)]
    if len(kinds) != 1:
        got = " and ".join(f"--{name}" for name in kinds) or "none"
        raise RunError(f"expected one of --{', --'.join(LEVELS)}, got {got}")
    (kind,) = kinds
    level = options.level or LEVELS[kind][0]
    if level not in LEVELS[kind]:
        raise RunError(
            f"--level {level}: expected {' or '.join(LEVELS[kind])} as a row of --{kind}"
        )
    return kind, level


@dataclass(frozen=True)
class Source:
    """The texts of a capture, and where they are from."""

    corpora: tuple[Corpus, ...]
    lines: Path | None
    limit: int | None
    level: str
    data: list[DataFile]

    @property
    def size(self) -> int:
        """Texts in all files."""
        return sum(data.size for data in self.data)

    @classmethod
    def of(cls, options: CaptureOptions, subject: Subject | None, notes: list[Note]) -> Source:
        """What the options name.

        Args:
            subject: the model, where the texts are pictures or sounds.
            notes: is given what of a table is left out.

        Raises:
            RunError: see `kind_and_level`; no text at all.
            CorpusError, PromptError, OSError: a file that cannot be read.
        """
        kind, level = kind_and_level(options)
        if kind in MEDIA:
            assert subject is not None
            tables: list[Corpus] = []
            for path in getattr(options, kind):
                table, left_out = usable_items(path, all_items, checker(subject), options.skip)
                tables.append(replace(table, sentences=table.sentences[: options.limit]))
                notes += left_out
            corpora = tuple(tables)
        else:
            corpora = tuple(read_conllu(path, options.limit) for path in options.corpus)
        files = [(corpus.path, corpus.sha256, len(corpus)) for corpus in corpora]
        if options.lines is not None:
            _require_lasting(options.lines)
            size = sum(1 for _ in islice(numbered_lines(options.lines), options.limit))
            if not size:
                raise RunError(f"{options.lines}: expected at least one text, got none")
            files = [(options.lines, file_sha256(options.lines), size)]
        data = []
        for number, (path, sha256, size) in enumerate(files, 1):
            name = "text" if len(files) == 1 else f"text {number}"
            data.append(DataFile(name, str(path), sha256, size))
        return cls(corpora, options.lines, options.limit, level, data)

    def texts(self) -> Iterator[Sentence | str]:
        """The texts in order; lines are read as they are needed."""
        if self.lines is not None:
            yield from islice((line.strip() for _, line in numbered_lines(self.lines)), self.limit)
        for corpus in self.corpora:
            yield from corpus

    def expected(self, subject: Subject) -> tuple[int, float]:
        """Rows in all and tokens a text: words and items are counted,
        tokens taken to be as many as in the first texts.
        """
        first = self._first()
        tokens = sum(map(len, subject.encode(first))) / len(first)
        if self.level != "token":
            return sum(corpus.n_words for corpus in self.corpora), tokens
        return round(self.size * tokens), tokens

    def _first(self) -> list[str]:
        return [t if isinstance(t, str) else t.text for t in islice(self.texts(), 256)]


def _require_lasting(path: Path) -> None:
    """Refuse a pipe: lines are counted, hashed and read, each from the beginning.

    Raises:
        RunError: a pipe, or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RunError(
            f"--lines {path}: expected a file, which is read several times, "
            "got a pipe or a device: write it to a file"
        )


def _check_room(options: CaptureOptions, store: ActivationStore, need: int) -> None:
    """Refuse a disk that does not suffice.

    Raises:
        RunError: more than is allowed, or than is free.
    """
    free, done = store.folder.free(), store.size()
    if options.max_disk is not None:
        allowed = as_bytes(options.max_disk, "--max-disk")
        if need > allowed:
            raise RunError(
                f"--max-disk {size(allowed)}: the rows need about {size(need)}: "
                "take fewer sites, a smaller type (--store-as) or fewer texts (--limit)"
            )
    if free is not None and need - done > free:
        raise RunError(
            f"{store.folder}: the rows need {size(need - done)}, {size(free)} are free there"
        )


def _notes(end: End, level: str) -> list[Note]:
    """What was cut, lost or halved."""
    lost = f"{end.lost} words have no tokens (truncated) and therefore no row"
    if level == "item":
        lost = f"{end.lost} stretches start after the end of what the model hears and have no row"
    counted = [
        (
            "warning",
            end.cut,
            f"{end.cut} {texts_of(level)} exceed the model's maximum length and are truncated",
        ),
        ("dropped", end.lost, lost),
        ("warning", end.halved, f"a batch was halved {end.halved} times for lack of memory"),
    ]
    return [Note(kind=kind, text=text) for kind, count, text in counted if count]
