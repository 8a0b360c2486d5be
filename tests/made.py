"""Small things that several tests need."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from scipy import special

#: Text that would run, load or close something where a page did not escape it.
EVIL = '</script><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(1)>&"\''

#: Of each row.
softmax = partial(special.softmax, axis=1)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a store, by name."""
    return {
        p.name: p.read_bytes() for p in folder.glob("*") if p.suffix in (".safetensors", ".json")
    }
