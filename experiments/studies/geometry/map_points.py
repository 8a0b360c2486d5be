"""Which words a study of geometry looks at,
and how long their vectors are by position in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....hooks import Site, observe
from ...corpus import Corpus
from ...features.layout import Layout
from ...report.schema import Note
from ...runs.folder import RunError
from ...subject import Subject
from . import maps
from .options import GeometryOptions

FEW = 30
"""Words below which a map says nothing."""
POSITIONS = 16
"""First positions whose vectors' lengths are reported one by one."""


class DrawnWords:
    """The words that are drawn on the maps: which, where they are among the features,
    and in what sentence.
    """

    def __init__(
        self, subject: Subject, other: Subject | None, corpus: Corpus, options: GeometryOptions
    ) -> None:
        self.corpus, self._subject = corpus, subject
        self.layout = Layout.of(subject, corpus.sentences)
        self.other_layout = Layout.of(other, corpus.sentences) if other else self.layout
        # Without a BOS the first word is where attention sinks: its vector is like no other word's.
        self._first = 0 if subject.bos is not None or not subject.causal else 1
        usable = self._usable()
        rng = np.random.default_rng(options.seed)
        picked = sorted(rng.permutation(len(usable))[: options.sample].tolist())
        self.chosen = [usable[p] for p in picked]
        self.n_usable = len(usable)
        if len(self.chosen) < FEW:
            raise RunError(
                f"expected at least {FEW} words to draw, got {len(self.chosen)}: "
                "more sentences, or --sample"
            )

    def _usable(self) -> list[tuple[int, int]]:
        """Sentence and place of every word that has a vector in both models."""
        usable = []
        lines = zip(self.layout.rows, self.other_layout.rows, strict=True)
        for sentence, (line, other_line) in enumerate(lines):
            for i, (row, other_row) in enumerate(zip(line, other_line, strict=True)):
                if row is not None and other_row is not None and i >= self._first:
                    usable.append((sentence, i))
        return usable

    @property
    def rows(self) -> list[int]:
        """Their rows in the features."""
        return [row for s, i in self.chosen if (row := self.layout.rows[s][i]) is not None]

    @property
    def other_rows(self) -> list[int]:
        """Their rows in the other model's features."""
        return [row for s, i in self.chosen if (row := self.other_layout.rows[s][i]) is not None]

    @property
    def sentences(self) -> np.ndarray:
        """The sentence of each."""
        return np.array([s for s, _ in self.chosen])

    def shown(self, labels: dict[str, np.ndarray]) -> dict[str, Any]:
        """What the page says of each: sentence, place in it, and its labels."""
        used = sorted({s for s, _ in self.chosen})
        place = {s: k for k, s in enumerate(used)}
        return {
            "sentences": [[w.form for w in self.corpus.sentences[s].words] for s in used],
            "at": [[place[s], i] for s, i in self.chosen],
            "labels": {name: values.tolist() for name, values in labels.items()},
        }

    def notes(self, options: GeometryOptions) -> list[Note]:
        """What was left out, drawn and approximated."""
        notes = []
        if truncated := self.layout.n_lost - self.layout.n_unknown:
            text = f"{truncated:,} words without tokens (truncated) left out"
            notes.append(Note(kind="dropped", text=text))
        if self.layout.n_unknown:
            text = (
                f"{self.layout.n_unknown:,} words unknown to the tokenizer have no vector and "
                "are left out"
            )
            notes.append(Note(kind="dropped", text=text))
        if self._first:
            text = "the first word of each text is left out: without a BOS it is the attention sink"
            notes.append(Note(kind="info", text=text))
        text = (
            f"all figures are for {len(self.chosen):,} of {self.n_usable:,} words, "
            f"drawn at random (seed {options.seed}). Maps other than PCA start from "
            f"{maps.KEPT} principal components and are rotated to match the previous layer"
        )
        return [*notes, Note(kind="info", text=text)]


def norms_by_position(
    subject: Subject, layout: Layout, places: Sequence[str], texts: int = 100
) -> dict[str, dict[str, Any]]:
    """The mean length of the vector at each of the first positions, a BOS included;
    and the median of all others'.
    """
    encoded = layout.encoded[:texts]
    sums: dict[str, Tensor] = {
        site: torch.zeros(POSITIONS, 2, dtype=torch.float64) for site in places
    }
    later: dict[str, list[Tensor]] = {site: [] for site in places}
    for batch in subject.batches(encoded, 2048):
        mask = batch.attention_mask.bool()

        def see(site: Site, value: Tensor, mask: Tensor = mask) -> None:
            size = value.flatten(2).float().norm(dim=-1).cpu().double()
            n = min(POSITIONS, size.shape[1])
            # Texts are padded on the right, so that a column is the same position in all of them.
            sums[str(site)][:n, 0] += (size * mask)[:, :n].sum(0)
            sums[str(site)][:n, 1] += mask[:, :n].sum(0)
            # The first token of many models is ten or a hundred times as long: it is kept out of
            # the median.
            later[str(site)].append(size[:, 1:][mask[:, 1:]])

        with torch.inference_mode(), observe(subject.model, *places, see=see):
            subject.forward(batch)
    out = {}
    for site, table in sums.items():
        means = [float(total / n) if n else None for total, n in table.tolist()]
        out[site] = {
            "norms": means,
            "norm_first": means[0],
            "norm_others": float(torch.cat(later[site]).median()),
        }
    return out
