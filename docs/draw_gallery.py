"""Every picture of every kind of report, with the command that makes it:
drawn from the runs in tests/recorded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

RUNS = Path(__file__).resolve().parents[1] / "tests" / "recorded"
INTRODUCTION = """# Gallery

Every picture that a report draws, with the command that made it. The runs are tiny: the embedded
model or a model with random weights, and a few sentences. They show what a picture looks like;
their numbers mean nothing."""


def write_gallery(folder: Path) -> None:
    """Write README.md, one SVG file a picture,
    and each run's whole report below ``site/reports``.
    """
    from layerscope.experiments.results import Results

    shutil.rmtree(folder, ignore_errors=True)
    reports = folder / "site" / "reports"
    reports.mkdir(parents=True)
    names = sorted(path.parent.name for path in RUNS.glob("*/results.json"))
    runs = [(name, Results.load(RUNS / name)) for name in names]
    text = [INTRODUCTION]
    for kind, group in groupby(runs, key=lambda run: run[1].kind):
        text.append(f"## {kind}")
        for name, results in group:
            results.report(reports / f"{name}.html")
            text.extend(section(name, results, folder))
    (folder / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def section(name: str, results: Any, folder: Path) -> Iterator[str]:
    """The Markdown of one run: its command, its report and its pictures."""
    command = str(results.provenance["command"]).replace(" --", " \\\n    --")
    yield f"```\n{command}\n```"
    yield f'<a href="../reports/{name}.html">The whole report</a>'
    for number, picture in enumerate(results.pictures):
        file = f"{name}-{number}.svg"
        picture.save(folder / file)
        yield f"{picture.title}\n\n![{picture.title}]({file})"
