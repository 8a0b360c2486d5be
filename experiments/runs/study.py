"""What a study is: a row of the list of commands, and the modules of its folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .options import command_of

if TYPE_CHECKING:
    from rich.table import Table

    from ..report.depths import DepthCurve
    from ..report.parts import Page


@dataclass(frozen=True)
class Study:
    """One command. Its folder holds, beside the options:

    ``study``    prepare(options, load) -> inputs; cost(inputs) -> `Cost`; measure(inputs, run) -> results
    ``records``  ``Results``, a frozen dataclass: the fields of ``results.json`` with their units
    ``page``     page(results) -> `Page`; ``CONTROLS``; perhaps cautions(results) and curves(results)
    ``tables``   tables(records) -> tables for the terminal; perhaps further_tables(results)

    A module is imported when it is first asked for.

    Args:
        options: the dataclass of its options; the folder of its module is the study's.
        help: what it does, in a line.
        examples: command lines, without ``layerscope``; the first also stands in the help of all.
    """

    options: type
    help: str
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        """The command's name, which is its folder's."""
        return command_of(self.options)

    def part(self, name: str) -> Any:
        """A module of its folder."""
        package = self.options.__module__.rpartition(".")[0]
        return importlib.import_module(f"{package}.{name}")

    @cached_property
    def work(self) -> Any:
        """The module with ``prepare``, ``cost`` and ``measure``."""
        return self.part("study")

    def read(self, raw: Mapping[str, Any], where: str = "results.json") -> Any:
        """The typed results of a run, from what its ``results.json`` holds.

        Raises:
            ResultsError: a field that is missing or holds something else.
        """
        from ..report.schema import from_json

        return from_json(self.part("records").Results, raw, where)

    def page(self, raw: Mapping[str, Any]) -> Page:
        """The page of a run, as parts, with the closing sections that every page has."""
        from ..report.closing import closed

        results, view = self.read(raw), self.part("page")
        return closed(view.page(results), results, view.CONTROLS, self._cautions(results))

    def cautions(self, raw: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Caveats that the records show, beside the notes of the results: badge, tone, text."""
        return self._cautions(self.read(raw))

    def _cautions(self, results: Any) -> list[tuple[str, str, str]]:
        view = self.part("page")
        return view.cautions(results) if hasattr(view, "cautions") else []

    def tables(self, raw: Mapping[str, Any]) -> list[Table]:
        """The terminal's tables of a run."""
        results, view = self.read(raw), self.part("tables")
        own = view.tables(results.records) if results.records else []
        further = view.further_tables(results) if hasattr(view, "further_tables") else []
        return [*own, *further]

    def curves(self, raw: Mapping[str, Any]) -> list[DepthCurve]:
        """What can be drawn over the depth of the model, beside other runs; none for many studies."""
        view = self.part("page")
        return view.curves(self.read(raw)) if hasattr(view, "curves") else []
