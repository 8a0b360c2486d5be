"""Ablation by word: what the value loses where a site's values at a unit's tokens are replaced.

    hidden-out   score(i) = v(all) - v(the site's values at i's tokens replaced); at several sites
                 (a glob) in all of them
    inner(i, k)  the same of one head or neuron of the site, or of one of several sites
    whole(k)     the same at every unit at once: the head, the neuron, the whole hidden layer

The replacements, as ``value`` says (the words are those of an ablation):

    zero      0
    mean      the site's mean over the reference texts' tokens but their first, or over the tokens
              of the text's own units
    shuffle   what the site holds at another unit's token, drawn: one cycle through all of them (the
              mean over ``draws``)
    layer:N   what the same part of block N holds in the unchanged text
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ...hooks import NothingChanged, Reference, Site, SiteNeverFired, capture, edits, intervene
from ...hooks.anatomy import locate
from ...hooks.reference import select_part
from ..report.schema import Note
from ..subject import Subject
from .gradients import sites_of
from .options import Options
from .question import Part
from .result import MethodScores
from .scorer import Cost, Row, Scorer, part_values, row_batch
from .units import AttributionError

VALUES = ("zero", "mean", "shuffle", "layer:N")
MOST = 64
"""Heads or neurons of a site that are put out one by one; of more, those that the site selects:
``hook_post[5,17]``.
"""


def hidden_out(scorer: Scorer, options: Options) -> MethodScores:
    """The value that is lost without a site's values at each unit, without each of its parts,
    and without the whole.
    """
    if options.site is None:
        raise AttributionError(
            "hidden-out is of a site: give one, such as blocks.3.hook_resid_post, "
            "or several, blocks.*.hook_mlp_out (--site)"
        )
    question, model = scorer.question, scorer.subject.model
    sites = sites_of(question, options.site)
    draws = options.draws if options.value == "shuffle" else 1
    others = _others(model, sites, options.value)
    means = _reference_means(scorer.subject, sites, options)
    n_units, labels = len(question.units), []
    lost: Any = None  # (draws, units and the whole, all parts and each)
    value = 0.0
    for part in question.parts:
        whole_value = float(scorer([Row(part.ids, part.reads)], part)[0])
        value += whole_value
        clean = _clean(scorer, part, [*sites, *others])
        labels = _labels(sites, clean)
        # Unit n_units is all units at once, column -1 all parts at once.
        columns = range(-1, len(labels))
        rows = np.array(list(itertools.product(range(n_units + 1), columns)))
        generator = torch.Generator().manual_seed(options.seed)
        by_draw = []
        for _ in range(draws):
            if means:
                new = [means[site].expand_as(clean[site]) for site in sites]
            else:
                new = _replacements(part, sites, others, clean, options.value, generator)
            left = _values(scorer, part, sites, new, rows, len(labels))
            # What is lost: the value less that of the text with the replacement.
            by_draw.append(whole_value - left)
        of_part = np.stack(by_draw).reshape(draws, n_units + 1, len(columns))
        lost = of_part if lost is None else lost + of_part
    errors = None
    if draws > 1:
        errors = lost[:, :n_units, 0].std(0, ddof=1) / np.sqrt(draws)
    mean = lost.mean(0)
    whole = dict(zip(["all", *labels], mean[n_units].tolist(), strict=True))
    figures = {
        "value": options.value,
        "site": str(options.site),
        "columns": labels,
        "whole": whole,
    }
    note = (
        f"replacing {options.site} at all units at once ({options.value}) "
        f"removes {whole['all']:+.4g} of the value"
    )
    return MethodScores(
        mean[:n_units, 0],
        value,
        errors,
        inner=mean[:n_units, 1:] if labels else None,
        notes=(Note(kind="info", text=note),),
        figures=figures,
    )


def _others(model: Any, sites: Sequence[Site], kind: str) -> list[Site]:
    """For ``layer:N``, where each site's values come from."""
    if kind in ("zero", "mean", "shuffle"):
        return []
    name, _, layer = kind.partition(":")
    if name != "layer" or not re.fullmatch(r"-?[0-9]{1,9}", layer):
        raise AttributionError(f"value {kind!r}: expected {', '.join(VALUES)}")
    others = []
    for site in sites:
        if site.layer is None:
            raise AttributionError(
                f"value {kind!r}: {site} is in no block, and no other layer has it"
            )
        (other,) = locate(model, f"blocks.{layer}.{site.part}")
        others.append(Site(other.name, site.select))
    return others


def _reference_means(
    subject: Subject, sites: Sequence[Site], options: Options
) -> dict[Site, Tensor]:
    """Each site's mean over the reference texts; nothing where they are not asked for."""
    if not options.reference:
        return {}
    if options.value != "mean":
        raise AttributionError(f"reference: value {options.value!r} takes nothing from other texts")
    encoded = subject.encode(list(options.reference))
    batches = [batch.inputs(subject.device) for batch in subject.batches(encoded)]
    # The first token may be an attention sink, whose values are far from those of all others.
    reference = Reference.of(subject.model, *sites, batches=batches, skip=1)
    means = {}
    for site in sites:
        mean, _ = reference.moments(Site(site.name))
        means[site] = select_part(mean, site)
    return means


def _clean(scorer: Scorer, part: Part, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Each site's value on the unchanged row."""
    try:
        with capture(scorer.subject.model, *sites, clone=True) as acts:
            part_values(scorer.question, part, row_batch(scorer.question, part, 1))
    except SiteNeverFired as error:
        raise AttributionError(
            f"the explained value is computed before the site: {error}"
        ) from None
    scorer.cost += Cost(forwards=1, tokens=len(part.ids))
    return {site: acts[site][0] for site in sites}


def _labels(sites: Sequence[Site], clean: dict[Site, Tensor]) -> list[str]:
    """What is put out by itself: each of several sites, else each head or neuron of the one,
    unless they are many.
    """
    if len(sites) > 1:
        return [str(site) for site in sites]
    site, value = sites[0], clean[sites[0]]
    # One head or neuron has no parts; of thousands the list would tell nobody anything.
    if isinstance(site.select, int) or value.ndim < 2 or value.shape[1] > MOST:
        return []
    if type(site.select) is tuple:
        return [f"{site.name}[{i}]" for i in site.select]
    numbers = range(value.shape[1])
    if site.select is None:
        return [f"{site.name}[{i}]" for i in numbers]
    return [f"{site}, {i}" for i in numbers]


def _replacements(
    part: Part,
    sites: Sequence[Site],
    others: Sequence[Site],
    clean: dict[Site, Tensor],
    kind: str,
    generator: torch.Generator,
) -> list[Tensor]:
    """What takes each site's place, for every position."""
    if kind == "zero":
        return [torch.zeros_like(clean[site]) for site in sites]
    positions = torch.tensor([at for places in part.tokens for at in places])
    if kind == "mean":
        return [clean[site][positions].mean(0).expand_as(clean[site]) for site in sites]
    if kind != "shuffle":
        for site, other in zip(sites, others, strict=True):
            if clean[site].shape != clean[other].shape:
                raise AttributionError(
                    f"{other} has another shape than {site}: it cannot take its place"
                )
        return [clean[other] for other in others]
    if len(positions) < 2:
        raise AttributionError("value 'shuffle': expected at least 2 tokens to exchange, got 1")
    # One cycle through all positions: none keeps its own value, at any site.
    cycle = positions[torch.randperm(len(positions), generator=generator)]
    shuffled = []
    for site in sites:
        new = clean[site].clone()
        new[cycle] = clean[site][cycle.roll(1)]
        shuffled.append(new)
    return shuffled


def _values(
    scorer: Scorer,
    part: Part,
    sites: Sequence[Site],
    new: Sequence[Tensor],
    rows: np.ndarray,
    parts: int,
) -> np.ndarray:
    """The part's value for each (unit, column):
    where that column of that unit's tokens is replaced; -1 is all columns.
    """
    n_units, length = len(part.tokens), len(part.ids)
    # The last row is all units at once.
    tokens = torch.zeros(n_units + 1, length, dtype=torch.bool)
    for unit, places in enumerate(part.tokens):
        for row in (unit, n_units):
            tokens[row, list(places)] = True
    values = []
    size = max(1, scorer.batch_tokens // length)
    for start in range(0, len(rows), size):
        unit, column = torch.from_numpy(rows[start : start + size]).T
        is_all = column[:, None] == -1
        numbers = torch.arange(max(parts, 1))
        which = is_all | (column[:, None] == numbers)  # row part
        positions = tokens[unit]  # row pos
        put = {}
        for number, (site, value) in enumerate(zip(sites, new, strict=True)):
            # Of several sites each is one part; of one site its heads or neurons are.
            of_site = which[:, number : number + 1] if len(sites) > 1 else which
            where = positions[:, :, None] & of_site[:, None, :]
            put[site] = edits.function(partial(_put, where=where, new=value), "put out")
        batch = row_batch(scorer.question, part, len(unit))
        with warnings.catch_warnings(), intervene(scorer.subject.model, put):
            warnings.simplefilter("ignore", NothingChanged)
            of_batch = part_values(scorer.question, part, batch)
        values.append(of_batch.double().cpu().numpy())
    scorer.cost += Cost(len(rows), len(rows), 0, len(rows) * length)
    return np.concatenate(values)


def _put(value: Tensor, where: Bool[Tensor, "rows pos parts"], new: Tensor) -> Tensor:
    of_value = where[..., 0] if value.ndim == 2 else where
    behind = [1] * (value.ndim - of_value.ndim)
    of_value = of_value.view(*of_value.shape, *behind).to(value.device)
    return torch.where(of_value, new.to(value), value)
