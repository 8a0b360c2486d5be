"""Python's face of the commands: a function each, with the command's own options, names and defaults.

    results = ablate(model="openai-community/gpt2", prompts="ioi.jsonl", component="heads", out="runs/ioi")

A path may be text, and one value stands for a list of one. ``model`` may also be in memory, as a pair of model and
tokenizer or as an `experiments.subject.Subject`; it then stays as it is: ``dtype`` and ``device`` are its own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

from . import config as c
from .commands import COMMANDS
from .options import from_values
from .results import Results

P = ParamSpec("P")


class Study(Generic[P]):
    """A command as a function.

    Args:
        name: the command's.
        config: the dataclass of its options, whose fields are the function's arguments.
    """

    def __init__(self, name: str, config: Callable[P, Any]) -> None:
        command = COMMANDS[name]
        self.__name__ = self.__qualname__ = name
        self.__signature__ = inspect.signature(config).replace(return_annotation=Results)
        options = [f"    {item.name}: {item.metadata['help']}" for item in dataclasses.fields(command.config)]
        text = f"{command.help[0].upper()}{command.help[1:]}."
        raises = "Raises:\n    ValueError, LookupError, OSError: bad input, each one clear line."
        self.__doc__ = "\n".join([text, "", "Args:", *options, "", raises])

    def __call__(self, *args: P.args, **options: P.kwargs) -> Results:
        """Run or continue it; what is finished is read, not computed."""
        config = self._config(args, options)
        return Results(COMMANDS[self.__name__].run(config), config.out)

    def plan(self, *args: P.args, **options: P.kwargs) -> Results:
        """What it would do, and its time, memory and disk as far as they can be told: results without records."""
        from .run import planning

        config = self._config(args, options)
        with planning():
            return Results(COMMANDS[self.__name__].run(config))

    def _config(self, args: tuple[Any, ...], options: Any) -> Any:
        if args:
            raise TypeError(f"{self.__name__}: expected options by name, such as model=..., got {args[0]!r:.80}")
        given = dict(options)
        if isinstance(given.get("model"), tuple):
            from .subject import Subject

            model, tokenizer = given["model"]
            given["model"] = Subject(model, tokenizer, bos=given.get("bos", "auto"))
        return from_values(COMMANDS[self.__name__].config, given)

    def __repr__(self) -> str:
        return f"<layerscope {self.__name__}{self.__signature__}>"


probe = Study("probe", c.ProbeConfig)
ablate = Study("ablate", c.AblateConfig)
patch = Study("patch", c.PatchConfig)
attribute = Study("attribute", c.AttributeConfig)
attend = Study("attend", c.AttendConfig)
geometry = Study("geometry", c.GeometryConfig)
usage = Study("usage", c.UsageConfig)
neurons = Study("neurons", c.NeuronsConfig)
capture = Study("capture", c.CaptureConfig)
calibrate = Study("calibrate", c.CalibrateConfig)
ask = Study("ask", c.AskConfig)
doctor = Study("doctor", c.DoctorConfig)
prune = Study("prune", c.PruneConfig)
