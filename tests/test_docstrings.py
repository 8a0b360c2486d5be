"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import layerscope


def modules() -> list[str]:
    names = ["layerscope.errors", "layerscope.rooms"]
    for room in layerscope.ROOMS:
        package = importlib.import_module(f"layerscope.{room}")
        names += [
            package.__name__,
            *(m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
        ]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    failed = doctest.testmod(importlib.import_module(name)).failed
    assert not failed
