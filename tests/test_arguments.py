"""What public functions refuse in one line, before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import beartype.door
import numpy as np
import pytest
import tiny
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator

import layerscope as ls
from layerscope import arguments, edits
from layerscope.errors import InputError, LayerscopeError

X = np.random.default_rng(0).normal(size=(30, 4))
Y = np.arange(30) % 3
LONGEST = 500


class Stranger:
    """Of no kind that a function takes."""


def functions():
    """Public functions by name, and the edits."""
    for name in dir(ls):
        if inspect.isfunction(value := getattr(ls, name)):
            yield name, value
    for name, value in vars(edits).items():
        is_own = getattr(value, "__module__", "") == edits.__name__
        if inspect.isfunction(value) and is_own and not name.startswith("_"):
            yield f"edits.{name}", value


def doers():
    """Public classes that do something when they are made, by name: records take what they get."""
    for name in "ActivationStore", "Design", "Reference", "Results", "Resume", "capture":
        yield name, getattr(ls, name)
    yield "intervene", ls.intervene


def estimators():
    for name in dir(ls):
        value = getattr(ls, name)
        if inspect.isclass(value) and issubclass(value, BaseEstimator):
            yield name, value


NAMES_ALONE = {"edits.zero"}
"""Functions without a parameter."""


@pytest.mark.parametrize(("name", "call"), [*functions(), *doers()])
def test_every_public_call_refuses_strange_arguments_in_one_line(name, call):
    if name in NAMES_ALONE:
        return
    parameters = inspect.signature(call).parameters.values()
    several = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    positional = [Stranger() for p in plain if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: Stranger() for p in plain if p.kind is p.KEYWORD_ONLY}
    with pytest.raises(LayerscopeError) as caught:
        call(*positional, *(Stranger() for _ in several), **named)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < LONGEST
    assert "Stranger" in line


@pytest.mark.parametrize(("name", "kind"), estimators())
def test_every_parameter_of_an_estimator_is_checked_in_fit(name, kind):
    labels = Y if name != "RidgeProbe" else Y.astype(float)
    for parameter in kind().get_params():
        with pytest.raises(InputError, match=f"^{name}: {parameter}: expected .*, got a Stranger$"):
            kind(**{parameter: Stranger()}).fit(X, labels)


WRONG = {
    "fit_many: tol: expected a number, got 'a'": lambda: ls.fit_many(X, {"y": Y}, tol="a"),
    "fit_many: max_iter: expected a whole number, got 0.5": lambda: ls.fit_many(
        X, {"y": Y}, max_iter=0.5
    ),
    "fit_many: choose: expected one of 'accuracy', 'bits', got 'best'": lambda: ls.fit_many(
        X, {"y": Y}, choose="best"
    ),
    "fit_many: dev: expected a tuple of 2 or None, got []": lambda: ls.fit_many(
        X, {"y": Y}, dev=[]
    ),
    "fit_many: targets: expected a dict, got an array": lambda: ls.fit_many(X, Y),
    "fit_many: device: expected a device of this machine, such as 'cpu', got 'gpu'": lambda: (
        ls.fit_many(X, {"y": Y}, device="gpu")
    ),
    "LogisticProbe: tol: expected a number, got 'a'": lambda: ls.LogisticProbe(tol="a").fit(X, Y),
    "LogisticProbe: max_iter: expected a whole number, got True": lambda: ls.LogisticProbe(
        max_iter=True
    ).fit(X, Y),
    "MLPProbe: hidden: expected a whole number, got None": lambda: ls.MLPProbe(hidden=None).fit(
        X, Y
    ),
    "Leace: rtol: expected a share from 0 to 1, got -1.0": lambda: ls.Leace(rtol=-1.0).fit(X, Y),
    "Inlp: expected max_iter from 1 and margin from 0 to 1, got 0 and 0.01": lambda: ls.Inlp(
        max_iter=0
    ).fit(X, Y),
    "sparse_sweep: ks: expected a list of whole numbers, got 4": lambda: ls.sparse_sweep(
        X, Y % 2, X, Y % 2, ks=4
    ),
    "sites: model: expected a torch.nn.Module, got 'gpt2'": lambda: ls.sites("gpt2"),
    "sites: patterns[1]: expected": lambda: ls.sites(tiny.model("gpt2"), "blocks.*", 3),
    "capture: grad: expected True or False, got 'yes'": lambda: ls.capture(
        tiny.model("gpt2"), "blocks.0.hook_resid_post", grad="yes"
    ),
    "capture: dtype: expected a torch.dtype or None, got 'float16'": lambda: ls.capture(
        tiny.model("gpt2"), "blocks.0.hook_resid_post", dtype="float16"
    ),
    "verify: sites: expected a list of texts or None, got 'blocks.0": lambda: ls.verify(
        tiny.model("gpt2"), sites="blocks.0.hook_resid_post"
    ),
    "scale: factor: expected a number, got '2'": lambda: edits.scale("2"),
    "add: vector: expected a tensor, got [1, 2]": lambda: edits.add([1, 2]),
    "compare: runs: expected a list, got 'runs/a'": lambda: ls.compare("runs/a", "out.html"),
    "Site: expected a name and a number, a tuple of numbers or a Span, got": lambda: ls.Site(
        "blocks.0.attn.hook_z", "5"
    ),
    "model: expected a hub id, a path or a pair (model, tokenizer), got a GPT2": lambda: ls.doctor(
        model=tiny.model("gpt2")
    ),
    "probe: expected options by name, such as model=..., got 'gpt2'": lambda: ls.probe("gpt2"),
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_argument_is_named_with_what_was_expected_and_given(line):
    with pytest.raises(LayerscopeError) as caught:
        WRONG[line]()
    assert str(caught.value).startswith(line)


def run_edited(edit):
    model = tiny.model("gpt2")
    with ls.intervene(model, {"blocks.0.hook_resid_post": edit}):
        model(tiny.ids())


def test_an_edit_that_does_not_fit_the_site_is_an_error_of_the_edit():
    with pytest.raises(ls.EditError, match=r"vector that broadcasts to \[2, 7, .*, got \[3\]$"):
        run_edited(edits.add(torch.ones(3)))
    with pytest.raises(ls.EditError, match="the source of the patch has no value of this site"):
        run_edited(edits.patch({"blocks.1.hook_resid_post": torch.ones(2, 7, 8)}))


def test_what_scikit_learn_refuses_is_one_line_without_the_values():
    with pytest.raises(InputError) as caught:
        ls.LogisticProbe().fit(X[:, 0], Y)
    assert str(caught.value).startswith("Expected 2D array, got 1D array. Reshape your data")
    with pytest.raises(InputError, match="inconsistent numbers of samples"):
        ls.RidgeProbe().fit(X[:3], Y)


HINTS = (
    int,
    float,
    bool,
    str,
    float | None,
    str | None,
    float | Sequence[float],
    Sequence[int],
    Sequence[str],
    list[str],
    tuple[int, str],
    tuple[int, ...],
    Mapping[str, Any],
    Mapping[str, float],
    dict[str, int],
    Callable[..., Any],
    Literal["a", "b"],
    Path | str,
    torch.Tensor,
    np.ndarray,
    torch.nn.Module,
    torch.dtype,
    Sequence[Any] | np.ndarray | torch.Tensor,
    Float[torch.Tensor, "n d"] | np.ndarray,
    Int[np.ndarray, " n"] | None,
)
VALUES = (
    *(0, 1, -3, 2**70, True, 0.5, float("nan"), 1j, None, "", "a", "c", b"a", ...),
    *([], [1], [0.5, 1.5], ["a"], (), (1, 2), {}, {"a": 1}, {"a": "b"}, {1: 2}),
    *({1}, range(3), iter([1]), len, Path(), torch.float32, slice(2), Stranger()),
    *(np.float32(2), np.int64(2), np.bool_(True), np.ones(3), np.ones((2, 2)), np.array(1.5)),
    *(torch.ones(2, 2), torch.tensor(2), torch.nn.Linear(1, 1)),
)


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_no_value_is_refused_that_beartype_takes(hint):
    """beartype reads annotations to the letter; numpy's numbers and lists of numbers,
    which users give for numbers and arrays, are taken beside. Only a truth value as a number and
    a text as a list, which are mistakes, are not.
    """
    for value in VALUES:
        is_truth = isinstance(value, bool) and hint is not bool
        is_text = isinstance(value, (str, bytes)) and hint not in (str, str | None, Path | str)
        if beartype.door.is_bearable(value, hint) and not is_truth:
            assert arguments._fits(hint, value) or is_text, (hint, value)


REFUSED = {
    int: ("1", 0.5, True, None, [1], np.bool_(True), torch.ones(2), Stranger()),
    float: ("1", True, None, [1.0], 1j, {}, torch.ones(2), Stranger()),
    bool: (0, 1, "no", None),
    str: (1, None, b"a", ["a"]),
    float | Sequence[float]: ("1", None, ["a"], [None], {}, np.array(["a"])),
    Mapping[str, float]: ([], "a", {"a": "b"}, {1: 2.0}),
    tuple[int, str]: ((), (1,), ("a", 1), 1),
    torch.Tensor: ([1.0], np.ones(2), 1.0, None),
    np.ndarray: (1.0, "a", None, {}),
    torch.nn.Module: ("gpt2", torch.nn.Linear, None),
    Callable[..., Any]: ("f", 1, None),
    Literal["a", "b"]: ("c", 1, None, ["a"]),
}


@pytest.mark.parametrize("hint", REFUSED, ids=str)
def test_values_of_another_kind_are_refused(hint):
    for value in REFUSED[hint]:
        assert not arguments._fits(hint, value), value


def test_numbers_of_numpy_and_of_one_element_are_numbers():
    assert arguments._fits(int, np.int64(3))
    assert arguments._fits(int, torch.tensor(3))
    assert arguments._fits(float, np.float32(3))
    assert arguments._fits(float, torch.tensor(0.5))
    assert arguments._fits(float | Sequence[float], np.logspace(-2, 2, 5))
