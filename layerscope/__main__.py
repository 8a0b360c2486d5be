"""``python -m layerscope`` and the command ``layerscope``."""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    """Run the command line; returns its exit status."""
    return importlib.import_module("layerscope.experiments.cli").main()


if __name__ == "__main__":
    sys.exit(main())
