"""The parts of a model, each edited in turn, measured on prompts: one mechanism under ablation and
patching.

The clean forward of a batch is recorded once (`hooks.Resume`). The copies that edit a block start
at that block's recorded input, several in one batch, and are joined on their way by the copies that
edit a later block; edits of a position in a causal model start at that position; and only the
positions that the metric reads are projected to the vocabulary, or to those tokens of it that the
metric reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import NothingChanged, Resume, Site, intervene
from ...hooks.activations import selected
from ...hooks.edits import Edit, Where
from ...hooks.teacher import TeacherForced
from ..metrics.metrics import Metric
from ..metrics.reads import MetricError, Reads
from ..subject import Subject
from ..subject.batches import Batch
from .components import Component

T = TypeVar("T")

READ_BYTES = 1 << 28
"""Most memory for the logits of one packed batch."""
PACK = {"cpu": 1024, "cuda": 16384}
"""Most positions of a packed batch: where products are fastest;
more only leave the processor's cache.
"""
SMALL_PACK = 64
"""Positions that make a batch worth its products:
edits of neighbouring positions start together until there are so many.
"""


@dataclass(frozen=True)
class Chunk:
    """Prompts that share a batch.

    Args:
        prompts: which of all prompts.
        batch: their texts; ``reads`` speaks of its rows and of the prompts' places in this chunk.
    """

    prompts: list[int]
    batch: Batch
    reads: Reads


def chunks(
    subject: Subject, reads: Reads, tokens: int, only: Collection[int] | None = None
) -> Iterator[Chunk]:
    """Prompts by falling length, as many to a batch as hold about ``tokens`` positions (at least
    one).

    Args:
        only: some of the prompts; by default all.

    Raises:
        MetricError: texts of one prompt differ in length and this architecture cannot be padded.
    """
    texts_of: dict[int, set[int]] = {}
    for text, _, _, prompt in reads.places.tolist():
        if only is not None and prompt not in only:
            continue
        texts_of.setdefault(prompt, set()).add(text)
    length = {}
    for prompt, texts in texts_of.items():
        length[prompt] = max(len(reads.texts[text]) for text in texts)
    # What a processor makes of a picture and its text is not padded.
    has_pictures = any(text.picture is not None for text in reads.texts)
    order = sorted(texts_of, key=lambda prompt: (-length[prompt], prompt))
    # The longest that is left opens a batch, which is then as wide as it.
    while order:
        together, n_texts = [], 0
        longest = length[order[0]]
        for prompt in order:
            fits = (n_texts + len(texts_of[prompt])) * longest <= tokens
            can_pad = subject.padding.right.possible and not has_pictures
            can_pad = can_pad or length[prompt] == longest
            if together and not (fits and can_pad):
                break
            together.append(prompt)
            n_texts += len(texts_of[prompt])
        order = order[len(together) :]
        # A text of two prompts is read for each of them.
        texts = sorted(text for prompt in together for text in texts_of[prompt])
        yield _chunk(subject, reads, together, texts)


ONE_BATCH = 1 << 40
"""Tokens of a batch that is never full."""


def _chunk(subject: Subject, reads: Reads, prompts: list[int], texts: Sequence[int]) -> Chunk:
    """Some prompts and their texts as a batch;
    reads are numbered by its rows and by the prompts' places in it.
    """
    # A model that cannot be padded makes a batch of each length.
    batches = list(subject.batches([reads.texts[text] for text in texts], tokens=ONE_BATCH))
    if len(batches) > 1:
        why = subject.padding.right.why or "a picture and its text are not padded"
        raise MetricError(f"{subject.name}: {why}; these texts differ in length")
    batch = batches[0]
    row_of = {texts[place]: row for row, place in enumerate(batch.rows)}
    number_of = {prompt: number for number, prompt in enumerate(prompts)}
    is_chosen = torch.isin(reads.places[:, 3], torch.tensor(prompts))
    places = []
    for text, position, target, prompt in reads.places[is_chosen].tolist():
        row = row_of[text]
        # Logits are of the target alone in an encoder-decoder, and of the tokens behind a picture's
        # cells.
        places.append((row, position - batch.n_before[row], target, number_of[prompt]))
    ordered = [reads.texts[texts[place]] for place in batch.rows]
    words = reads.words[is_chosen] if reads.words is not None else None
    of_batch = Reads(ordered, torch.tensor(places), reads.weights[is_chosen], words)
    return Chunk(prompts, batch, of_batch)


class Sweep:
    """A batch of prompts whose clean forward is kept; edits are measured against it.

    Attributes:
        clean: the metric without edits, [prompts].
        changed: which components of the last `effects` had an activation that their edit changed.
    """

    def __init__(self, subject: Subject, metric: Metric, chunk: Chunk) -> None:
        self.model, self.metric, self.chunk = subject.model, metric, chunk
        self.tokens = pack(subject.device)
        inputs, positions = chunk.batch.inputs(subject.device), chunk.reads.positions
        # An encoder-decoder has two stacks, and no block of the first is followed by all others.
        self.resume: Resume | TeacherForced = (
            Resume(self.model, inputs, positions, metric.readout)
            if chunk.batch.target is None
            else TeacherForced(self.model, inputs, positions)
        )
        self._baseline, self._reads, self._targets = self.resume.logits, chunk.reads, None
        if metric.of_targets and self.resume.exact:
            # Only the target tokens' logits are computed where the metric reads no others.
            self._reads, self._targets = chunk.reads.of_targets()
            self._baseline = self.resume.logits[:, self._targets]
        self.clean = self._value(self._baseline)[0]
        self.changed = np.zeros(0, dtype=bool)

    def effects(
        self,
        parts: Sequence[tuple[Component, Edit]],
        advance: Callable[[int], object] = lambda _: None,
    ) -> Float[np.ndarray, "components prompts"]:
        """Metric with the edit minus metric without, for each component on its own.

        Args:
            advance: called with the number of components that are done, now and then.

        Raises:
            MetricError: a value that is not finite.
        """
        values = np.empty((len(parts), len(self.clean)))
        self.changed = np.zeros(len(parts), dtype=bool)
        for numbers, read in self._ends(parts):
            with torch.no_grad():
                resume, logits = self.resume, read
                if isinstance(resume, Resume) and resume.exact:
                    logits = resume.finish(read, self._targets)
                values[numbers] = self._value(logits, [parts[i][0] for i in numbers])
            advance(len(numbers))
        # Effects are differences to the run without edits.
        values -= self.clean
        is_sound = np.isfinite(values)
        if not is_sound.all():
            first = int(np.argwhere(~is_sound)[0, 0])
            component, _ = parts[first]
            raise MetricError(
                f"metric {self.metric.name} is not finite with {component.site} edited"
            )
        return values

    @property
    def _read_bytes(self) -> int:
        """Bytes that a copy takes where it ends: the stream at the places that are read,
        and the logits that are made of it.
        """
        n_read = len(self.chunk.reads.positions)
        return 4 * (n_read * self.resume.width + self._baseline.numel())

    @torch.no_grad()
    def _ends(self, parts: Sequence[tuple[Component, Edit]]) -> Iterator[tuple[list[int], Tensor]]:
        """Which components, and what is read of their copies;
        as many together as are projected to the vocabulary at once.
        """
        most = max(1, READ_BYTES // self._read_bytes)
        # In half precision a row's last bits may depend on the batch it is in: copies start again
        # from one layer.
        if not isinstance(self.resume, Resume) or not self.resume.exact:
            at_once = min(most, self._copies(0))
            for layer, name, of_site in _by_site(range(len(parts)), parts):
                for numbers in runs(of_site, at_once):
                    yield numbers, self._edited(layer, name, parts, numbers, 0, None)
            return
        waiting: list[tuple[list[int], Tensor]] = []
        for start, from_start in self._starts(parts).items():
            at_once = min(most, self._copies(start))
            for numbers, read in self._joined(from_start, parts, start, at_once):
                n_waiting = sum(len(others) for others, _ in waiting)
                if waiting and n_waiting + len(numbers) > most:
                    yield _together(waiting)
                    waiting = []
                waiting.append((numbers, read))
        if waiting:
            yield _together(waiting)

    def _joined(
        self, numbers: Sequence[int], parts: Sequence[tuple[Component, Edit]], start: int, most: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Components that first change the position ``start``, from the first edited block up:
        each block's join the others.
        """
        resume = self.resume
        assert isinstance(resume, Resume)
        running: list[int] = []
        residual, layer_at = resume.residual(0), 0
        for layer, name, of_site in _by_site(numbers, parts):
            for joining in runs(of_site, most):
                if len(running) + len(joining) > most:
                    # Full: those that run go on to the end without the new ones.
                    yield running, resume.run(layer_at, residual, start=start, finish=False)
                    running = []
                edited = self._edited(layer, name, parts, joining, start, layer + 1)
                if running:
                    behind = resume.run(layer_at, residual, start=start, until=layer + 1)
                    edited = torch.cat([behind, edited])
                running, residual, layer_at = running + joining, edited, layer + 1
        if running:
            yield running, resume.run(layer_at, residual, start=start, finish=False)

    def _starts(self, parts: Sequence[tuple[Component, Edit]]) -> dict[int, list[int]]:
        """Where components start -> those components: a position that they change,
        or one a little before it.
        """
        changed_at: dict[int, list[int]] = {}
        for i, (component, _) in enumerate(parts):
            # In a causal model nothing before an edited position can change.
            is_late = component.kind == "positions" and self.resume.causal
            position = (component.index or 0) if is_late else 0
            changed_at.setdefault(position, []).append(i)
        rows, length = self.chunk.batch.input_ids.shape
        starts: dict[int, list[int]] = {}
        start, n_positions = 0, 0
        for position in sorted(changed_at):
            n_computed = n_positions * rows * (length - start)
            if not starts or n_computed >= SMALL_PACK:
                start, n_positions, starts[position] = position, 0, []
            starts[start] += changed_at[position]
            n_positions += 1
        return starts

    def _copies(self, start: int) -> int:
        """How many copies of the batch run together from a position on."""
        batch = self.chunk.batch
        return max(1, self.tokens // (batch.n_positions - start * len(batch)))

    def _edited(
        self,
        layer: int,
        name: str,
        parts: Sequence[tuple[Component, Edit]],
        numbers: Sequence[int],
        start: int,
        until: int | None,
    ) -> Tensor:
        """Copies that each edit the site ``name`` in a way of their own, as `Resume.run` gives
        them.

        Args:
            numbers: which of ``parts``, a copy for each.
        """
        size, mask = self.resume.batch, self.chunk.batch.mask_of(name)
        needs = tuple(dict.fromkeys(need for i in numbers for need in parts[i][1].needs))

        def apply(value: Tensor, where: Where) -> Tensor:
            edited = value.clone()
            for copy, i in enumerate(numbers):
                component, edit = parts[i]
                rows = slice(copy * size, (copy + 1) * size)
                of_copy = edited[rows]
                live = {need: whole[rows] for need, whole in where.live.items()}
                selection = selected(of_copy, component.site)
                before = of_copy[selection]
                place = replace(where, site=component.site, start=start, mask=mask, live=live)
                after = edit(before, place)
                self.changed[i] |= _differs(before, after, mask[:, start:])
                of_copy[selection] = after
            return edited

        site = Site(name)
        if not needs and isinstance(self.resume, Resume):
            # What stands before the site is equal in all copies, and runs once.
            self.resume.share(layer, site.part)
        together = Edit(f"{len(numbers)} edits, one a copy", apply, needs, given="value")
        with warnings.catch_warnings(), intervene(self.model, {site: together}):
            # `changed` tells which component did nothing
            warnings.simplefilter("ignore", NothingChanged)
            # Copy by copy: rows k * size to (k + 1) * size belong to the k-th edit.
            return self.resume.again(len(numbers), layer, name, start=start, until=until)

    def _value(
        self, logits: Tensor, edited: Sequence[Component] = ()
    ) -> Float[np.ndarray, "copies prompts"]:
        """The metric of each copy;
        a rank or a share of right answers would hide a logit that is NaN, so they are looked at.
        """
        copies = logits.view(-1, *self._baseline.shape)
        is_sound = copies.amax((1, 2)) < torch.inf  # of NaN the comparison is false too
        if not is_sound.all():
            where = "without edits"
            if edited:
                first = int(is_sound.int().argmin())
                where = f"with {edited[first].site} edited"
            raise MetricError(f"expected logits that are numbers, got NaN or infinity {where}")
        return self.metric.value(copies, self._baseline, self._reads).double().cpu().numpy()


def _differs(before: Tensor, after: Tensor, mask: Tensor) -> bool:
    """Whether any token's values differ; padding does not count."""
    if before.shape[:2] != mask.shape:  # inside attention, with a pair of tokens a value
        return not torch.equal(before, after)
    is_other = before != after
    if before.ndim > 2:
        is_other = is_other.flatten(2).any(2)
    return bool((is_other & mask.bool().to(is_other.device)).any())


def _together(packs: Sequence[tuple[list[int], Tensor]]) -> tuple[list[int], Tensor]:
    """Several packs as one."""
    numbers = [i for pack, _ in packs for i in pack]
    return numbers, torch.cat([read for _, read in packs])


def _by_site(
    numbers: Sequence[int], parts: Sequence[tuple[Component, Edit]]
) -> Iterator[tuple[int, str, list[int]]]:
    """Some of the components by layer and site."""
    by_site: dict[tuple[int, str], list[int]] = {}
    for i in numbers:
        component, _ = parts[i]
        by_site.setdefault((component.layer, component.site.name), []).append(i)
    for (layer, name), of_site in sorted(by_site.items()):
        yield layer, name, of_site


def runs(items: Sequence[T], most: int) -> Iterator[list[T]]:
    """So many at a time."""
    for start in range(0, len(items), most):
        yield list(items[start : start + most])


def pack(device: torch.device | str) -> int:
    """Most positions of a packed batch."""
    return PACK.get(torch.device(device).type, PACK["cuda"])


def clean_values(
    subject: Subject, metric: Metric, groups: Sequence[Chunk]
) -> Float[np.ndarray, " prompts"]:
    """The metric of every prompt, without edits."""
    out = np.empty(sum(len(chunk.prompts) for chunk in groups))
    for chunk in groups:
        out[chunk.prompts] = Sweep(subject, metric, chunk).clean
    return out
