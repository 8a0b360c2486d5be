"""Options of ``layerscope explore``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs.options import option

TEXT = "The keys to the cabinet"


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Live exploration."""

    model: str | Any = option("hub id, local folder or GGUF file", metavar="M", in_memory=True)
    text: str = option("text to start with", TEXT)
    other: str = option("second text, from which patches take their values", "")
    edit: tuple[str, ...] = option(
        "an edit to start with, SITE=HOW[:VALUE][@POSITIONS], "
        "such as 'blocks.3.attn.hook_z[5]=zero' (repeatable)",
        (),
        metavar="EDIT",
    )
    answer_id: int | None = option(
        "id of the token to follow (default: the most likely one)", None, metavar="ID"
    )
    wrong_id: int | None = option(
        "id of the token to compare it with (default: the second most likely one)",
        None,
        metavar="ID",
    )
    probe: tuple[Path, ...] = option(
        "a probe that a probing run saved, or a folder of them (repeatable)", (), metavar="FILE"
    )
    lens: tuple[Path, ...] = option(
        "a lens that layerscope lens saved, or one in a published layout; one of each kind "
        "(repeatable)",
        (),
        metavar="FILE",
    )
    prompts: Path | None = option("default prompts of 'run on a data set'", None, metavar="FILE")
    host: str = option(
        "address to listen on; any address but this machine's own lets others connect", "127.0.0.1"
    )
    port: int = option("port to listen on; 0 takes a free one", 8765, most=65535)
    no_browser: bool = option("print the address, but open no browser", False)
    json: bool = option(
        "print the numbers of the text and its edits as JSON, and exit", False, aliases=("print",)
    )
    bos: str = option("token placed in front of each text: auto, always, never, or a token", "auto")
    device: str | None = option("cpu, cuda, ... (default: a GPU where there is one)", None)
    dtype: str = option(
        "precision of the weights in memory", "float32", choices=("float32", "float16", "bfloat16")
    )
    trust_remote_code: bool = option(
        "allow model code that is stored with the weights to run", False
    )
