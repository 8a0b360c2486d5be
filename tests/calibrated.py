"""What the tests of calibration share: rows with a planted temperature,
and a run of the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli


def write_rows(path: Path, z: np.ndarray, y: np.ndarray, n_validation: int) -> Path:
    """Logits and labels, the first rows for validation, two rows a group."""
    with path.open("w", encoding="utf-8") as file:
        for i, (row, label) in enumerate(zip(z.tolist(), y.tolist(), strict=True)):
            split = "validation" if i < n_validation else "test"
            file.write(
                json.dumps({"logits": row, "label": label, "group": f"g{i // 2}", "split": split})
                + "\n"
            )
    return path


def run(out: Path, *words: object, command: str = "calibrate") -> dict[str, Any]:
    assert cli.main([command, *map(str, words), "--out", str(out)]) == 0
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def doubled_logits() -> tuple[np.ndarray, np.ndarray]:
    """Logits twice as large as those that the labels are drawn from."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(2200, 3))
    return 2 * z, (z + rng.gumbel(size=z.shape)).argmax(1)
