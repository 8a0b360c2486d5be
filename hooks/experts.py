r"""Neurons of one expert, seen and edited where transformers runs all experts of a layer as one
module.

transformers keeps the experts of a layer in two weights with an axis of experts, and runs them by a
loop, a grouped or a batched product. A neuron of expert :math:`e` is read by running that expert's
own equation on the tokens that chose it,

.. math:: h_e = \sigma(W^{gate}_e x) \odot W^{up}_e x, \qquad y = \sum_{e \in top(x)} g_e(x) \,
    W^{down}_e h_e

and an edit of :math:`h_e` adds :math:`g_e W^{down}_e (h_e' - h_e)` to the module's output. Tokens
that chose other experts hold zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_EDITED = "_layerscope_neurons"
"""Attribute of a module's output on its way through the taps:
what they have put in the neurons' places.
"""


def expert_count(module: nn.Module) -> int:
    """How many experts a module runs as transformers' shared implementations do;
    0 where it runs them otherwise.
    """
    down = getattr(module, "down_proj", None)
    standard = hasattr(module, "_apply_gate") and not getattr(module, "has_post_expert_norm", False)
    return (
        len(down)
        if standard and isinstance(down, Tensor) and down.ndim == 3 and _up(module) is not None
        else 0
    )


class Expert:
    """One expert's part in one call of its module.

    Args:
        module: the module of all experts.
        inputs: what it was given: rows of tokens, the experts each chose, and their weights.
        number: which expert.
    """

    def __init__(self, module: Any, inputs: tuple[Tensor, Tensor, Tensor], number: int) -> None:
        self.module, self.expert = module, number
        rows, chosen, weights = inputs
        is_chosen = chosen == self.expert
        self.rows = is_chosen.any(-1).nonzero()[:, 0]
        self.given = rows[self.rows]
        self.n_rows = len(rows)
        self.weight = (weights * is_chosen).sum(-1)[self.rows]

    def pre(self) -> Float[Tensor, "rows d_expert"]:
        """Before the activation (the gate's side): one row a token,
        zeros where other experts were chosen.
        """
        return self._spread(self._gate_side(self._up()))

    def post(self) -> Float[Tensor, "rows d_expert"]:
        """What the down projection reads."""
        return self._spread(self._hidden(self._up()))

    def post_of(self, pre: Float[Tensor, "rows d_expert"]) -> Float[Tensor, "rows d_expert"]:
        """What the down projection reads when ``pre`` stands before the activation."""
        return self._spread(self._hidden(self._with_gate_side(self._up(), pre[self.rows])))

    def at_its_tokens(
        self, value: Float[Tensor, "rows d_expert"]
    ) -> Float[Tensor, "rows d_expert"]:
        """The value at the tokens that chose this expert; what is elsewhere goes nowhere."""
        return self._spread(value[self.rows])

    def gain(self, change: Float[Tensor, "rows d_expert"]) -> Float[Tensor, "rows d_model"]:
        """What the module's output gains with a change of what the down projection reads."""
        return self._spread(
            self._linear(change[self.rows], self.module.down_proj, None) * self.weight[:, None]
        )

    def _spread(self, value: Tensor) -> Tensor:
        return value.new_zeros(self.n_rows, value.shape[-1]).index_copy(0, self.rows, value)

    def _up(self) -> Tensor:
        name = _up(self.module)
        bias = (
            getattr(self.module, f"{name}_bias", None)
            if getattr(self.module, "has_bias", False)
            else None
        )
        return self._linear(self.given, getattr(self.module, str(name)), bias)

    def _hidden(self, wide: Tensor) -> Tensor:
        return self.module._apply_gate(wide) if self.module.has_gate else self.module.act_fn(wide)

    def _linear(self, rows: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:
        weight = (
            weights[self.expert]
            if self.module.is_transposed
            else weights[self.expert].transpose(0, 1)
        )
        product = rows.to(weight.dtype) @ weight
        return product if biases is None else product + biases[self.expert]

    def _gate_side(self, wide: Tensor) -> Tensor:
        return wide[..., self._columns(wide)] if self.module.has_gate else wide

    def _with_gate_side(self, wide: Tensor, gate: Tensor) -> Tensor:
        if not self.module.has_gate:
            return gate
        places = torch.arange(wide.shape[-1], device=wide.device)[self._columns(wide)]
        return wide.index_copy(-1, places, gate.to(wide.dtype))

    def _columns(self, wide: Tensor) -> slice:
        together = getattr(self.module, "is_concatenated", True)
        return slice(0, wide.shape[-1] // 2) if together else slice(0, None, 2)


def _up(module: nn.Module) -> str | None:
    return next(
        (n for n in ("gate_up_proj", "up_proj") if isinstance(getattr(module, n, None), Tensor)),
        None,
    )


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, chosen experts and weights of one call."""
    names = ("hidden_states", "top_k_index", "top_k_weights")
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(names))  # type: ignore[return-value]


def touched(
    module: nn.Module,
    inputs: tuple[Tensor, Tensor, Tensor],
    which: str,
    output: Any,
    touch: Callable[[Tensor], Tensor],
    in_graph: bool,
) -> Any:
    """A module's output after a tap has been shown one expert's neurons.

    Args:
        which: ``"3.pre"`` or ``"3.post"``: the expert, and before its activation or before its down
            projection.
        touch: from the site's tensor to itself, or to what replaces it.
        in_graph: whether a gradient must reach the tensor that is shown.
    """
    number, _, end = which.partition(".")
    expert = Expert(module, inputs, int(number))
    edited: dict[str, Tensor] = getattr(output, _EDITED, {})  # by taps that came before this one
    raw = edited[which] if which in edited else expert.pre() if end == "pre" else expert.post()
    new = touch(raw)
    if new is raw and (which in edited or not in_graph):
        return output
    new = expert.at_its_tokens(new)
    post = f"{number}.post"
    before = edited[post] if post in edited else expert.post()  # apart from `raw` in the graph
    after = new if end == "post" else expert.post_of(new)
    with_edit = output + expert.gain(after - before).to(output.dtype)
    setattr(with_edit, _EDITED, {**edited, which: new, post: after})
    return with_edit
