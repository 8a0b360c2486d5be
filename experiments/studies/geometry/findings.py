"""What a study of geometry finds, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.schema import Finding, is_above
from ...report.words import interval, layer_label
from .records import LayerRecord, LensRecord


def space_finding(records: Sequence[LayerRecord]) -> Finding:
    """Where the intrinsic dimension peaks, and where directions are least evenly spread."""
    first, last = records[0], records[-1]
    widest = max(records, key=lambda record: record.intrinsic_dimension)
    narrowest = max(records, key=lambda record: record.anisotropy)
    text = (
        f"The intrinsic dimension goes from {first.intrinsic_dimension:.1f} at the embedding to "
        f"{last.intrinsic_dimension:.1f} at the end, largest at {widest.site} ({widest.intrinsic_dimension:.1f}). "
        f"Directions are least evenly spread at {narrowest.site}: two words' mean cosine is "
        f"{narrowest.anisotropy:.2f}, {narrowest.anisotropy_centred:.2f} once the mean is taken away."
    )
    return Finding(property="space", text=text)


def separability_finding(
    records: Sequence[LayerRecord], name: str, methods: Sequence[str]
) -> Finding | None:
    """Where neighbours tell a property best; None where it has no classes to tell."""
    if name not in records[0].separability:
        return None
    best = max(records, key=lambda record: record.separability[name].places["space"].accuracy)
    told = best.separability[name]
    in_space = told.places["space"]
    on_maps = ", ".join(
        f"{told.places[method].accuracy:.2f} on the {method} map" for method in methods
    )
    doubt = (
        "" if is_above(in_space.accuracy_interval, told.majority) else ", not significantly less"
    )
    text = (
        f"Nearest neighbours from other sentences tell {name} with the highest accuracy at {best.site}: "
        f"{in_space.accuracy:.2f} (95% {interval(in_space.accuracy_interval, 2) or 'n/a'}; most frequent class "
        f"{told.majority:.2f}{doubt}), {on_maps}."
    )
    return Finding(property=name, text=text)


def lens_finding(records: Sequence[LensRecord]) -> Finding:
    """How often the model is right, and where half of that is reached."""
    last = records[-1]
    half = next((record for record in records if record.top1 >= last.top1 / 2), last)
    text = (
        f"The model ranks the next token first in {last.top1:.0%} of places; half of that is reached at layer "
        f"{layer_label(half.layer)}, where its mean log2 p is {half.log2p:.1f} (at the end {last.log2p:.1f})."
    )
    return Finding(property="logit lens", text=text)
