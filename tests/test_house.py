"""The house rules that a test can hold: imports point one way, the public face is typed, imports stay light."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import experiments
import hooks
import probes

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"hooks": {"hooks"}, "probes": {"probes"}, "experiments": {"experiments", "hooks", "probes"}}


def imported_rooms(path, root=ROOT):
    """The rooms that a file imports from; what a relative import names is worked out from where the file lies."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(root).parts[: -node.level] if node.level else ()
            names = [".".join(filter(None, (*here, node.module or "", alias.name))) for alias in node.names]
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [(str(f.relative_to(ROOT)), r) for f in files for r in imported_rooms(f) if r not in MAY_IMPORT[room]]
    assert not wrong


def test_the_import_rule_can_fail(tmp_path):
    path = tmp_path / "hooks" / "bad.py"
    path.parent.mkdir()
    for text, found in (
        ("import experiments.cli\nfrom probes.solver import fit_many\n", {"experiments", "probes"}),
        ("from ..probes.solver import fit_many\n", {"probes"}),
        ("from .. import experiments, probes\n", {"experiments", "probes"}),
        ("from . import taps\nfrom .sites import Site\n", {"hooks"}),
    ):
        path.write_text(text)
        assert set(imported_rooms(path, tmp_path)) == found


ROOMS = pytest.mark.parametrize("room", [hooks, probes, experiments], ids=lambda m: m.__name__)


@ROOMS
def test_the_public_face_is_typed(room):
    untyped = []
    for name in room.__all__:
        thing = getattr(room, name)
        functions = [thing] if callable(thing) and not inspect.isclass(thing) else []
        if inspect.isclass(thing):
            members = vars(thing).items()
            functions = [f for n, f in members if inspect.isfunction(f) and (not n.startswith("_") or n == "__init__")]
        for function in functions:
            signature = inspect.signature(function)
            missing = [
                p for p, v in signature.parameters.items() if v.annotation is v.empty and p not in ("self", "cls")
            ]
            if missing or (signature.return_annotation is signature.empty and function.__name__ != "__init__"):
                untyped.append(f"{name}.{function.__name__}{missing}")
    assert not untyped


def test_importing_hooks_costs_torch_and_little_more():
    code = (
        "import sys, hooks; heavy = {'transformers', 'transformer_lens', 'sklearn', 'matplotlib', 'pandas'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def said_below(room) -> set[str]:
    """Names of a room's constants with text right below them, which is a constant's docstring."""
    found = set()
    for path in (ROOT / room.__name__).rglob("*.py"):
        for node, below in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(node, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    return found


def own_docstring(thing) -> str:
    """Not its type's, its parent's, or the signature that a dataclass is given."""
    text = (
        (getattr(thing, "__dict__", {}).get("__doc__") or "") if not inspect.isroutine(thing) else thing.__doc__ or ""
    )
    return "" if dataclasses.is_dataclass(thing) and text.startswith(f"{thing.__name__}(") else text.strip()


@ROOMS
def test_every_public_name_has_a_docstring(room):
    below = said_below(room)
    assert not [name for name in room.__all__ if name not in below and not own_docstring(getattr(room, name))]


def test_the_docstring_rule_can_fail():
    bare = dataclasses.make_dataclass("bare", ["x"])
    assert bare.__doc__
    assert not own_docstring(bare)
    assert not own_docstring(type("Child", (Path,), {}))
    assert not own_docstring((1.0, 2.0))
