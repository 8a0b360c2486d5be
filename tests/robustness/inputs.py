"""What commands read here, small, of every kind of file, and command lines that work on it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers as hf
from layerscope.experiments.studies import STUDIES
from recorded import make

SENTENCES, ROWS = 10, 16
"""Of each file: a run takes a second or less."""

WORDS = "--corpus train.conllu --dev dev.conllu --test test.conllu"
TEXT = "--text 'The guards near the garden'"
PROBE = make.PROBE
PREPARED = {
    "captured": (
        "capture --model small --site blocks.0.hook_resid_pre --site hook_resid_post "
        "--corpus train.conllu --corpus dev.conllu --corpus test.conllu"
    ),
    "lenses": "lens --model small --corpus test.conllu --kind least-squares",
    "effects": "ablate --model small --prompts prompts.jsonl --component heads --value zero",
    "probe-plain": (
        f"probe --model small {WORDS} --property upos --l2 1 --control-seeds 0 --random-models 0"
    ),
}
"""Run folders that other runs read, and the command lines that make them."""
LINES = (
    f"probe --model small {WORDS} --property upos --l2 1 --control-seeds 1",
    (
        f"probe --model small {WORDS} --property depth --property arc:exists --l2 1 "
        "--control-seeds 1 --code-length --information"
    ),
    f"probe --model small {WORDS} --property upos --l2 1 --control-seeds 0 --store captured",
    "probe --model seeing --images pictures.csv --property colour --l2 1 --control-seeds 1",
    "probe --model hearing --audio sounds.csv --property pitch --l2 1 --control-seeds 1",
    "ablate --model small --prompts prompts.jsonl --component layers --value zero",
    (
        "ablate --model gpt --prompts prompts.csv --component heads --value mean --estimate "
        "gradient --verify 2 --verify-drawn 2"
    ),
    (
        "ablate --model small --prompts prompts.json --component layers --value mean "
        "--reference texts.jsonl"
    ),
    "ablate --model small --pairs pairs.tsv --component mlps --steps 2",
    "ablate --model classifier --labelled labelled.jsonl --component attentions",
    f"ablate --model small --probe {PROBE} --corpus test.conllu --component layers",
    "ablate --model small --adapter adapter --prompts prompts.jsonl --component layers",
    "patch --model small --clean prompts.jsonl --by layer",
    (
        "patch --model gpt --clean prompts.jsonl --corrupted corrupted.jsonl --by head "
        "--estimate gradient --verify 2"
    ),
    "attend --model small --corpus test.conllu --show 1",
    "attend --model small --corpus test.conllu --show 1 --checkpoints steps",
    "attend --model small --corpus test.conllu --show 1 --effects effects",
    "attend --model masked --prompts texts.jsonl --show 1",
    "geometry --model small --corpus test.conllu --property upos --method pca --sample 30",
    "geometry --model small --corpus train.conllu --method pca --sample 30 --store captured",
    "geometry --model small --corpus test.conllu --method pca --sample 30 --compare steps/step-1",
    (
        f"attribute --model small {TEXT} --method ig --method leave-one-out --null-draws 1 "
        "--target answer"
    ),
    "attribute --model classifier --prompts texts.jsonl --method grad-input --null-draws 1",
    f"attribute --model small {TEXT} --known prompts.jsonl --method grad-input",
    f"attribute --model small {TEXT} --removal propose --proposals masked --samples 2",
    f"attribute --model small {TEXT} --probe {PROBE} --word 1 --method grad-input",
    f"usage --model small {WORDS} --property upos --prompts prompts.jsonl --null-draws 1 --l2 1",
    (
        f"usage --model small {WORDS} --property upos --prompts prompts.jsonl --null-draws 0 "
        "--l2 1 --store captured"
    ),
    f"usage --model small {WORDS} --property upos --null-draws 0 --l2 1 --probe {PROBE}",
    (
        f"neurons --model small {WORDS} --layer 1 --property upos --prompts prompts.jsonl "
        "--null-draws 2 --k 1 --show 1 --limit 3"
    ),
    "capture --model small --site hook_resid_post --corpus test.conllu --limit 4",
    "capture --model small --site hook_resid_post --lines lines.txt",
    "calibrate --predictions predictions.jsonl --bins 3",
    "calibrate --predictions predictions.csv --bins 3 --split 0.5",
    "calibrate --predictions predictions.npz --bins 3",
    "calibrate --model small --prompts prompts.jsonl --bins 3",
    "calibrate --model small --questions questions.jsonl --validation more.jsonl --bins 3",
    "calibrate --model classifier --labelled labelled.jsonl --group-by who --bins 3",
    f"ask {make.MODEL} --prompts prompts.jsonl --null-draws 2 --templates wording --bins 3",
    f"ask {make.MODEL} --pairs pairs.tsv --confidence p_true --bins 3",
    "ask --model chatty --prompts prompts.jsonl --chat --null-draws 1 --templates wording --bins 3",
    "ask --model chatty --questions questions.jsonl --confidence sampled --bins 2",
    "attend --model vision --prompts pictures.jsonl --show 1 --bos never",
    "ablate --model translator --prompts prompts.jsonl --component layers --limit 3",
    "doctor --model small",
    "prune --model small --prompts prompts.jsonl --steps 1",
    "swap --model classifier --labelled swapped.jsonl --list names --null-draws 2",
    "swap --model classifier --labelled swapped.jsonl --words words.csv --null-draws 1",
    f"lens --model small {TEXT} --corpus test.conllu --kind logit --kind least-squares --verify 1",
    "lens --model small --corpus lines.txt --kind tuned --steps 2",
    "lens --model small --prompts prompts.jsonl --kind logit --circuits --head 1.2",
    f"lens --model small {TEXT} --lens lens.safetensors",
    "capture --config capture.toml",
    "capture --model packed.gguf --site hook_resid_post --lines lines.txt",
    "ablate --model packed.gguf --prompts texts.jsonl --component heads --metric loss --value zero",
    "attend --model packed.gguf --corpus test.conllu --show 1 --attn flex_attention",
    "doctor --model packed.gguf",
    "patch --model small --clean prompts.jsonl --by layer --attn flex_attention",
    "capture --model seeing --site hook_resid_post --images pictures.csv --level item",
    "lens --model small --corpus lines.txt --kind jacobian",
)
"""Command lines that work on the inputs; a run takes about a second."""


def write_inputs() -> None:
    """Write what the lines read to the working directory, but for `PREPARED`."""
    make.write_inputs()
    for name in ("train", "dev", "test"):
        path = Path(f"{name}.conllu")
        sentences = path.read_text(encoding="utf-8").split("\n\n")[:SENTENCES]
        path.write_text("\n\n".join(sentences) + "\n\n", encoding="utf-8")
    for name in ("prompts", "labelled", "swapped", "predictions", "texts"):
        lines = Path(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_other_formats()
    _write_models()
    _write_gguf(Path("packed.gguf"))
    _write_media()


def _write_other_formats() -> None:
    """The same rows in the other formats, and further kinds of files."""
    prompts, predictions = _rows("prompts.jsonl"), _rows("predictions.jsonl")
    pairs = make.DEMO.pairs.read_text(encoding="utf-8").splitlines()[:8]
    Path("prompts.json").write_text(json.dumps(prompts, indent=1), encoding="utf-8")
    _write_table("prompts.csv", prompts, ",")
    _write_table("pairs.tsv", [json.loads(line) for line in pairs], "\t")
    columns = [f"logit_{place}" for place in range(3)]
    table = []
    for row in predictions:
        table.append({**dict(zip(columns, row["logits"], strict=True)), "label": row["label"]})
    _write_table("predictions.csv", table, ",")
    logits = np.array([row["logits"] for row in predictions])
    np.savez("predictions.npz", logits=logits, labels=[row["label"] for row in predictions])
    corrupted = [{"prompt": row["corrupted"], "answer": row["answer"]} for row in prompts]
    make.write_lines("corrupted.jsonl", corrupted)
    shutil.copy("questions.jsonl", "more.jsonl")
    Path("words.csv").write_text("a,b\nJohn,Mary\nPaul,Susan\n", encoding="utf-8")
    lines = [f"{row['prompt']} and the old house . " * 2 for row in prompts]
    Path("lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("capture.toml").write_text(
        'command = "capture"\nmodel = "small"\nsite = ["hook_resid_post"]\ncorpus = '
        '["test.conllu"]\nlimit = 3\n',
        encoding="utf-8",
    )


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def _write_table(name: str, rows: Sequence[dict[str, Any]], separator: str) -> None:
    names = list(rows[0])
    lines = [separator.join(names)]
    for row in rows:
        lines.append(separator.join(str(row[column]) for column in names))
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_models() -> None:
    """A GPT-2, an adapter of the small model, and the demo's model, which names words when it is
    asked, with a chat template.
    """
    import peft

    tokenizer = hf.AutoTokenizer.from_pretrained("small")
    config = hf.GPT2Config(
        vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.GPT2LMHeadModel(config).save_pretrained("gpt")
        model = hf.AutoModelForCausalLM.from_pretrained("small")
        peft.get_peft_model(model, lora).save_pretrained("adapter")
    tokenizer.save_pretrained("gpt")
    shutil.copytree(make.DEMO.model, "chatty")
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    Path("chatty/chat_template.jinja").write_text(template, encoding="utf-8")


def _write_gguf(path: Path) -> None:
    """A Llama of two layers with a tokenizer of bytes; the format is written by its own package."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "th"]
    width, inner, heads = 16, 24, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("packed")
    writer.add_vocab_size(len(tokens))
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width)}
    shapes["output_norm"] = (width,)
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{name}"] = (width, width)
        shapes |= {f"blk.{layer}.{name}": (inner, width) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down"] = (width, inner)
        shapes |= {f"blk.{layer}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = 0.3 * rng.normal(size=shape) + (len(shape) == 1)  # norms around 1
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_media() -> None:
    """A model of pictures and one of sounds, with labelled files."""
    from PIL import Image

    size: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sight = hf.ViTConfig(**size, intermediate_size=16, image_size=16, patch_size=8)
    hearing = hf.Wav2Vec2Config(
        **size, intermediate_size=16, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.ViTModel(sight).save_pretrained("seeing")
        hf.Wav2Vec2Model(hearing).save_pretrained("hearing")
    hf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained("seeing")
    hf.Wav2Vec2FeatureExtractor().save_pretrained("hearing")
    pictures, sounds = ["file,colour,split"], ["file,pitch,split"]
    for place in range(18):
        which, split = place % 2, ("train", "train", "dev", "test")[place // 2 % 4]
        Image.new("RGB", (16, 16), (place * 9, 0, 99)).save(f"{place}.png")
        pictures.append(f"{place}.png,{('red', 'blue')[which]},{split}")
        samples = np.sin(np.arange(1600) * (0.1, 0.7)[which]) * 9000
        with wave.open(f"{place}.wav", "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", "none"))
            file.writeframes(samples.astype(np.int16).tobytes())
        sounds.append(f"{place}.wav,{('low', 'high')[which]},{split}")
    Path("pictures.csv").write_text("\n".join(pictures) + "\n", encoding="utf-8")
    Path("sounds.csv").write_text("\n".join(sounds) + "\n", encoding="utf-8")


def words_of(line: str) -> list[str]:
    """A command line's words, on the CPU and without progress."""
    words = shlex.split(line)
    has_model = words[0] in STUDIES and "--predictions" not in words
    return [*words, *(("--device", "cpu") if has_model else ()), "--quiet"]


def runnable() -> list[str]:
    """The lines whose inputs are there."""
    missing = [name for name in (*PREPARED, "lens.safetensors") if not Path(name).exists()]
    return [line for line in LINES if not any(f" {name}" in line for name in missing)]


def inputs_of(words: Sequence[str]) -> list[Path]:
    """The files that a command line names, and those of the folders that it names."""
    files: list[Path] = []
    for given in words[1:]:
        word = given.partition("=")[2] if given.startswith("--") and "=" in given else given
        path = Path(word)
        if not is_of_the_workplace(word):
            continue
        if path.is_file():
            files.append(path)
            beside = path.with_suffix(".json")  # a probe's facts
            files += [beside] * (path.suffix == ".safetensors" and beside.is_file())
        elif path.is_dir():
            files += sorted(one for one in path.rglob("*") if one.is_file())
        if word in ("pictures.csv", "sounds.csv"):
            files += sorted(Path().glob("*.png" if word == "pictures.csv" else "*.wav"))
    return files


def is_of_the_workplace(name: str) -> bool:
    """Whether it may be the name of something below the working directory."""
    parts = Path(name).parts
    is_name = bool(parts) and len(name) < 200 and "\0" not in name and name.isprintable()
    return is_name and {"/", ".."}.isdisjoint(parts)
