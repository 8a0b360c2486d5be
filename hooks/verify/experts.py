"""Checks of mixtures of experts: what single experts hold is what the layer returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..capture import capture
from .exam import Exam, quiet, relative
from .findings import Finding


def sums(exam: Exam) -> Iterator[Finding]:
    """Every expert's neurons through its down projection, weighted by the router,
    add up to what the experts return.
    """
    layers: dict[str, list[str]] = defaultdict(list)
    for site, place in exam.anatomy.places.items() if exam.anatomy is not None else ():
        if place.end == "neurons" and site.endswith("hook_post"):
            layers[site.partition(".mlp.experts.")[0]].append(site)
    for block, sites in layers.items():
        assert exam.anatomy is not None
        module: Any = exam.model.get_submodule(exam.anatomy.places[sites[0]].path)
        weights, chosen = f"{block}.mlp.hook_expert_weights", f"{block}.mlp.hook_expert_indices"
        if not exam.has(weights, chosen):
            yield exam.cannot(sites[0], "the chosen experts and their weights are not listed")
            continue
        returned: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, __, out, kept=returned: kept.append(out))
        try:
            with (
                torch.no_grad(),
                quiet(),
                capture(exam.model, *sites, stop=True, clone=True) as acts,
            ):
                exam.run()
        finally:
            handle.remove()
        total: Tensor | None = None
        for expert, site in enumerate(sites):
            down = module.down_proj[expert]
            out = acts[site] @ (down if module.is_transposed else down.T)
            if getattr(module, "has_bias", False):
                out = out + module.down_proj_bias[expert]
            part = out * (exam.acts[weights] * (exam.acts[chosen] == expert)).sum(-1, keepdim=True)
            total = part if total is None else total + part
        assert total is not None
        error = relative(total, returned[0].reshape(total.shape))
        why = "the neurons of the experts do not add up to their output"
        yield exam.within(f"{block}.mlp.experts.0.hook_post", error, exam.local, why)
