"""What a study of geometry finds, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.schema import Finding, is_above
from ...report.words import DOUBT, interval, layer_label, listed
from .records import NAMES, LayerRecord, LensRecord


def space_finding(records: Sequence[LayerRecord]) -> Finding:
    """Where the intrinsic dimension peaks, and where directions are least evenly spread."""
    first, last = records[0], records[-1]
    widest = max(records, key=lambda record: record.intrinsic_dimension)
    narrowest = max(records, key=lambda record: record.anisotropy)
    text = (
        f"The intrinsic dimension is {first.intrinsic_dimension:.1f} at the first site and "
        f"{last.intrinsic_dimension:.1f} at the last, with a maximum of "
        f"{widest.intrinsic_dimension:.1f} at {widest.site}. Anisotropy is highest at "
        f"{narrowest.site}: two words have a mean cosine of {narrowest.anisotropy:.2f} "
        f"there, and of {narrowest.anisotropy_centred:.2f} after centring."
    )
    return Finding(property="space", text=text)


def separability_finding(
    records: Sequence[LayerRecord], name: str, methods: Sequence[str]
) -> Finding | None:
    """Where neighbours tell a property best; None where it has no classes to tell."""
    if name not in records[0].separability:
        return None
    best = max(records, key=lambda record: record.separability[name].places["space"].accuracy)
    separable = best.separability[name]
    in_space = separable.places["space"]
    on_maps = listed(
        [
            f"{separable.places[method].accuracy:.2f} on the {NAMES[method]} map"
            for method in methods
        ]
    )
    doubt = "" if is_above(in_space.accuracy_interval, separable.majority) else DOUBT
    text = (
        f"Nearest neighbours from other sentences predict {name} best at {best.site}, "
        f"with an accuracy of {in_space.accuracy:.2f} (95% CI "
        f"{interval(in_space.accuracy_interval, 2) or 'n/a'}; "
        f"most frequent class {separable.majority:.2f}{doubt}). The accuracy is {on_maps}."
    )
    return Finding(property=name, text=text)


def lens_finding(records: Sequence[LensRecord]) -> Finding:
    """How often the model is right, and where half of that is reached."""
    last = records[-1]
    half = next((record for record in records if record.top1 >= last.top1 / 2), last)
    text = (
        f"The model predicts the next token correctly at {last.top1:.0%} of positions. "
        f"Half of that is reached at layer {layer_label(half.layer)}, where the token's "
        f"mean log2 probability is {half.log2p:.1f} ({last.log2p:.1f} at the last layer)."
    )
    return Finding(property="logit lens", text=text)
