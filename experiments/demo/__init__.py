"""The embedded demo: a small transformer and an annotated corpus that need no download.

``python -m tools.demo.make`` made them; ``data/README.md`` says how, and how well.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["DemoPaths", "demo_paths"]


@dataclass(frozen=True, slots=True)
class DemoPaths:
    """Where the demo's parts lie: a model folder, three corpora, minimal pairs."""

    model: Path
    train: Path
    dev: Path
    test: Path
    pairs: Path


def demo_paths() -> DemoPaths:
    """The paths of the embedded model and corpus.

    Raises:
        FileNotFoundError: the installation lacks them.

    Example:
        >>> demo_paths().train.name
        'train.conllu'
    """
    data = Path(str(files(__name__) / "data"))
    paths = DemoPaths(
        model=data / "demo-llama",
        train=data / "train.conllu",
        dev=data / "dev.conllu",
        test=data / "test.conllu",
        pairs=data / "agreement_pairs.jsonl",
    )
    for path in (paths.model, paths.train, paths.dev, paths.test, paths.pairs):
        if not path.exists():
            make = "python -m tools.demo.make"
            raise FileNotFoundError(
                f"expected the demo's {path.name} in {data}: make it in a checkout by {make}"
            )
    return paths
