"""Heads, MLPs and neurons of a text: estimated and exact effects on the contrast, attention, sizes;
and one head's pattern.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from layerscope.errors import InputError

from ...hooks import Site, edits
from ..attention.norms import OUTPUT, grams_of, norms
from ..attention.passes import PATTERN, layers_with_patterns
from ..attribution.asking import ask
from ..attribution.game import Game
from ..attribution.methods import method_named
from ..attribution.options import Options
from ..attribution.question import Question, Target
from ..attribution.result import joined
from ..attribution.scorer import Scorer
from ..sweep.components import Component
from ..sweep.estimate import certificate, estimates
from ..sweep.sweep import Sweep
from .bench import Bench
from .changes import Change
from .session import View
from .views import values_under_edits

BY = ("effect", "attention", "sink", "norm")
NEURONS = 20
"""Neurons of the drawer: those with the largest |activation x gradient|."""
EXACT = 12
"""Parts that one request measures exactly."""
UNITS = 4
"""Words that are left out between two reports of progress."""


def heads(bench: Bench, view: View, by: str = "effect", token: int = 0) -> dict[str, Any]:
    """A number for every head (and MLP): what the grid is coloured by.

    Args:
        by: ``effect`` of zeroing it on the unedited text, estimated; ``attention`` of the answer's
            position to ``token``; ``sink``, the mean weight on the first token; ``norm`` of what it
            adds at the answer's position.
    """
    if by not in BY:
        raise InputError(f"grid {by!r}: expected {', '.join(BY)}")
    if by == "effect":
        return effects(bench, view)
    if by == "norm":
        return {"part": "heads", "by": by, "unit": "", "rows": _norms(bench, view)}
    rows = _attention(bench, view, by, token)
    return {"part": "heads", "by": by, "unit": "share", "token": token, "rows": rows}


# -- effects


def effects(bench: Bench, view: View) -> dict[str, Any]:
    """First-order effects of zeroing each head and MLP, those that were measured,
    and how the two agree.
    """
    estimated = _estimated(bench, view)
    exact = measured(bench, view)
    rows: dict[int, list[float]] = {}
    mlps: dict[int, float] = {}
    for part, effect in estimated["parts"]:
        if part.kind == "heads":
            rows.setdefault(part.layer, []).append(effect)
        elif part.kind == "mlps":
            mlps[part.layer] = effect
    return {
        "part": "heads",
        "by": "effect",
        "unit": "nats",
        "rows": [{"layer": layer, "values": values} for layer, values in rows.items()],
        "mlps": [{"layer": layer, "value": value} for layer, value in mlps.items()],
        "neurons": estimated["neurons"],
        "exact": exact,
        "agreement": agreement(estimated["by_site"], exact),
    }


def _estimated(bench: Bench, view: View) -> dict[str, Any]:
    """One forward and one backward for all parts; remembered for the text and contrast."""
    bench.require_tokens("effects")
    plain = View(view.text, answer=bench.contrast(view)[0], wrong=bench.contrast(view)[1])

    def make() -> dict[str, Any]:
        parts = [*bench.parts("heads"), *bench.parts("mlps")]
        neurons = bench.parts("neurons")
        if not parts and not neurons:
            raise InputError(
                f"effects: {bench.subject.name} has no heads or MLPs that are known; "
                "edit raw modules by name"
            )
        metric, chunk = bench.chunk(plain)
        every = [*parts, *neurons]
        values = estimates(bench.subject, metric, chunk, every, lambda part: edits.zero()).effects[
            :, 0
        ]
        of_parts, of_neurons = values[: len(parts)], values[len(parts) :]
        largest = np.argsort(-np.abs(of_neurons), kind="stable")[:NEURONS]
        return {
            "parts": list(zip(parts, of_parts.tolist(), strict=True)),
            "by_site": {str(part.site): float(v) for part, v in zip(every, values, strict=True)},
            "neurons": [_neuron(neurons[i], float(of_neurons[i])) for i in largest.tolist()],
        }

    return bench.once(("estimates", plain), make)


def _neuron(part: Component, effect: float) -> dict[str, Any]:
    return {"site": str(part.site), "layer": part.layer, "index": part.index, "effect": effect}


def measured(bench: Bench, view: View) -> dict[str, float]:
    """Exact effects of zeroing single parts, as far as they were clicked or asked for:
    site -> nats.
    """
    effects_by_site: dict[str, float] = {}
    for text, effect in bench.read(view.text).exact.get(bench.contrast(view), {}).items():
        change = Change.parse(text)
        if change.how == "zero" and change.positions is None:
            effects_by_site[change.site] = effect
    return effects_by_site


def agreement(estimated: dict[str, float], exact: dict[str, float]) -> dict[str, Any] | None:
    """How the estimates agree with what was measured of them; None before three were."""
    both = [site for site in exact if site in estimated]
    if len(both) < 3:
        return None
    a = np.array([estimated[site] for site in both])
    b = np.array([exact[site] for site in both])
    return {"n": len(both), **asdict(certificate("gradient", a, b, range(len(both)), []))}


def measure(bench: Bench, view: View) -> Iterator[dict[str, Any]]:
    """Measure the parts with the largest estimates exactly, each zeroed by itself,
    and give the grid again.
    """
    estimated = _estimated(bench, view)
    known = measured(bench, view)
    parts = [(part, e) for part, e in estimated["parts"] if str(part.site) not in known]
    parts.sort(key=lambda pair: -abs(pair[1]))
    metric, chunk = bench.chunk(view)
    sweep = Sweep(bench.subject, metric, chunk)
    clean = bench.read(view.text)
    for done, (part, _) in enumerate(parts[:EXACT]):
        effect = float(sweep.effects([(part, edits.zero())])[0, 0])
        change = Change(str(part.site), "zero")
        clean.exact.setdefault(bench.contrast(view), {})[str(change)] = effect
        yield {"part": "progress", "of": "measure", "done": done + 1, "total": len(parts[:EXACT])}
    yield effects(bench, view)


# -- attention and sizes


def _attention(bench: Bench, view: View, by: str, token: int) -> list[dict[str, Any]]:
    clean = bench.read(view.text)
    length = len(clean.encoded)
    if not 0 <= token < length:
        raise InputError(f"attention: the text has tokens 0 to {length - 1}, got {token}")
    query = clean.position
    layers = _pattern_layers(bench)
    names = [f"blocks.{layer}.{PATTERN}" for layer in layers]
    acts = values_under_edits(bench, view, names)
    rows = []
    for layer, name in zip(layers, names, strict=True):
        pattern = acts[name][0].float()
        values = pattern[:, query, token] if by == "attention" else pattern[:, 1:, 0].mean(1)
        rows.append({"layer": layer, "values": values.tolist()})
    return rows


def _pattern_layers(bench: Bench) -> list[int]:
    layers = layers_with_patterns(bench.model) if bench.site_names else []
    if not layers:
        raise InputError(f"attention: no pattern of {bench.subject.name} can be read")
    return layers


def _norms(bench: Bench, view: View) -> list[dict[str, Any]]:
    clean = bench.read(view.text)
    query = clean.position
    layers = sorted({part.layer for part in bench.parts("heads")})
    grams = grams_of(bench.model, layers) if layers else None
    if grams is None:
        raise InputError(
            f"norm: the output projections of {bench.subject.name}'s heads are not known"
        )
    names = [f"blocks.{layer}.{OUTPUT}" for layer in layers]
    acts = values_under_edits(bench, view, names)
    rows = []
    for layer, name, gram in zip(layers, names, grams, strict=True):
        values = norms(acts[name][:, query : query + 1], gram)[0, :, 0]
        rows.append({"layer": layer, "values": values.tolist()})
    return rows


def pattern(bench: Bench, view: View, layer: int, head: int) -> dict[str, Any]:
    """One head's attention under the edits, by query and key, as float32 in base64."""
    values = pattern_values(bench, view, layer, head)
    return {
        "part": "pattern",
        "layer": layer,
        "head": head,
        "size": len(values),
        "weights": base64.b64encode(values.astype("<f4").tobytes()).decode(),
    }


def pattern_values(
    bench: Bench, view: View, layer: int, head: int
) -> Float[np.ndarray, "query key"]:
    """The same as an array."""
    layers = _pattern_layers(bench)
    if layer not in layers:
        raise InputError(f"pattern: expected a layer of {layers[0]} to {layers[-1]}, got {layer}")
    count = sum(part.layer == layer for part in bench.parts("heads"))
    if not 0 <= head < max(1, count):
        raise InputError(f"pattern: layer {layer} has heads 0 to {count - 1}, got {head}")
    name = str(Site(f"blocks.{layer}.{PATTERN}", head))
    return values_under_edits(bench, view, [name])[name][0].float().cpu().numpy()


# -- attribution


def question_of(bench: Bench, view: View) -> Question:
    """The contrast as what is attributed to the tokens of the unedited text."""
    if bench.kind == "encoder":
        raise InputError(f"attribution: {bench.subject.name} has no head and gives no answer")
    first = ask(bench.subject, view.text, Target(measure="logit"), level="word")
    (part,) = first.parts
    pair = bench.contrast(view)
    of_both = replace(part, slots=(0, 0), classes=pair, weights=(1.0, -1.0))
    return replace(first, parts=(of_both,), name="logit difference")


def attribution(bench: Bench, view: View, method: str = "grad-input") -> Iterator[dict[str, Any]]:
    """What each word adds to the contrast: gradient times input at once,
    leave-one-out with its progress.
    """
    if method not in ("grad-input", "leave-one-out"):
        raise InputError(f"attribution {method!r}: expected grad-input or leave-one-out")
    question = question_of(bench, view)
    scorer = Scorer(question)
    if method == "grad-input":
        scored = method_named(method)(scorer, Options())
        result = joined(method, question, scored, scorer.cost, tuple(scorer.notes))
        scores, value = result.scores, result.value
    else:
        game = Game(scorer)
        value = game.value
        kept = ~np.eye(game.n, dtype=bool)
        lost = np.zeros(game.n)
        for start in range(0, game.n, UNITS):
            some = slice(start, start + UNITS)
            lost[some] = value - game(kept[some])
            done = min(start + UNITS, game.n)
            yield {"part": "progress", "of": method, "done": done, "total": game.n}
        scores = lost
    yield {
        "part": "attribution",
        "method": method,
        "value": float(value),
        "units": [
            {"text": text, "tokens": list(tokens), "score": float(score)}
            for text, tokens, score in zip(
                question.units.texts, question.units.tokens, scores, strict=True
            )
        ],
    }
