"""Renders chat templates in a process of its own, where a process cannot be forked.

It is given the folder of a tokenizer, then a message a line in JSON, and answers with a line each.
`chat` starts it, watches its time and memory, and ends it. It imports nothing of ours, so that it
starts as fast as transformers does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MOST_TEXT = 1_000_000
"""Characters that a template may write."""


def outcome(tokenizer: Any, message: str) -> dict[str, str]:
    """The text with which a model's turn begins, or under ``error`` what went wrong."""
    try:
        turn = [{"role": "user", "content": message}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is somebody else's program
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    if not isinstance(text, str) or len(text) > MOST_TEXT:
        return {"error": f"expected a text of at most {MOST_TEXT:,} characters"}
    return {"text": text}


def main() -> None:
    """Answer until the other side closes."""
    from transformers import (
        PreTrainedTokenizerFast,  # any fast tokenizer holds a template and its special tokens
    )

    tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
    sys.stdout.write("{}\n")  # ready
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(outcome(tokenizer, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
