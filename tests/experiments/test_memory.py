"""What a study holds: one layer of features at a time, however many layers and sentences there are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import transformers as hf

LAYERS, WIDTH = 40, 64
SENTENCES, WORDS = 1500, 10

# Prints how far the process's memory rose above what the imports and a first small study had taken.
STUDY = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from experiments import layerwise
from experiments.config import ProbeConfig
from experiments.results import peak_memory

base, everything = Path(sys.argv[1]), sys.argv[2] == "everything"

def study(train, out):
    made = ProbeConfig(
        model=str(base / "model"), corpus=base / train, dev=base / "dev.conllu", test=base / "test.conllu",
        property=("upos",), l2=(100.0,), control_seeds=1, random_models=0, out=base / out, keep_features=everything,
    )
    return layerwise.run(made)

study("few.conllu", f"few-{everything}")
before = peak_memory()
results = study("train.conllu", f"many-{everything}")
if everything:  # the positive control: what holding all layers at once costs
    from safetensors.torch import load_file
    held = [load_file(p) for p in sorted((base / f"many-{everything}").glob("features/*/*.safetensors"))]
print(json.dumps({"growth": peak_memory() - before, "said": results["provenance"]["memory"]}))
"""


def conllu(count: int, mark: str) -> str:
    lines = []
    for i in range(count):
        words = [f"w{3 + (7 * i + 5 * j + i * j) % 90}" for j in range(WORDS)]
        lines += [f"# sent_id = {mark}{i}", f"# text = {' '.join(words)}"]
        for j, word in enumerate(words, 1):
            tag = "NOUN" if int(word[1:]) < 40 else "VERB"
            lines.append(f"{j}\t{word}\t{word}\t{tag}\tX\t_\t{min(j - 1, 1)}\t{'root' if j == 1 else 'dep'}\t_\t_")
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    config = hf.GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=2, n_positions=64, vocab_size=tiny.VOCAB)
    hf.GPT2Model(config).save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    for name, count in (("train", SENTENCES), ("few", 40), ("dev", 30), ("test", 30)):
        (folder / f"{name}.conllu").write_text(conllu(count, name), encoding="utf-8")
    return folder


def measure(base: Path, what: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", STUDY, str(base), what],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {"growth": found["growth"], **found["said"]}


@pytest.mark.slow
def test_a_study_holds_one_layer_and_says_so_beforehand(base: Path) -> None:
    found = measure(base, "layer")
    rows = (SENTENCES + 60) * WORDS
    assert found["disk_bytes"] == rows * WIDTH * 4 * (LAYERS + 1)
    assert found["held_bytes"] == rows * WIDTH * 4 * 3
    slack = 60e6  # tokens, labels, a batch at all layers, and the allocator's
    assert found["growth"] < found["held_bytes"] + slack < found["disk_bytes"]
    assert measure(base, "everything")["growth"] > found["disk_bytes"] * 0.9
