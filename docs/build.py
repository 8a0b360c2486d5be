"""Build the reference of the API and the gallery, and check what the documentation says of the
code.

    # writes docs/reference/, docs/gallery/ and the generated parts of the pages
    python docs/build.py
    # writes nothing; exit status 1 and a line for each thing that is not true
    python docs/build.py --check
    python docs/build.py --site     # also builds site/ with Sphinx; a broken link is an error

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` a page holds what the code says: the
fields of a study's ``results.json`` (``results STUDY``), the properties, the attribution methods.

Checked: that the generated parts are up to date; every relative link and anchor of every Markdown
file; every ``layerscope ...`` line of a code block, by the command line's own parser; every
``--option`` that is mentioned; that each command has a page, each page a place in docs/README.md,
and each public name a docstring.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import typing_extensions

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
GALLERY = ROOT / "docs" / "gallery"
MODULES = (
    "layerscope.hooks",
    "layerscope.hooks.edits",
    "layerscope.probes",
    "layerscope.probes.controls",
    "layerscope.probes.evaluation",
    "layerscope.probes.calibration",
    "layerscope.probes.scaling",
    "layerscope.probes.rankings",
    "layerscope.probes.structural",
    "layerscope.probes.mixing",
    "layerscope.experiments",
    "layerscope.experiments.subject",
    "layerscope.experiments.corpus",
    "layerscope.experiments.tasks.properties",
    "layerscope.experiments.attribution",
)
"""What the reference has a page of."""
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def main(arguments: list[str]) -> int:
    """Build or check; returns the exit status."""
    sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
    from draw_gallery import write_gallery

    if arguments not in ([], ["--check"], ["--site"]):
        print(__doc__, file=sys.stderr)
        return 2
    pages = dict(reference())
    if arguments == ["--check"]:
        wrong = list(problems())
        print("\n".join([*wrong, f"docs: {len(wrong)} wrong"]))
        return 1 if wrong else 0
    for path, text in generated_pages():
        path.write_text(text, encoding="utf-8")
    write_gallery(GALLERY)
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages in {REFERENCE}, and {GALLERY}")
    if arguments == ["--site"]:
        build = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", "site"]
        return subprocess.run([sys.executable, *build], cwd=ROOT).returncode
    return 0


# -- the reference


def reference() -> Iterator[tuple[str, str]]:
    """(file name, text) of each page."""
    index = [
        "# Reference",
        "",
        "Written by `python docs/build.py` from the docstrings; not kept in the repository.",
        "",
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        yield f"{name}.md", page_of(module)
        index.append(f"- [{name}]({name}.md): {first_line(module)}")
    yield "commands.md", page_of_commands()
    index.append("- [commands](commands.md): every option of every command")
    yield "README.md", "\n".join([*index, "", *contents(["commands", *MODULES])])


def contents(pages: Sequence[str]) -> list[str]:
    """The lines that tell the site which pages lie below this one."""
    return ["```{toctree}", ":hidden:", *pages, "```", ""]


def page_of(module: ModuleType) -> str:
    """A module's docstring, and those of its public names."""
    parts = [f"# {module.__name__}", quoted(inspect.getdoc(module))]
    for name in public(module):
        thing = getattr(module, name)
        parts += [
            f"## {name}",
            f"```python\n{name}{signature(thing)}\n```" if callable(thing) else f"`{thing!r}`",
        ]
        if callable(thing) or inspect.ismodule(thing):
            parts.append(quoted(inspect.getdoc(thing)))
        for member, method in methods(thing):
            parts += [
                f"### {name}.{member}",
                f"```python\n{member}{signature(method)}\n```",
                quoted(inspect.getdoc(method)),
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


def page_of_commands() -> str:
    """The help of every command, as the command line prints it."""
    from layerscope.experiments.cli import make_parser

    parts = ["# Commands"]
    for name, parser in commands_of(make_parser()).items():
        parts += [f"## {name}", f"```\n{parser.format_help().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def public(module: ModuleType) -> list[str]:
    """The names of ``__all__``,
    or the documented functions and classes that the module itself defines.
    """
    own = [
        n
        for n, v in vars(module).items()
        if callable(v) and getattr(v, "__module__", "") == module.__name__
    ]
    return list(
        getattr(
            module,
            "__all__",
            [n for n in own if n[0] != "_" and inspect.getdoc(getattr(module, n))],
        )
    )


def methods(thing: Any) -> Iterator[tuple[str, Any]]:
    """Public documented methods and properties that a class defines itself."""
    if inspect.isclass(thing) and not issubclass(thing, BaseException):
        for name, value in vars(thing).items():
            value = getattr(value, "__func__", value)
            if name[0] != "_" and inspect.isroutine(value) and inspect.getdoc(value):
                yield name, value


def signature(thing: Any) -> str:
    """The signature with its types; nothing where Python cannot tell it."""
    try:
        return str(inspect.signature(thing)).replace("'", "")
    except (TypeError, ValueError):
        return ""


def quoted(text: str | None) -> str:
    """A docstring as it stands: its equations and columns are lines of text."""
    return f"```text\n{text.strip()}\n```" if text else ""


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def commands_of(parser: Any) -> dict[str, Any]:
    """The parser of each command."""
    return next(action.choices for action in parser._actions if isinstance(action.choices, dict))


# -- the generated parts of the pages

GENERATED = re.compile(r"<!-- generated: ([^>]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def generated_pages() -> Iterator[tuple[Path, str]]:
    """(page, its text with the generated parts as the code has them now)
    of each page that has such parts.
    """
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if GENERATED.search(text):
            yield (
                path,
                GENERATED.sub(
                    lambda m: f"<!-- generated: {m[1]} -->\n{generated(m[1])}\n<!-- end -->", text
                ),
            )


def generated(name: str) -> str:
    """One generated part: ``results STUDY``, ``properties`` or ``attribution methods``."""
    what, _, study = name.partition(" ")
    if what == "results":
        return results_tables(study)
    if what == "properties":
        from layerscope.experiments.tasks.properties import PROPERTIES

        rows = [(f"`{p.name}`", p.level, p.kind, p.doc) for p in PROPERTIES.values()]
        return markdown_table(("property", "of", "values", "meaning"), rows)
    from layerscope.experiments.attribution import METHODS

    rows = [(f"`{m.name}`", m.family, m.about, "yes" if m.draws else "") for m in METHODS.values()]
    return markdown_table(("method", "family", "scores", "drawn"), rows)


ABOVE = {
    True: "Every run's `results.json` has:",
    False: "In addition to [the fields of every run](running.md#resultsjson):",
}


def results_tables(study: str) -> str:
    """The fields of a study's results, or of every study's (``common``): one table for the whole,
    one for each kind of record.
    """
    from layerscope.experiments.report.schema import StudyResults

    if study == "common":
        whole, skipped = StudyResults, set()
    else:
        whole = importlib.import_module(f"layerscope.experiments.studies.{study}.records").Results
        skipped = {item.name for item in dataclasses.fields(StudyResults)}
    tables, ahead, seen = [], [whole], set()
    while ahead:
        kind = ahead.pop(0)
        if kind in seen:
            continue
        seen.add(kind)
        hints = typing.get_type_hints(kind)
        rows = []
        for item in (
            item
            for item in dataclasses.fields(kind)
            if item.name not in skipped or kind is not whole
        ):
            optional = (
                item.default is not dataclasses.MISSING
                or item.default_factory is not dataclasses.MISSING
            )
            about = item.metadata.get("about", "") + (
                " (if asked for)" if optional and kind is not whole else ""
            )
            about += (
                " (its items are fields of the record itself)"
                if item.metadata.get("spread")
                else ""
            )
            rows.append(
                (
                    f"`{item.name}`",
                    type_name(hints[item.name]),
                    item.metadata.get("unit", ""),
                    about,
                )
            )
            ahead += [inner for inner in dataclasses_in(hints[item.name]) if inner not in seen]
        title = (
            ABOVE[study == "common"] if kind is whole else f"`{kind.__name__}`: {first_line(kind)}"
        )
        tables.append(f"{title}\n\n{markdown_table(('field', 'type', 'unit', 'meaning'), rows)}")
    return "\n\n".join(tables)


def dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a type is made of."""
    if dataclasses.is_dataclass(hint):
        return [hint] if isinstance(hint, type) else []
    return [inner for part in typing.get_args(hint) for inner in dataclasses_in(part)]


def type_name(hint: Any) -> str:
    """A type as JSON has it."""
    names = {
        float: "number",
        int: "integer",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "any",
    }
    if hint in names:
        return names[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        return f"list of {type_name(inner[0])}" if inner else "list"
    if origin is dict:
        return f"object of {type_name(inner[1])}" if inner and inner[1] is not Any else "object"
    if origin is typing.Literal:
        return ", ".join(map(str, inner))
    if typing_extensions.is_typeddict(hint):
        return "object"
    if inner:
        return " or ".join(type_name(part) for part in inner)
    return getattr(hint, "__name__", "object")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


# -- the checks


def problems() -> Iterator[str]:
    """A line for each thing that is not true."""
    from layerscope.experiments.cli import make_parser

    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pages = {
        path: path.read_text(encoding="utf-8")
        for path in map(ROOT.joinpath, listed)
        if path.exists()
    }
    parser = make_parser()
    commands = commands_of(parser)
    known = {
        flag
        for one in (parser, *commands.values())
        for action in one._actions
        for flag in action.option_strings
    }
    for path, text in pages.items():
        at = path.relative_to(ROOT)
        yield from (f"{at}: {what}" for what in broken_links(path, text))
        yield from (f"{at}: {what}" for what in wrong_commands(text, parser))
        if path.parent == ROOT / "docs":
            spoken = set(re.findall(r"`(--[a-z][a-z-]*)", prose(text)))
            yield from (
                f"{at}: no command has the option {flag}" for flag in sorted(spoken - known)
            )
    for path, text in generated_pages():
        if text != pages.get(path):
            yield (
                f"{path.relative_to(ROOT)}: a generated part is not what the code says: "
                "run python docs/build.py"
            )
    index = pages.get(ROOT / "docs" / "README.md", "")
    for path in pages:
        if (
            path.parent == ROOT / "docs"
            and path.name not in ("README.md", "index.md")
            and f"({path.name}" not in index
        ):
            yield f"docs/README.md: {path.name} is not in the index"
    for name in commands:
        if not re.search(rf"`{name}`[^\n]*\(\w", index):
            yield f"docs/README.md: the command {name} has no page"
    for name in MODULES:
        module = importlib.import_module(name)
        things = [(n, getattr(module, n)) for n in public(module)]
        yield from (
            f"{name}.{n}: no docstring"
            for n, thing in things
            if callable(thing) and not inspect.getdoc(thing)
        )


def prose(text: str) -> str:
    """The text without its code blocks."""
    return FENCE.sub("", text)


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Relative links to files that are not there, and anchors that no heading makes."""
    for found in LINK.finditer(re.sub(r"`[^`\n]*`", lambda m: "x" * len(m[0]), prose(text))):
        target = found[1] or found[2]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        if {REFERENCE, GALLERY} & {goal, *goal.parents}:
            continue  # built on demand
        if not goal.exists():
            yield f"link to {target}: no such file"
        elif (
            anchor
            and goal.suffix == ".md"
            and anchor not in anchors(goal.read_text(encoding="utf-8"))
        ):
            yield f"link to {target}: no such heading"


def anchors(text: str) -> set[str]:
    """Headings as GitHub names them."""
    made: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        made.add(
            name
            if name not in made
            else next(f"{name}-{i}" for i in range(1, 99) if f"{name}-{i}" not in made)
        )
    return made


def wrong_commands(text: str, parser: Any) -> Iterator[str]:
    """``layerscope`` lines of code blocks that the command line would refuse."""
    for block in FENCE.finditer(text):
        for line in re.sub(r"\\\n\s*", "", block[2]).splitlines():
            started = re.search(r"(?:^|&& )layerscope (.+)", line)
            if started is None or " ... " in f"{line} ":
                continue  # "..." stands for what a reader puts in
            words = shlex.split(started[1], comments=True)
            stop = next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), len(words))
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                    parser.parse_args(words[:stop])
            except SystemExit as stopped:
                if stopped.code:
                    yield f"`{line.strip()}`: {said.getvalue().strip().splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
