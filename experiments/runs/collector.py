"""Python's collector of reference cycles, at rest while the command line imports and reads.

Importing torch and transformers makes half a million objects that stay until the process ends.
The collector would walk all of them again and again while they are made, which takes a fifth of
the time of the imports, and once more with each later search of everything. ``layerscope.__main__``
switches it off; a command calls `resume` when its inputs are read.
"""

from __future__ import annotations

import gc


def resume() -> None:
    """Collect again, and never look at what is there now; nothing where the collector runs.

    A program that calls a command as a function has a collector that runs, and keeps it.
    """
    if gc.isenabled():
        return
    gc.freeze()
    gc.enable()
