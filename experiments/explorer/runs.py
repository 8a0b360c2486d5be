"""One forward of a text under edits: what stands before the first edited block is not computed again.

The clean forward is kept in `hooks.Resume`. Edits from block L on continue from that block's recorded input, under
`intervene` and `capture`; edits outside the blocks, and models whose end is not known, run whole. Either way it is the
forward that ``with intervene(model, edits): model(**inputs)`` makes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerscope.errors import InputError

from ...hooks import NothingChanged, Reference, Resume, Site, capture, edits, intervene
from ...hooks.edits import Edit
from ..attribution.game import embedding
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
        logits: of every position, or of the classes; None of a model without a head.
        streams: the residual stream in front of each block that ran under edits, and behind the last one (at
            ``n_layers``); empty where the parts of the model are not known.
        unchanged: edited sites whose values all stayed as they were.
    """

    logits: Float[Tensor, "*pos vocab"] | None
    streams: Mapping[int, Float[Tensor, "pos d_model"]]
    unchanged: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Of memory that it holds."""
        kept = [*self.streams.values(), *([] if self.logits is None else [self.logits])]
        return sum(value.numel() * value.element_size() for value in kept)


@dataclass
class Clean:
    """A text without edits.

    Args:
        inputs: of the forward.
        resume: the recorded forward; None where the model has no blocks that are known.
        exact: effects that were measured, by contrast and edit.
    """

    encoded: Encoded
    inputs: dict[str, Tensor]
    resume: Resume | None
    run: Run
    exact: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether edits may begin at their block."""
        return self.resume is not None and self.resume.exact


def record(subject: Subject, encoded: Encoded) -> Clean:
    """Run a text without edits, and keep what later runs continue."""
    (batch,) = subject.batches([encoded])
    inputs = batch.inputs(subject.device)
    resume = None
    with torch.no_grad():
        # a classifier reads one position in a way of its own, and a body has no logits: both run whole
        if subject.gives_tokens and not subject.classes:
            with contextlib.suppress(LookupError):
                resume = Resume(subject.model, inputs)
        if resume is None:
            return Clean(encoded, inputs, None, Run(_logits(subject.model, inputs), {}))
        streams = {}
        if resume.exact:
            last = resume.n_layers - 1
            streams = {layer: resume.residual(layer)[0] for layer in range(resume.n_layers)}
            end = resume.run(last, resume.residual(last), until=resume.n_layers)
            streams[resume.n_layers] = end[0]
        return Clean(encoded, inputs, resume, Run(resume.logits[0], streams))


def _logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    logits = getattr(model(**inputs), "logits", None)
    return None if logits is None else logits[0]


class Values:
    """What edits put in: means over plain sentences, and what another text holds; each site is read once."""

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
            self._absent = embedding(self.subject).float().mean(0)
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
    """Changes that one `intervene` can take; one that meets another at its site comes in a later intervention."""
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
            logits = _logits(model, clean.inputs)
        return Run(logits, {}, tuple(unchanged))
    if all(change.site.startswith("blocks.") for change in changes):
        return _continued(model, resume, groups, min(change.layer or 0 for change in changes))
    end = resume.n_layers
    names = {layer: f"blocks.{layer}.hook_resid_pre" for layer in range(end)}
    names[end] = f"blocks.{end - 1}.hook_resid_post"
    logits = None
    with torch.no_grad(), in_force(model, groups) as unchanged:
        with capture(model, *names.values()) as acts:
            logits = _logits(model, clean.inputs)
    return Run(logits, {layer: acts[name][0] for layer, name in names.items()}, tuple(unchanged))


def _continued(
    model: nn.Module, resume: Resume, groups: Sequence[Mapping[str, Edit]], first: int
) -> Run:
    """From the first edited block on."""
    end = resume.n_layers
    names = {layer: f"blocks.{layer}.hook_resid_pre" for layer in range(first + 1, end)}
    acts: Mapping[str, Tensor] = {}
    with torch.no_grad(), in_force(model, groups) as unchanged, contextlib.ExitStack() as stack:
        if names:
            acts = stack.enter_context(capture(model, *names.values()))
        residual = resume.run(first, resume.residual(first), until=end)
    with torch.no_grad():
        logits = resume.run(0, residual, order=[])
    streams = {layer: acts[name][0] for layer, name in names.items()}
    return Run(logits[0], {**streams, end: residual[0]}, tuple(unchanged))
