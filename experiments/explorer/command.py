"""The faces of the bench: the command, ``layerscope.explore`` and the demo."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from layerscope.errors import InputError

from ..demo import demo_paths
from ..lenses.files import load_lenses
from ..metrics.probe_metric import load_probe
from ..runs import collector, console
from ..runs.options import from_values
from ..subject import Subject, load
from ..subject.soundness import blaming_model
from .bench import Bench
from .options import ExploreOptions
from .requests import answered
from .runner import Runner
from .session import View, read_changes

if TYPE_CHECKING:
    from ...probes import LogisticProbe


def run_command(options: ExploreOptions) -> None:
    """``layerscope explore``: serve the bench, or with ``json`` show its numbers."""
    if not options.json:
        from .server import require_packages

        require_packages()
    bench = bench_of(options)
    view = view_of(options)
    if options.json:
        with blaming_model(lambda: bench.subject):
            messages = list(answered(bench, {"do": "look", "view": view.to_json()}))
            print(json.dumps(messages, indent=1, ensure_ascii=False, allow_nan=False))
        return
    _serve(bench, view, options, pairs=None)


def run_demo(no_browser: bool = False, port: int = 0) -> None:
    """``layerscope demo --explore``: the embedded model,
    with its minimal pairs to run ablations on.
    """
    paths = demo_paths()
    given = {"model": str(paths.model), "text": "The keys to the cabinet", "port": port}
    options = from_values(ExploreOptions, {**given, "no_browser": no_browser})
    _serve(bench_of(options), view_of(options), options, pairs=paths.pairs)


def _serve(bench: Bench, view: View, options: ExploreOptions, pairs: Path | None) -> None:
    from .server import serve

    name = None if isinstance(options.model, Subject) else str(options.model)
    runner = Runner(name, options.prompts, pairs)
    torch.set_num_threads(max(1, os.cpu_count() or 1))
    serve(bench, runner, view, options.host, options.port, not options.no_browser)


def bench_of(options: ExploreOptions) -> Bench:
    """The model that the options name, with its lenses and probes.

    Raises:
        LayerscopeError: a model, a lens or a probe that cannot be read.
    """
    if options.prompts is not None and not options.prompts.exists():
        raise InputError(f"--prompts {options.prompts}: no such file")
    subject = options.model
    if not isinstance(subject, Subject):
        if not options.json:
            console.say(f"reading {subject}")
        subject = load(
            subject,
            dtype=options.dtype,
            device=options.device,
            bos=options.bos,
            trust_remote_code=options.trust_remote_code,
            classifier=True,
        )
    collector.resume()
    lenses = load_lenses(options.lens, subject)
    probes = list(_probes(options.probe, subject))
    with blaming_model(lambda: subject):
        return Bench(subject, lenses, probes)


def _probes(paths: Sequence[Path], subject: Subject) -> Iterator[LogisticProbe]:
    """The probes of files and folders, in the order of their layers.

    Raises:
        InputError: no probe there, or one of another model.
    """
    for path in paths:
        files = sorted(path.glob("*.safetensors"), key=_layer) if path.is_dir() else [path]
        if not files:
            raise InputError(
                f"--probe {path}: expected probes of a run, such as runs/upos/probes/upos"
            )
        for file in files:
            probe = load_probe(file, subject)
            if probe.about_["site"].startswith("blocks."):
                yield probe


def _layer(path: Path) -> tuple[int, str]:
    digits = "".join(c if c.isdecimal() else " " for c in path.stem).split()
    return (int(digits[0]) if digits else -1, path.stem)


def view_of(options: ExploreOptions) -> View:
    """What the options show first."""
    return View(
        options.text,
        options.other,
        read_changes(options.edit),
        options.answer_id,
        options.wrong_id,
    )


def explore(model: Any, tokenizer: Any = None, **options: Any) -> Any:
    """Open a model in the live bench: as a widget in a notebook, otherwise in the browser.

    Args:
        model: a transformers model in evaluation mode, a `Subject`, or a value of ``layerscope
            explore --model``.
        tokenizer: tokenizer of a model in memory.
        options: options of ``layerscope explore``: ``text``, ``other``, ``edit``, ``probe``,
            ``lens``, ``port``, ...

    Returns:
        In a notebook the widget; otherwise None, after Ctrl-C.

    Raises:
        LayerscopeError: bad input; the message is one line.
    """
    subject = Subject(model, tokenizer) if tokenizer is not None else model
    settings = from_values(ExploreOptions, {"model": subject, **options})
    if not in_notebook():
        return run_command(settings)
    from .widget import ExploreWidget

    return ExploreWidget(bench_of(settings), view_of(settings))


def in_notebook() -> bool:
    """Whether this runs in a kernel that shows widgets."""
    try:
        from IPython import get_ipython  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
