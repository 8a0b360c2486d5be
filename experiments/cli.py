"""The command ``layerscope``: one name a study, from ``probe`` to ``demo``."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from layerscope.errors import LayerscopeError

from .runs.study import Study
from .studies import STUDIES

if TYPE_CHECKING:
    from .runs.shared_options import CallOptions

EXPLORED = (
    "explore --model openai-community/gpt2 --text 'The keys to the cabinet'",
    "explore --model HuggingFaceTB/SmolLM2-135M --edit 'blocks.3.attn.hook_z[5]=zero' --json",
)
MADE = (
    "make ioi --model openai-community/gpt2",
    "make agreement --model HuggingFaceTB/SmolLM2-135M --n 200 --out agreement.jsonl",
)
REPORTS = ("report runs/gpt2", "report runs/gpt2 runs/smollm --out compared.html")
WIDTH = 100
"""Of example command lines."""
LONGEST = 480
"""Characters of an error message."""
SHELLS = ("bash", "zsh", "fish")
WRONG, BAD_INPUT, BUG, INTERRUPTED = 1, 2, 70, 130
STATUS = (
    f"exit status: 0 done, {WRONG} the doctor finds something WRONG, {BAD_INPUT} bad input, "
    f"{BUG} a bug in layerscope, {INTERRUPTED} interrupted (the message says how to continue)"
)
ISSUES = "https://github.com/layerscope/layerscope/issues"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: see ``STATUS``."""
    words = sys.argv[1:] if arguments is None else arguments
    if (line := _not_unicode(words)) is not None:
        print(line, file=sys.stderr)
        return BAD_INPUT
    # No option stands before the command and takes a value, so that the first other word is the
    # command.
    command = next((word for word in words if not word.startswith("-")), "")
    parser = make_parser(None if command == "completion" else command)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        print(shorten(f"layerscope: {_unknown(parser, given.command, unknown)}"), file=sys.stderr)
        return BAD_INPUT
    if given.version:
        import importlib.metadata

        print(f"layerscope {importlib.metadata.version('layerscope')}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    if given.command == "completion":
        return _printed(_completion(parser, given.shell))
    if getattr(given, "quiet", False):
        os.environ["TQDM_DISABLE"] = "1"  # bars of other libraries; read when tqdm is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    return _guarded(given)


def _not_unicode(words: Sequence[str]) -> str | None:
    """What is wrong with a word that no file and no terminal can hold; None where there is none."""
    for word in words:
        if word.isascii():
            continue
        from .runs.options import is_text

        if not is_text(word):
            return shorten(f"layerscope: expected characters, got half of one in {word!a}")
    return None


def _printed(text: str) -> int:
    """Print a long text; a reader that stops early, such as ``head``, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # else Python would report the closed pipe once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _unknown(parser: argparse.ArgumentParser, command: str | None, unknown: Sequence[str]) -> str:
    """What was not understood, with the nearest option there is."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = (
        commands.choices[command]._option_string_actions
        if command
        else parser._option_string_actions
    )
    first = unknown[0].partition("=")[0]
    near = difflib.get_close_matches(first, [name for name in known if name.startswith("--")], 1)
    if not near and command is None and not first.startswith("-"):
        near = difflib.get_close_matches(first, list(commands.choices), 1)
    help_of = f"layerscope {command} --help" if command else "layerscope --help"
    hint = f": did you mean {near[0]}?" if near else f"; '{help_of}' lists all"
    if not first.startswith("-"):
        where = f"{command}: " if command else ""
        return f"{where}unexpected {first!r}{hint}"
    subject = f"{command} has no" if command else "there is no"
    return f"{subject} option {first}{hint}"


class _Parser(argparse.ArgumentParser):
    """A parser whose every error is one line: argparse repeats what was given whole, however long,
    and adds the usage.
    """

    def error(self, message: str) -> NoReturn:
        match = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if match is not None:
            choices = re.findall(r"[\w-]+", match[2])
            near = difflib.get_close_matches(match[1], choices, 1)
            message += f": did you mean {near[0]}?" if near else ""
        message = message.replace("invalid int value:", "expected a whole number, got")
        message = message.replace("invalid float value:", "expected a number, got")
        self.exit(BAD_INPUT, f"{shorten(f'{self.prog}: {message}')}\n")


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, read from `STUDIES`.

    Args:
        command: the only one whose options are read, since reading those of all takes a tenth of a
            second; None: all.
    """
    firsts = [study.examples[0] for study in STUDIES.values()]
    parser = _Parser(
        prog="layerscope",
        allow_abbrev=False,
        description="Find out what a PyTorch language model encodes, "
        "where it encodes it, and whether it uses it.",
        epilog=_examples(["demo", *firsts, REPORTS[1]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, study in STUDIES.items():
        one = _add(commands, name, study.help, study.examples)
        if command in (None, name):
            _add_study_options(one, study)
    for name, (text, examples, add) in OTHERS.items():
        one = _add(commands, name, text, examples)
        if command in (None, name):
            add(one)
    return parser


def _add_study_options(parser: argparse.ArgumentParser, study: Study) -> None:
    from .runs.options import add_options

    _show_required(parser, study.name, study.options)
    add_options(parser, study.options)
    _add_call_options(parser)


def _add_call_options(parser: argparse.ArgumentParser) -> None:
    from .runs.options import add_options
    from .runs.shared_options import CallOptions

    group = parser.add_argument_group((CallOptions.__doc__ or "").rstrip("."))
    add_options(group, CallOptions)


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-run"),
        metavar="DIR",
        help="run folder (default: %(default)s)",
    )
    parser.add_argument(
        "--explore", action="store_true", help="open the embedded model in the browser instead"
    )
    _add_call_options(parser)


def _add_explore_options(parser: argparse.ArgumentParser) -> None:
    from .explorer.options import ExploreOptions
    from .runs.options import add_options

    _show_required(parser, "explore", ExploreOptions)
    add_options(parser, ExploreOptions)


def _add_make_options(parser: argparse.ArgumentParser) -> None:
    from .making.options import DATASETS, MakeOptions
    from .runs.options import add_options

    _show_required(parser, "make", MakeOptions, "DATASET")
    about = "; ".join(f"{name}: {text}" for name, text in DATASETS.items())
    parser.add_argument("dataset", choices=tuple(DATASETS), metavar="DATASET", help=about)
    add_options(parser, MakeOptions)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, nargs="+", metavar="DIR", help="folders of finished runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output page (default: report.html in the run folder; compared.html for several runs)",
    )


def _add_completion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="shell that will use the script")


def _show_required(parser: argparse.ArgumentParser, name: str, options: type, *words: str) -> None:
    """A usage line with the words and options that must be given."""
    from .runs.options import required_of

    parser.usage = " ".join(("layerscope", name, *words, *required_of(options), "[options]"))


_PLACES = (
    "~/.local/share/bash-completion/completions/layerscope",
    "~/.zfunc/_layerscope",
    "~/.config/fish/completions/layerscope.fish",
)
"""Where each shell looks for it."""

OTHERS: dict[str, tuple[str, tuple[str, ...], Callable[[argparse.ArgumentParser], None]]] = {
    "demo": (
        "run a small probing study of an embedded model and corpus (nothing is downloaded)",
        ("demo",),
        _add_demo_options,
    ),
    "explore": (
        "try edits on a text live, in the browser: heads, lens, attribution, generation",
        EXPLORED,
        _add_explore_options,
    ),
    "make": (
        "write a data set for a model: ioi, agreement, names or questions",
        MADE,
        _add_make_options,
    ),
    "report": (
        "remake the report of a finished run, or compare several runs",
        REPORTS,
        _add_report_options,
    ),
    "completion": (
        "print a shell completion script",
        tuple(
            f"completion {shell} > {where}" for shell, where in zip(SHELLS, _PLACES, strict=True)
        ),
        _add_completion_options,
    ),
}
"""The commands that are no studies: their help, examples and options."""


def _add(commands: Any, name: str, text: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """A command's parser; its description is its help, and examples stand below its options."""
    return commands.add_parser(
        name,
        allow_abbrev=False,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _examples(lines: Sequence[str]) -> str:
    """Example command lines, those that are long over several lines."""
    examples = []
    for line in lines:
        rows = [""]
        for part in re.split(r" (?=--)", f"layerscope {line}"):
            if len(rows[-1]) + len(part) > WIDTH:
                rows.append("")
            rows[-1] += f" {part}" if rows[-1] else part
        examples.append(" \\\n      ".join(rows))
    return "\n  ".join(["examples:", *examples]) + f"\n\n{STATUS}"


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The shell's script: commands, options and choices,
    and files or folders where an option takes a path.
    """
    import shtab

    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for action in (action for one in commands.choices.values() for action in one._actions):
        if action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(parser, shell)


def _guarded(given: argparse.Namespace) -> int:
    """Run the command; what the user can mend is one line, a bug is a traceback,
    and a Ctrl-C says how to go on.
    """
    from .runs.options import as_command, from_arguments, read_toml
    from .runs.shared_options import CallOptions

    again, folder = "the same command", None
    try:
        if given.command == "report":
            return _report(given.folder, given.out)
        if given.command == "explore" or getattr(given, "explore", False):
            return _explore(given)
        if given.command == "make":
            from .making.command import make
            from .making.options import MakeOptions

            print(make(given.dataset, from_arguments(MakeOptions, given)))
            return 0
        call = from_arguments(CallOptions, given)
        if given.command == "demo":
            study, options = STUDIES["probe"], _demo(given.out)
            again = f"layerscope demo --out {given.out}"
        else:
            study = STUDIES[given.command]
            file = read_toml(call.config, given.command) if call.config is not None else {}
            options = from_arguments(study.options, given, file)
            again = as_command(given.command, options)
        folder = options.out
        return _study(study, options, call)
    except (LayerscopeError, OSError) as error:
        if getattr(given, "verbose", False):
            traceback.print_exc()
        print(f"layerscope: {shorten(_reason(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"layerscope: interrupted; {_left(folder)}. To go on: {again}", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        print(
            f"layerscope: this is a bug in layerscope, please report it: {ISSUES}", file=sys.stderr
        )
        return BUG


def _left(folder: Path | None) -> str:
    """What an interrupted run leaves to go on from."""
    from .runs.folder import holds_work

    if folder is None or not (folder / "config.json").exists():
        return "nothing was done yet"
    if (folder / "results.json").exists():
        return f"the results are saved in {folder}"
    cells = list((folder / "cells").glob("*.json"))
    if cells or holds_work(folder):
        return f"{len(cells)} parts are done and kept in {folder}"
    return "nothing was done yet"


def _reason(error: Exception) -> str:
    """An error in words; one of the operating system is the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def shorten(text: str) -> str:
    """A message as one line of at most `LONGEST` characters that every terminal can print."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


def _demo(out: Path) -> Any:
    """The embedded study: part of speech and dependency relation in the embedded model."""
    from .demo import demo_paths

    paths = demo_paths()
    return STUDIES["probe"].options(
        model=str(paths.model),
        corpus=paths.train,
        dev=paths.dev,
        test=paths.test,
        property=("upos", "deprel"),
        sample=800,
        l2=(10.0,),
        control_seeds=3,
        out=out,
    )


def _explore(given: argparse.Namespace) -> int:
    """Serve the bench until Ctrl-C."""
    from .explorer.command import run_command, run_demo
    from .explorer.options import ExploreOptions
    from .runs.options import from_arguments

    if given.command == "demo":
        run_demo()
    else:
        run_command(from_arguments(ExploreOptions, given))
    return 0


def _report(folders: Sequence[Path], out: Path | None) -> int:
    """Write the page of one run, or of several side by side."""
    from .results import Results, compare
    from .runs import collector

    collector.resume()
    if len(folders) == 1:
        results = Results.load(folders[0])
        path = results.report(out or (results.folder or Path()) / "report.html")
    else:
        path = compare(folders, out or Path("compared.html"))
    print(f"report: {path}")
    return 0


def _report_page_failure(failure: Exception, folder: Path) -> None:
    """The traceback, and how the page is made later."""
    traceback.print_exception(failure)
    print(
        f"layerscope: the results are saved in {folder}, but their page could not be made. "
        f"This is a bug in layerscope, please report it: {ISSUES}. Once it is fixed, "
        f"'layerscope report {folder}' makes the page",
        file=sys.stderr,
    )


def _study(study: Study, options: Any, call: CallOptions) -> int:
    """Run a study, or plan it, and show what it gives."""
    from . import terminal
    from .pages import complete
    from .runs import console
    from .runs.execute import execute, planned
    from .runs.ranks import rank

    console.talk.level = 0 if call.quiet else 2 if call.verbose else 1
    results = planned(study, options) if call.dry_run else execute(study, options)
    if rank() > 0:  # the first process of a group shows what all have computed
        return WRONG if results.get("status") == "WRONG" else 0
    failure = None if "plan" in results else complete(results, options.out)
    if isinstance(failure, (LayerscopeError, OSError)):
        raise failure
    show = terminal.show_json if call.json else terminal.show
    try:
        show(results, options.out)
    finally:
        # The tables may fail too: what became of the page is reported in any case.
        if failure is not None:
            _report_page_failure(failure, options.out)
    if failure is not None:
        return BUG
    return WRONG if results.get("status") == "WRONG" else 0


if __name__ == "__main__":
    sys.exit(main())
