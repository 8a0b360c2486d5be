"""The demo model: a byte-level BPE tokenizer and a small Llama trained on the grammar's text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1200
SPECIAL = ("<bos>", "<eos>", "<pad>")


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts ``<bos>`` in front, as it should be."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=128,
    )


def new_model(seed: int) -> LlamaForCausalLM:
    """The architecture with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            initializer_range=0.05,
        )
    )


def batches(
    rows: list[list[int]], tokens: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """(input ids, labels) of about `tokens` tokens each, rows of one length together."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    chunk = 4096  # sorted by length inside a chunk, so that batches still differ every time
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk], key=lambda i: len(rows[i]))
        cuts: list[list[int]] = [[]]
        for i in part:
            if cuts[-1] and (len(cuts[-1]) + 1) * len(rows[i]) > tokens:
                cuts.append([])
            cuts[-1].append(i)
        for j in torch.randperm(len(cuts), generator=generator).tolist():
            width = max(len(rows[i]) for i in cuts[j])
            ids = torch.full((len(cuts[j]), width), 2)
            labels = torch.full((len(cuts[j]), width), -100)
            for row, i in enumerate(cuts[j]):
                ids[row, : len(rows[i])] = labels[row, : len(rows[i])] = torch.tensor(rows[i])
            yield ids, labels


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with ``<bos>`` in front and ``<eos>`` behind."""
    return [[*ids, 1] for ids in tokenizer(list(texts))["input_ids"]]


@torch.no_grad()
def nats_per_sentence(model: LlamaForCausalLM, rows: list[list[int]]) -> float:
    """The mean negative log-likelihood of a sentence in nats."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for ids, labels in batches(rows, 8192, generator):
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
        total += loss.item()
    return total / len(rows)


def train(
    model: LlamaForCausalLM,
    rows: list[list[int]],
    held_out: list[list[int]],
    *,
    epochs: int,
    seed: int,
    log: Path,
    peak_lr: float = 3e-3,
    tokens: int = 1024,
    keep: Mapping[int, Path] | None = None,
) -> None:
    """AdamW with a warm-up and a cosine decay, over `epochs` passes; writes the losses to `log`.

    Args:
        keep: where the model is saved after so many steps; training ends after the last of them.
    """
    keep = keep or {}
    if 0 in keep:
        model.save_pretrained(keep[0])
    generator = torch.Generator().manual_seed(seed)
    # About: how rows fall into batches depends on their order.
    steps = epochs * sum(1 for _ in batches(rows, tokens, torch.Generator().manual_seed(0)))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.98), fused=True)
    # On a CPU the backward pass of fused attention takes most of a step on short rows.
    model.set_attn_implementation("eager")

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (
            0.02 + 0.98 * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started, running, step = time.time(), 0.0, 0
    with log.open("w", encoding="utf-8") as file:
        for _ in range(epochs):
            for ids, labels in batches(rows, tokens, generator):
                model.train()
                # bfloat16 products are several times faster where the processor has them.
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(input_ids=ids, labels=labels).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
                step += 1
                if step in keep:
                    model.save_pretrained(keep[step])
                    if step == max(keep):
                        return
                if step % 100 == 0:
                    line = f"step {step} of about {steps}  {running:.4f} nats/token  "
                    if step % 500 == 0:
                        line += f"held out {nats_per_sentence(model, held_out):.3f} nats/sentence  "
                    line += f"{time.time() - started:.0f} s"
                    print(line, flush=True)
                    print(line, file=file, flush=True)
