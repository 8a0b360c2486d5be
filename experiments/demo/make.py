"""Make the embedded demo: ``python -m experiments.demo.make [--out DIR]``.

The corpus is the same bytes on every machine. The model is trained on the CPU in about twenty
minutes; its weights depend on the machine in their last digits.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Write corpus, minimal pairs, tokenizer and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--sentences", type=int, default=110_000, help="training sentences")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--corpus-only", action="store_true", help="leave the model alone")
    chosen = parser.parse_args(arguments)

    from experiments.demo import generate

    annotated = generate.write_corpus(chosen.out)
    print(f"wrote {len(generate.SPLITS)} splits and the minimal pairs to {chosen.out}")
    if chosen.corpus_only:
        return

    # No hub: nothing here is downloaded.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from experiments.demo import train

    started = time.time()
    texts, _ = generate.training_text(chosen.sentences, annotated)
    held_out, entropy = generate.training_text(2000, annotated, seed=generate.SEED + 1)
    print(f"generated {len(texts)} sentences in {time.time() - started:.0f} s")
    print(f"information of a derivation: {entropy:.3f} nats per sentence")
    tokenizer = train.train_tokenizer(texts[:50_000])
    rows = train.encode(tokenizer, texts)
    n_tokens = sum(map(len, rows))
    print(f"{n_tokens} tokens, {n_tokens / len(rows):.2f} per sentence", flush=True)
    model = train.new_model(generate.SEED)
    folder = chosen.out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "training.log"
    held_out_rows = train.encode(tokenizer, held_out)
    train.train(model, rows, held_out_rows, epochs=chosen.epochs, seed=generate.SEED, log=log)
    tokenizer.save_pretrained(folder)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
