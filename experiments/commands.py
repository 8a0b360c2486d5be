"""What layerscope can do: every command with its options, the module that does it, its help and its examples.

The command line (`experiments.cli`), Python's functions (`experiments.studies`) and the completion of shells are all
read from this table; it imports nothing heavy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import config as c


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        config: the dataclass of its options.
        module: whose ``run(config)`` it is.
        help: what it does, in a line.
        examples: command lines, without ``layerscope``; the first also stands in the help of all.
    """

    config: type
    module: str
    help: str
    examples: tuple[str, ...]

    @property
    def run(self) -> Callable[[Any], dict[str, Any]]:
        """The function that does it; its module is imported now."""
        return importlib.import_module(self.module).run


GPT2 = "--model openai-community/gpt2"
SMOL = "--model HuggingFaceTB/SmolLM2-135M"
TRAIN, DEV = "--corpus en_ewt-ud-train.conllu", "--corpus en_ewt-ud-dev.conllu"

COMMANDS = {
    "probe": Command(
        c.ProbeConfig,
        "experiments.probing.study",
        "probe every layer for properties of an annotated corpus",
        (
            f"probe {GPT2} {TRAIN} --dev en_ewt-ud-dev.conllu --test en_ewt-ud-test.conllu "
            "--property upos --property deprel --limit-sentences 3000 --out runs/gpt2",
            f"probe {GPT2} {TRAIN} --property feats:Number --site attn.hook_z --calibration",
            f"probe {GPT2} {TRAIN} --property depth --structural 32 --dry-run",
        ),
    ),
    "ablate": Command(
        c.AblateConfig,
        "experiments.interventions.ablation",
        "take out every head, neuron, MLP, attention or layer in turn",
        (
            f"ablate {GPT2} --prompts ioi.jsonl --component heads --value mean --out runs/ioi",
            f"ablate {GPT2} --pairs agreement.jsonl --component layers",
            f"ablate {GPT2} --prompts ioi.jsonl --component neurons --estimate gradient",
        ),
    ),
    "patch": Command(
        c.PatchConfig,
        "experiments.interventions.patching",
        "put values of a clean run into a corrupted one, and the reverse",
        (
            f"patch {GPT2} --clean ioi.jsonl --by position --out runs/ioi-positions",
            f"patch {GPT2} --clean ioi.jsonl --by head --direction denoising --null 20",
        ),
    ),
    "attend": Command(
        c.AttendConfig,
        "experiments.attention.study",
        "what every head looks at, over a corpus and on chosen texts",
        (
            f"attend {GPT2} {DEV} --out runs/attention",
            f"attend {GPT2} --prompts ioi.jsonl --effects runs/ioi --flow",
        ),
    ),
    "geometry": Command(
        c.GeometryConfig,
        "experiments.spaces.study",
        "maps and figures of every layer's space; the logit lens",
        (
            f"geometry {GPT2} {DEV} --property upos --out runs/geometry",
            f"geometry {GPT2} {DEV} --property upos --property deprel --method pca --method umap --export parquet",
        ),
    ),
    "attribute": Command(
        c.AttributeConfig,
        "experiments.attribution.command",
        "which words made the model say that",
        (
            f"attribute {GPT2} --text 'The keys to the cabinet' --target ' are' --wrong ' is' "
            "--method kernel-shap --method ig --out runs/keys",
            f"attribute {SMOL} --prompts texts.jsonl --method leave-one-out --method grad-input --generate 5",
        ),
    ),
    "usage": Command(
        c.UsageConfig,
        "experiments.interventions.usage",
        "is a property that a probe reads also used: erase it at every layer",
        (
            f"usage {GPT2} {TRAIN} --property feats:Number --pairs agreement.jsonl --out runs/number",
            f"usage {GPT2} {TRAIN} --property upos --prompts texts.jsonl --eraser inlp --null 20",
        ),
    ),
    "neurons": Command(
        c.NeuronsConfig,
        "experiments.neuron_sets.study",
        "which neurons know a property, and does the model miss them",
        (
            f"neurons {GPT2} {TRAIN} --property feats:Number --layer 5 --pairs agreement.jsonl --out runs/number-neurons",
            f"neurons {GPT2} {TRAIN} --property upos --ranking mutual_information --k 10 --k 100",
        ),
    ),
    "capture": Command(
        c.CaptureConfig,
        "experiments.capturing",
        "write activations of a text to disk, to be read many times",
        (
            f"capture {GPT2} --site hook_resid_post {TRAIN} --out runs/gpt2-store",
            f"capture {GPT2} --site blocks.5.mlp.hook_post --text lines.txt --store-as bfloat16 --max-ram 4GB --max-disk 100GB",
        ),
    ),
    "calibrate": Command(
        c.CalibrateConfig,
        "experiments.confidence.calibration",
        "does a confidence say how often it is right: classifiers, language models, their words",
        (
            "calibrate --predictions test.jsonl --split 0.5 --out runs/classifier",
            f"calibrate {SMOL} --questions facts.jsonl --ask p_true --out runs/facts",
        ),
    ),
    "ask": Command(
        c.AskConfig,
        "experiments.confidence.explanation",
        "do the words matter that a model says mattered",
        (
            "ask --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts ioi.jsonl --chat --out runs/why",
            "ask --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts ioi.jsonl --attribution grad-input --limit 50",
        ),
    ),
    "doctor": Command(
        c.DoctorConfig,
        "experiments.examination",
        "prove on this model that what is read is what the model does",
        (f"doctor {GPT2}", "doctor --model ./my-model --dtype bfloat16 --json"),
    ),
    "prune": Command(
        c.PruneConfig,
        "experiments.interventions.pruning",
        "cut the least important heads out of the weights, step by step",
        (
            f"prune {SMOL} --prompts texts.jsonl --out runs/smaller",
            f"prune {SMOL} --prompts texts.jsonl --steps 2 --random 5",
        ),
    ),
}
