"""Make the embedded demo: ``python -m tools.demo.make [--out DIR]``.

The corpus is the same bytes on every machine. The model is trained on the CPU in about twenty
minutes; its weights depend on the machine in their last digits.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "experiments" / "demo" / "data"
"""Where the package keeps the demo."""
STEPS = (0, 25, 50, 75, 100, 150, 200, 300, 400, 600)
"""Steps at which ``--checkpoints`` saves the model."""


def main(arguments: list[str] | None = None) -> None:
    """Write corpus, minimal pairs, tokenizer and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--sentences", type=int, default=80_000, help="training sentences")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        help="only save the model at its first steps there, for `attend --checkpoints`",
    )
    parser.add_argument("--corpus-only", action="store_true", help="leave the model alone")
    chosen = parser.parse_args(arguments)

    from . import generate

    annotated = generate.write_corpus(chosen.out)
    print(f"wrote {len(generate.SPLITS)} splits and the minimal pairs to {chosen.out}")
    if chosen.corpus_only:
        return

    # No hub: nothing here is downloaded.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from . import check, train

    started = time.time()
    torch.set_num_threads(chosen.threads)
    texts, _ = generate.training_text(chosen.sentences, annotated)
    held_out, entropy = generate.training_text(2000, annotated, seed=generate.SEED + 1)
    print(f"generated {len(texts)} sentences in {time.time() - started:.0f} s")
    tokenizer = train.train_tokenizer(texts[:50_000])
    rows, held_out_rows = train.encode(tokenizer, texts), train.encode(tokenizer, held_out)
    model = train.new_model(generate.SEED)
    if chosen.checkpoints:
        keep = {step: chosen.checkpoints / f"step-{step:05d}" for step in STEPS}
        chosen.checkpoints.mkdir(parents=True, exist_ok=True)
        log = chosen.checkpoints / "training.log"
        train.train(
            model,
            rows,
            held_out_rows[:300],
            epochs=chosen.epochs,
            seed=generate.SEED,
            log=log,
            keep=keep,
        )
        return
    folder = chosen.out / "demo-llama"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    log = folder / "training.log"
    train.train(model, rows, held_out_rows[:300], epochs=chosen.epochs, seed=generate.SEED, log=log)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(folder)

    facts = {
        "sentences": len(texts) * chosen.epochs,
        "tokens": sum(map(len, rows)) * chosen.epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
        "nats": train.nats_per_sentence(model, held_out_rows),
        "entropy": entropy,
        "pairs": check.pair_accuracy(model, tokenizer, chosen.out / "agreement_pairs.jsonl"),
        "probes": check.layer_scores(
            model, tokenizer, chosen.out / "train.conllu", chosen.out / "test.conllu"
        ),
    }
    (chosen.out / "README.md").write_text(check.describe(facts, chosen.out), encoding="utf-8")
    print(f"done in {time.time() - started:.0f} s; see {chosen.out / 'README.md'}")


if __name__ == "__main__":
    main()
