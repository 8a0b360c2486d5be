"""Lenses: the Jacobian's fit against TransformerLens's, least squares against capturing alone, and
the page of a prompt.

    python benchmarks/lens.py --model SMOLLM2.gguf [--only jacobian] [--layers 6] [--texts 1] \
        [--length 64] [--repeats 3]

Both fits of the Jacobian take the same texts, layers and positions and the same random Llama of the
model's shape with --layers blocks (all of SmolLM2's take minutes a text), and must agree to 1e-5.
TransformerLens's runs at its own 8 output dimensions a pass, as ours does here, and at 32. Ours is
also timed with the embedding's matrix, one block of backward passes more, which theirs leaves out.
Least squares and the page are SmolLM2's own. Sides take turns; of ratios the median.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import transformers
from layerscope.experiments.corpus.prompts import Prompt
from layerscope.experiments.lenses.jacobian import jacobian
from layerscope.experiments.lenses.least_squares import least_squares
from layerscope.experiments.lenses.lens import Lens
from layerscope.experiments.lenses.streams import all_streams
from layerscope.experiments.studies.lens.options import LensOptions
from layerscope.experiments.studies.lens.reading import read_text
from layerscope.experiments.subject import Subject, load
from measure import alternate, ratio, start

STORY = (
    "the old man who had lived near the river for many years said that his house was too "
    "small and that he wanted to move into the city where his children and their friends "
    "worked in a large shop that sold books and maps to people who came from far away to "
    "see the sea and walk along its long white shore every summer while the children of the "
    "village played"
)
FIRST = 16


def texts_of(count: int, length: int) -> list[str]:
    """Different texts of about so many tokens."""
    words = STORY.split()
    return [" ".join((words[3 * n :] + words)[: length - 1]) for n in range(count)]


def fits(given: argparse.Namespace, subject: Subject) -> None:
    """The Jacobian by both libraries."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens

    config = transformers.LlamaConfig(
        **{**subject.config.to_dict(), "num_hidden_layers": given.layers, "layer_types": None}
    )
    model = transformers.LlamaForCausalLM(config).eval()
    small = Subject(model, subject.tokenizer, bos="always")
    lines = texts_of(given.texts, given.length)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        subject.tokenizer.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(
            folder, device="cpu", hf_model=model, tokenizer=subject.tokenizer
        )
    encoded = small.encode(lines)
    prompts = [torch.tensor([text.ids]) for text in encoded]
    bridge.to_tokens = lambda prompt: prompts[lines.index(prompt)]  # the same tokens on both sides
    lenses = {}

    def ours(lowest: int) -> None:
        lenses["ours"] = jacobian(small, encoded, first=FIRST, lowest=lowest)

    def theirs(batch: int) -> None:
        lenses["theirs"] = JacobianLens.fit(
            bridge,
            lines,
            corpus="benchmark",
            skip_first_positions=FIRST,
            dim_batch=batch,
            show_progress=False,
        )

    taken = alternate(
        given.repeats,
        ours=lambda: ours(1),
        with_embedding=lambda: ours(0),
        theirs_8=lambda: theirs(8),
        theirs_32=lambda: theirs(32),
    )
    for block, matrix in lenses["theirs"].jacobians.items():
        torch.testing.assert_close(lenses["ours"].weight[block + 1], matrix, atol=1e-5, rtol=1e-4)
    tokens = [len(text) for text in encoded]
    print(f"Jacobian of {given.layers} blocks, texts of {tokens} tokens:")
    print(
        "  of TransformerLens's time at 8 dimensions a pass  "
        f"{ratio(taken['ours'], taken['theirs_8'])}"
    )
    print(f"  at 32  {ratio(taken['ours'], taken['theirs_32'])}")
    print(
        "  ours with the embedding's matrix, of theirs without it at 8  "
        f"{ratio(taken['with_embedding'], taken['theirs_8'])}"
    )


def squares(given: argparse.Namespace, subject: Subject) -> None:
    """Least squares, and the forwards that it needs alone."""
    encoded = subject.encode(texts_of(24, 48))

    def captured() -> None:
        for streams in all_streams(subject, encoded, given.tokens):
            for layer in range(streams.n_layers + 1):
                streams.stream(layer)

    taken = alternate(
        given.repeats,
        fit=lambda: least_squares(subject, encoded, given.tokens),
        captured=captured,
    )
    print(f"least squares, of the capture's time  {ratio(taken['fit'], taken['captured'])}")


def page(given: argparse.Namespace, subject: Subject) -> None:
    """Every layer and position of a prompt, its contributions and 10 exact ablations."""
    prompt = Prompt("The Eiffel Tower is in the city of", " Paris", " Rome")
    options = LensOptions(out=Path("unused"), model="unused")
    for _ in range(given.repeats):
        begun = time.perf_counter()
        read_text(subject, 0, prompt, [Lens("logit")], options, [])
        print(f"a prompt of SmolLM2: {time.perf_counter() - begun:.2f} s")


PARTS = {"jacobian": fits, "least-squares": squares, "page": page}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    start()
    subject = load(given.model, bos="always")
    for name, part in PARTS.items():
        if given.only in (None, name):
            part(given, subject)


if __name__ == "__main__":
    main()
