"""Scalar mixes of a study: which layers a probe wants that may read all,
and where each property is resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....probes.evaluation import ClusterBootstrap, interval
from ....probes.mixing import MixFit, expected_layer, mix_many
from ...corpus import Split
from ...features.sites import layer_of
from ...report.schema import Interval, estimated
from ...tasks.task import Task, solved_together
from .records import MixRecord

Progress = Callable[[int, int], object]
Right = Float[np.ndarray, " n"]
"""1 for a test item that a probe is right on, else 0."""


def mix_records(
    tasks: Sequence[Task],
    features: Sequence[Float[Tensor, "rows d"]],
    sites: Sequence[str],
    seed: int,
    progress: Progress | None = None,
    single: Mapping[str, Right] | None = None,
) -> list[MixRecord]:
    """One record a property of classes.

    Args:
        features: of all sites, in their order, the embedding layer first.
        single: property -> whether the study's own probe of its best site is right on each test
            item.
    """
    of_classes = [task for task in tasks if task.property.kind == "class"]
    records = []
    for group in solved_together(of_classes):
        records += _of_group(group, features, sites, seed, progress, single or {})
    return records


def _of_group(
    group: Sequence[Task],
    features: Sequence[Float[Tensor, "rows d"]],
    sites: Sequence[str],
    seed: int,
    progress: Progress | None,
    single: Mapping[str, Right],
) -> list[MixRecord]:
    """The mixes of tasks that read the same vectors, trained together."""

    def vectors(split: Split) -> list[Float[Tensor, "n width"]]:
        return [group[0].vectors(site, split) for site in features]

    train, dev, test = vectors("train"), vectors("dev"), vectors("test")
    train_labels = {task.property.name: task.parts["train"].labels for task in group}
    dev_labels = {task.property.name: task.parts["dev"].labels for task in group}
    fits = mix_many(train, train_labels, (dev, dev_labels), seed=seed, progress=progress)
    records = []
    for task in group:
        name, test_part = task.property.name, task.parts["test"]
        cumulative = [fits[name, top] for top in range(len(sites))]
        # As text: a fit gives labels in NumPy's type, a task as the corpus has them.
        gold = np.array([str(label) for label in test_part.labels])
        columns = [fit.predict(test).astype(str) == gold for fit in cumulative]
        right = np.column_stack(columns).astype(float)
        boot = ClusterBootstrap(test_part.clusters, seed=seed)
        records.append(_record(name, sites, cumulative, right, boot, single.get(name)))
    return records


def _record(
    name: str,
    sites: Sequence[str],
    cumulative: Sequence[MixFit],
    right: Float[np.ndarray, "n layers"],
    boot: ClusterBootstrap,
    single: Right | None,
) -> MixRecord:
    """Of the probe of all layers its weights; of the cumulative ones where they get better.

    A mix of all layers can do what a probe of any one of them does. One that is significantly worse
    than that was not trained to its end: where it gets better is then a fact of the training, and
    the expected layer is refused.

    Args:
        cumulative: the probe of the first k sites, for each k.
        right: whether each of them is right, a row a test item.
    """
    whole = cumulative[-1]
    weights = whole.mix.double().numpy()
    layers = np.array([layer_of(site, place) for place, site in enumerate(sites)], dtype=float)
    # The embedding layer takes what a word alone tells; the centre above it is of what the context
    # adds.
    centre_above = None
    if weights[1:].any():
        centre_above = float(layers[1:] @ weights[1:] / weights[1:].sum())
    room = boot.mean(right[:, -1] - right[:, 0], kind="difference")
    margin = None if single is None else boot.mean(right[:, -1] - single, kind="difference")
    # Where no layer adds anything, where it is added on average is a ratio of noise.
    is_trained = margin is None or not margin.high < 0
    expected = None
    if room.low > 0 and is_trained:
        # The probes' own function counts the embedding layer as 0.
        value = float(expected_layer(right.mean(0))) - 1
        replicates = expected_layer(boot.means(right)) - 1
        expected = interval(value, boot.widened(value, replicates))
    return MixRecord(
        property=name,
        sites=list(sites),
        mix=[round(float(weight), 6) for weight in whole.mix],
        centre_of_gravity=float(layers @ weights),
        centre_above=centre_above,
        peakedness=whole.peakedness,
        cumulative=[float(share) for share in right.mean(0)],
        **estimated("headroom", room),
        **estimated("expected_layer", expected),
        **estimated("margin", margin),
        stationary=all(fit.stationary for fit in cumulative),
    )


def mix_finding(record: MixRecord) -> str:
    """One sentence in words."""
    if record.is_weaker():
        return (
            f"{record.property}: a probe that reads all layers is weaker than the probe of "
            f"the best layer ({record.margin:+.3f}{_span(record.margin_interval)}), which it can "
            "imitate. So its weights and the expected layer are not supported."
        )
    text = (
        f"{record.property}: a probe that reads all layers has its centre of gravity at layer "
        f"{record.centre_of_gravity:.2f} (the embedding layer is -1)."
    )
    if record.expected_layer is None:
        return (
            f"{text} All layers together are not significantly better than the embedding "
            f"layer ({record.headroom:+.3f}{_span(record.headroom_interval)}), "
            "so the expected layer is not supported."
        )
    return (
        f"{text} Blocks add {record.headroom:+.3f} to the embedding layer's score, "
        "on average at layer "
        f"{record.expected_layer:.2f}{_span(record.expected_layer_interval, '.2f')}."
    )


def _span(ends: Interval | None, form: str = "+.3f") -> str:
    """An interval inside a sentence, where there is one."""
    return f", 95% CI {ends.text(form)}" if ends else ""
