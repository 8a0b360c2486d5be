"""What feature extraction and reading hold: a batch, then one layer, however many layers and sentences there are."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import transformers as hf

from experiments.results import peak_memory

LAYERS, WIDTH = 30, 128
FEW, MANY, WORDS = 60, 1000, 10

# Prints how far the process's memory rises from a few sentences to many, reading layer by layer or all at once.
SCRIPT = """
import sys
from pathlib import Path
from experiments.corpus import read_conllu
from experiments.features import Layout, extract
from experiments.layerwise import study_sites
from experiments.results import peak_memory
from experiments.subject import load
from hooks import ActivationStore

base, everything = Path(sys.argv[1]), sys.argv[2] == "everything"
subject = load(base / "model")
places = study_sites(subject, "hook_resid_post")

def features(name):
    layout = Layout.of(subject, read_conllu(base / f"{name}.conllu").sentences)
    store = ActivationStore(base / f"{name}-{everything}", name)
    extract(subject, layout, places, store, batch_tokens=512)
    held = []
    for site in places:
        values = store.read(site, layout.n_rows)
        held = [*held, values] if everything else [values]

features("few")
before = peak_memory()
features("many")
print(peak_memory() - before)
"""


def conllu(count: int, mark: str) -> str:
    rng, lines = random.Random(mark), []
    for i in range(count):
        words = [f"w{rng.randint(3, 92)}" for _ in range(WORDS)]
        lines += [f"# sent_id = {mark}{i}", f"# text = {' '.join(words)}"]
        lines += [f"{j}\t{w}\t{w}\tX\tX\t_\t{min(j - 1, 1)}\tdep\t_\t_" for j, w in enumerate(words, 1)]
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    ids = {"vocab_size": tiny.VOCAB, "bos_token_id": 1, "eos_token_id": 2, "n_inner": 8}
    hf.GPT2Model(hf.GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=2, n_positions=64, **ids)).save_pretrained(
        folder / "model"
    )
    tiny.tokenizer().save_pretrained(folder / "model")
    for name, count in (("few", FEW), ("many", MANY)):
        (folder / f"{name}.conllu").write_text(conllu(count, name), encoding="utf-8")
    return folder


def growth(base: Path, what: str) -> int:
    command = [sys.executable, "-c", SCRIPT, str(base), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_one_layer_is_held_at_a_time(base: Path) -> None:
    layer = MANY * WORDS * WIDTH * 4
    everything = (LAYERS + 1) * layer  # 159 MB
    # Reading makes the next layer while the last is held; the rest is tokens, labels and the allocator's.
    assert growth(base, "layer") < 3 * layer + 35e6 < everything / 3
    assert growth(base, "everything") > 0.9 * everything


def test_peak_memory_is_this_processs_own() -> None:
    parent = bytearray(b"x") * 600_000_000
    script = "from experiments.results import peak_memory; print(peak_memory())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    own = int(done.stdout)
    assert 20e6 < own < len(parent) < peak_memory()
