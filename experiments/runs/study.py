"""What a study is: a row of the list of commands, and the modules of its folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

STUDIES_ROOM = f"{__name__.removesuffix('.runs.study')}.studies"
"""The package of which each study is a folder."""

if TYPE_CHECKING:
    from rich.table import Table

    from ..report.depths import DepthCurve
    from ..report.parts import Page


@dataclass(frozen=True)
class Study:
    """One command. Its folder holds:

    ``options``  a frozen dataclass, called ``ProbeOptions`` in the folder ``probe``
    ``study``    prepare(options, load) -> inputs; cost(inputs) -> `Cost`; measure(inputs, run) ->
                 results
    ``records``  ``Results``, a frozen dataclass: the fields of ``results.json`` with their units
    ``page``     page(results) -> `Page`; ``CONTROLS``; perhaps cautions(results) and
                 curves(results)
    ``tables``   tables(results) -> tables for the terminal

    A module is imported when it is first asked for.

    Args:
        name: the command's name, which is its folder's.
        help: what it does, in a line.
        examples: command lines, without ``layerscope``; the first also stands in the help of all.
    """

    name: str
    help: str
    examples: tuple[str, ...]

    def part(self, name: str) -> Any:
        """A module of its folder."""
        return importlib.import_module(f"{STUDIES_ROOM}.{self.name}.{name}")

    @cached_property
    def options(self) -> Any:
        """The dataclass of its options."""
        return getattr(self.part("options"), f"{self.name.title().replace('_', '')}Options")

    @cached_property
    def work(self) -> Any:
        """The module with ``prepare``, ``cost`` and ``measure``."""
        return self.part("study")

    def read(self, raw: Mapping[str, Any], where: str = "results.json") -> Any:
        """The typed results of a run, from what its ``results.json`` holds.

        Raises:
            ResultsError: results of another version of the format, or a field that is missing or
                holds something else.
        """
        from ..report.schema import check_schema, from_json

        check_schema(raw, where)
        return from_json(self.part("records").Results, raw, where)

    def page(self, raw: Mapping[str, Any]) -> Page:
        """The page of a run, as parts, with the closing sections that every page has."""
        from ..report.closing import closed, nothing_measured
        from .folder import is_as_written

        results, view = self.read(raw), self.part("page")
        page = view.page(results) if results.is_measured else nothing_measured(results, self.name)
        cautions = self.cautions(results)
        if results.sha256 and not is_as_written(raw):
            cautions.append(("edited", "warn", "The results were edited since the run wrote them."))
        return closed(page, results, view.CONTROLS, cautions)

    def tables(self, raw: Mapping[str, Any]) -> list[Table]:
        """The terminal's tables of a run; none where nothing was measured."""
        results = self.read(raw)
        return self.part("tables").tables(results) if results.is_measured else []

    def cautions(self, results: Any) -> list[tuple[str, str, str]]:
        """Caveats that the records show, beside the notes of the results: badge, tone, text.

        Args:
            results: as `read` gives them.
        """
        return self._optional("cautions", results)

    def curves(self, results: Any) -> list[DepthCurve]:
        """What can be drawn over the depth of the model, beside other runs; none for many studies.

        Args:
            results: as `read` gives them.
        """
        return self._optional("curves", results)

    def _optional(self, name: str, results: Any) -> list[Any]:
        """What a function of the page that not every study has says of the records,
        if there are any.
        """
        make = getattr(self.part("page"), name, None)
        return make(results) if make and results.records else []
