"""Checks of mixtures of experts: what single experts hold is what the layer returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..observe import observe
from ..sites import Site
from .comparing import relative
from .exam import Exam, quiet
from .findings import Finding


def sums(exam: Exam) -> Iterator[Finding]:
    """Every expert's neurons through its down projection, weighted by the router,
    add up to what the experts return.
    """
    layers: dict[str, list[str]] = defaultdict(list)
    for site, place in exam.anatomy.places.items() if exam.anatomy is not None else ():
        if place.end == "neurons" and site.endswith("hook_post"):
            layers[site.partition(".mlp.experts.")[0]].append(site)
    summed: dict[str, _Sum] = {}
    for block, sites in layers.items():
        assert exam.anatomy is not None
        weights, chosen = f"{block}.mlp.hook_expert_weights", f"{block}.mlp.hook_expert_indices"
        if not exam.has(weights, chosen):
            yield exam.cannot(sites[0], "the chosen experts and their weights are not listed")
            continue
        module = exam.model.get_submodule(exam.anatomy.places[sites[0]].path)
        summed[block] = _Sum(module, sites, exam.acts[weights], exam.acts[chosen])
    if not summed:
        return

    def see(site: Site, neurons: Tensor) -> None:
        block = site.name.partition(".mlp.experts.")[0]
        summed[block].add(site.name, neurons)

    seen = [site for layer in summed.values() for site in layer.experts]
    with ExitStack() as stack, torch.no_grad(), quiet(), observe(exam.model, *seen, see=see):
        for layer in summed.values():
            stack.callback(layer.module.register_forward_hook(layer.keep).remove)
        exam.run()
    for block, layer in summed.items():
        assert layer.total is not None
        assert layer.returned is not None
        error = relative(layer.total, layer.returned.reshape(layer.total.shape))
        why = "the neurons of the experts do not add up to their output"
        yield exam.within(f"{block}.mlp.experts.0.hook_post", error, exam.local, why)


class _Sum:
    """What the experts of a layer add up to, and what the layer returned.

    Args:
        module: holds the weights of all experts.
        sites: each expert's neurons.
        weights, chosen: those of the router, ``batch pos k``.
    """

    def __init__(self, module: Any, sites: list[str], weights: Tensor, chosen: Tensor) -> None:
        self.module, self._weights, self._chosen = module, weights, chosen
        self.total: Tensor | None = None
        self.returned: Tensor | None = None
        self.experts = {site: expert for expert, site in enumerate(sites)}

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.returned = output.clone()

    def add(self, site: str, neurons: Tensor) -> None:
        """An expert's neurons, through its own down projection, where the router chose it."""
        module, expert = self.module, self.experts[site]
        down = module.down_proj[expert]
        out = neurons @ (down if module.is_transposed else down.T)
        if getattr(module, "has_bias", False):
            out = out + module.down_proj_bias[expert]
        share = (self._weights * (self._chosen == expert)).sum(-1, keepdim=True)
        part = out * share
        self.total = part if self.total is None else self.total + part
