"""Every value of every option with choices, alone and in pairs: any two values of two options stand
together in a run.

    python tests/robustness/choices.py [COMMAND ...]     # by hand

A run succeeds, or says in one line why two values do not go together. A value alone must succeed on
one of the command's lines (`inputs.LINES`), but for those that need another machine or package.
(Every component x value x metric x estimate of ablation on two families is a slow test of
tests/experiments/test_effects.py.)
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from robustness import inputs, place
from robustness.place import STUDIES, Outcome

ELSEWHERE = {"8bit", "4bit", "flash_attention_2", "flash_attention_3", "ray"}
"""Values that need a GPU, or another package."""
NOT_GIVEN = ""
"""In the place of a value, of an option that is left out."""
OK = (0, 1)
"""Status of what succeeded; 1 is a doctor's that finds something."""

NEED_GRADIENTS = {"prune"}
"""Commands that do nothing without gradients, which flex attention has on a GPU alone."""
FLEX = ("attn", "flex_attention")

Value = tuple[str, str]
Row = tuple[Value, ...]


def choices_of(options: type) -> dict[str, tuple[str, ...]]:
    """Each option with choices, and its values."""
    found: dict[str, tuple[str, ...]] = {}
    for field in dataclasses.fields(options):
        values = field.metadata.get("choices") or ()
        is_shown = not field.metadata.get("hidden")
        if values and is_shown and field.name != "engine":
            found[field.name] = tuple(values)
    return found


def alone(options: type) -> list[Row]:
    """Each value by itself."""
    return [((name, value),) for name, values in choices_of(options).items() for value in values]


def in_pairs(options: type, rng: random.Random) -> list[Row]:
    """Rows with a value for each option, in which any two values of two options stand together at
    least once.

    Each row is the one, of thirty drawn around a pair that is missing, with most of the missing
    pairs.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for name, values in choices_of(options).items():
        here = tuple(value for value in values if value not in ELSEWHERE)
        columns[name] = (NOT_GIVEN, *here)  # some values go together with nothing
    missing = set[frozenset[Value]]()
    for a, b in itertools.combinations(columns, 2):
        missing |= {frozenset(((a, x), (b, y))) for x in columns[a] for y in columns[b]}
    rows: list[Row] = []
    while missing:
        wanted = dict(min(missing, key=sorted))
        drawn: list[Row] = []
        for _ in range(30):
            row = {name: rng.choice(values) for name, values in columns.items()}
            drawn.append(tuple({**row, **wanted}.items()))
        best = max(drawn, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        rows.append(tuple(one for one in best if one[1] != NOT_GIVEN))
    return rows


def pairs_of(row: Row) -> set[frozenset[Value]]:
    """The pairs of values that stand together in a row."""
    return {frozenset(two) for two in itertools.combinations(row, 2)}


def run(line: str, row: Row, work: Path) -> Outcome:
    """A line with a row's values."""
    words = inputs.words_of(line)
    for name, value in row:
        words.append(f"--{name.replace('_', '-')}={value}")
    with place.linked_copy(work):
        return place.call([*words, "--out", "out"])


def checked(
    command: str, work: Path, rows: list[Row] | None = None
) -> tuple[list[Outcome], list[Outcome]]:
    """What became of all rows of a command, and of those that are wrong.

    Args:
        rows: only these.
    """
    options: Any = STUDIES[command].options
    lines = [line for line in inputs.runnable() if line.split()[0] == command]
    if rows is None:
        rows = [*alone(options), *in_pairs(options, random.Random(command))]
    every, wrong = [], []
    for number, row in enumerate(rows):
        # A value alone is tried on one line after the other, until one takes it.
        outcomes = []
        for line in lines if len(row) == 1 else [lines[number % len(lines)]]:
            outcomes.append(run(line, row, work))
            if outcomes[-1].status in OK and not outcomes[-1].wrong:
                break
        every += outcomes
        broken = [outcome for outcome in outcomes if outcome.wrong]
        is_here = ELSEWHERE.isdisjoint(value for _, value in row) and (
            command not in NEED_GRADIENTS or FLEX not in row
        )
        if len(row) == 1 and is_here and outcomes[-1].status not in OK and not broken:
            broken = [dataclasses.replace(one, wrong="refused on every line") for one in outcomes]
        wrong += broken
    return every, wrong


def main(commands: list[str]) -> int:
    """All commands, or those that are named; returns 1 where something is wrong."""
    n_runs, n_refused, n_wrong = 0, 0, 0
    with place.workplace() as work, place.models_read_once():
        for command in commands or STUDIES:
            every, wrong = checked(command, work)
            refused = [outcome for outcome in every if outcome.status == 2]
            print(
                f"{command}: {len(every)} runs, {len(refused)} refused, {len(wrong)} wrong",
                flush=True,
            )
            for outcome in wrong:
                place.show(outcome)
            n_runs += len(every)
            n_refused += len(refused)
            n_wrong += len(wrong)
    print(f"{n_runs} runs, {n_refused} refused in one line, {n_wrong} wrong")
    return int(bool(n_wrong))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
