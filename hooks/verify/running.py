"""What the checks of `running_checks` compare a model with, as people run it.

One oracle for all: an edit gives what it gives on each text alone, in one forward without a cache.
What the model itself gives another output (left padding that it cannot be given, a state that reads
many tokens only at once) is not the hooks' fault and is reported as not supported; the hooks are
WRONG where the model agrees with itself and the edited model does not.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import edits
from ..capture import capture
from ..edits import Edit
from ..positions import PositionsUnknown
from . import ways
from .comparing import noise, relative
from .exam import NOISE, Exam, quiet
from .findings import Finding
from .values import left_policy
from .ways import Texts, Way

Trials: TypeAlias = "dict[str, Callable[[Tensor], Edit]]"
"""Site -> from rows of ids (those columns that a prompt has) to the edit that is tried there."""
NEW = 2
"""Tokens that are read behind the prompts."""
TELLING = 0.1
"""A run is right when it is this much nearer to the oracle than an edit moves it."""
OUTSIDE = "the model itself gives another output"


@dataclass
class Trial:
    """One edit, and what it does to a text alone."""

    site: str
    edit: Callable[[Tensor], Edit]
    effect: float


class Running:
    """What the ways of running are compared with.

    Args:
        exam: the model and its texts.
        cannot: why there is nothing to compare; empty where there is.
    """

    def __init__(self, exam: Exam) -> None:
        self.exam = exam
        self.cannot = _cannot(exam)
        if self.cannot:
            return
        self.texts = _texts(exam)
        # the last layer whose pattern is known: what the newest token looks at
        self.pattern = _last(exam, ("attn.hook_pattern",))
        self._alone: dict[tuple[Any, ...], tuple[Tensor, Tensor | None]] = {}
        self.trials = self._tried()

    def _tried(self) -> list[Trial]:
        trials = []
        for site, edit in _trials(self.exam).items():
            text = self.text(0)
            trial = Trial(site, edit, 0.0)
            prompt = len(self.texts.prompts[0])
            changed, unchanged = (self.alone(t, text, prompt)[0] for t in ([trial], []))
            trial.effect = relative(changed, unchanged)
            trials.append(trial)
        return trials

    def text(self, number: int) -> Tensor:
        """A prompt and the tokens behind it."""
        return torch.cat([self.texts.prompts[number], self.texts.next_tokens])

    @property
    def telling(self) -> list[Trial]:
        """The edits that move the answer well beyond rounding."""
        return [t for t in self.trials if t.effect > 2 * self.exam.local / TELLING]

    def alone(self, trials: list[Trial], text: Tensor, prompt: int) -> tuple[Tensor, Tensor | None]:
        """The oracle: the logits of a text alone under these edits,
        and its pattern ``head query key``.
        """
        key = (*(t.site for t in trials), prompt if trials else 0, *text.tolist())
        if key not in self._alone:
            edits = self.make(trials, text[None], prompt)
            with self.watched(self.exam.model) as acts:
                logits = ways.alone(self.exam.model, edits, text)
            self._alone[key] = logits, acts[self.pattern][0] if self.pattern else None
        return self._alone[key]

    def watched(self, model: nn.Module) -> AbstractContextManager[Any]:
        """The pattern of what runs inside."""
        if self.pattern is None:
            return nullcontext()
        return capture(model, self.pattern, clone=True)

    def make(self, trials: list[Trial], rows: Tensor, columns: int | None = None) -> ways.Edits:
        """What `intervene` takes for these rows, of which so many columns are the prompt."""
        marked = rows.clone()
        if columns is not None:
            marked[:, columns:] = -1
        return {t.site: t.edit(marked) for t in trials}

    def error(
        self, way: Way, trials: list[Trial], model: nn.Module, patterns: bool = False
    ) -> tuple[float, float | None]:
        """How far a way is from the oracle, over all texts: its logits, and the newest token's
        weights where they are asked for.
        """
        make = functools.partial(self.make, trials)
        acts: Any
        with self.watched(model) if patterns else nullcontext() as acts:
            answers = list(way(model, make, self.texts))
        worst = 0.0
        for answer in answers:
            expected = ways.wanted(answer, lambda *text: self.alone(trials, *text)[0])
            measured = answer[2]
            # a beam's likelihood is one number
            if measured.ndim:
                far = relative(measured, expected)
            else:
                far = float((measured - expected).abs())
            worst = max(worst, far)
        if acts is None or self.pattern is None:
            return worst, None
        return worst, self._pattern_error(trials, answers, acts.all(self.pattern)[-1])

    def compared(
        self, name: str, way: Way, model: nn.Module | None = None, patterns: bool = False
    ) -> Iterator[Finding]:
        """The findings of one way: the whole model's, those of each edit,
        and the newest token's weights.
        """
        model = self.exam.model if model is None else model
        with torch.no_grad(), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from self._compared(name, way, model, patterns and self.pattern is not None)

    def _compared(self, name: str, way: Way, model: nn.Module, patterns: bool) -> Iterator[Finding]:
        exam, telling = self.exam, self.telling
        for trial in self.trials:
            if trial not in telling:
                yield exam.cannot(
                    trial.site, "the edit changes the output too little to be measured"
                )
        together: float | None = None
        weights: float | None = None
        if telling:
            together, weights, _ = self._measured(way, telling, model, patterns)
        bound = self._bound()
        right = together is not None and together <= bound
        # What is right under all edits at once is right without them, which is then not run.
        if not right or (weights is not None and not weights <= exam.far):
            problem, itself, unedited = self._as_it_is(way, model, patterns)
            if problem:
                yield exam.cannot("", f"{name}: {problem}")
                return
            bound = self._bound(itself)
            right = together is not None and together <= bound
            if not right:  # weights under an edit that is wrong tell nothing more
                weights = unedited
        if weights is not None:
            assert self.pattern is not None
            why = f"{name}: the newest token's weights are not those of the text alone"
            yield exam.within(self.pattern, weights, exam.far, why)
        if right:
            assert together is not None
            yield from (exam.within(t.site, together, bound) for t in telling)
        elif telling:
            yield from self._one_by_one(name, way, model, together, bound)

    def _bound(self, itself: float = 0.0) -> float:
        """Where an edit counts as right.

        Args:
            itself: how far the way is off without an edit, as in half precision: an edit may be off
                by twice as much, but by less than half of what it does.
        """
        least = min((t.effect for t in self.telling), default=1.0)
        noise_bound = min(NOISE * itself, least / 2)
        return min(self.exam.far, max(self.exam.local, TELLING * least, noise_bound))

    def _as_it_is(
        self, way: Way, model: nn.Module, patterns: bool
    ) -> tuple[str, float, float | None]:
        """Why a way says nothing of the hooks, if it does not; how far it is off without an edit,
        and the newest token's weights.
        """
        try:
            itself, weights = self.error(way, [], model, patterns)
        except Exception as error:  # whatever a model may raise
            line = next(iter(str(error).splitlines()), "")
            return f"the model raised {type(error).__name__}: {line[:120]}", math.inf, None
        if not itself <= self.exam.far:
            return f"{OUTSIDE} than in one forward pass (off by {itself:.1g})", itself, None
        return "", itself, weights

    def _one_by_one(
        self, name: str, way: Way, model: nn.Module, together: float | None, bound: float
    ) -> Iterator[Finding]:
        """Which of the edits are wrong, where they are not right together."""
        right = True
        for trial in self.telling:
            error, _, why = self._measured(way, [trial], model)
            if error is None:
                yield self.exam.cannot(trial.site, f"{name}: refused: {why}")
            else:
                why = why or "the edit has another effect than on the text alone"
                yield self.exam.within(trial.site, error, bound, f"{name}: {why}")
                right &= error <= bound
        if right and together is not None and together < math.inf:
            why = f"{name}: edits are correct only one at a time"
            yield self.exam.within("", together, bound, why)

    def _pattern_error(
        self, trials: list[Trial], answers: list[tuple[Tensor, int, Tensor]], newest: Tensor
    ) -> float:
        """How far the last call's weights of each text's newest token
        are from those of the text alone.
        """
        prompts = self.texts.batch("left")[1].bool()
        error = 0.0
        for row, (text, prompt, _) in enumerate(answers):
            real = torch.cat([prompts[row], prompts.new_ones(len(text) - prompt)])
            weights = _newest(newest[row], real)
            _, alone = self.alone(trials, text, prompt)
            assert alone is not None
            error = max(error, relative(weights, alone[:, -1, -weights.shape[1] :]))
        return error

    def _measured(
        self, way: Way, trials: list[Trial], model: nn.Module, patterns: bool = False
    ) -> tuple[float | None, float | None, str]:
        """`error`, infinite where it raises, and why; None where positions cannot be known there,
        which is refused.
        """
        try:
            return *self.error(way, trials, model, patterns), ""
        except PositionsUnknown as error:
            return None, None, str(error)
        except Exception as error:  # an instrument that breaks
            line = next(iter(str(error).splitlines()), "")
            return math.inf, None, f"{type(error).__name__}: {line[:120]}"


def _cannot(exam: Exam) -> str:
    if exam.anatomy is None or exam.last_stream is None:
        return "the blocks are not known by name"
    if not isinstance(exam.inputs.get("input_ids"), Tensor):
        return "the input is not token ids"
    if getattr(exam.config, "is_encoder_decoder", False):
        return "it has an encoder and a decoder, and sites of both"
    if not exam.caches or exam.causal is False:
        return "it reads all tokens at once: there is nothing to cache"
    if exam.plain.ndim != 3 or exam.plain.shape[1] != exam.inputs["input_ids"].shape[1]:
        return "it does not give logits of every token"
    if exam.inputs["input_ids"].shape[1] < NEW + 3:
        return "the texts are too short to be read token by token"
    return ""


def _texts(exam: Exam) -> Texts:
    """Two prompts out of the inputs; one where the model cannot be padded on the left."""
    ids = exam.inputs["input_ids"].to(exam.device)
    left = left_policy(exam)
    end = ids.shape[1] - NEW
    prompts, next_tokens = (ids[0, :end], ids[-1, : end - 2]), ids[0, end:]
    if exam.learned_prompt or left is None or not left.possible:
        return Texts(prompts[:1], next_tokens, exam.pad_id, None)
    first = left.start if left.explicit else None
    return Texts(prompts, next_tokens, exam.pad_id, first)


def _trials(exam: Exam) -> Trials:
    """An edit at positions of a prompt and behind it, one under a mask of tokens,
    and a key that is hidden.
    """
    streams = [f"blocks.{layer}.hook_resid_post" for layer in range(exam.n_layers)]
    streams = [site for site in streams if _in_text(exam, site)]
    made: Trials = {}
    if streams:
        middle = streams[(len(streams) - 1) // 2]
        by = noise(exam.acts[middle][0, 0], 11, 1.0)
        made[middle] = lambda rows: edits.add(by).at([1, 3])
    if (masked := _last(exam, ("attn.hook_z", "hook_attn_out", "hook_mlp_out"))) is not None:
        made[masked] = lambda rows: edits.scale(-2.0).at((rows > 0) & (rows % 2 == 1))
    if (scores := _last(exam, ("attn.hook_attn_scores",))) is not None:
        made[scores] = lambda rows: edits.knockout(keys=[1])
    return made


def editable(exam: Exam, site: str) -> bool:
    assert exam.anatomy is not None
    return exam.has(site) and not exam.anatomy.places[site].read_only


def _in_text(exam: Exam, site: str) -> bool:
    """Whether a site can be edited where a text is read alone."""
    return editable(exam, site) and site in exam.text_sites


def _last(exam: Exam, parts: tuple[str, ...]) -> str | None:
    """The last site of the first of these parts that can be edited."""
    for part in parts:
        for layer in reversed(range(exam.n_layers)):
            if _in_text(exam, site := f"blocks.{layer}.{part}"):
                return site
    return None


def running(exam: Exam) -> Running:
    """What ways are compared with, made once."""
    if exam.running is None:
        with torch.no_grad(), quiet():
            exam.running = Running(exam)
    return exam.running


def _newest(pattern: Tensor, real: Tensor) -> Tensor:
    """The last query's weights on the tokens that a cache holds; a static one has room behind them,
    a window dropped some.
    """
    keys = pattern.shape[-1]
    real = real.to(pattern.device)
    last = pattern[:, -1]
    return last[:, : len(real)][:, real] if keys >= len(real) else last[:, real[-keys:]]
