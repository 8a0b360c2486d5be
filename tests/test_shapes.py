"""The check of shapes fails where a shape is wrong, and leaves alone what names none."""

from __future__ import annotations

import re
from pathlib import Path

import jaxtyping
import pytest
import torch
from shapes import ALIASES

import layerscope
from hooks import views
from probes import rankings

ROOT = Path(__file__).resolve().parents[1]


def test_a_wrong_shape_is_an_error() -> None:
    assert views.pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 20, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="batch channel height width"):
        views.pixels(torch.zeros(2, 3, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        views.heads(2)(torch.zeros(2, 3, 4).long())


def test_a_function_is_checked_where_its_annotations_name_shapes() -> None:
    checked = {name for name, value in vars(rankings).items() if hasattr(value, "__wrapped__")}
    named = {
        name
        for name, value in vars(rankings).items()
        if "Scores" in str(getattr(value, "__annotations__", ""))
    }
    assert named
    assert named <= checked
    assert not hasattr(views.halves, "__wrapped__")


def test_every_alias_of_a_shape_is_known() -> None:
    alias = re.compile(r"^(\w+)(?:: TypeAlias)? = .*\b(?:Bool|Float|Int)\[", re.MULTILINE)
    named = {
        name
        for room in layerscope.ROOMS
        for path in (ROOT / room).rglob("*.py")
        for name in alias.findall(path.read_text(encoding="utf-8"))
    }
    functions = {
        "Forward",
        "IdsToLogits",
        "Step",
    }  # aliases of callables, which are not looked into
    assert named - functions == ALIASES
