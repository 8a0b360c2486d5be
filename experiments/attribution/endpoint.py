"""Where an answer is read: the end of a forward as hidden states, and what makes logits of the few
that are read.

A language model's states are its body's output, its head is used at the positions that are read
alone, and so may be what stands behind the attention of its last block; a classifier's are its
logits; a probe's are the residual stream of its block, and the blocks behind it are not run.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...hooks import Site, UnknownArchitecture, anatomy
from ...hooks.anatomy import Place, locate
from ...hooks.output_heads import language_head
from ...hooks.resume import TOLERANCE
from ...hooks.shortcuts import Parts, is_free, only_positions, padded, parts_of
from ...hooks.tap import Tap, as_site
from ...hooks.taps import Taps
from ..subject import Subject
from .units import AttributionError

if TYPE_CHECKING:
    from ...probes import LogisticProbe

_ENDS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Endpoint:
    """The end of a model's forward.

    Args:
        of: from hidden states at the reads, and which reads there are, to logits (a pooling end
            gives one read).
        whole: the states are the model's logits, not its body's output.
        site: the states are this site's value, and the forward ends there.
        last: the last block, where leaving out positions of it was measured to change nothing at
            the others.
    """

    subject: Subject
    of: Callable[
        [Float[Tensor, "rows reads d"], Bool[Tensor, "rows reads"]],
        Float[Tensor, "rows slots classes"],
    ]
    whole: bool = False
    site: Site | None = None
    last: LastBlock | None = None

    def states(
        self, forward: Callable[[bool], Any], reads: Sequence[Sequence[int]] | None = None
    ) -> Float[Tensor, "rows pos d"]:
        """The states of one forward.

        Args:
            forward: runs the model if it is given True, its body if False; returns a transformers
                output.
            reads: the positions that are read of each row: the states may then be right at these
                alone.
        """
        if self.site is not None:
            tap = _Keep()
            with Taps(self.subject.model, locate(self.subject.model, self.site)).attach(tap):
                with contextlib.suppress(_Read):
                    forward(False)
            if tap.value is None:
                raise AttributionError(
                    f"{self.site} did not fire in a forward of {self.subject.name}"
                )
            return tap.value
        # The last block's other positions are read by nobody: they need not be computed.
        shorter: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.last is not None and reads is not None:
            shorter = self.last.only(reads)
        with shorter:
            out = forward(self.whole)
        if not self.whole:
            return out.last_hidden_state
        return out.logits if out.logits.ndim == 3 else out.logits[:, None]


@dataclass(frozen=True)
class LastBlock:
    """The last block of a model and the norm behind it:
    what one position of it says is nothing to another one's answer.
    """

    block: nn.Module
    norm: nn.Module | None
    parts: Parts

    @contextlib.contextmanager
    def only(self, reads: Sequence[Sequence[int]]) -> Iterator[None]:
        """While this lasts, the block's output projection and MLP run at these positions,
        unless somebody looks at others.
        """
        watched = (module for module in (self.block, self.norm) if module is not None)
        if all(is_free(module, self.parts) for module in watched):
            with only_positions(self.parts, padded(reads)):
                yield
        else:
            yield


def last_block(subject: Subject) -> LastBlock | None:
    """The last block of a model,
    where leaving out all but one position is measured to keep that one's state.
    """
    try:
        places_of_model = anatomy(subject.model)
    except UnknownArchitecture:
        return None
    places, layer = places_of_model.places, places_of_model.n_layers - 1
    begin = places.get(f"blocks.{layer}.hook_resid_pre")
    if begin is None:
        return None
    norm = places.get("ln_final.hook_normalized")
    last = LastBlock(
        subject.model.get_submodule(begin.path),
        None if norm is None else subject.model.get_submodule(norm.path),
        parts_of(subject.model, places, layer),
    )
    ids = torch.arange(1, 5, device=subject.device)[None]
    with torch.inference_mode():
        try:
            whole = subject.body(input_ids=ids).last_hidden_state[:, 2]
            with last.only([[2]]):
                few = subject.body(input_ids=ids).last_hidden_state[:, 2]
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return None
    # Other shapes may choose other kernels, whose sums differ in the last bits.
    tolerance = max(TOLERANCE, 2 * torch.finfo(whole.dtype).eps) * float(whole.abs().max())
    return last if float((few - whole).abs().max()) <= tolerance else None


def whole_end(subject: Subject) -> Endpoint:
    """The end of a model that runs whole: its states are its logits."""
    return Endpoint(subject, lambda hidden, present: hidden, whole=True)


def language_end(subject: Subject) -> Endpoint:
    """The end of a language model; where its head is not known, all its logits."""
    if subject.has_decoder:
        return whole_end(subject)
    if not subject.gives_tokens:
        raise AttributionError(
            f"{subject.name} ({type(subject.model).__name__}) has no head that predicts "
            "tokens or classes: expected a language model, a classifier "
            "(...ForSequenceClassification), or --probe FILE, a probe of this model"
        )
    model = subject.model
    if model not in _ENDS:
        _ENDS[model] = _measured_head(subject), last_block(subject)
    head, last = _ENDS[model]
    if head is None:
        return whole_end(subject)
    return Endpoint(subject, lambda hidden, present: head(hidden), last=last)


def _measured_head(subject: Subject) -> Callable[[Tensor], Tensor] | None:
    """The head, if with the body's output it gives the model's logits of a short text."""
    # Not by name: some models scale or cap what the head gives, so that body and head alone are not
    # the model.
    head = language_head(subject.model)
    if head is None:
        return None
    ids = torch.arange(1, 5, device=subject.device)[None]
    with torch.inference_mode():
        try:
            parts = head(subject.body(input_ids=ids).last_hidden_state)
            whole = subject.model(input_ids=ids).logits
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return None
        error = float((parts - whole).abs().max()) if parts.shape == whole.shape else float("inf")
    tolerance = max(TOLERANCE, 2 * torch.finfo(whole.dtype).eps) * float(whole.abs().max())
    return head if error <= tolerance else None


def class_end(subject: Subject) -> Endpoint:
    """The end of a classifier of texts."""
    return whole_end(subject)


def probe_end(subject: Subject, probe: LogisticProbe, site: Site) -> Endpoint:
    """A linear probe of the mean of the states that are read: with the model,
    one module from text to classes.
    """
    coef, bias = torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)

    def of(hidden: Tensor, present: Tensor) -> Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        n_present = present.sum(1, keepdim=True).clamp(min=1)
        weights = present.to(wide) / n_present
        mean = (wide * weights[..., None]).sum(1)
        logits = mean @ coef.to(wide).T + bias.to(wide)
        return logits[:, None]

    return Endpoint(subject, of, site=site)


class _Read(Exception):
    """Ends a forward once its site is read."""


class _Keep(Tap):
    """The tap that keeps a site's value, in its graph, and ends the forward."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Keep the value."""
        self.value = as_site(place, raw, shape)
        return raw

    def after(self) -> None:
        """End the forward."""
        raise _Read
