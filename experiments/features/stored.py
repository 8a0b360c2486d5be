"""Features that a study reads: from the store of an earlier capture, or from one that the model
fills now. One code for both.

A store serves a study if it was made by the same model, tokenizer, BOS, pooling and type of
weights, and holds the study's sites and the sentences of its files, whatever else it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...hooks import ActivationStore
from ...probes import Moments
from ...probes.rows import OnDisk
from ..corpus import Corpus, read_conllu
from ..corpus.items import Items
from ..runs import console
from ..runs.engine import Engine
from ..runs.execute import DataFile
from ..runs.folder import versions
from ..subject import Subject
from .layout import FeatureError, Layout, extract

_FREE = ("model", "layerscope")
"""What a store says of itself that need not be the study's: the model's name, the version."""
_WORDS = 1 << 20
"""More words than any sentence has."""


@dataclass(frozen=True)
class Features:
    """Rows of a store, in the order of a layout.

    Args:
        rows: which rows; None for all of them, as they are.
    """

    store: ActivationStore
    rows: Int[Tensor, " n"] | None = None

    def read(self, site: str) -> Float[Tensor, "n d"]:
        """One site's vectors in float32; no other site is touched."""
        return self.store.read(site, self.rows).float().flatten(1)

    def load(self, site: str, hold: int | None, folder: Path) -> Float[Tensor, "n d"] | OnDisk:
        """The same in memory, or, with a number of bytes to hold, in a file without a name in
        ``folder``, by one pass over the shards."""
        if hold is None:
            return self.read(site)
        out = OnDisk((self.n_rows, self.store.width(site)), folder, hold)
        for number in range(self.store.n_shards):
            places, values = self.part(number, site)
            out[places] = values
        return out

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.store.n_rows if self.rows is None else len(self.rows)

    @cached_property
    def _sorted(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        wanted = torch.arange(self.store.n_rows) if self.rows is None else self.rows
        order = torch.argsort(wanted, stable=True)
        return order, wanted[order]

    def part(self, number: int, site: str) -> tuple[Int[Tensor, " m"], Float[Tensor, "m d"]]:
        """One shard's rows that are wanted, in float32, and which of the layout's they are."""
        index, values = self.store.shard(number, site)
        order, keys = self._sorted
        here = index[:, 0].contiguous()
        first = torch.searchsorted(keys, here)
        count = torch.searchsorted(keys, here, right=True) - first
        # a row may be wanted more than once
        source = torch.repeat_interleave(torch.arange(len(here)), count)
        nth = torch.arange(len(source)) - torch.repeat_interleave(count.cumsum(0) - count, count)
        return order[first[source] + nth], values[source].float().flatten(1)

    def moments(self, site: str, labels: np.ndarray, engine: Engine) -> Moments:
        """Counts, means and scatter by class, by one pass over the shards, merged in a tree.

        Args:
            labels: of each row of the layout; rows with None are left out.
        """
        return engine.reduce(
            partial(_moments, self, site, labels), range(self.store.n_shards), Moments.merge
        )


def _moments(features: Features, site: str, labels: np.ndarray, number: int) -> Moments:
    places, values = features.part(number, site)
    of = labels[places.numpy()]
    known = np.array([label is not None for label in of], dtype=bool)
    return (
        Moments().update(values[torch.from_numpy(known)], of[known].tolist())
        if known.any()
        else Moments()
    )


def made_from(subject: Subject, unit: str, pooling: str) -> dict[str, Any]:
    """What decides the vectors of a text,
    in the order in which a study compares it with a store.
    """
    return {
        "model": subject.name,
        "weights": str(subject.dtype).removeprefix("torch."),
        "model_sha256": subject.sha256,
        "tokenizer_sha256": subject.tokenizer_sha256,
        "bos": subject.bos,
        "max_length": subject.max_length,
        "unit": unit,
        "pooling": None if unit == "token" else pooling,
        "layerscope": versions()["layerscope"],
    }


def read_or_run(
    where: str | None,
    subject: Subject,
    corpora: Iterable[Corpus],
    layout: Layout,
    places: Sequence[str],
    store: ActivationStore,
    pooling: Any,
    batch_tokens: int,
) -> Features:
    """A study's vectors: those of the capture that it names, or else the model's, which are kept in
    ``store``.

    Raises:
        FeatureError, StoreError: see `stored` and `extract`.
    """
    if where is not None:
        return stored(where, subject, corpora, layout, places, pooling)
    with console.progress() as bars:
        bar = bars.add_task("features", total=len(layout.encoded))
        settings: dict[str, Any] = {"pooling": pooling, "batch_tokens": batch_tokens}
        extract(subject, layout, places, store, advance=lambda n: bars.advance(bar, n), **settings)
    return Features(store)


def stored(
    where: str,
    subject: Subject,
    corpora: Iterable[Corpus],
    layout: Layout,
    places: Sequence[str],
    pooling: str,
) -> Features:
    """The rows of a capture's store that are the words of a study.

    Args:
        where: the capture's folder, or its store's folder or URL.
        corpora: the study's sentences, in the order of its layout.

    Raises:
        FeatureError: no store there, or one that does not serve this study, with what is missing.
        StoreError: a shard that is damaged or missing.
    """
    store = open_store(where)
    wanted, about = made_from(subject, subject.unit, pooling), store.about
    for name, value in wanted.items():
        if name not in _FREE and about.get(name) != value:
            raise FeatureError(
                f"--store {where}: expected {name} {value}, it was made with {about.get(name)}"
            )
    for place in places:
        if place not in store.sites:
            first = ", ".join(store.sites[:3])
            raise FeatureError(f"--store {where}: expected site {place}, it holds {first}, ...")
    # Sentence and word make one sorted key, so that all rows are found in one search.
    numbers = _numbers(where, about["data"], list(corpora))
    wanted_keys = []
    for number, spans in zip(numbers, layout.spans, strict=True):
        for word, span in enumerate(spans):
            if span is not None:
                wanted_keys.append(number * _WORDS + word)
    keys, asked = store.index[:, 1] * _WORDS + store.index[:, 2], torch.tensor(wanted_keys)
    # A key beyond the last is missing too; clamped, it is seen to differ.
    rows = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    missing = int((keys[rows] != asked).sum())
    if missing:
        raise FeatureError(
            f"--store {where}: {missing} of {len(asked)} words are not in it: "
            "capture with a larger --limit"
        )
    return Features(store, rows)


def store_data(where: str | None) -> list[DataFile]:
    """The capture that a study reads, as data of its run; nothing where it reads none.

    Raises:
        FeatureError, StoreError: see `open_store`.
    """
    if where is None:
        return []
    store = open_store(where)
    return [DataFile("store", where, store.sha256, 0)]


def open_store(where: str) -> ActivationStore:
    """The store in a folder, or in a capture's folder.

    Raises:
        FeatureError: there is none.
    """
    places = [where] if "://" in where else [where, str(Path(where) / "store")]
    for place in places:
        store = ActivationStore(place)
        if store.sealed:
            return store
    raise FeatureError(
        f"--store {where}: expected a folder that layerscope capture has finished, "
        "found no store.json"
    )


def _numbers(where: str, data: Sequence[dict[str, Any]], corpora: Sequence[Corpus]) -> list[int]:
    """The number that each sentence has in the store: by its file, and its place there."""
    first, count = {}, 0
    for file in data:
        first[file["sha256"]] = count
        count += int(file["texts"])
    places: dict[str, dict[str, int]] = {}
    numbers = []
    for corpus in corpora:
        if corpus.sha256 not in first:
            raise FeatureError(
                f"--store {where} holds nothing of {corpus.path}: capture that file too"
            )
        if corpus.sha256 not in places:
            is_table = isinstance(corpus, Items)
            names = corpus.files if is_table else [s.id for s in read_conllu(corpus.path)]
            places[corpus.sha256] = {name: place for place, name in enumerate(names)}
        numbers += [first[corpus.sha256] + places[corpus.sha256][s.id] for s in corpus]
    return numbers
