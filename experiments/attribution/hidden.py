"""Leave-one-out inside the model: what the value loses where a site's values at a unit's tokens are put out.

    hidden-out   score(i) = v(all) - v(the site's values at i's tokens replaced); at several sites (a glob) in all of them
    inner(i, k)  the same of one head or neuron of the site, or of one of several sites
    whole(k)     the same at every unit at once: the head, the neuron, the whole hidden layer

Replaced by, as ``hidden`` says:

    zero      0
    shuffle   what the site holds at another unit's token, drawn: one cycle through all of them (the mean over ``draws``)
    layer:N   what the same part of block N holds in the unchanged text
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ...hooks import NothingChanged, Site, SiteNeverFired, capture, edits, intervene
from ...hooks.anatomy import locate
from ..report.schema import Note
from .gradients import sites_of
from .options import Options
from .question import Part
from .result import Found
from .scorer import Cost, Row, Scorer, part_values, row_batch
from .units import AttributionError

HIDDEN = ("zero", "shuffle", "layer:N")
MOST = 64
"""Heads or neurons of a site that are put out one by one; of more, those that the site selects: ``hook_post[5,17]``."""


def hidden_out(scorer: Scorer, options: Options) -> Found:
    """The value that is lost without a site's values at each unit, without each of its parts, and without the whole."""
    if options.site is None:
        raise AttributionError(
            "hidden-out is of a site: give one, such as blocks.3.hook_resid_post, or several, blocks.*.hook_mlp_out (--site)"
        )
    question, model = scorer.question, scorer.subject.model
    sites = sites_of(question, options.site)
    draws = options.draws if options.hidden == "shuffle" else 1
    others = _others(model, sites, options.hidden)
    units, labels = len(question.units), []
    lost: Any = None  # (draws, units and the whole, all parts and each)
    value = 0.0
    for part in question.parts:
        whole_value = float(scorer([Row(part.ids, part.reads)], part)[0])
        value += whole_value
        clean = _clean(scorer, part, [*sites, *others])
        labels = _labels(sites, clean)
        rows = np.array([(unit, k) for unit in range(units + 1) for k in range(-1, len(labels))])
        generator = torch.Generator().manual_seed(options.seed)
        found = []
        for _ in range(draws):
            new = _replacements(part, sites, others, clean, options.hidden, generator)
            found.append(whole_value - _values(scorer, part, sites, new, rows, len(labels)))
        each = np.stack(found).reshape(draws, units + 1, 1 + len(labels))
        lost = each if lost is None else lost + each
    errors = lost[:, :units, 0].std(0, ddof=1) / np.sqrt(draws) if draws > 1 else None
    mean = lost.mean(0)
    whole = dict(zip(["all", *labels], mean[units].tolist(), strict=True))
    more = {"hidden": options.hidden, "site": str(options.site), "columns": labels, "whole": whole}
    note = f"put out ({options.hidden}) at every unit at once, {options.site} takes {whole['all']:+.4g} of the value with it"
    return Found(
        mean[:units, 0],
        value,
        errors,
        inner=mean[:units, 1:] if labels else None,
        notes=(Note(kind="info", text=note),),
        more=more,
    )


def _others(model: Any, sites: Sequence[Site], kind: str) -> list[Site]:
    """For ``layer:N``, where each site's values come from."""
    if kind in ("zero", "shuffle"):
        return []
    name, _, layer = kind.partition(":")
    if name != "layer" or not layer.removeprefix("-").isdigit():
        raise AttributionError(f"hidden {kind!r}: expected {', '.join(HIDDEN)}")
    if outside := [s for s in sites if s.layer is None]:
        raise AttributionError(
            f"hidden {kind!r}: {outside[0]} is in no block, and no other layer has it"
        )
    found = []
    for site in sites:
        (other,) = locate(model, f"blocks.{layer}.{site.part}")
        found.append(Site(other.name, site.select))
    return found


def _clean(scorer: Scorer, part: Part, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Each site's value on the unchanged row."""
    try:
        with capture(scorer.subject.model, *sites, clone=True) as acts:
            part_values(scorer.question, part, row_batch(scorer.question, part, 1))
    except SiteNeverFired as error:
        raise AttributionError(f"what is read stands before the site: {error}") from None
    scorer.cost += Cost(forwards=1, tokens=len(part.ids))
    return {site: acts[site][0] for site in sites}


def _labels(sites: Sequence[Site], clean: dict[Site, Tensor]) -> list[str]:
    """What is put out by itself: each of several sites, else each head or neuron of the one, unless they are many."""
    if len(sites) > 1:
        return [str(site) for site in sites]
    site, value = sites[0], clean[sites[0]]
    if isinstance(site.select, int) or value.ndim < 2 or value.shape[1] > MOST:
        return []
    if type(site.select) is tuple:
        return [f"{site.name}[{i}]" for i in site.select]
    return [
        f"{site.name}[{i}]" if site.select is None else f"{site}, {i}"
        for i in range(value.shape[1])
    ]


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
    if kind != "shuffle":
        for site, other in zip(sites, others, strict=True):
            if clean[site].shape != clean[other].shape:
                raise AttributionError(
                    f"{other} has another shape than {site}: it cannot take its place"
                )
        return [clean[other] for other in others]
    own = torch.tensor([at for tokens in part.tokens for at in tokens])
    if len(own) < 2:
        raise AttributionError("hidden 'shuffle': expected at least 2 tokens to exchange, got 1")
    cycle = own[torch.randperm(len(own), generator=generator)]
    found = []
    for site in sites:
        new = clean[site].clone()
        new[cycle] = clean[site][cycle.roll(1)]
        found.append(new)
    return found


def _values(
    scorer: Scorer,
    part: Part,
    sites: Sequence[Site],
    new: Sequence[Tensor],
    rows: np.ndarray,
    parts: int,
) -> np.ndarray:
    """The part's value for each (unit, column): where that column of that unit's tokens is replaced; -1 is all columns."""
    units = len(part.tokens)
    tokens = torch.zeros(units + 1, len(part.ids), dtype=torch.bool)
    for unit, own in enumerate(part.tokens):
        tokens[[unit, units], :] |= torch.isin(torch.arange(len(part.ids)), torch.tensor(own))
    out = []
    size = max(1, scorer.batch_tokens // len(part.ids))
    for at in range(0, len(rows), size):
        unit, column = torch.from_numpy(rows[at : at + size]).T
        which = (column[:, None] == -1) | (column[:, None] == torch.arange(max(parts, 1)))
        put = {}
        for number, (site, value) in enumerate(zip(sites, new, strict=True)):
            of_site = which[:, number : number + 1] if len(sites) > 1 else which
            where = tokens[unit][:, :, None] & of_site[:, None, :]
            put[site] = edits.function(partial(_put, where=where, new=value), "put out")
        with warnings.catch_warnings(), intervene(scorer.subject.model, put):
            warnings.simplefilter("ignore", NothingChanged)
            values = part_values(scorer.question, part, row_batch(scorer.question, part, len(unit)))
        out.append(values.double().cpu().numpy())
    scorer.cost += Cost(len(rows), len(rows), 0, len(rows) * len(part.ids))
    return np.concatenate(out)


def _put(value: Tensor, where: Bool[Tensor, "rows pos parts"], new: Tensor) -> Tensor:
    there = where[..., 0] if value.ndim == 2 else where
    return torch.where(
        there.view(*there.shape, *[1] * (value.ndim - there.ndim)).to(value.device),
        new.to(value),
        value,
    )
