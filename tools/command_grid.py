"""Every command on a tiny model of every class that people load, saved to a folder with a
tokenizer: does it start, and end?

# the whole grid, and its counts
PYTHONPATH=.:tests python tools/command_grid.py
PYTHONPATH=.:tests python tools/command_grid.py Gemma3ForConditionalGeneration   # one class
PYTHONPATH=.:tests python tools/command_grid.py --command probe LlamaForCausalLM

A cell is ``ok``, ``refused`` (one line that says why, which is what a command that does not fit
must give), or ``FAILED`` (a traceback, or a report that says WRONG). The models are random: no
number in a cell means anything.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers as hf
import zoo
from layerscope.experiments import cli
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
ADJECTIVES = ("old", "big", "red")
NOUNS = (("dog", "dogs"), ("cat", "cats"), ("bird", "birds"))
VERBS = (("sees", "see"), ("loves", "love"))
WORDS = ("the", *ADJECTIVES, *itertools.chain(*NOUNS, *VERBS))
"""Few enough words for the zoo's vocabulary of 100."""

CLASSES = {
    "decoders": (
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "GptOssForCausalLM",
        "Qwen3MoeForCausalLM",
        "Gemma2ForCausalLM",
        "Qwen3_5ForCausalLM",
        "Gemma4ForCausalLM",
        "MambaForCausalLM",
    ),
    "encoders": (
        "BertForMaskedLM",
        "DebertaV2ForMaskedLM",
        "ModernBertForMaskedLM",
        "XLMRobertaForMaskedLM",
    ),
    "encoder-decoders": (
        "T5ForConditionalGeneration",
        "BartForConditionalGeneration",
        "M2M100ForConditionalGeneration",
        "MarianMTModel",
        "T5GemmaForConditionalGeneration",
    ),
    "vision-language": (
        "Gemma3ForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
        "PaliGemmaForConditionalGeneration",
        "InternVLForConditionalGeneration",
        "Qwen2AudioForConditionalGeneration",
    ),
    "sound and pictures": ("WhisperForConditionalGeneration", "ViTModel", "CLIPModel"),
}
"""Group -> classes of the zoo: one row of the grid each."""

CORPUS = "--corpus corpus.conllu"
COMMANDS = {
    "doctor": "",
    "probe": f"{CORPUS} --property upos --l2 10 --control-seeds 1 --random-models 1",
    "capture": f"{CORPUS} --site hook_resid_post",
    "geometry": f"{CORPUS} --property upos --method pca --sample 40 --lens-texts 2",
    "attend": f"{CORPUS} --limit 4 --show 1",
    "ablate": "--prompts prompts.jsonl --component heads --value mean",
    "patch": "--clean prompts.jsonl --by head",
    "attribute": "--prompts prompts.jsonl --limit 2 --method leave-one-out --method ig --steps 4",
    "lens": "--prompts prompts.jsonl --limit 2 --random-models 0 --verify 1",
    "usage": f"{CORPUS} --property upos --l2 10 --limit 4 --null-draws 1 --prompts prompts.jsonl",
    "neurons": (
        f"{CORPUS} --property upos --layer 1 --limit 4 --null-draws 1 --rotations 0 --show 0 --k 1 "
        "--prompts prompts.jsonl"
    ),
    "prune": "--prompts prompts.jsonl --steps 1 --null-draws 1",
    "calibrate": "--prompts prompts.jsonl --bins 2",
}
"""Command -> its options beside the model, in a folder that `write_inputs` filled."""


@dataclass(frozen=True)
class CellResult:
    """One command on one class: how it ended, in how long,
    and its last line if it did not end well.
    """

    model: str
    command: str
    status: str
    seconds: float
    line: str = ""

    def __str__(self) -> str:
        return f"{self.status:8}{self.seconds:6.1f} s  {self.model:40}{self.command:10}{self.line}"


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """Byte-pair encoding in which a word with its space is one token;
    its class is what every family's real one takes.
    """
    spelled = [f"\u0120{word}" for word in WORDS]
    tokens = [*SPECIAL, *sorted(set("".join(spelled)))]
    merges: dict[tuple[str, str], None] = {}
    for word in spelled:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token=AddedToken("<mask>", lstrip=True),  # as RoBERTa's takes the space before it
        unk_token="<unk>",
    )


def save(name: str, folder: Path) -> None:
    """A class of the zoo where a command finds it, as its checkpoints are: what reads pictures or
    sounds has its processor there.
    """
    model = zoo.build(name)
    model.save_pretrained(folder)
    if name in ("ViTModel", "CLIPModel"):
        size = {"height": 16, "width": 16}
        ViTImageProcessorPil(size=size).save_pretrained(folder)
    if name.startswith("Whisper"):
        # 24 frames of a sound of one second, which is all that the small model hears
        size = {"feature_size": model.config.num_mel_bins, "hop_length": 666, "chunk_length": 1}
        hf.WhisperFeatureExtractor(**size).save_pretrained(folder)
    if name != "ViTModel":
        tokenizer().save_pretrained(folder)


def write_inputs(folder: Path, masked: bool = False) -> None:
    """A small annotated corpus, and prompts with an answer, a wrong one and a corrupted prompt."""
    blocks, prompts = [], []
    mask = " <mask>" if masked else ""
    kinds = itertools.product(ADJECTIVES, NOUNS, VERBS, (0, 1))
    for number, (adjective, noun, verb, plural) in enumerate(kinds):
        other = NOUNS[(number + 1) % len(NOUNS)]
        words = ("the", adjective, noun[plural], verb[plural], "the", other[0])
        tags = ("DET", "ADJ", "NOUN", "VERB", "DET", "NOUN")
        heads = (3, 3, 4, 0, 6, 4)
        rows = [f"# sent_id = s{number}", f"# text = {' '.join(words)}"]
        for at, (word, tag, head) in enumerate(zip(words, tags, heads, strict=True), 1):
            rows.append(f"{at}\t{word}\t{word}\t{tag}\t_\t_\t{head}\tdep\t_\t_")
        blocks.append("\n".join(rows))
        if number < 6:
            prompts.append(
                {
                    "prompt": f"the {adjective} {noun[plural]}{mask}",
                    "corrupted": f"the {adjective} {noun[1 - plural]}{mask}",
                    "answer": f" {verb[plural]}",
                    "wrong": f" {verb[1 - plural]}",
                }
            )
    text = "\n\n".join(blocks) + "\n\n"
    (folder / "corpus.conllu").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")


def run(name: str, command: str, out: str) -> CellResult:
    """One command on the model in the folder ``model`` of the working directory."""
    heard, start = io.StringIO(), time.perf_counter()
    line = f"{command} --model model --out {out} --device cpu {COMMANDS[command]}"
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(heard),
        contextlib.redirect_stderr(heard),
    ):
        warnings.simplefilter("ignore")
        status = cli.main(line.split())
    seconds = time.perf_counter() - start
    if status == 0:
        return CellResult(name, command, "ok", seconds)
    messages = [one for one in heard.getvalue().splitlines() if one.strip()]
    if status == cli.BAD_INPUT:
        return CellResult(name, command, "refused", seconds, messages[-1][:240])
    bugs = [one for one in messages if "Error" in one] or messages
    return CellResult(name, command, "FAILED", seconds, bugs[-1][:240])


@contextlib.contextmanager
def workplace(name: str) -> Iterator[None]:
    """A working directory with a class's model and what the commands read."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            save(name, Path("model"))
            write_inputs(Path(), masked=name in CLASSES["encoders"])
            yield
        finally:
            os.chdir(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="*", help="classes (default: all)")
    parser.add_argument("--command", action="append", choices=tuple(COMMANDS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for name in given.model or itertools.chain(*CLASSES.values()):
        with workplace(name):
            for command in given.command or COMMANDS:
                cell = run(name, command, f"run-{command}")
                print(cell, flush=True)
                counts[cell.status] += 1
    print(dict(counts))


if __name__ == "__main__":
    main()
