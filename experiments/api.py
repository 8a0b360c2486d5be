"""Python's face of the commands: a function each, with the command's own options, names and
defaults.

    results = ablate(
        model="openai-community/gpt2", prompts="ioi.jsonl", component="heads", out="runs/ioi"
    )

A path may be text, and one value stands for a list of one. A data file may also be a list of dicts,
one a line, or a `pandas.DataFrame`: ``prompts=[{"prompt": ..., "answer": ...}]``. ``model`` may
also be in memory, as a pair of model and tokenizer or as an `experiments.subject.Subject`; it then
stays as it is: ``dtype`` and ``device`` are its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

from .pages import complete
from .results import Results
from .runs.execute import execute, planned
from .runs.folder import write_text
from .runs.options import from_values
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
        raises = "Raises:\n    LayerscopeError, OSError: bad input, each one clear line."
        self.__doc__ = "\n".join([text, "", "Args:", *options, "", raises])

    def __call__(self, *args: Any, **options: Any) -> Results:
        """Run or continue it; what is finished is read, not computed."""
        config = self._config(args, options)
        results = execute(self.study, config)
        if (failure := complete(results, config.out)) is not None:
            warnings.warn(
                f"the results are saved in {config.out}, but their page could not be made "
                f"({failure!r}): this is a bug in layerscope. Once it is mended, "
                f"'layerscope report {config.out}' makes the page",
                stacklevel=2,
            )
        return Results(results, config.out)

    def plan(self, *args: Any, **options: Any) -> Results:
        """What it would do, and its time, memory and disk as far as they can be told:
        results without records.
        """
        return Results(planned(self.study, self._config(args, options)))

    def _config(self, args: tuple[Any, ...], options: Any) -> Any:
        if args:
            raise TypeError(
                f"{self.__name__}: expected options by name, such as model=..., got {args[0]!r:.80}"
            )
        given = {name: _in_a_file(value) for name, value in options.items()}
        if isinstance(given.get("model"), tuple):
            from .subject import Subject

            model, tokenizer = given["model"]
            given["model"] = Subject(model, tokenizer, bos=given.get("bos", "auto"))
        return from_values(self.study.options, given)

    def __repr__(self) -> str:
        return f"<layerscope {self.__name__}{self.__signature__}>"


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
