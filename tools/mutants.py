"""Do the tests of hooks notice when a mend is taken back?
    ``python tools/mutants.py [NAME ...] [--jobs 2]``

Each mutant undoes one mend of `hooks` by exchanging a line, in a copy of the tree, and the tests of
hooks run on the copy until one of them fails. What is printed is who noticed; the exit status is 1
if a mutant lives. Run by hand: minutes each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "layerscope",
    "hooks",
    "probes",
    "experiments",
    "tests",
    "docs",
    "tools",
    "pyproject.toml",
)
TESTS = ("running_modes", "positions", "edges", "values", "block", "resume", "wrapped", "attention")
"""Files of tests that run, in this order: those of edits, positions and ways of running."""


@dataclass(frozen=True)
class Mutant:
    """A mend and the line that takes it back.

    Args:
        undone: what no longer holds.
        file: in `hooks`.
        line: what stands there, once.
        instead: what the mutant has.
    """

    undone: str
    file: str
    line: str
    instead: str


MUTANTS = {
    "positional": Mutant(
        "arguments given by position are read",
        "forwards.py",
        "**dict(zip(names, args, strict=False)), **kwargs}",
        "**kwargs}",
    ),
    "inner-mask": Mutant(
        "what an inner module is given counts more than what its wrapper was",
        "forwards.py",
        "    if is_of_columns:\n        return mask",
        "    if is_of_columns and outer is None:\n        return mask",
    ),
    "static-mask": Mutant(
        "a static cache's mask covers more columns than are filled",
        "forwards.py",
        "mask = mask[:, : start + size]",
        "mask = mask",
    ),
    "counted-mask": Mutant(
        "the padding of an earlier call is remembered with its cache",
        "forwards.py",
        "before = self._counted_mask(past, start)",
        "before = None",
    ),
    "square-window": Mutant(
        "a square mask of a model with a window does not tell which columns are tokens",
        "forwards.py",
        "has_window = masks.has_window(module)",
        "has_window = False",
    ),
    "state": Mutant(
        "tokens that a state has read are counted",
        "forwards.py",
        "            if past is not None and cache() is past:\n                return end,",
        "            if False:\n                return end,",
    ),
    "virtual": Mutant(
        "virtual tokens of a wrapper shift the positions of the modules in it",
        "forwards.py",
        "        if outer is not None and outer.virtual:\n            virtual, "
        "prefix = outer.virtual, outer.prefix",
        "        if outer is not None and outer.virtual:\n            virtual, prefix = 0, 0",
    ),
    "virtual-count": Mutant(
        "an adapter's virtual tokens are counted",
        "forwards.py",
        'count = int(getattr(config, "num_virtual_tokens", 0))',
        "count = 0",
    ),
    "peft-generate": Mutant(
        "while PEFT's generate runs, the base model belongs to the tuned one",
        "forwards.py",
        'method = vars(module).get("prepare_inputs_for_generation")',
        "method = None",
    ),
    "prefix": Mutant(
        "a prefix is in the cache alone",
        "forwards.py",
        "return count, count if only_cached else 0",
        "return count, 0",
    ),
    "left-padding": Mutant(
        "a token's position is the number of tokens before it",
        "positions.py",
        "at = torch.where(mask, counts - 1, -1)",
        "at = torch.where(mask, torch.arange(mask.shape[1]), -1)",
    ),
    "window": Mutant(
        "keys of a window's cache begin at a later column",
        "positions.py",
        "first = max(0, end - size) if keys else self.start",
        "first = 0 if keys else self.start",
    ),
    "to-come": Mutant(
        "a position that is still to come is not wrong yet",
        "positions.py",
        "            if p >= longest:\n                self.seen.wait(p, message)",
        "            if p >= longest:\n                raise "
        "EditError(message.format(longest=longest))",
    ),
    "pieces": Mutant(
        "the end of a piece of a text is not its end",
        "positions.py",
        "        if in_cache and goes_on and any(p < 0 for p in positions):",
        "        if False:",
    ),
    "beams": Mutant(
        "what is given for each text is meant for each of its beams",
        "positions.py",
        "copies = self.seen.copies(batch)",
        "copies = 1",
    ),
    "packed": Mutant(
        "position ids that begin again are several texts in a row",
        "positions.py",
        "return bool((is_token[:, 1:] & ~is_above).any())",
        "return False",
    ),
    "not-chosen": Mutant(
        "an edit that does not apply is not computed",
        "edit.py",
        "            if not bool(chosen.any()):\n                return value\n",
        "",
    ),
    "float32": Mutant(
        "edits compute in float32 and round once",
        "edit.py",
        "wide = value.float() if value.dtype in _HALF else value",
        "wide = value",
    ),
    "autocast": Mutant(
        "autocast does not reach into edits",
        "edit.py",
        "torch.autocast(value.device.type, enabled=False)",
        "torch.autocast(value.device.type, enabled=True)",
    ),
    "in-place": Mutant(
        "a function that edits in place gets a copy",
        "edit.py",
        "changed = value.clone()",
        "changed = value",
    ),
    "round-once": Mutant(
        "several edits are rounded once, behind the last",
        "intervene.py",
        'if edit.given != "float32" and new.dtype != old.dtype:',
        "if new.dtype != old.dtype:",
    ),
    "held": Mutant(
        "what an edit gave is copied before the model may change it",
        "intervene.py",
        "return new.clone()",
        "return new",
    ),
    "masked-scores": Mutant(
        "the mask is applied behind the edit of scores",
        "attention.py",
        "scores = scores if edited is scores else _as_masked(edited, given)",
        "scores = edited",
    ),
    "sinks": Mutant(
        "the sink's column is no key",
        "attention.py",
        "has_sinks = isinstance(self._sinks, Tensor) and",
        "has_sinks = False and",
    ),
    "grouped": Mutant(
        "one new token's query heads lie along the query axis",
        "attention.py",
        "is_packed = self._size == 1 and",
        "is_packed = False and",
    ),
    "far": Mutant(
        "a mask of -10,000 is a mask",
        "attention.py",
        "(scores <= torch.finfo(kind).min / 2) | (scores <= scores.amax(-1, keepdim=True) - FAR)",
        "(scores <= torch.finfo(kind).min / 2)",
    ),
    "copies": Mutant(
        "hooks of a copied model do nothing",
        "block.py",
        "return _inert_hook, ()",
        "return type(self), (self._run, self._values)",
    ),
    "shared": Mutant(
        "a new forward counts the calls of shared blocks anew",
        "taps.py",
        "        self._counts.clear()\n",
        "",
    ),
    "checkpoint-facts": Mutant(
        "a part that checkpointing repeats knows its forward's facts",
        "taps.py",
        "            self._recall(facts)\n            self.repeating",
        "            self.repeating",
    ),
    "after-the-block": Mutant(
        "a repeat behind the block's end has the block's hooks",
        "taps.py",
        "            if self._tap is None:\n                "
        "stack.enter_context(self._hook(facts.tap))\n",
        "",
    ),
    "nested": Mutant(
        "a forward that a function runs is plain",
        "taps.py",
        "return block.depth() <= self._depth or not block.waits(self.model, self._depth)",
        "return True",
    ),
    "threads": Mutant(
        "other threads' forwards are their own",
        "taps.py",
        "        elif threading.get_ident() != self._thread:",
        "        elif False:",
    ),
}


def apply(mutant: Mutant, file: Path) -> None:
    """Exchange the line."""
    code = file.read_text(encoding="utf-8")
    if (times := code.count(mutant.line)) != 1:
        raise SystemExit(f"{mutant.file}: expected once, got {times} times: {mutant.line}")
    file.write_text(code.replace(mutant.line, mutant.instead), encoding="utf-8")


def who_notices(mutant: Mutant | None) -> str:
    """The first test that fails on the mutant, or on the tree as it is; empty where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, copied / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copied)
        if mutant is not None:
            apply(mutant, copied / "hooks" / mutant.file)
        files = [str(copied / f"tests/hooks/test_{name}.py") for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(copied), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *files],
            cwd=copied,
            env=environment,
            capture_output=True,
            text=True,
        )
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        if done.returncode and not failed:
            raise SystemExit(f"the tests do not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MUTANTS))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    names = given.names or list(MUTANTS)
    if broken := who_notices(None):
        raise SystemExit(f"the tests fail without a mutant: {broken}")
    alive = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        noticed = pool.map(lambda name: who_notices(MUTANTS[name]), names)
        for name, test in zip(names, noticed, strict=True):
            alive += not test
            print(f"{name}: {MUTANTS[name].undone}: {test or 'NOBODY notices'}", flush=True)
    print(f"{len(names) - alive} of {len(names)} are noticed")
    return int(alive > 0)


if __name__ == "__main__":
    raise SystemExit(main())
