"""Where layerscope's own modules are, whatever else is called ``hooks``, ``probes`` or
``experiments`` in a user's project.

The three folders stand beside this package, and their modules are called ``layerscope.hooks``,
``layerscope.probes`` and ``layerscope.experiments``. Their short names work as well where nothing
else has them, as names of the same modules.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

ROOMS = ("hooks", "probes", "experiments")
_ROOT = Path(__file__).resolve().parents[1]


class RoomFinder:
    """Finds ``layerscope.hooks`` in the folder beside this package,
    and ``hooks.x`` as another name of ``layerscope.hooks.x``.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a module of ours; None for any other."""
        first, _, rest = name.partition(".")
        if first == "layerscope" and rest in ROOMS:
            folder = _ROOT / rest
            return importlib.util.spec_from_file_location(
                name, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
        ours = sys.modules.get(f"layerscope.{first}")
        if first in ROOMS and rest and ours is not None and sys.modules.get(first) is ours:
            return importlib.util.spec_from_loader(name, _SameModule())  # pyright: ignore[reportArgumentType]
        return None


class _SameModule:
    """Loads ``hooks.x`` by giving the module ``layerscope.hooks.x``.

    No class of ``importlib.abc``, whose import takes longer than everything else of ours that
    ``import layerscope`` does.
    """

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"layerscope.{spec.name}")
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put the short name's there

    def is_package(self, fullname: str) -> bool:
        """Whether it has modules of its own."""
        return _own_spec(fullname).submodule_search_locations is not None

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m experiments.cli``."""
        spec = _own_spec(fullname)
        get_code = getattr(spec.loader, "get_code", None)
        return get_code(spec.name) if get_code else None


def _own_spec(short_name: str) -> ModuleSpec:
    """The specification of the module that a short name is another name of."""
    spec = importlib.util.find_spec(f"layerscope.{short_name}")
    if spec is None:
        raise ImportError(f"no module named layerscope.{short_name}", name=short_name)
    return spec


def same_modules(room: str) -> None:
    """Make a room's short name, which is being imported,
    another name of ``layerscope.ROOM`` and its modules.
    """
    importlib.import_module(f"layerscope.{room}")
    for name in [name for name in sys.modules if f"{name}.".startswith(f"layerscope.{room}.")]:
        sys.modules[name.removeprefix("layerscope.")] = sys.modules[name]


def install() -> None:
    """Let the import system find the rooms; once."""
    if RoomFinder not in sys.meta_path:
        sys.meta_path.insert(0, RoomFinder)
