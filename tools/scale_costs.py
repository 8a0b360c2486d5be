"""What a study of a large model costs, by arithmetic on shapes: the tables of ``docs/scale.md``.

python tools/scale_costs.py

Nothing here was measured on a GPU. Rates are assumptions, named as such; put in your own.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
BF16, FLOAT32 = 2, 4
FLOPS = 400e12
"""Assumed: what a current accelerator does a second in bfloat16,
of the 990e12 that an H200's data sheet names.
"""
MEMORY_OF_GPU = 141 * GB
"""An H200's, by its data sheet."""
LOAD = 2 * GB
"""Assumed: bytes a second from disk to a GPU."""
TOKENS = 250_000
"""Of the probing study: about UD English-EWT."""
READ_BYTES = 1 << 28
"""As `experiments.sweep.sweep` bounds the logits of a pack."""


@dataclass(frozen=True)
class Shape:
    """A model: its parameters, layers, widths, vocabulary, heads and GPUs."""

    name: str
    parameters: float
    layers: int
    width: int
    vocabulary: int
    heads: int
    gpus: int


SHAPES = (
    Shape("8B on one H200", 8.0e9, 32, 4096, 128_256, 32, 1),
    Shape("70B on eight H200", 70.6e9, 80, 8192, 128_256, 64, 8),
)


def rows(shape: Shape) -> list[tuple[str, str]]:
    """The costs of one model: what, and how much."""
    weights = BF16 * shape.parameters
    sites = shape.layers + 1
    features = FLOAT32 * TOKENS * shape.width * sites
    forward = 2 * shape.parameters * TOKENS / (FLOPS * shape.gpus)
    heads = shape.layers * shape.heads
    prompts, length = 100, 16
    # A head of layer l needs the layers behind it: half of them on average.
    sweep = heads * prompts * length * shape.parameters / (FLOPS * shape.gpus)
    full = READ_BYTES // (4 * prompts * shape.vocabulary)
    targets = READ_BYTES // (4 * prompts * (shape.width + 2 * prompts))
    logits = FLOAT32 * prompts * length * shape.vocabulary
    return [
        ("weights, bfloat16", f"{weights / GB:.0f} GB"),
        ("share of each GPU's memory", f"{weights / shape.gpus / MEMORY_OF_GPU:.0%}"),
        ("loading directly to the GPUs", f"{weights / LOAD:.0f} s"),
        ("model and random-weight model at once", f"{2 * weights / GB:.0f} GB"),
        (
            "random-weight model drawn on the CPU in float32 (earlier versions)",
            f"{FLOAT32 * shape.parameters / GB:.0f} GB of RAM",
        ),
        ("forward pass over 250,000 tokens", f"{forward:.0f} s"),
        ("features of these tokens, all layers, float32", f"{features / GB:.0f} GB on disk"),
        ("features of one layer, for a probe", f"{features / sites / GB:.1f} GB"),
        (f"ablating all heads, {prompts} prompts of {length} tokens", f"{sweep:.0f} s"),
        ("edited copies per batch, all logits (earlier versions)", f"{full:,}"),
        ("edited copies per batch, target logits only", f"{targets:,}"),
        ("logits of the clean forward pass, all positions", f"{logits / GB:.2f} GB"),
    ]


def main() -> None:
    columns = [rows(shape) for shape in SHAPES]
    print(f"| | {' | '.join(shape.name for shape in SHAPES)} |")
    print(f"|---|{'---|' * len(SHAPES)}")
    for cells in zip(*columns, strict=True):
        print(f"| {cells[0][0]} | {' | '.join(value for _, value in cells)} |")


if __name__ == "__main__":
    main()
