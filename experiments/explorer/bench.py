"""The bench: one model, the texts that were read, and the runs that are kept.

One thread at a time uses it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from ...hooks import UnknownArchitecture, UnknownSite, sites
from ...hooks.edits import Edit
from ..lenses.lens import Lens
from ..metrics.metrics import METRICS, Metric
from ..metrics.reads import Reads
from ..subject import Subject
from ..sweep.components import Component, components
from ..sweep.sweep import Chunk, chunks
from .changes import Change
from .runs import CACHE_BYTES, Clean, Run, Values, edited, groups_of, record
from .session import View

if TYPE_CHECKING:
    from ...probes import LogisticProbe

MOST_TOKENS = 512
"""Of a text: grids of positions grow with its square."""
MOST_TEXTS = 8
"""Whose clean forwards are kept."""

T = TypeVar("T")


class Bench:
    """A model to look at.

    Args:
        subject: the model and its tokenizer.
        lenses: fitted lenses beside the logit lens.
        probes: saved probes, each of a site.

    Raises:
        InputError: an encoder-decoder: the page shows one text, and its decoder needs a second.
    """

    def __init__(
        self, subject: Subject, lenses: Sequence[Lens] = (), probes: Sequence[LogisticProbe] = ()
    ) -> None:
        if subject.has_decoder:
            raise InputError(
                f"explore shows one text, {subject.name} ({type(subject.model).__name__}) reads a "
                "source and a target: ablate, attend and attribute take both"
            )
        self.subject, self.model = subject, subject.model
        self.lenses = {lens.kind: lens for lens in (Lens("logit"), *lenses)}
        self.probes = list(probes)
        self.values = Values(subject)
        self._texts: OrderedDict[str, Clean] = OrderedDict()
        self._runs: OrderedDict[tuple[Any, ...], Run] = OrderedDict()
        self._made: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    # -- what it is

    @property
    def kind(self) -> str:
        """What it answers: causal and masked models with a token, a classifier with a class,
        an encoder with nothing.
        """
        if self.subject.classes:
            return "classifier"
        if not self.subject.gives_tokens:
            return "encoder"
        return "causal" if self.subject.causal else "masked"

    def lens(self, kind: str) -> Lens:
        """A lens by its kind.

        Raises:
            InputError: there is none of that kind.
        """
        if kind not in self.lenses:
            raise InputError(f"lens {kind!r}: expected {', '.join(self.lenses)}")
        return self.lenses[kind]

    @cached_property
    def site_names(self) -> list[str]:
        """Every site that edits can name; none where the architecture has no map."""
        try:
            return sites(self.model)
        except UnknownArchitecture:
            return []

    def parts(self, kind: str) -> list[Component]:
        """The heads, MLPs or neurons of the model; none where they have no site."""

        def find() -> list[Component]:
            (batch,) = self.subject.batches(self.subject.encode(["a"]))
            try:
                return components(self.model, kind, batch)
            except (UnknownArchitecture, UnknownSite):
                return []

        return self.once(("parts", kind), find)

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """A value that is made the first time it is asked for; the oldest of many are forgotten."""
        if key not in self._made:
            self._made[key] = make()
            while len(self._made) > 256:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]

    # -- texts

    def read(self, text: str) -> Clean:
        """A text without edits; the last ones are kept.

        Raises:
            InputError: no text, one that is too long, a masked model's text without its mask.
        """
        if text not in self._texts:
            self._texts[text] = self._read(text)
            while len(self._texts) > MOST_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(text)
        return self._texts[text]

    def _read(self, text: str) -> Clean:
        if not text.strip():
            raise InputError("expected a text, got none: enter one")
        (encoded,) = self.subject.encode([text])
        longest = min(MOST_TOKENS, self.subject.max_length)
        if encoded.cut is not None or len(encoded) > longest:
            raise InputError(
                f"expected a text of at most {longest} tokens, got "
                f"{'more' if encoded.cut is not None else len(encoded)}: shorten it"
            )
        if all(encoded.special):
            raise InputError("expected a text with tokens, got one of special tokens alone")
        if self.kind == "masked":
            mask = self.subject.tokenizer.mask_token
            if encoded.ids.count(self.subject.tokenizer.mask_token_id) != 1:
                raise InputError(
                    f"{self.subject.name} fills a mask: put one {mask} where it should answer"
                )
        return record(self.subject, encoded)

    # -- runs

    def run(self, view: View, changes: Sequence[Change] | None = None) -> Run:
        """The forward of a view, or of its text under other edits."""
        clean = self.read(view.text)
        wanted = view.changes if changes is None else tuple(changes)
        if not wanted:
            return clean.run
        is_patch = any(change.how == "patch" for change in wanted)
        key = (view.text, view.other if is_patch else "", *map(str, wanted))
        if key not in self._runs:
            other = self.read(view.other) if is_patch and view.other else None
            values = [self.values.edit(change, clean, other) for change in wanted]
            self._runs[key] = edited(self.model, clean, wanted, values)
            self._forget()
        self._runs.move_to_end(key)
        return self._runs[key]

    def _forget(self) -> None:
        """Drop the runs that were used longest ago, down to what may be kept."""
        n_bytes = sum(run.n_bytes for run in self._runs.values())
        while n_bytes > CACHE_BYTES and len(self._runs) > 1:
            n_bytes -= self._runs.popitem(last=False)[1].n_bytes

    def groups(self, view: View, generating: bool = False) -> list[dict[str, Edit]]:
        """The edits in force as `intervene` takes them.

        Args:
            generating: a patch of the whole text holds at the text's own tokens.
        """
        clean = self.read(view.text)
        is_patch = any(change.how == "patch" for change in view.changes)
        other = self.read(view.other) if is_patch and view.other else None
        values = []
        for change in view.changes:
            edit = self.values.edit(change, clean, other)
            if generating and change.how == "patch" and change.positions is None:
                edit = edit.at(slice(0, len(clean.encoded)))
            values.append(edit)
        return groups_of(view.changes, values)

    @cached_property
    def end_tokens(self) -> set[int]:
        """Tokens that end a text."""
        settings = getattr(self.model, "generation_config", None)
        end_ids = [self.subject.tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)]
        ids = [one for some in end_ids for one in (some if isinstance(some, list) else [some])]
        return {token for token in ids if token is not None}

    def answer(self, run: Run) -> Float[Tensor, " vocab"]:
        """Logits where the answer is read.

        Raises:
            InputError: a model without a head.
        """
        if run.answer is None:
            raise InputError(
                f"{self.subject.name} has no head: it gives hidden states and no answer"
            )
        return run.answer.float()

    def contrast(self, view: View) -> tuple[int, int]:
        """The token (or class) that is followed, and the one it is compared with.

        Raises:
            InputError: a number that no token has, or the same twice.
        """
        clean = self.read(view.text)
        logits = self.answer(clean.run)
        size = len(logits)
        chosen = [number for number in (view.answer, view.wrong) if number is not None]
        for number in chosen:
            if not 0 <= number < size:
                raise InputError(f"expected the number of a token below {size}, got {number}")
        if view.answer is not None and view.answer == view.wrong:
            raise InputError("expected two different answers to compare, got one twice")
        best = logits.topk(min(3, size)).indices.tolist()
        rest = [number for number in best if number not in chosen]
        answer = view.answer if view.answer is not None else rest.pop(0)
        if view.wrong is not None:
            return answer, view.wrong
        if not rest:
            raise InputError(
                f"{self.subject.name} has one class: there is nothing to compare it with"
            )
        return answer, rest[0]

    def difference(self, view: View, run: Run) -> float:
        """logit(answer) - logit(wrong) in nats."""
        answer, wrong = self.contrast(view)
        logits = self.answer(run)
        return float(logits[answer] - logits[wrong])

    def effect(self, view: View, changes: Sequence[Change]) -> float:
        """The difference under edits minus the difference without;
        one edit's is remembered as measured.
        """
        clean = self.read(view.text)
        effect = self.difference(view, self.run(view, changes)) - self.difference(view, clean.run)
        if len(changes) == 1 and changes[0].how != "patch":
            clean.exact.setdefault(self.contrast(view), {})[str(changes[0])] = effect
        return effect

    # -- as a study measures

    def chunk(self, view: View) -> tuple[Metric, Chunk]:
        """The contrast as the metric of one prompt."""
        clean = self.read(view.text)
        answer, wrong = self.contrast(view)
        places = torch.tensor([[0, clean.position, answer, 0], [0, clean.position, wrong, 0]])
        reads = Reads([clean.encoded], places, torch.tensor([1.0, -1.0]))
        return METRICS["logit_difference"], next(chunks(self.subject, reads, 1 << 20))

    def require_tokens(self, what: str) -> None:
        """Refuse what needs logits of tokens.

        Raises:
            InputError: a classifier or a model without a head.
        """
        if self.kind not in ("causal", "masked"):
            raise InputError(
                f"{what}: expected a model that predicts tokens, {self.subject.name} does not"
            )
