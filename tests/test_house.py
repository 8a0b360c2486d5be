"""The house rules that a test can hold: imports point one way, the public face is typed,
imports stay light.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from layerscope import experiments, hooks, probes

ROOT = Path(__file__).resolve().parents[1]
ROOMS_AT_THE_ROOT = ("hooks", "probes", "experiments")
MAY_IMPORT = {
    "hooks": {"hooks"},
    "probes": {"probes"},
    "experiments": {"experiments", "hooks", "probes"},
}
FACES = {"__init__", "api", "cli", "comparison", "explorer", "pages", "results", "terminal", "tidy"}
"""Rooms of experiments that may know every study."""


def imported_modules(path, root=ROOT):
    """The modules of ours that a file imports, as dotted names below the root;
    late imports and those for types too.
    """
    here = path.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = here[: -node.level] if node.level else ()
            names = [
                ".".join(filter(None, (*start, node.module or "", alias.name)))
                for alias in node.names
            ]
        else:
            continue
        names = [name.removeprefix("layerscope.") for name in names]
        yield from (name for name in names if name.split(".")[0] in ROOMS_AT_THE_ROOT)


def room_of(name):
    """The room of a module of experiments: a folder or file there, and each study for itself."""
    parts = name.split(".")[1:]
    if parts[:1] == ["studies"]:
        return ".".join(parts[:2])
    return parts[0] if parts else "__init__"


def rooms_of_experiments(root=ROOT):
    """Room -> the rooms that it imports."""
    folder = root / "experiments"
    known = {path.stem if path.is_file() else path.name for path in folder.iterdir()}
    graph = {}
    for path in folder.rglob("*.py"):
        own = room_of(
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        )
        edges = graph.setdefault(own, set())
        for name in imported_modules(path, root):
            if (
                name.split(".")[0] == "experiments"
                and name.split(".")[1:2]
                and name.split(".")[1] in known
            ):
                edges.add(room_of(name))
    studies = {path.name for path in (folder / "studies").iterdir() if path.is_dir()}
    plain = {f"studies.{name}" for name in studies}
    return {
        room: {e if e in plain or not e.startswith("studies") else "studies" for e in edges}
        - {room}
        for room, edges in graph.items()
    }


def circle(graph):
    """A circle of rooms, or None."""
    done, path = set(), []

    def visit(room):
        if room in path:
            return [*path[path.index(room) :], room]
        if room in done:
            return None
        path.append(room)
        for other in sorted(graph.get(room, ())):
            if (found := visit(other)) is not None:
                return found
        path.pop()
        done.add(room)
        return None

    return next((found for room in sorted(graph) if (found := visit(room)) is not None), None)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in imported_modules(file)
        if name.split(".")[0] not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_rooms_of_experiments_form_no_circle():
    assert circle(rooms_of_experiments()) is None


def test_shared_rooms_know_no_study_and_no_study_another():
    graph = rooms_of_experiments()
    for room, imported in graph.items():
        studies = {name for name in imported if name.startswith("studies")}
        if room in FACES or room == "studies":
            continue
        assert not studies, f"{room} imports {sorted(studies)}"


def test_the_import_rules_can_fail(tmp_path):
    path = tmp_path / "hooks" / "bad.py"
    path.parent.mkdir()
    for text, found in (
        ("import experiments.cli\nfrom probes.solver import fit_many\n", {"experiments", "probes"}),
        ("from ..probes.solver import fit_many\n", {"probes"}),
        ("from .. import experiments, probes\n", {"experiments", "probes"}),
        ("from . import taps\nfrom .sites import Site\n", {"hooks"}),
        ("def late():\n    from layerscope.experiments.cli import main\n", {"experiments"}),
    ):
        path.write_text(text)
        assert {name.split(".")[0] for name in imported_modules(path, tmp_path)} == found
    for name, text in (
        ("runs/a.py", "from ..report.b import x\n"),
        ("report/b.py", "def late():\n    from ..runs.a import y\n"),
        ("studies/probe/page.py", "from ..ablate.page import z\n"),
        ("studies/ablate/page.py", ""),
    ):
        file = tmp_path / "experiments" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    graph = rooms_of_experiments(tmp_path)
    assert circle(graph) == ["report", "runs", "report"]
    assert graph["studies.probe"] == {"studies.ablate"}


ROOMS = pytest.mark.parametrize("room", [hooks, probes, experiments], ids=lambda m: m.__name__)


@ROOMS
def test_the_public_face_is_typed(room):
    untyped = []
    for name in room.__all__:
        thing = getattr(room, name)
        functions = [thing] if callable(thing) and not inspect.isclass(thing) else []
        if inspect.isclass(thing):
            members = vars(thing).items()
            functions = [
                f
                for n, f in members
                if inspect.isfunction(f) and (not n.startswith("_") or n == "__init__")
            ]
        for function in functions:
            signature = inspect.signature(function)
            missing = [
                p
                for p, v in signature.parameters.items()
                if v.annotation is v.empty and p not in ("self", "cls")
            ]
            if missing or (
                signature.return_annotation is signature.empty and function.__name__ != "__init__"
            ):
                untyped.append(f"{name}.{function.__name__}{missing}")
    assert not untyped


STUDIES_THAT_FIT_NOTHING = ("ablate", "attend", "attribute", "capture", "lens", "patch", "prune")


def test_importing_hooks_and_most_studies_costs_torch_and_little_more():
    modules = ["layerscope.hooks", "layerscope.experiments.terminal"]
    modules += [f"layerscope.experiments.studies.{name}.study" for name in STUDIES_THAT_FIT_NOTHING]
    code = (
        f"import sys, {', '.join(modules)}; heavy = {{'transformers', 'transformer_lens', "
        "'sklearn', 'scipy.stats', 'matplotlib', 'pandas'}; sys.exit(', '.join(heavy & "
        "set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS_AT_THE_ROOT)
def test_nothing_imports_scipy_stats_not_even_late(room):
    """It takes a third of a second; `probes.distributions` and `probes.ranks` do without."""
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        if re.search(r"^\s*(from|import) scipy(\.| import )stats", path.read_text("utf-8"), re.M):
            found.append(str(path.relative_to(ROOT)))
    assert not found


def said_below(room) -> set[str]:
    """Names of a room's constants with text right below them, which is a constant's docstring."""
    found = set()
    for path in (ROOT / room.__name__.rpartition(".")[2]).rglob("*.py"):
        for node, below in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            if (
                isinstance(node, ast.Assign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    return found


def own_docstring(thing) -> str:
    """Not its type's, its parent's, or the signature that a dataclass is given."""
    text = (
        (getattr(thing, "__dict__", {}).get("__doc__") or "")
        if not inspect.isroutine(thing)
        else thing.__doc__ or ""
    )
    return (
        ""
        if dataclasses.is_dataclass(thing) and text.startswith(f"{thing.__name__}(")
        else text.strip()
    )


@ROOMS
def test_every_public_name_has_a_docstring(room):
    below = said_below(room)
    assert not [
        name
        for name in room.__all__
        if name not in below and not own_docstring(getattr(room, name))
    ]


def test_the_docstring_rule_can_fail():
    bare = dataclasses.make_dataclass("bare", ["x"])
    assert bare.__doc__
    assert not own_docstring(bare)
    assert not own_docstring(type("Child", (Path,), {}))
    assert not own_docstring((1.0, 2.0))
