"""The command ``layerscope``: one name a study, from ``probe`` to ``demo``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiments.config import (
    AblateConfig,
    AskConfig,
    AttendConfig,
    AttributeConfig,
    CalibrateConfig,
    CaptureConfig,
    DoctorConfig,
    GeometryConfig,
    NeuronsConfig,
    PatchConfig,
    ProbeConfig,
    PruneConfig,
    UsageConfig,
    add_options,
    from_arguments,
)

# Command -> its configuration, the module whose ``run`` it is, and its help.
COMMANDS = {
    "probe": (ProbeConfig, "experiments.layerwise", "probe every layer for properties of an annotated corpus"),
    "ablate": (AblateConfig, "experiments.ablation", "take out every head, neuron, MLP, attention or layer in turn"),
    "patch": (PatchConfig, "experiments.patching", "put values of a clean run into a corrupted one, and the reverse"),
    "attend": (
        AttendConfig,
        "experiments.attention.study",
        "what every head looks at, over a corpus and on chosen texts",
    ),
    "geometry": (
        GeometryConfig,
        "experiments.geometry.study",
        "maps and figures of every layer's space; the logit lens",
    ),
    "attribute": (AttributeConfig, "experiments.attribution.command", "which words made the model say that"),
    "usage": (UsageConfig, "experiments.usage", "is a property that a probe reads also used: erase it at every layer"),
    "neurons": (
        NeuronsConfig,
        "experiments.neurons.study",
        "which neurons know a property, and does the model miss them",
    ),
    "capture": (CaptureConfig, "experiments.capturing", "write activations of a text to disk, to be read many times"),
    "calibrate": (
        CalibrateConfig,
        "experiments.calibration",
        "does a confidence say how often it is right: classifiers, language models, their words",
    ),
    "ask": (AskConfig, "experiments.explanation", "do the words matter that a model says mattered"),
    "doctor": (DoctorConfig, "experiments.doctor", "prove on this model that what is read is what the model does"),
    "prune": (PruneConfig, "experiments.pruning", "cut the least important heads out of the weights, step by step"),
}

_EPILOG = """examples:
  layerscope demo
  layerscope probe --model openai-community/gpt2 --corpus en_ewt-ud-train.conllu --dev en_ewt-ud-dev.conllu \\
      --test en_ewt-ud-test.conllu --property upos --property deprel --limit-sentences 3000 --out runs/gpt2
  layerscope ablate --model openai-community/gpt2 --prompts ioi.jsonl --component heads --value mean --out runs/ioi
  layerscope patch --model openai-community/gpt2 --clean ioi.jsonl --by position --out runs/ioi-positions
  layerscope attend --model openai-community/gpt2 --corpus en_ewt-ud-dev.conllu --out runs/attention
  layerscope geometry --model openai-community/gpt2 --corpus en_ewt-ud-dev.conllu --property upos --out runs/geometry
  layerscope usage --model openai-community/gpt2 --corpus en_ewt-ud-train.conllu --property feats:Number \
      --pairs agreement.jsonl --out runs/number
  layerscope neurons --model openai-community/gpt2 --corpus en_ewt-ud-train.conllu --property feats:Number --layer 5 \
      --pairs agreement.jsonl --out runs/number-neurons
  layerscope calibrate --predictions test.jsonl --split 0.5 --out runs/classifier
  layerscope calibrate --model HuggingFaceTB/SmolLM2-135M --questions facts.jsonl --ask p_true --out runs/facts
  layerscope ask --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts ioi.jsonl --chat --out runs/why
  layerscope doctor --model openai-community/gpt2
  layerscope attribute --model openai-community/gpt2 --text "The keys to the cabinet" --target " are" --wrong " is" \\
      --method kernel-shap --method ig --out runs/keys
  layerscope prune --model HuggingFaceTB/SmolLM2-135M --prompts texts.jsonl --out runs/smaller
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 WRONG (doctor), 2 bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="layerscope",
        description="See what a PyTorch language model knows, where it keeps it, and whether it uses it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (config, _, text) in COMMANDS.items():
        add_options(commands.add_parser(name, help=text), config)
    demo = commands.add_parser("demo", help="the same study on an embedded model and corpus, in about two minutes")
    demo.add_argument(
        "--out", type=Path, default=Path("demo-run"), metavar="DIR", help="the run's folder (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if given.version:
        from experiments.results import versions

        print(f"layerscope {versions()['layerscope']}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    return _guarded(given)


def _guarded(given: argparse.Namespace) -> int:
    """Run the command; what the user can mend is one line, and a Ctrl-C says how to go on."""
    from experiments.screen import show

    try:
        kind, module, _ = COMMANDS["probe" if given.command == "demo" else given.command]
        study = importlib.import_module(module)
        config = study.demo_config(given.out) if given.command == "demo" else from_arguments(kind, given)
        results = study.run(config)
        if getattr(config, "json", False):
            print(json.dumps(results, ensure_ascii=False, indent=1))
        else:
            show(results, config.out)
        return 1 if results.get("status") == "WRONG" else 0
    except (ValueError, LookupError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        print(f"layerscope: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("layerscope: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
