"""What about a model's weights a reader of its numbers must know: shared, adapted, quantised,
frozen in other precisions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from torch import nn

from ..placement import byte_layers, cut_gradients
from .exam import Exam
from .findings import Finding


def noticed(exam: Exam) -> Iterator[Finding]:
    """Tied weights, adapters and quantised layers, named."""
    for text in (
        *_tied(exam.model),
        *_adapters(exam.model),
        *quantised(exam.model),
        *_precisions(exam.model),
        *_noise(exam),
        *_cut(exam.model),
    ):
        yield Finding("", "", "OK", reason=text)


def _tied(model: nn.Module) -> Iterator[str]:
    owners: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(name)
    shared = [names for names in owners.values() if len(names) > 1]
    if shared:
        others = f" (and {len(shared) - 1} other groups)" if len(shared) > 1 else ""
        yield (
            f"{' and '.join(shared[0][:3])} are one tensor{others}: changing one changes the others"
        )


def _adapters(model: nn.Module) -> Iterator[str]:
    adapted = [
        (name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")
    ]
    if adapted:
        names = sorted({adapter for _, module in adapted for adapter in module.lora_A})  # type: ignore[union-attr]
        merged = sum(bool(getattr(module, "merged", False)) for _, module in adapted)
        off = sum(bool(getattr(module, "disable_adapters", False)) for _, module in adapted)
        yield (
            f"adapters {', '.join(names)} on {len(adapted)} modules ({merged} merged, "
            f"{off} switched off): sites are read with the adapters active"
        )


def quantised(model: nn.Module) -> Iterator[str]:
    """The kinds of layers whose weights are stored in a byte or less, if there are any."""
    kinds = byte_layers(model)
    if kinds:
        many = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        yield f"quantised layers: {many}; values between them are read as usual"


def _noise(exam: Exam) -> Iterator[str]:
    """Of a quantised model, how far its own numbers depend on what else is in a batch."""
    if any(quantised(exam.model)) and exam.batch_noise > exam.local:
        yield (
            f"without any hook, a text in a batch is off by {exam.batch_noise:.1g} from the text "
            "alone: bounds allow for it"
        )


def _cut(model: nn.Module) -> Iterator[str]:
    if why := cut_gradients(model):
        yield why


def _precisions(model: nn.Module) -> Iterator[str]:
    kinds = Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters())
    if len(kinds) > 1:
        yield "weights in several precisions: " + ", ".join(
            f"{count} {kind}" for kind, count in kinds.most_common()
        )
