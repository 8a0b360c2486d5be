r"""The steps of `nn.LSTM`, `nn.GRU` and `nn.RNN`, which PyTorch runs inside one kernel.

A layer's own equations are run beside the kernel, one step after the other, so that a gate or a
state can be read and, where it is edited, is missing from the steps behind it too:

.. math::
    \text{LSTM: } & i, f, o = \sigma(W x_t + U h_{t-1} + b), \\
                  & g = \tanh(W x_t + U h_{t-1} + b), \\
                  & c_t = f \odot c_{t-1} + i \odot g, \quad h_t = o \odot \tanh c_t \\
    \text{GRU: }  & r, z = \sigma(W x_t + U h_{t-1} + b), \\
                  & n = \tanh(W x_t + b + r \odot (U h_{t-1} + b')), \\
                  & h_t = (1 - z) \odot n + z \odot h_{t-1}

They equal the kernel to rounding. Without an edit the kernel's own output goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from layerscope.errors import UseError

from .forwards import bound

#: Kind of module -> what a step computes, in this order.
PARTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: ("input_gate", "forget_gate", "candidate", "output_gate", "cell", "state"),
    nn.GRU: ("reset_gate", "update_gate", "candidate", "state"),
    nn.RNN: ("state",),
}
_EDITED = "_layerscope_steps"
"""Attribute of a module's output on its way through the taps: what they do at each step."""

Step: TypeAlias = Callable[[str, int, int, Float[Tensor, "batch width"]], Tensor]
"""From a part (``"0.state"``, ``"1.reverse.cell"``), the step, the number of steps and the value to
what goes on.
"""


def part_names(module: nn.Module) -> Iterator[tuple[int, str, str]]:
    """Layer, direction (empty for the forward one)
    and part of everything that a module's steps compute.
    """
    if not isinstance(module, nn.RNNBase):
        return
    parts = next((parts for kind, parts in PARTS.items() if isinstance(module, kind)), ())
    for layer in range(module.num_layers):
        for direction in ("", "reverse.")[: 1 + module.bidirectional]:
            for part in parts:
                yield layer, direction, part


class Recurrence:
    """One call of a recurrent module.

    Args:
        module: `nn.LSTM`, `nn.GRU` or `nn.RNN`.
        args, kwargs: what it was called with; a packed sequence is padded, and steps beyond a
            text's end leave its state.

    Attributes:
        lengths: steps of each text, where it was given a packed sequence.

    Raises:
        UseError: dropout between the layers is on: the kernel's own draw is not known.
    """

    def __init__(
        self, module: nn.RNNBase, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        # The steps run again here, where dropout would draw other units.
        if module.training and module.dropout and module.num_layers > 1:
            raise UseError(
                f"{type(module).__name__}: expected no dropout between its layers, "
                f"got {module.dropout}: call model.eval()"
            )
        given = bound(module, args, kwargs)
        self.module, self._input = module, given["input"]
        self.lengths: Tensor | None = None
        if isinstance(self._input, PackedSequence):
            self._x, self.lengths = pad_packed_sequence(self._input, batch_first=True)
            self._is_single = False
        else:
            self._is_single = self._input.ndim == 2
            text_axis = 0 if module.batch_first else 1
            x = self._input.unsqueeze(text_axis) if self._is_single else self._input
            self._x = x if module.batch_first else x.transpose(0, 1)
        self._initial = self._states(given["hx"])

    def _states(self, given: Any) -> tuple[Tensor, ...]:
        """The states before the first step, ``layers x directions, batch, width`` each."""
        is_lstm = isinstance(self.module, nn.LSTM)
        if given is not None:
            states = given if is_lstm else (given,)
            return tuple(s.unsqueeze(1) if self._is_single else s for s in states)
        count = self.module.num_layers * (1 + self.module.bidirectional)
        widths = [self.module.proj_size or self.module.hidden_size]
        if is_lstm:
            widths.append(self.module.hidden_size)
        return tuple(self._x.new_zeros(count, len(self._x), width) for width in widths)

    def values(self, steps: Sequence[Step]) -> dict[str, Float[Tensor, "batch pos width"]]:
        """Each part at all steps, after what earlier taps do at each of them;
        zeros beyond a text's end.
        """
        rows_of: dict[str, dict[int, Tensor]] = {}

        def keep(part: str, at: int, of: int, value: Tensor) -> Tensor:
            # A packed sequence computes nothing there; what our steps compute is thrown away.
            ended = None if self.lengths is None else (at >= self.lengths).to(value.device)
            row = value if ended is None else value.masked_fill(ended[:, None], 0)
            rows_of.setdefault(part, {})[at] = row
            return value

        with torch.no_grad():
            self.output([*steps, keep])
        return {
            part: torch.stack([rows[at] for at in sorted(rows)], dim=1)
            for part, rows in rows_of.items()
        }

    def output(self, steps: Sequence[Step]) -> Any:
        """What the module returns when these are done at each step, in this order."""

        def show(part: str, at: int, of: int, value: Tensor) -> Tensor:
            for step in steps:
                value = step(part, at, of, value)
            return value

        x = self._x
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.module.num_layers):
            directions = []
            for reverse in range(1 + self.module.bidirectional):
                states = tuple(s[len(last)] for s in self._initial)
                out, end = self._direction(layer, bool(reverse), x, states, show)
                directions.append(out)
                last.append(end)
            x = torch.cat(directions, dim=-1)
        return self._returned(x, [torch.stack(states) for states in zip(*last, strict=True)])

    def _direction(
        self, layer: int, reverse: bool, x: Tensor, states: tuple[Tensor, ...], show: Step
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One layer in one direction: its states at all steps, and the last ones."""
        suffix = f"_l{layer}" + "_reverse" * reverse
        weights = {
            name: getattr(self.module, name + suffix, None)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        }
        count = x.shape[1]
        prefix = f"{layer}." + "reverse." * reverse
        given = F.linear(x, weights["weight_ih"], weights["bias_ih"])  # type: ignore[arg-type]
        rows: dict[int, Tensor] = {}
        for at in reversed(range(count)) if reverse else range(count):

            def seen(part: str, value: Tensor, at: int = at) -> Tensor:
                return show(prefix + part, at, count, value)

            new = _step(self.module, given[:, at], states, weights, seen)
            if self.lengths is not None:
                runs = (at < self.lengths).to(x.device)[:, None]
                pairs = zip(new, states, strict=True)
                new = tuple(torch.where(runs, after, before) for after, before in pairs)
            states = new
            rows[at] = states[0]
        return torch.stack([rows[at] for at in range(count)], dim=1), states

    def _returned(self, out: Tensor, last: list[Tensor]) -> Any:
        """Output and last states as the module returns them."""
        returned: Any = out
        if self.lengths is not None:
            order = self._input.sorted_indices
            rows = out if order is None else out[order]
            # A packed sequence has its longest text first; `out` has the rows as they were given.
            counts = self.lengths if order is None else self.lengths[order.cpu()]
            data = pack_padded_sequence(rows, counts, batch_first=True).data
            returned = PackedSequence(
                data, self._input.batch_sizes, order, self._input.unsorted_indices
            )
        else:
            batch_axis = 0 if self.module.batch_first else 1
            returned = out if self.module.batch_first else out.transpose(0, 1)
            # A sequence without a batch axis was given one for the steps.
            if self._is_single:
                returned = returned.squeeze(batch_axis)
        states = [s.squeeze(1) for s in last] if self._is_single else last
        return returned, (tuple(states) if isinstance(self.module, nn.LSTM) else states[0])


def _step(
    module: nn.RNNBase,
    given: Tensor,
    states: tuple[Tensor, ...],
    weights: Mapping[str, Any],
    seen: Callable[[str, Tensor], Tensor],
) -> tuple[Tensor, ...]:
    """The states behind one step, from what the input projects to and the states before it."""
    state = states[0]
    recurrent = F.linear(state, weights["weight_hh"], weights["bias_hh"])
    if isinstance(module, nn.LSTM):
        # In PyTorch's order of the gates' rows.
        i, f, g, o = (given + recurrent).chunk(4, dim=-1)
        i, f = seen("input_gate", i.sigmoid()), seen("forget_gate", f.sigmoid())
        g, o = seen("candidate", g.tanh()), seen("output_gate", o.sigmoid())
        cell = seen("cell", f * states[1] + i * g)
        state = o * cell.tanh()
        if weights["weight_hr"] is not None:
            state = F.linear(state, weights["weight_hr"])
        return seen("state", state), cell
    if isinstance(module, nn.GRU):
        # The candidate takes the state behind the reset gate, so the recurrent part stays apart
        # from the input's.
        r, z, n = given.chunk(3, dim=-1)
        own_r, own_z, own_n = recurrent.chunk(3, dim=-1)
        r = seen("reset_gate", (r + own_r).sigmoid())
        z = seen("update_gate", (z + own_z).sigmoid())
        n = seen("candidate", (n + r * own_n).tanh())
        return (seen("state", (1 - z) * n + z * state),)
    together = given + recurrent
    is_tanh = getattr(module, "nonlinearity", "tanh") == "tanh"
    return (seen("state", together.tanh() if is_tanh else together.relu()),)


def steps_of(output: Any) -> tuple[Step, ...]:
    """What earlier taps do at each step of the call that gave this output."""
    return getattr(_tensor(output), _EDITED, ())


def mark(output: Any, steps: Sequence[Step]) -> Any:
    """The output, with what was done at each step noted on it for later taps."""
    setattr(_tensor(output), _EDITED, tuple(steps))
    return output


def _tensor(output: Any) -> Tensor:
    first = output[0]
    return first.data if isinstance(first, PackedSequence) else first


def joined(shown: Mapping[str, Float[Tensor, "batch pos width"]]) -> Step:
    """Ties each step to tensors of all steps that equal it, so that these get its gradient."""

    def step(part: str, at: int, of: int, value: Tensor) -> Tensor:
        whole = shown.get(part)
        return value if whole is None else value + (whole[:, at] - whole[:, at].detach())

    return step
