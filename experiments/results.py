"""A finished run in Python: its records, its tables, its pictures, its page; as a value,
from memory or from a folder.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.arguments import checked
from layerscope.errors import UseError

from .runs.folder import RunError, read_json, write_json, write_text
from .studies import STUDIES
from .tidy import tidy_rows

if TYPE_CHECKING:
    import pandas

    from .report.pictures import Picture
else:

    def __getattr__(name: str) -> Any:
        if name == "Picture":
            from .report.pictures import Picture

            return Picture
        raise AttributeError(name)


class Results:
    """What a study found.

    Args:
        raw: what ``results.json`` holds.
        folder: the run's folder, if there is one.
    """

    @checked
    def __init__(self, raw: dict[str, Any], folder: Path | str | None = None) -> None:
        self.raw = raw
        self.folder = None if folder is None else Path(folder)

    @classmethod
    @checked
    def load(cls, folder: Path | str) -> Results:
        """The results of a finished run.

        Args:
            folder: the run's folder, or its ``results.json``.

        Raises:
            RunError: there are none, or the file is not a run's.
            ResultsError: a field that no run wrote so.
        """
        path = Path(folder)
        path = path / "results.json" if path.is_dir() else path
        if not path.is_file():
            raise RunError(f"{folder}: {_why_none(path)}")
        raw = read_json(path)
        kind = raw.get("kind")
        if not isinstance(kind, str) or kind not in STUDIES:
            raise RunError(
                f"{path}: expected the results of {', '.join(STUDIES)}, got kind {kind!r:.40}"
            )
        STUDIES[kind].read(raw, str(path))
        return cls(raw, path.parent)

    # -- what it holds

    @property
    def kind(self) -> str:
        """The command's name."""
        return str(self.raw["kind"])

    @property
    def records(self) -> list[dict[str, Any]]:
        """The tidy table: one record per measured cell."""
        return self.raw["records"]

    @property
    def findings(self) -> list[str]:
        """What was found, in words."""
        return [str(finding["text"]) for finding in self.raw.get("findings") or ()]

    @property
    def notes(self) -> list[dict[str, str]]:
        """What was skipped, dropped or approximated."""
        return list(self.raw.get("notes") or ())

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, data, versions, machine, time, command."""
        return self.raw.get("provenance") or {}

    @property
    def frame(self) -> pandas.DataFrame:
        """The records as a tidy `pandas.DataFrame`: one row a value,
        no lists in cells (`records` holds all).
        """
        import pandas

        return pandas.DataFrame(tidy_rows(self.raw))

    # -- what it shows

    @property
    def pictures(self) -> list[Picture]:
        """The report's pictures, in its order."""
        from .pages import page_of
        from .report.pictures import pictures

        return pictures(page_of(self.raw))

    def plot(self, number: int = 0) -> Picture:
        """One of the report's pictures; it shows itself in a notebook, and ``save`` writes it.

        Raises:
            RunError: this kind of run has no such picture.
        """
        pictures = self.pictures
        if not 0 <= number < len(pictures):
            known = (
                "; ".join(f"{i} {picture.title}" for i, picture in enumerate(pictures)) or "none"
            )
            raise RunError(
                f"no picture {number} in these results of {self.kind}: expected one of: {known}"
            )
        return pictures[number]

    def altair(self, **encodings: Any) -> Any:
        """The tidy frame as an `altair.Chart`, to restyle; needs the extra figures.

        Args:
            encodings: channels and columns, such as ``x="layer:O", y="head:O", color="effect:Q"``;
                without any, points of the first measured column over the layers.

        Raises:
            UseError: altair is not installed.
        """
        try:
            import altair
        except ImportError:
            raise UseError(
                "altair is not installed: pip install 'layerscope[figures]', "
                "or use results.frame with another library"
            ) from None
        frame = self.frame
        marks = altair.Chart(frame).mark_point()
        return marks.encode(**(encodings or _first_encodings(frame)))

    def report(self, path: Path | str) -> Path:
        """Write the report, one page that works offline; returns where."""
        from .pages import write_report

        write_report(self.raw, Path(path))
        return Path(path)

    # -- where it goes

    def save(self, folder: Path | str) -> Path:
        """Copy the run to another folder, whole: configuration, results, report and what else it
        wrote.

        Raises:
            RunError: the folder is there and not empty.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"save: expected a new or empty folder, {folder} holds files")
        if self.folder is not None and (self.folder / "results.json").exists():
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        self.report(folder / "report.html")
        write_json(folder / "results.json", self.raw)
        return folder

    def __repr__(self) -> str:
        where = f" in {self.folder}" if self.folder else ""
        return "\n".join(
            [f"<Results of {self.kind}: {len(self.records)} records{where}>", *self.findings]
        )

    def _repr_html_(self) -> str:
        """Findings and the head of the page with what the pointer reads, for a notebook."""
        from .pages import page_of
        from .report.notebook import cell_html
        from .report.pictures import first_table
        from .report.render import forced_past

        page = page_of(self.raw)
        if self.records:
            cell = cell_html(page, self.findings, forced_past(self.raw))
            if cell is not None:
                return cell
        parts = [f"<p>{escape(text)}</p>" for text in self.findings]
        if self.records:
            parts += [picture._repr_html_() for picture in self.pictures[:1]]
            parts += [first_table(page)]
        return "\n".join(parts)


VALUES = ("score", "effect", "value", "ece", "entropy")
"""Columns of what is measured, by which a chart without encodings is drawn."""


def _first_encodings(frame: pandas.DataFrame) -> dict[str, str]:
    value = next((name for name in VALUES if name in frame), frame.columns[-1])
    place = "layer" if "layer" in frame else frame.columns[0]
    return {"x": f"{place}:O", "y": f"{value}:Q"}


def _why_none(path: Path) -> str:
    """Why there are no results to read."""
    folder = path.parent if path.suffix == ".json" else path
    if not folder.exists():
        near = difflib.get_close_matches(folder.name, _run_folders(folder.parent), 1)
        hint = f": did you mean {folder.parent / near[0]}?" if near else ""
        return f"expected a finished run's folder, got no such run folder{hint}"
    if (folder / "config.json").exists():
        return "the run there is not finished: call its command again to go on"
    return "expected a finished run's folder, with a results.json"


def _run_folders(parent: Path) -> list[str]:
    """The folders of finished runs in a folder."""
    return [path.parent.name for path in parent.glob("*/results.json")]


@checked
def compare(runs: Sequence[Results | Path | str], path: Path | str) -> Path:
    """Write a page that shows several runs side by side; returns where.

    Raises:
        RunError: no run, or one that is not finished.
    """
    from .comparison import compared_page
    from .pages import blaming_edits
    from .report.render import rendered

    loaded = [run if isinstance(run, Results) else Results.load(run) for run in runs]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [one.raw for one in loaded]
    with blaming_edits(*raw):
        page = rendered(compared_page(raw))
    write_text(path, page)
    return path
