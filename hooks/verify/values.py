"""Checks of captured values: nothing is changed by looking, batches and padding change nothing,
nothing stays behind.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..anatomy import body_of
from ..capture import capture
from ..edits import function
from ..intervene import intervene
from ..padding import Padding, Policy, probe_padding, probe_side
from ..sites import Site
from .comparing import relative, token_rows
from .exam import Exam, attached, quiet
from .findings import Finding

T = TypeVar("T")


def evaluation_mode(exam: Exam) -> Iterator[Finding]:
    """Two forwards of the same texts are equal bit for bit: no dropout, no noise, no state."""
    on = [
        name
        for name, m in exam.model.named_modules()
        if m.training and isinstance(m, nn.modules.dropout._DropoutNd) and m.p
    ]
    if on:
        why = f"dropout is on in {len(on)} modules (the first: {on[0]}): call model.eval()"
        yield Finding("", "", "WRONG", float(len(on)), 0.0, why)
        return
    # A watched forward that gives the same bits is the second one; any other needs a third.
    with suppress(Exception):  # reported by the next check
        if torch.equal(exam.watched, exam.plain):
            yield exam.within("", 0.0, 0.0)
            return
    with torch.no_grad():
        again = exam.run()
    why = "two forward passes on the same texts differ: it uses random numbers or keeps a state"
    yield exam.within("", _difference(again, exam.plain), 0.0, why)


def same_outputs(exam: Exam) -> Iterator[Finding]:
    """The answer with every site captured is the answer without, bit for bit.

    PyTorch's fused transformer layers run part by part where they are hooked: to rounding.
    """
    why = "the output changes when the model is hooked"
    bound = exam.local if exam.fused else 0.0
    yield exam.within("", _difference(exam.watched, exam.plain), bound, why)


def fires(exam: Exam) -> Iterator[Finding]:
    """Every listed site holds a finite tensor after one forward;
    parts that are not listed are named.
    """
    for site in exam.sites:
        if site not in exam.acts:
            yield Finding(
                "", site, "WRONG", reason="listed, but its module did not run in this forward"
            )
        elif not exam.acts[site].is_floating_point() and not site.endswith("hook_expert_indices"):
            yield Finding(
                "", site, "WRONG", reason=f"holds {exam.acts[site].dtype}, no activations"
            )
        else:
            values = exam.acts[site]
            broken = values.isnan() if site.endswith("attn_scores") else ~values.isfinite()
            yield exam.within(
                site, float(broken.double().mean()), 0.0, "holds NaN or infinite values"
            )
    if exam.anatomy is None:
        yield exam.cannot("", exam.unknown)
        return
    listed = {Site(name).part for name in exam.sites}
    for part, reason in exam.anatomy.missing.items():
        if part not in listed:
            yield exam.cannot(part, reason)


def batched(exam: Exam) -> Iterator[Finding]:
    """A text in a batch has the values that it has alone, at every site and in the answer."""
    row = exam.batch - 1
    out, acts = exam.watch(exam.item(row))
    why = "a text in a batch differs from the same text alone"
    for site in acts:
        whole = exam.acts[site]
        if len(whole) == exam.batch and len(acts[site]) == 1:
            yield exam.within(site, relative(acts[site][0], whole[row]), exam.far, why)
    if len(exam.plain) == exam.batch:
        yield exam.within("", relative(out[0], exam.plain[row]), exam.far, why)


def padding(exam: Exam) -> Iterator[Finding]:
    """Padded left, padded right and alone are the same at every site and in the answer,
    with the position ids found for it.
    """
    ids = exam.inputs.get("input_ids")
    if ids is None:
        yield exam.cannot("", "the input is not token ids")
        return
    known = exam.padding or position_policy(exam)
    if known is None:
        yield exam.cannot(
            "", "its body returns no last_hidden_state, so its position ids cannot be determined"
        )
        return
    exam.padding = known
    rows = [ids[i, : ids.shape[1] - 2 * i].tolist() for i in range(min(exam.batch, 2))]
    rest = {k: v for k, v in exam.inputs.items() if k in ("decoder_input_ids",)}
    alone = [
        exam.watch({"input_ids": torch.tensor([row]), **{k: v[i : i + 1] for k, v in rest.items()}})
        for i, row in enumerate(rows)
    ]
    for side in ("right", "left"):
        policy: Policy = getattr(known, side)
        if not policy.possible:
            yield exam.cannot("", policy.why)
            continue
        padded, mask, positions = policy.pad(rows, exam.pad_id, side)
        inputs = {"input_ids": padded, "attention_mask": mask, **rest}
        if positions is not None:
            inputs["position_ids"] = positions
        out, acts = exam.watch(inputs)
        why = f"with padding on the {side} it differs from the text alone"
        for site in (s for s in acts if len(acts[s]) == len(rows)):
            real = [
                (
                    token_rows(acts[site], site, i, mask[i].bool(), exam.prefix),
                    token_rows(
                        single[site],
                        site,
                        0,
                        torch.ones(len(rows[i]), dtype=torch.bool),
                        exam.prefix,
                    ),
                )
                for i, (_, single) in enumerate(alone)
            ]
            yield exam.within(site, max(relative(a, b) for a, b in real), exam.far, why)
        by_token = out.ndim == 3 and out.shape[1] == padded.shape[1] and not rest
        answers = [
            relative(out[i, mask[i].bool().to(out.device)] if by_token else out[i], single[0])
            for i, (single, _) in enumerate(alone)
        ]
        yield exam.within("", max(answers), exam.far, why)


def position_policy(exam: Exam) -> Padding | None:
    """The padding policies of the model's body, by trying."""
    return _tried(exam, probe_padding)


def left_policy(exam: Exam) -> Policy | None:
    """That of padding on the left alone."""
    if exam.padding is not None:
        return exam.padding.left
    return _tried(exam, functools.partial(probe_side, side="left"))


def _tried(exam: Exam, probe: Callable[..., T]) -> T | None:
    """What a probe finds by running the body; None where its states are not known."""
    body = body_of(exam.model)
    caches = "use_cache" in inspect.signature(body.forward).parameters

    def run(inputs: dict[str, Tensor]) -> Any:
        return body(
            **{k: v.to(exam.device) for k, v in inputs.items()},
            **({"use_cache": False} if caches else {}),
        )

    takes_positions = "position_ids" in inspect.signature(body.forward).parameters
    try:
        return probe(run, exam.pad_id, int(exam.inputs["input_ids"].max()) + 1, takes_positions)
    except AttributeError:
        return None


def hooks_gone(exam: Exam) -> Iterator[Finding]:
    """No hook and no mode is left: after a forward, an exception in an edit, Ctrl-C,
    a stopped forward, a closed generator.
    """
    if not exam.acts:
        yield exam.cannot("", "no site is known to hook")
        return
    first = next((s for s in exam.acts if s.endswith("attn.hook_pattern")), next(iter(exam.acts)))
    one = exam.item(0)
    ways: dict[str, Callable[[], object]] = {
        "a whole forward pass": lambda: exam.acts,
        "a stopped forward pass": lambda: _stopped(exam, first, one),
        "an exception in an edit": lambda: _raising(exam, first, one, ZeroDivisionError),
        "Ctrl-C": lambda: _raising(exam, first, one, KeyboardInterrupt),
        "a generator closed early": lambda: _closing(exam, first),
    }
    for name, way in ways.items():
        with torch.no_grad(), quiet():
            way()
        left = attached(exam.model) - exam.attached
        yield exam.within("", float(abs(left)), 0.0, f"{left} hooks or modes are left after {name}")


def _stopped(exam: Exam, site: str, inputs: Mapping[str, Any]) -> None:
    with capture(exam.model, site, stop=True):
        exam.run(inputs)


def _raising(exam: Exam, site: str, inputs: Mapping[str, Any], error: type[BaseException]) -> None:
    def fail(value: Tensor) -> Tensor:
        raise error

    with suppress(error), intervene(exam.model, {site: function(fail)}):
        exam.run(inputs)


def _closing(exam: Exam, site: str) -> None:
    def items() -> Iterator[int]:
        with capture(exam.model, site):
            yield 0

    opened = items()
    next(opened)
    opened.close()  # type: ignore[attr-defined]


def _difference(a: Tensor, b: Tensor) -> float:
    """0 for equal tensors, else the largest difference."""
    if torch.equal(a, b) or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())):
        return 0.0
    return (
        max(float((a.double() - b.double()).abs().max()), 1e-300)
        if a.shape == b.shape
        else float("inf")
    )
