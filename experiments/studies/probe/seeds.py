"""A probing study repeated with other seeds: other draws of the sentences, splits,
control tasks and random models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from ...report.schema import Finding, Note
from ...report.words import layer_label
from ...runs import console
from .options import ProbeOptions
from .records import ProbeRecord, Results, SeedsRecord

Cells = dict[tuple[str, str], ProbeRecord]
"""Property and site -> its record, of one seed."""


def over_seeds(
    options: ProbeOptions, results: Results, study: Callable[[ProbeOptions], Results]
) -> Results:
    """Repeat a study and add the spread to its results.

    Each repetition is a run of its own in ``seeds/SEED``; a finished one is not run again. Records
    get ``score_seeds`` and ``selectivity_seeds``, a value a seed, this run's first; ``seeds`` has
    one record a property.

    Args:
        results: of this run's seed.
        study: runs the study for other options.
    """
    all_results = [results]
    # One run after the other, each with a folder of its own: what was finished before an
    # interruption stays finished.
    for seed in range(options.seed + 1, options.seed + options.seeds):
        console.say(f"seed {seed}, {len(all_results) + 1} of {options.seeds}")
        folder = options.out / "seeds" / str(seed)
        all_results.append(study(replace(options, seed=seed, seeds=1, out=folder)))
    by_seed: list[Cells] = []
    for of_seed in all_results:
        by_seed.append({(record.property, record.site): record for record in of_seed.records})
    records = [_with_seeds(record, by_seed) for record in results.records]
    properties = dict.fromkeys(record.property for record in records)
    spreads = [_of_property(name, by_seed, options) for name in properties]
    findings = []
    for spread in spreads:
        findings.append(Finding(property=spread.property, text=_finding(spread, records)))
    notes = []
    if options.dev and options.test and not options.sample:
        text = (
            "all seeds use the same sentences, because all files were given; control tasks, "
            "random models and intervals differ"
        )
        notes.append(Note(kind="info", text=f"seeds: {text}"))
    return replace(
        results,
        records=records,
        seeds=spreads,
        findings=[*results.findings, *findings],
        notes=[*results.notes, *notes],
    )


def _with_seeds(record: ProbeRecord, by_seed: Sequence[Cells]) -> ProbeRecord:
    same = [cells.get((record.property, record.site)) for cells in by_seed]
    return replace(
        record,
        score_seeds=[other.score if other else None for other in same],
        selectivity_seeds=[other.selectivity if other else None for other in same],
    )


def _of_property(name: str, by_seed: Sequence[Cells], options: ProbeOptions) -> SeedsRecord:
    best = []
    for cells in by_seed:
        of_property = [record for record in cells.values() if record.property == name]
        best.append(max(of_property, key=lambda record: record.score))
    # Spread is that of one site, the best of the first seed: the best of each seed would hide it.
    site = best[0].site
    at_site = [cells[name, site] for cells in by_seed if (name, site) in cells]
    scores = [record.score for record in at_site]
    selectivity = [record.selectivity for record in at_site if record.selectivity is not None]
    return SeedsRecord(
        property=name,
        seeds=[options.seed + k for k in range(len(by_seed))],
        best=[record.site for record in best],
        scores=[record.score for record in best],
        mean=fmean(scores),
        sd=stdev(scores),
        sd_selectivity=stdev(selectivity) if len(selectivity) > 1 else None,
    )


def _finding(spread: SeedsRecord, records: Sequence[ProbeRecord]) -> str:
    labels = {record.site: layer_label(record.layer, record.site) for record in records}
    best = ", ".join(labels[site] for site in spread.best)
    return (
        f"{spread.property}: the best layers of {len(spread.seeds)} seeds are {best}. "
        f"At this run's best layer, the mean score is {spread.mean:.3f} (standard deviation "
        f"{spread.sd:.4f})."
    )
