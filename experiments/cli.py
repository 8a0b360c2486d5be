"""The command ``layerscope``: one name a study, from ``probe`` to ``demo``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .commands import COMMANDS
from .options import add_options, as_command, from_arguments, read_toml, required_of
from .run_config import CallConfig

REPORTS = ("report runs/gpt2", "report runs/gpt2 runs/smollm --out compared.html")
WIDTH = 100
"""Of example command lines."""
SHELLS = ("bash", "zsh", "fish")
STATUS = "exit status: 0 done, 1 the doctor finds something WRONG, 2 bad input, 130 interrupted (the message says how to go on)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 WRONG (doctor), 2 bad input, 130 interrupted."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.version:
        import importlib.metadata

        print(f"layerscope {importlib.metadata.version('layerscope')}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    if given.command == "completion":
        print(_completion(parser, given.shell))
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    return _guarded(given)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, read from `COMMANDS`."""
    firsts = [command.examples[0] for command in COMMANDS.values()]
    parser = argparse.ArgumentParser(
        prog="layerscope",
        description="See what a PyTorch language model knows, where it keeps it, and whether it uses it.",
        epilog=_examples(["demo", *firsts, REPORTS[1]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = _add(commands, name, command.help, command.examples, required_of(command.config))
        add_options(one, command.config)
        add_options(one.add_argument_group((CallConfig.__doc__ or "").rstrip(".")), CallConfig)
    demo = _add(
        commands, "demo", "a small probing study of an embedded model and corpus, in about two minutes", ("demo",)
    )
    demo.add_argument(
        "--out", type=Path, default=Path("demo-run"), metavar="DIR", help="the run's folder (default: %(default)s)"
    )
    add_options(demo.add_argument_group((CallConfig.__doc__ or "").rstrip(".")), CallConfig)
    report = _add(
        commands, "report", "make the report of a finished run again, or show several runs side by side", REPORTS
    )
    report.add_argument("folder", type=Path, nargs="+", metavar="DIR", help="folders of finished runs")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the one folder, else compared.html here)",
    )
    completion = _add(
        commands,
        "completion",
        "print a script that completes commands and options in your shell",
        tuple(f"completion {shell} > {where}" for shell, where in zip(SHELLS, _PLACES, strict=True)),
    )
    completion.add_argument("shell", choices=SHELLS, help="whose script")
    return parser


_PLACES = (
    "~/.local/share/bash-completion/completions/layerscope",
    "~/.zfunc/_layerscope",
    "~/.config/fish/completions/layerscope.fish",
)
"""Where each shell looks for it."""


def _add(
    commands: Any, name: str, text: str, examples: Sequence[str], required: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A command's parser; its description is its help, and examples stand below its options."""
    return commands.add_parser(
        name,
        help=text,
        usage=" ".join(("layerscope", name, *required, "[options]")) if required else None,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _examples(lines: Sequence[str]) -> str:
    """Example command lines, those that are long over several lines."""
    shown = []
    for line in lines:
        rows = [""]
        for part in re.split(r" (?=--)", f"layerscope {line}"):
            if len(rows[-1]) + len(part) > WIDTH:
                rows.append("")
            rows[-1] += f" {part}" if rows[-1] else part
        shown.append(" \\\n      ".join(rows))
    return "\n  ".join(["examples:", *shown]) + f"\n\n{STATUS}"


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The shell's script: commands, options and choices, and files or folders where an option takes a path."""
    import shtab

    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for action in (action for one in commands.choices.values() for action in one._actions):
        if action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(parser, shell)


def _guarded(given: argparse.Namespace) -> int:
    """Run the command; what the user can mend is one line, and a Ctrl-C says how to go on."""
    again = "the same command"
    try:
        if given.command == "report":
            return _report(given.folder, given.out)
        call = from_arguments(CallConfig, given)
        command = COMMANDS["probe" if given.command == "demo" else given.command]
        file = read_toml(call.config, given.command) if call.config is not None else {}
        if given.command != "demo":
            config = from_arguments(command.config, given, file)
            again = as_command(given.command, config)
        else:
            from .probing.study import demo_config

            config, again = demo_config(given.out), f"layerscope demo --out {given.out}"
        return _study(command.run, config, call)
    except (ValueError, LookupError, OSError) as error:
        if getattr(given, "verbose", False):
            import traceback

            traceback.print_exc()
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        print(f"layerscope: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"layerscope: interrupted; what is done is kept. To go on: {again}", file=sys.stderr)
        return 130


def _report(folders: Sequence[Path], out: Path | None) -> int:
    """Write the page of one run, or of several side by side."""
    from .results import Results, compare

    if len(folders) == 1:
        found = Results.load(folders[0])
        path = found.report(out or (found.folder or Path()) / "report.html")
    else:
        path = compare(folders, out or Path("compared.html"))
    print(f"report: {path}")
    return 0


def _study(run: Any, config: Any, call: CallConfig) -> int:
    """Run a study, or plan it, and show what it gives."""
    from contextlib import nullcontext

    from . import terminal
    from .run import planning

    terminal.talk.level = 0 if call.quiet else 2 if call.verbose else 1
    with planning() if call.dry_run else nullcontext():
        results = run(config)
    show = terminal.show_json if call.json else terminal.show
    show(results, config.out)
    return 1 if results.get("status") == "WRONG" else 0


if __name__ == "__main__":
    sys.exit(main())
