"""Peak memory of reading corpora of growing size, each in a process of its own.

    python benchmarks/large_corpus.py [--sentences 20000 200000]

The corpora repeat the demo's sentences with other nouns, each text once. Compared are a reader that
goes through a file once, and `probe --dry-run` with a sample of the training sentences and with all
of them.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from layerscope.experiments.demo import demo_paths  # noqa: E402

PEAK = "from layerscope.experiments.runs.folder import peak_memory; print(peak_memory())"
READER = f"""
import sys, layerscope.experiments.api
from layerscope.experiments.corpus import read_conllu
corpus = read_conllu(sys.argv[1])
words = sum(len(sentence.words) for sentence in corpus)
{PEAK}
"""
PROBE = f"""
import sys
from layerscope.experiments.cli import main
assert main(sys.argv[1:]) == 0
{PEAK}
"""


def write_corpus(path: Path, sentences: int) -> None:
    """So many sentences, each with another number behind its first word."""
    given = demo_paths().train.read_text(encoding="utf-8").strip().split("\n\n")
    with path.open("w", encoding="utf-8") as file:
        for number, block in zip(range(sentences), itertools.cycle(given), strict=False):
            lines = []
            for line in block.split("\n"):
                columns = line.split("\t")
                if line.startswith("#"):
                    continue
                if columns[0] == "1":
                    columns[1] += str(number)
                lines.append("\t".join(columns))
            file.write("\n".join(lines) + "\n\n")


def peak(code: str, *words: str) -> int:
    """Bytes that a process held at its peak."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.split()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, nargs="+", default=[20_000, 200_000])
    given = parser.parse_args()
    demo = demo_paths()
    for size in given.sentences:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.conllu"
            write_corpus(path, size)
            splits = ["--corpus", str(path), "--dev", str(demo.dev), "--test", str(demo.test)]
            probe = ["probe", "--model", str(demo.model), *splits, "--property", "upos"]
            probe += ["--out", str(Path(folder) / "run"), "--dry-run", "--quiet"]
            columns = {
                "reader": peak(READER, str(path)),
                "probe --sample 800": peak(PROBE, *probe, "--sample", "800"),
                "probe": peak(PROBE, *probe),
            }
            texts = [f"{name} {value / 1e6:,.0f} MB" for name, value in columns.items()]
            print(f"{size:,} sentences: {', '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
