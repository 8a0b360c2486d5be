"""The command: ``layerscope probe``, ``ablate``, ``patch``, ``usage``, ``prune`` and ``demo``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiments.config import (
    AblateConfig,
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
    "usage": (UsageConfig, "experiments.usage", "is a property that a probe reads also used: erase it at every layer"),
    "prune": (PruneConfig, "experiments.pruning", "cut the least important heads out of the weights, step by step"),
}

_EPILOG = """examples:
  layerscope demo
  layerscope probe --model openai-community/gpt2 --corpus en_ewt-ud-train.conllu --dev en_ewt-ud-dev.conllu \\
      --test en_ewt-ud-test.conllu --property upos --property deprel --limit-sentences 3000 --out runs/gpt2
  layerscope ablate --model openai-community/gpt2 --prompts ioi.jsonl --component heads --value mean --out runs/ioi
  layerscope patch --model openai-community/gpt2 --clean ioi.jsonl --by position --out runs/ioi-positions
  layerscope usage --model openai-community/gpt2 --corpus en_ewt-ud-train.conllu --property feats:Number \
      --pairs agreement.jsonl --out runs/number
  layerscope prune --model HuggingFaceTB/SmolLM2-135M --prompts texts.jsonl --out runs/smaller
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
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
        show(study.run(config), config.out)
    except (ValueError, LookupError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        print(f"layerscope: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("layerscope: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
