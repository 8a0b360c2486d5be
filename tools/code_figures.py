"""Figures of how the code reads, for comparing two states of the tree: ``python
tools/code_figures.py [FOLDER]``.

nodes a line       syntax nodes over lines of code, median over functions
comments           comments per 1,000 lines of code
comprehensions     comprehensions per 1,000 lines of code
vague names        share of assigned names that say nothing of the value (`VAGUE`)
rooms, circles     rooms of experiments, and those that import each other in a circle
calling a command  files of the product outside a command's folder that call it by its name
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path

ROOMS = ("layerscope", "hooks", "probes", "experiments")
VAGUE = {
    "found",
    "mine",
    "own",
    "held",
    "told",
    "said",
    "more",
    "some",
    "made",
    "shown",
    "kept",
    "there",
    "here",
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def code_lines(text: str) -> int:
    """Lines that hold a token of code."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def assigned_names(tree: ast.AST) -> list[str]:
    """Every name that a value is given."""
    return [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def imports_of(path: Path, root: Path) -> set[str]:
    """Modules of experiments that a file imports, late ones too."""
    here = path.relative_to(root).parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = here[: -node.level] if node.level else ()
            names |= {
                ".".join(filter(None, (*start, node.module or "", alias.name)))
                for alias in node.names
            }
    return {name for name in names if name.startswith("experiments.")}


def room_of(name: str, folder: Path) -> str | None:
    """The room of a dotted name: a file or folder of experiments, each study for itself."""
    parts = name.split(".")[1:]
    if len(parts) > 1 and parts[0] == "studies" and (folder / "studies" / parts[1]).is_dir():
        return f"studies.{parts[1]}"
    known = (folder / parts[0]).is_dir() or (folder / f"{parts[0]}.py").is_file()
    return parts[0] if known else None


def in_circles(root: Path) -> tuple[int, list[str]]:
    """How many rooms there are, and those that reach themselves."""
    folder = root / "experiments"
    graph: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        module_name = ".".join(path.relative_to(root).with_suffix("").parts)
        own_room = room_of(module_name, folder) or "__init__"
        others = {room_of(name, folder) for name in imports_of(path, root)}
        others = {room for room in others if room is not None}
        graph.setdefault(own_room, set()).update(others - {own_room})
    circles = []
    for room in graph:
        reached, ahead = set(), list(graph[room])
        while ahead:
            other = ahead.pop()
            if other not in reached:
                reached.add(other)
                ahead += graph.get(other, ())
        if room in reached:
            circles.append(room)
    return len(graph), sorted(circles)


def spellings(root: Path) -> dict[str, list[str]]:
    """Command -> the files of the product, outside its own folder, that call it by its name."""
    studies = root / "experiments" / "studies"
    commands = sorted(path.name for path in studies.iterdir() if (path / "options.py").is_file())
    named: dict[str, list[str]] = {command: [] for command in commands}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            text = path.read_text(encoding="utf-8")
            for command in called(text, commands):
                if f"studies/{command}/" not in where:
                    named[command].append(where)
    return named


def called(text: str, commands: Iterable[str]) -> set[str]:
    """The commands that a file calls by their name.

    Many names are words of the field too ("neurons" is also a kind of part). A name counts where it
    stands for the command: in ``layerscope NAME``, in an import from its folder, as a key of a
    table of commands, as an index of `STUDIES`, behind ``"layerscope"`` in a list of words, or
    compared with a ``kind``, ``command`` or ``name``.
    """
    known = set(commands)
    commands_called = set(re.findall(r"layerscope (\w+)", text)) & known
    for node in ast.walk(ast.parse(text)):
        names: list[str | None] = []
        if isinstance(node, ast.ImportFrom):
            names += (node.module or "").split(".")[:-1]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            keys = [text_of(key) for key in node.value.keys]
            names += keys if known.issuperset(keys) else ()
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "STUDIES":
            names.append(text_of(node.slice))
        elif isinstance(node, ast.List):
            words = [text_of(one) for one in node.elts]
            names += words[1:2] if words[:1] == ["layerscope"] else ()
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            compared = " ".join(ast.unparse(one) for one in sides)
            names += map(text_of, sides) if re.search(r"\b(kind|command|name)\b", compared) else ()
        commands_called |= known.intersection(name for name in names if name)
    return commands_called


def text_of(node: ast.AST | None) -> str | None:
    """A text that stands in the code as it is."""
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None  # pyright: ignore


def main(root: Path) -> None:
    """Print the figures of a tree."""
    densities, lines, comments, comprehensions, names = [], 0, 0, 0, []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            lines += code_lines(text)
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            comments += sum(token.type == tokenize.COMMENT for token in tokens)
            comprehensions += sum(isinstance(node, COMPREHENSIONS) for node in ast.walk(tree))
            names += assigned_names(tree)
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    source = "\n".join(ast.unparse(part) for part in body)
                    span = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                    if span >= 5 and source:
                        densities.append(sum(1 for part in body for _ in ast.walk(part)) / span)
    n_rooms, circles = in_circles(root)
    vague = sum(name in VAGUE for name in names) / len(names)
    print(f"lines of code             {lines:,}")
    print(
        f"nodes a line, median      {statistics.median(densities):.1f} (functions of 5 "
        "lines or more)"
    )
    print(f"comments per 1,000        {1000 * comments / lines:.0f}")
    print(f"comprehensions per 1,000  {1000 * comprehensions / lines:.0f}")
    print(f"vague names               {vague:.1%} of {len(names):,} assignments")
    print(f"rooms of experiments      {n_rooms}, in a circle: {len(circles)} {', '.join(circles)}")
    named = spellings(root)
    mean = statistics.mean(len(files) for files in named.values())
    most = max(named, key=lambda command: len(named[command]))
    print(f"files calling a command   {mean:.1f} outside its own folder, mean of {len(named)}")
    print(f"                          most: {most}, in {', '.join(named[most])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
