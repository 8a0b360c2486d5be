"""``layerscope doctor``: every check of `hooks.verify`, and what only a tokenizer shows."""

from __future__ import annotations

from collections import Counter

from ....hooks.verify import CHECKS, Verdict, described
from ...report.schema import Finding, Note
from ...runs.execute import Cost, Inputs, Load, Run
from ...subject.checks import TEXT_CHECKS, examine
from ...subject.errors import ReadsNoText
from ...subject.media import Kind
from .options import DoctorOptions
from .records import CheckRecord, Results

MEDIA: dict[str, Kind] = {
    "pixel_values": "images",
    "input_values": "audio",
    "input_features": "audio",
}
"""What a model's forward takes -> the kind of file that it reads."""


def prepare(options: DoctorOptions, load: Load) -> Inputs:
    """The model, whatever it reads."""
    try:
        subject = load()
    except ReadsNoText as error:
        if error.reads not in MEDIA:
            raise
        subject = load(media=MEDIA[error.reads])
    return Inputs(options=options, subject=subject, examined=False)


def cost(inputs: Inputs) -> Cost:
    """Checks on a few sentences."""
    return Cost(f"{len(CHECKS) + len(TEXT_CHECKS)} checks of every site on a few sentences")


def measure(inputs: Inputs, run: Run) -> Results:
    """Examine the model; ``status`` is WRONG where anything is."""
    with run.timed("checks"):
        verdict = examine(inputs.subject)
    about = {check.name: check.about for check in CHECKS}
    about |= {name: described(function) for name, function in TEXT_CHECKS.items()}
    return Results(
        status=verdict.status,
        records=[CheckRecord(**record) for record in verdict.records()],
        checks=about,
        findings=[Finding(property="doctor", text=finding(verdict))],
        notes=[Note(kind="wrong", text=f.text) for f in verdict.wrong],
    )


def finding(verdict: Verdict) -> str:
    """The verdict in a sentence."""
    counts = Counter(f.status for f in verdict)
    wrong = f"WRONG: {verdict.line()}" if verdict.wrong else verdict.line()
    return (
        f"{len(verdict.checks())} checks gave {len(verdict):,} findings: {counts['OK']:,} "
        f"are OK (within their bounds) and {counts['UNSUPPORTED']} are UNSUPPORTED (not "
        f"available or not checkable on this model). {wrong[0].upper()}{wrong[1:]}."
    )
