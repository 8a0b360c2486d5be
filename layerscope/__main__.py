"""``python -m layerscope`` and the command ``layerscope``."""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    """Run the command line; returns its exit status."""
    try:
        return importlib.import_module("layerscope.experiments.cli").main()
    except KeyboardInterrupt:  # while modules are imported, which takes a second
        print("layerscope: interrupted; nothing was done yet", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
