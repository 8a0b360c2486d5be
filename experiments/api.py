"""The commands as Python functions, with the same options, names and defaults.

    results = ablate(
        model="openai-community/gpt2", prompts="ioi.jsonl", component="heads", out="runs/ioi"
    )

A path may be a string, and a single value may replace a list of one. A data file may also be a list
of dicts, one per line, or a `pandas.DataFrame`: ``prompts=[{"prompt": ..., "answer": ...}]``.
``model`` may also be in memory, as a pair of model and tokenizer or as an
`experiments.subject.Subject`; it is then used as it is, so ``dtype`` and ``device`` do not apply.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

from layerscope.arguments import checked

from .pages import complete
from .results import Results
from .runs.execute import execute, planned
from .runs.folder import write_text
from .runs.options import OptionError, from_values
from .runs.shared_options import RUNS
from .runs.study import Study
from .studies import STUDIES


class StudyFunction:
    """A study as a function: the fields of its options are its arguments."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.__name__ = self.__qualname__ = study.name
        self.__signature__ = inspect.signature(study.options).replace(return_annotation=Results)
        options = [
            f"    {item.name}: {item.metadata['help']}"
            for item in dataclasses.fields(study.options)
            if not item.metadata.get("hidden")
        ]
        text = f"{study.help[0].upper()}{study.help[1:]}."
        raises = "Raises:\n    LayerscopeError, OSError: bad input; the message is one line."
        self.__doc__ = "\n".join([text, "", "Args:", *options, "", raises])

    def __call__(self, *args: Any, **options: Any) -> Results:
        """Run the study or continue it; a finished run is read from its folder."""
        config = self._config(args, options)
        results = execute(self.study, config)
        if (failure := complete(results, config.out)) is not None:
            warnings.warn(
                f"the results are saved in {config.out}, but their page could not be made "
                f"({failure!r}): this is a bug in layerscope. Once it is fixed, "
                f"'layerscope report {config.out}' makes the page",
                stacklevel=2,
            )
        return Results(results, config.out)

    def plan(self, *args: Any, **options: Any) -> Results:
        """The plan of the study, with estimated time, memory and disk: results without records."""
        return Results(planned(self.study, self._config(args, options)))

    def _config(self, args: tuple[Any, ...], options: Any) -> Any:
        if args:
            raise OptionError(
                f"{self.__name__}: expected options by name, such as model=..., got {args[0]!r:.80}"
            )
        given = {name: _in_a_file(value) for name, value in options.items()}
        return from_values(self.study.options, _with_subject(given))

    def __repr__(self) -> str:
        return f"<layerscope {self.__name__}{self.__signature__}>"


@checked
def make_dataset(dataset: str, **options: Any) -> list[dict[str, object]]:
    """The items of a data set for one model, as ``layerscope make`` writes them.

        prompts = make_dataset("ioi", model=(model, tokenizer), n=100)
        results = ablate(model=(model, tokenizer), prompts=prompts, component="heads")

    Args:
        dataset: ioi, agreement, names or questions.
        options: those of the command: ``model`` (also in memory, with its tokenizer), ``n``,
            ``seed``, ``bos``, ``trust_remote_code``; with ``out``, the file is written too.

    Returns:
        One dict per item, with the fields of the file.

    Raises:
        LayerscopeError: an unknown data set, a model for which no item is suitable, or an ``out``
            that exists already.
    """
    from .making.command import made_for
    from .making.options import MakeOptions

    config = from_values(MakeOptions, _with_subject(options))
    records = made_for(dataset, config).records
    if len(records) < config.n:
        warnings.warn(
            f"{dataset}: the word lists give only {len(records)} items for this model, "
            f"n was {config.n}",
            stacklevel=2,
        )
    return records


def _with_subject(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with a pair of model and tokenizer as a `Subject`."""
    pair = options.get("model")
    if not isinstance(pair, tuple) or len(pair) != 2:
        return options
    from .subject import Subject

    model, tokenizer = pair
    return {**options, "model": Subject(model, tokenizer, bos=options.get("bos", "auto"))}


def _in_a_file(value: Any) -> Any:
    """The path of a JSONL file for a list of dicts or a frame, which a run folder can name; any
    other value as it is.

    The file's name is the hash of its text, so that the same records are the same data of the same
    run.
    """
    if hasattr(value, "columns") and hasattr(value, "to_dict"):
        value = value.to_dict("records")
    if not (isinstance(value, list) and value and all(isinstance(item, dict) for item in value)):
        return value
    # A run that was interrupted must find its data again: they are put where any later process can
    # read them.
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in value)
    folder = Path.cwd() / RUNS / "inputs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not path.exists():
        write_text(path, text)
    return path


FUNCTIONS = {name: StudyFunction(study) for name, study in STUDIES.items()}
"""Every study as a function."""
