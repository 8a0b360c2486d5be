"""One forward of a text under edits: what stands before the first edited block is not computed
again.

The clean forward is kept in `hooks.Resume`. Edits from block L on continue from that block's
recorded input, under `intervene` and `capture`; edits outside the blocks, and models whose end is
not known, run whole. Either way it is the forward that ``with intervene(model, edits):
model(**inputs)`` makes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerscope.errors import InputError

from ...hooks import NothingChanged, Reference, Resume, Site, capture, edits, intervene
from ...hooks.edits import Edit
from ..attribution.lookups import EMBED, moments, tables
from ..subject import Subject
from ..subject.bos import SENTENCES
from ..subject.word_spans import Encoded
from .changes import Change

CACHE_BYTES = 512 << 20
"""Logits and residual streams that are kept for edits that come back."""


@dataclass(frozen=True)
class Run:
    """What a forward gave.

    Args:
        answer: logits where the answer is read, or of the classes; None of a model without a head.
        streams: the residual stream in front of each block that ran under edits, and behind the
            last one (at ``n_layers``); empty where the parts of the model are not known.
        unchanged: edited sites whose values all stayed as they were.
        logits: of every position, where the last stream does not give them.
    """

    answer: Float[Tensor, " vocab"] | None
    streams: Mapping[int, Float[Tensor, "pos d_model"]]
    unchanged: tuple[str, ...] = ()
    logits: Float[Tensor, "pos vocab"] | None = None

    @property
    def n_bytes(self) -> int:
        """Of memory that it holds."""
        logits = [value for value in (self.answer, self.logits) if value is not None]
        kept = [*self.streams.values(), *logits]
        return sum(value.numel() * value.element_size() for value in kept)


@dataclass
class Clean:
    """A text without edits.

    Args:
        inputs: of the forward.
        position: where the answer is read: the last token, a masked model's mask.
        resume: the recorded forward; None where the model has no blocks that are known.
        exact: effects that were measured, by contrast and edit.
    """

    encoded: Encoded
    inputs: dict[str, Tensor]
    position: int
    resume: Resume | None
    run: Run
    exact: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether edits may begin at their block."""
        return self.resume is not None and self.resume.exact

    def logits(self, run: Run) -> Float[Tensor, "pos vocab"] | None:
        """Logits of every position of a run of this text; None where a model gives none.

        They are not kept: of a long text and a large vocabulary they are the most that a run would
        hold.
        """
        if run.logits is not None or self.resume is None or not run.streams:
            return run.logits
        with torch.no_grad():
            return self.resume.finish(run.streams[self.resume.n_layers][None])[0]


def record(subject: Subject, encoded: Encoded) -> Clean:
    """Run a text without edits, and keep what later runs continue."""
    (batch,) = subject.batches([encoded])
    inputs = batch.inputs(subject.device)
    position = answer_position(subject, encoded)
    resume = None
    with torch.no_grad():
        # a classifier reads one position in a way of its own, and a body has no logits: both run
        # whole
        if subject.gives_tokens and not subject.classes:
            with contextlib.suppress(LookupError):
                resume = Resume(subject.model, inputs, torch.tensor([position]))
        if resume is None or not resume.exact:
            return Clean(encoded, inputs, position, resume, _whole(subject.model, inputs, position))
        streams = {layer: resume.residual(layer)[0] for layer in range(resume.n_layers + 1)}
        return Clean(encoded, inputs, position, resume, Run(resume.logits[0], streams))


def answer_position(subject: Subject, encoded: Encoded) -> int:
    """Where a text's answer is read: the last token, a masked model's mask."""
    if subject.gives_tokens and not subject.causal and not subject.classes:
        return encoded.ids.index(subject.tokenizer.mask_token_id)
    return len(encoded) - 1


def _whole(model: nn.Module, inputs: Mapping[str, Tensor], position: int) -> Run:
    """A forward of the whole model."""
    logits = getattr(model(**inputs), "logits", None)
    if logits is None:
        return Run(None, {})
    if logits.ndim == 2:  # a class each
        return Run(logits[0], {})
    return Run(logits[0, position], {}, logits=logits[0])


class Values:
    """What edits put in: means over plain sentences, and what another text holds;
    each site is read once.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._references: dict[str, Reference] = {}
        self._others: OrderedDict[tuple[tuple[int, ...], str], Tensor] = OrderedDict()
        self._absent: Tensor | None = None

    def edit(self, change: Change, clean: Clean, other: Clean | None) -> Edit:
        """The edit that a change asks for.

        Raises:
            InputError: a patch without a text to take it from, a token that is not there.
        """
        length = len(clean.encoded)
        for at in (*(change.positions or ()), *(change.edge or ())):
            if at >= length:
                raise InputError(f"edit {change}: the text has tokens 0 to {length - 1}, got {at}")
        edit = self._whole(change, clean, other)
        if change.how == "freeze" and change.positions is None:
            return edit.at(
                slice(0, length)
            )  # tokens that are generated have no pattern to be frozen at
        return edit if change.positions is None else edit.at(list(change.positions))

    def _whole(self, change: Change, clean: Clean, other: Clean | None) -> Edit:
        name = Site.parse(change.site).name
        if change.how == "zero":
            return edits.zero()
        if change.how == "scale":
            return edits.scale(1.0 if change.factor is None else change.factor)
        if change.how == "mean":
            return edits.mean(self._reference(name))
        if change.how == "absent":
            return edits.constant(self._mean_embedding())
        if change.how == "knockout":
            query, key = change.edge or (0, 0)
            return edits.knockout([query], [key])
        if change.how == "freeze":
            return edits.patch(self._values(clean, change.site))
        if other is None:
            raise InputError(
                f"edit {change}: a patch takes its values from the second text: enter one"
            )
        return edits.patch(self._values(other, change.site))

    def _reference(self, name: str) -> Reference:
        """The site on a few plain sentences; the mean leaves a BOS out."""
        if name not in self._references:
            subject = self.subject
            batches = list(subject.batches(subject.encode(SENTENCES)))
            self._references[name] = Reference.of(
                subject.model,
                name,
                batches=[batch.inputs(subject.device) for batch in batches],
                skip=int(subject.has_sink_position),
            )
        return self._references[name]

    def _mean_embedding(self) -> Tensor:
        if self._absent is None:
            _, *others = tables(self.subject).text
            if others:
                raise InputError(
                    f"edit absent: {self.subject.name} also looks its tokens up at "
                    f"{', '.join(str(lookup.site) for lookup in others)}, where {EMBED} "
                    "is not read"
                )
            self._absent = moments(self.subject).mean
        return self._absent

    def _values(self, clean: Clean, site: str) -> Tensor:
        """What a site holds on a text without edits."""
        key = (clean.encoded.ids, site)
        if key not in self._others:
            with torch.no_grad(), capture(self.subject.model, site, stop=True, clone=True) as acts:
                self.subject.model(**clean.inputs)
            self._others[key] = acts[site]
            while len(self._others) > 64:
                self._others.popitem(last=False)
        return self._others[key]


def grouped(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes that one `intervene` can take;
    one that meets another at its site comes in a later intervention.
    """
    groups: list[list[Change]] = []
    for change in changes:
        if not groups or any(_meet(change.site, other.site) for other in groups[-1]):
            groups.append([])
        groups[-1].append(change)
    return groups


def _meet(a: str, b: str) -> bool:
    """Whether an edit of one site reads or overwrites what an edit of the other put there."""
    one, other = Site.parse(a), Site.parse(b)
    if one.name != other.name:
        return False
    are_single = isinstance(one.select, int) and isinstance(other.select, int)
    return not are_single or one.select == other.select


def groups_of(changes: Sequence[Change], values: Sequence[Edit]) -> list[dict[str, Edit]]:
    """The changes' edits as `intervene` takes them."""
    waiting = iter(values)
    return [{change.site: next(waiting) for change in group} for group in grouped(changes)]


@contextlib.contextmanager
def in_force(model: nn.Module, groups: Sequence[Mapping[str, Edit]]) -> Iterator[list[str]]:
    """The edits hold inside the block; afterwards the list names those that changed nothing."""
    unchanged: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NothingChanged)
        with contextlib.ExitStack() as stack:
            for group in groups:
                stack.enter_context(intervene(model, {**group}))
            yield unchanged
    for warning in caught:
        if issubclass(warning.category, NothingChanged):
            unchanged.append(str(warning.message).removeprefix("edits changed nothing at "))


def edited(
    model: nn.Module, clean: Clean, changes: Sequence[Change], values: Sequence[Edit]
) -> Run:
    """The forward of a text under edits.

    Raises:
        UnknownSite, EditError: an edit that this model or this text does not take.
    """
    groups = groups_of(changes, values)
    resume = clean.resume
    if resume is None or not resume.exact:
        with torch.no_grad(), in_force(model, groups) as unchanged:
            run = _whole(model, clean.inputs, clean.position)
        return replace(run, unchanged=tuple(unchanged))
    if all(change.site.startswith("blocks.") for change in changes):
        first = min(change.layer or 0 for change in changes)
        return _continued(model, clean, resume, groups, first)
    end = resume.n_layers
    names = {layer: f"blocks.{layer}.hook_resid_pre" for layer in range(end)}
    names[end] = f"blocks.{end - 1}.hook_resid_post"
    run = Run(None, {})
    with torch.no_grad(), in_force(model, groups) as unchanged:
        with capture(model, *names.values()) as acts:
            run = _whole(model, clean.inputs, clean.position)
    streams = {layer: acts[name][0] for layer, name in names.items()}
    return replace(run, streams=streams, unchanged=tuple(unchanged))


def _continued(
    model: nn.Module,
    clean: Clean,
    resume: Resume,
    groups: Sequence[Mapping[str, Edit]],
    first: int,
) -> Run:
    """From the first edited block on."""
    last = resume.n_layers - 1
    names = {layer: f"blocks.{layer}.hook_resid_pre" for layer in range(first + 1, last + 1)}
    acts: Mapping[str, Tensor] = {}
    with torch.no_grad(), in_force(model, groups) as unchanged, contextlib.ExitStack() as stack:
        if names:
            acts = stack.enter_context(capture(model, *names.values()))
        in_front = resume.run(first, resume.residual(first), until=last)
        # `run` would leave out the positions that give no answer; the lens shows them
        end = resume.block(last, in_front)
    with torch.no_grad():
        answer = resume.finish(end[:, clean.position])
    streams = {layer: acts[name][0] for layer, name in names.items()}
    return Run(answer[0], {**streams, last + 1: end[0]}, tuple(unchanged))
