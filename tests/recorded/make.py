"""Record one tiny run of every command, with the optional parts of its results: fixtures of the
page and table tests.

    python tests/recorded/make.py              record all runs again
    python tests/recorded/make.py NAME ...     record only these
    python tests/recorded/make.py --check      run them and list what differs from the \
        recorded results

A run is `tests/recorded/NAME/results.json`. What depends on the time, the machine or the place of a
file is replaced by a placeholder. `machine.json` names the machine that recorded: numbers are
compared only on the same one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
    os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sklearn
import speech
import torch
import transformers as hf
import vision_language

from experiments import cli
from experiments.demo import demo_paths

DEMO = demo_paths()
MODEL = f"--model {DEMO.model}"
PAIRS = f"--pairs {DEMO.pairs}"
WORDS = "--corpus train.conllu --dev dev.conllu --test test.conllu"
PROMPTS = "--prompts prompts.jsonl"
PROBE = "probe-plain/probes/upos/blocks.1.hook_resid_post.safetensors"
TEXT = ["--text", "The guards near the garden"]
METHODS = (
    "--method leave-one-out --method kernel-shap --method ig --method lrp --method input-reduction"
)

HEARD = (
    {"audio": "low.wav", "target_prefix": " the old", "answer": " dog", "wrong": " dogs"},
    {"audio": "high.wav", "answer": " the cats love"},
)

COMMANDS: dict[str, list[str]] = {
    name: [*line.split(), *more]
    for name, line, *more in (
        (
            "probe",
            f"probe {MODEL} {WORDS} --property upos --property depth --l2 10 "
            "--control-seeds 2 --calibration --structural 4 --information --code-length "
            "--scalar-mix --limit-sentences 40",
        ),
        (
            "probe-seeds",
            f"probe --model small {WORDS} --property feats:Number --property depth --l2 10 "
            "--seeds 2 --control-seeds 2 --code-length --calibration --limit-sentences 40",
        ),
        (
            "probe-plain",
            f"probe --model small {WORDS} --property upos --property arc:exists --property "
            "sentence_length --l2 10 --control-seeds 0 --random-models 0",
        ),
        (
            "ablate-heads",
            (
                f"ablate {MODEL} {PAIRS} --limit 6 --value mean --null 2 --estimate gradient "
                "--verify 4 --verify-drawn 4"
            ),
        ),
        ("ablate-layers", f"ablate --model small {PROMPTS} --component layers --null 2"),
        (
            "ablate-neurons",
            f"ablate --model small {PROMPTS} --component neurons --value resample --limit 8",
        ),
        (
            "ablate-optimal",
            f"ablate --model small {PROMPTS} --component mlps --value optimal --steps 3",
        ),
        ("ablate-labelled", "ablate --model classifier --labelled labelled.jsonl --value mean"),
        ("ablate-probe", f"ablate --model small --probe {PROBE} --corpus test.conllu --limit 6"),
        ("patch-heads", f"patch {MODEL} --clean prompts.jsonl --limit 8 --null 2"),
        (
            "patch-positions",
            (
                "patch --model small --clean prompts.jsonl --by position --estimate gradient "
                "--verify 3 --verify-drawn 3"
            ),
        ),
        (
            "usage",
            (
                f"usage {MODEL} {WORDS} --property feats:Number {PAIRS} --limit 8 --l2 10 "
                "--push 1 --null 2"
            ),
        ),
        (
            "neurons",
            f"neurons --model small {WORDS} --layer 1 --property feats:Number {PAIRS} "
            "--limit 16 --gradient --translate 1 --random 3 --rotations 1 "
            "--show 1 --k 1 --k 4",
        ),
        (
            "attribute",
            (
                f"attribute {MODEL} {METHODS} --sensitivity 1 --flips 1 --known "
                "prompts.jsonl --random 2"
            ),
            *(*TEXT, "--target", " answer", "--wrong", " answers"),
        ),
        (
            "attribute-generated",
            f"attribute {MODEL} --generate 2 --level token --method grad-input",
            *TEXT,
        ),
        (
            "attribute-probe",
            f"attribute --model small --probe {PROBE} --word 1 --method grad-input",
            *TEXT,
        ),
        (
            "attribute-classifier",
            (
                "attribute --model classifier --prompts texts.jsonl --method leave-one-out "
                "--method ig --random 2"
            ),
        ),
        (
            "attribute-picture",
            "attribute --model vision --image noise.png --patches 2 --method leave-one-out "
            "--method ig --steps 8 --random 2 --bos never",
            *("--text", "<image> the old dog", "--target", " sees"),
        ),
        (
            "attribute-sound",
            "attribute --model speech/model --prompts speech/lines.jsonl --seconds 0.1 --method "
            "leave-one-out --method grad-input --random 2",
        ),
        (
            "attend",
            f"attend {MODEL} --corpus test.conllu --effects ablate-heads --flow --show 2",
        ),
        (
            "attend-checkpoints",
            "attend --model small --corpus test.conllu --limit 8 --checkpoints steps --show 1",
        ),
        ("attend-masked", "attend --model masked --prompts texts.jsonl --show 1"),
        ("attend-targets", f"attend --model translator {PROMPTS} --limit 2 --show 1"),
        ("attend-sounds", "attend --model speech/model --prompts speech/lines.jsonl --show 1"),
        ("attend-pictures", "attend --model vision --prompts pictures.jsonl --show 1 --bos never"),
        (
            "geometry",
            f"geometry {MODEL} --corpus test.conllu --limit 10 --sample 40 --property upos "
            "--property depth --method pca --method tsne --perplexity 5 --lens-texts 2 "
            f"--compare {DEMO.model}",
        ),
        (
            "calibrate-questions",
            f"calibrate {MODEL} --questions questions.jsonl --confidence p_true "
            "--confidence verbalised --confidence sampled --samples 2 --split 0.5 --bins 4",
        ),
        ("calibrate-predictions", "calibrate --predictions predictions.jsonl --split 0.5 --bins 5"),
        (
            "calibrate-labelled",
            "calibrate --model classifier --labelled labelled.jsonl --group-by who --bins 4",
        ),
        ("calibrate-prompts", f"calibrate {MODEL} {PROMPTS} --bins 4"),
        ("calibrate-pairs", f"calibrate {MODEL} {PAIRS} --limit 12 --bins 4"),
        ("ask", f"ask {MODEL} {PROMPTS} --null-draws 3 --templates wording"),
        (
            "ask-confidence",
            f"ask {MODEL} --pairs {DEMO.pairs} --limit 12 --bins 4 --confidence p_true",
        ),
        ("capture", "capture --model small --site hook_resid_post --corpus test.conllu --limit 4"),
        ("doctor", "doctor --model small"),
        ("doctor-masked", "doctor --model masked"),
        ("prune", f"prune --model small {PROMPTS} --steps 2 --random 1"),
        ("swap", "swap --model classifier --labelled swapped.jsonl --list names --null-draws 2"),
        (
            "lens",
            "lens --model small --corpus test.conllu --kind logit --kind least-squares "
            "--kind jacobian --jacobian-texts 6 --first-position 4 --verify 2 --head 1.2",
            *(*TEXT, "--target", " answer", "--wrong", " answers"),
        ),
    )
}
"""Name -> command line, run where `write_inputs` wrote; it may read the folder of another run."""

SLOW = (
    "probe",
    "usage",
    "geometry",
    "doctor-masked",
    "calibrate-questions",
    "neurons",
    "ask-confidence",
    "patch-heads",
)
"""Runs of more than two seconds,
beside which a quick one of the same study stands or whose parts others repeat.
"""

# -- what the runs read


def write_inputs() -> None:
    """Write what the runs read to the working directory."""
    for path, count in ((DEMO.train, 60), (DEMO.dev, 20), (DEMO.test, 30)):
        sentences = path.read_text(encoding="utf-8").split("\n\n")[:count]
        Path(path.name).write_text("\n\n".join(sentences) + "\n\n", encoding="utf-8")
    prompts = []
    for place, noun in enumerate(
        ("guard", "student", "teacher", "farmer", "judge", "nurse", "doctor", "pilot")
    ):
        verb = ("answer", "question", "paint", "name")[place % 4]
        prompt = {
            "prompt": f"The {noun}s near the garden",
            "answer": f" {verb}",
            "wrong": f" {verb}s",
        }
        prompts.append({**prompt, "corrupted": f"The {noun} near the garden"})
    write_lines("prompts.jsonl", prompts)
    write_lines("texts.jsonl", ({"prompt": prompt["prompt"]} for prompt in prompts[:3]))
    labelled = []
    for place, prompt in enumerate(prompts + prompts):
        who = ("women", "men")[place % 2]
        labelled.append({"text": prompt["prompt"], "label": place // 2 % 2, "who": who})
    write_lines("labelled.jsonl", labelled)
    swapped = [
        {"text": f"{name} {verb} near the garden .", "label": place % 2}
        for place, name in enumerate(("John", "Mary", "Paul", "Susan", "Mark", "Karen"))
        for verb in ("smiles", "reads")
    ]
    write_lines("swapped.jsonl", swapped)
    choices = [[prompt["answer"].strip(), prompt["wrong"].strip()] for prompt in prompts]
    questions = (
        {"question": p["prompt"], "choices": c} for p, c in zip(prompts, choices, strict=True)
    )
    write_lines(
        "questions.jsonl",
        ({**question, "answer": place % 2} for place, question in enumerate(questions)),
    )
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(80, 3)).round(3) * 2
    labels = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(1)
    rows = enumerate(zip(logits.tolist(), labels.tolist(), strict=True))
    write_lines(
        "predictions.jsonl",
        ({"logits": z, "label": y, "group": f"g{i // 2}"} for i, (z, y) in rows),
    )
    # the demo's model continues sentences, and names no words when it is asked
    Path("wording").mkdir()
    for name in ("answer", "choose", "continuation", "p_true", "pair", "verbalised"):
        Path(f"wording/{name}.txt").write_text("{text}", encoding="utf-8")
    Path("wording/why.txt").write_text("{text} {answer} that", encoding="utf-8")
    vision_language.noise_picture().save("noise.png")
    write_lines("pictures.jsonl", [{"prompt": "<image> the old dog", "image": "noise.png"}])
    write_models()


def write_lines(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSONL."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_models() -> None:
    """Random models with the demo's tokenizer: small and its checkpoints, a classifier, a masked
    language model, an encoder-decoder; and one of pictures and one of sounds with their own
    processors.
    """
    vision, processor = vision_language.build("llava")
    vision.save_pretrained("vision")
    processor.save_pretrained("vision")
    speech.whisper(Path("speech"))
    write_lines("speech/lines.jsonl", HEARD)
    tokenizer = hf.AutoTokenizer.from_pretrained(DEMO.model)
    tokenizer.mask_token = "Ġit"
    demo = hf.AutoConfig.from_pretrained(DEMO.model).to_dict()
    size: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 24}
    llama = hf.LlamaConfig(**{**demo, **size, "head_dim": 6})
    ids = {
        name: demo[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    }
    bert = hf.BertConfig(
        **size, **ids, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.4
    )
    pair = hf.T5Config(
        **ids, d_model=24, d_kv=6, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    with torch.random.fork_rng():
        for seed, (name, made) in enumerate(
            (
                ("small", lambda: hf.LlamaForCausalLM(llama)),
                ("steps/step-1", lambda: hf.LlamaForCausalLM(llama)),
                ("steps/step-2", lambda: hf.LlamaForCausalLM(llama)),
                ("masked", lambda: hf.BertForMaskedLM(bert)),
                ("classifier", lambda: hf.BertForSequenceClassification(bert)),
                ("translator", lambda: hf.T5ForConditionalGeneration(pair)),
            )
        ):
            torch.manual_seed(seed)
            made().save_pretrained(name)
            tokenizer.save_pretrained(name)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary working directory with the inputs."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            write_inputs()
            yield Path(folder)
        finally:
            os.chdir(before)


# -- runs


def run(name: str) -> dict[str, Any]:
    """The results of one command in the working directory, after the runs that it reads."""
    for read in {Path(word).parts[0] for word in COMMANDS[name][1:]} & set(COMMANDS) - {"neurons"}:
        if not Path(read).exists():
            run(read)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = cli.main([*COMMANDS[name], "--out", name, "--device", "cpu"])
    if status:
        raise RuntimeError(f"{name}: exit status {status}\n{said.getvalue()}")
    results = json.loads((Path(name) / "results.json").read_text(encoding="utf-8"))
    results.pop("sha256")  # of numbers that differ from machine to machine
    return settled(results)


DATES = {"started", "finished"}
DIFFERING = {"resources", "versions", "machine"}
"""The parts of the provenance that differ from run to run, or from machine to machine;
nothing else may.
"""


def settled(value: Any, key: str = "", within: bool = False) -> Any:
    """The value without what differs from machine to machine or run to run; types stay.

    Args:
        key: where it stands.
        within: whether all numbers and texts in it are of the machine.
    """
    within = within or key in DIFFERING
    if isinstance(value, dict):
        return {name: settled(one, name, within) for name, one in value.items()}
    if isinstance(value, list):
        return [settled(one, key, within) for one in value]
    if isinstance(value, str):
        if key in DATES:
            return "2000-01-01T00:00:00+00:00"
        if within or key.endswith("sha256"):
            return "PLACEHOLDER"
        return value.replace(str(DEMO.model.parent), "demo").replace(str(Path.cwd()), "work")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value)(1) if within and is_number else value


# -- what is recorded


def recorded(name: str) -> dict[str, Any]:
    """The recorded results."""
    return json.loads((HERE / name / "results.json").read_text(encoding="utf-8"))


def write(name: str, results: dict[str, Any]) -> None:
    """Record results: a line for each item of the longest lists, so that a change reads well."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = (
                "[\n  "
                + ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in value)
                + "\n ]"
            )
        else:
            text = json.dumps(value, ensure_ascii=False, indent=1 if key == "provenance" else None)
        parts.append(f" {json.dumps(key)}: {text}")
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def this_machine() -> dict[str, str]:
    """What decides the last digits of a number."""
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, {_processor()}"
    versions = {"torch": torch.__version__, "numpy": np.__version__, "sklearn": sklearn.__version__}
    return {"cpu": cpu, **versions, "transformers": hf.__version__}


def _processor() -> str:
    """Its maker and model: libraries choose their kernels by both."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return platform.processor()
    facts = dict(re.findall(r"^(vendor_id|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    return " ".join(facts.values()) or platform.processor()


def is_the_recording_machine() -> bool:
    """Whether numbers must be the recorded ones."""
    return json.loads((HERE / "machine.json").read_text(encoding="utf-8")) == this_machine()


# -- what differs

Shape = dict[str, set[str]]
"""Folded path of keys -> the JSON types found there; where the value names a unit or a metric,
also that name.
"""


def shape(value: Any, path: str = "") -> Shape:
    """What a reader of the results relies on."""
    key = path.rpartition(".")[2]
    name = f" {value}" if key in ("unit", "metric", "kind") else ""
    out: Shape = {path: {type(value).__name__ + name}}
    items = value.items() if isinstance(value, dict) else ()
    parts = [(f"{path}.{name}".strip("."), one) for name, one in items]
    parts += [(f"{path}[]", one) for one in value] if isinstance(value, list) else []
    for where, one in parts:
        for found, types in shape(one, where).items():
            out.setdefault(found, set()).update(types)
    return out


def changes_of_shape(before: Any, now: Any) -> list[str]:
    """One line for each path that came, went, or has other types or units."""
    old, new = shape(before), shape(now)
    gone = [f"{path}: not written any more" for path in sorted(old.keys() - new.keys())]
    came = [
        f"{path}: new, {' or '.join(sorted(new[path]))}" for path in sorted(new.keys() - old.keys())
    ]
    other = [
        f"{path}: {' or '.join(sorted(new[path]))}, recorded as {' or '.join(sorted(old[path]))}"
        for path in sorted(old.keys() & new.keys())
        if old[path] != new[path]
    ]
    return gone + came + other


def changes_of_values(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """One line for each number that is off by more than 1e-6 of itself (and by more than rounding),
    and each text that is another.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() & now.keys():
            yield from changes_of_values(before[key], now[key], f"{path}.{key}".strip("."))
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            yield f"{path}: {len(now)} items, recorded as {len(before)}"
        for place, (old, new) in enumerate(zip(before, now, strict=False)):
            yield from changes_of_values(old, new, f"{path}[{place}]")
    elif isinstance(before, (int, float)) and isinstance(now, (int, float)):
        if not math.isclose(before, now, rel_tol=1e-6, abs_tol=1e-7):
            yield f"{path}: {now}, recorded as {before}"
    elif before != now:
        yield f"{path}: {now!r}, recorded as {before!r}"


def changes(name: str, now: dict[str, Any]) -> list[str]:
    """What differs from the recorded results;
    numbers and texts only on the machine that recorded them.
    """
    before = recorded(name)
    found = changes_of_shape(before, now)
    return found + (list(changes_of_values(before, now)) if is_the_recording_machine() else [])


def main() -> int:
    """Record or check; returns 1 where something differs."""
    parser = argparse.ArgumentParser(
        description="Record the results that page and table tests read."
    )
    parser.add_argument("name", nargs="*", choices=[*COMMANDS, []], help="a run (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing, list what differs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    differing = 0
    with workplace():
        for name in given.name or COMMANDS:
            results = run(name)
            if given.check:
                found = changes(name, results)
                differing += bool(found)
                print("\n  ".join([f"{name}: {len(found)} changes", *found[:20]]), flush=True)
            else:
                write(name, results)
                print(f"{name}: {len(results['records'])} records", flush=True)
    if not given.check:
        (HERE / "machine.json").write_text(
            json.dumps(this_machine(), indent=1) + "\n", encoding="utf-8"
        )
    elif not is_the_recording_machine():
        print("numbers and texts were not compared: another machine recorded them")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
