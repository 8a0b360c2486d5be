"""Figures of how the code reads, for comparing two states of the tree: ``python tools/code_figures.py [FOLDER]``.

nodes a line       syntax nodes over lines of code, median over functions
comments           comments per 1,000 lines of code
comprehensions     comprehensions per 1,000 lines of code
vague names        share of assigned names that say nothing of the value (`VAGUE`)
rooms, circles     rooms of experiments, and those that import each other in a circle
spellings          files of the product that spell a command's name, mean over commands
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
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
        own = room_of(".".join(path.relative_to(root).with_suffix("").parts), folder) or "__init__"
        others = {room_of(name, folder) for name in imports_of(path, root)}
        graph.setdefault(own, set()).update(room for room in others if room not in (None, own))  # pyright: ignore
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


def spellings(root: Path) -> float:
    """Files that hold a command's name as a string or in a name such as ``ProbeOptions``, mean over commands."""
    commands = (
        "probe",
        "ablate",
        "patch",
        "attend",
        "geometry",
        "attribute",
        "usage",
        "neurons",
        "calibrate",
        "ask",
        "prune",
    )
    files = [
        path
        for room in ROOMS
        for path in (root / room).rglob("*.py")
        if f"{'/'}demo{'/'}" not in str(path)
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    counts = []
    for command in commands:
        strings = (
            f'"{command}"',
            f"{command.capitalize()}Options",
            f"{command.capitalize()}Config",
            f"{command}_page",
        )
        outside = {path for path, text in texts.items() if any(s in text for s in strings)}
        counts.append(len({path for path in outside if f"studies/{command}/" not in str(path)}))
    return statistics.mean(counts)


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
        f"nodes a line, median      {statistics.median(densities):.1f} (functions of 5 lines or more)"
    )
    print(f"comments per 1,000        {1000 * comments / lines:.0f}")
    print(f"comprehensions per 1,000  {1000 * comprehensions / lines:.0f}")
    print(f"vague names               {vague:.1%} of {len(names):,} assignments")
    print(f"rooms of experiments      {n_rooms}, in a circle: {len(circles)} {', '.join(circles)}")
    print(f"files spelling a command  {spellings(root):.1f} outside its own folder, mean")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
