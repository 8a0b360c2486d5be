"""The largest effects by a race over prompts, against all parts on all prompts: both sides in one
run.

    python benchmarks/race.py --model SMOLLM2.gguf [--data ioi] [--n 60] [--value mean] [--keep 10]
        [--orders 200] [--again]

Heads are ablated one at a time on prompts that `layerscope make` writes. Each side reads its
prompts, measures and makes its records, without the page. Its time is the processor's, so that
other work on the machine matters less; with --again the race runs after the full run, too. Its work
is counted in edited forward passes (a head on a prompt) and in tokens through MLPs, gradients
included. The full run is the oracle: the
names of the largest heads, their effects and intervals, and the effects that the intervals of the
stopped heads should cover.

From the table of the full run the race is then repeated in --orders random orders of the prompts,
which runs no model: how often it stops one of the true largest, and how often the intervals of the
stopped heads cover.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from layerscope.experiments.making.command import made_for
from layerscope.experiments.making.options import MakeOptions
from layerscope.experiments.runs.engine import Local
from layerscope.experiments.runs.execute import Run, identity_of
from layerscope.experiments.runs.folder import RunFolder, digest
from layerscope.experiments.studies import STUDIES
from layerscope.experiments.studies.ablate import study as ablate
from layerscope.experiments.studies.ablate.options import AblateOptions
from layerscope.experiments.subject import load
from layerscope.experiments.sweep.elimination import eliminate
from layerscope.experiments.sweep.grid import sweep_all
from layerscope.experiments.sweep.measure import gradients
from layerscope.experiments.sweep.race import stages
from layerscope.experiments.sweep.reading import component_name, strongest
from measure import start


class Side:
    """One run of the study: its results, seconds and tokens; its cells stay in the folder."""

    def __init__(self, options, subject) -> None:
        counter = TokenCounter(subject.model)
        begun = time.process_time()
        self.inputs = ablate.prepare(options, lambda **how: subject)
        identity = identity_of(self.inputs)
        self.folder = RunFolder(options.out, identity)
        self.run = Run(STUDIES["ablate"], options, self.folder, Local(), digest(identity))
        self.results = ablate.measure(self.inputs, self.run)
        self.seconds = time.process_time() - begun
        self.tokens = counter.stop()

    @property
    def grid(self):
        return ablate.grid_of(self.inputs, self.folder)


class TokenCounter:
    """Counts tokens that pass through the MLPs of all blocks."""

    def __init__(self, model) -> None:
        self.tokens = 0
        self.handles = []
        for name, module in model.named_modules():
            if name.endswith(".mlp"):
                self.handles.append(module.register_forward_pre_hook(self._count))

    def _count(self, module, given) -> None:
        self.tokens += given[0].shape[:-1].numel()

    def stop(self) -> int:
        for handle in self.handles:
            handle.remove()
        return self.tokens


def disagreement(full, race, keep: int) -> str:
    """How the records of a race differ from those of a full run."""
    full_of = {record.site: record for record in full.results.records}
    largest = strongest(full.results.records, keep)
    raced = strongest(race.results.records, keep)
    is_equal = [record.site for record in largest] == [record.site for record in raced]
    effects, ends, covered = [0.0], [0.0], []
    for record in race.results.records:
        other = full_of[record.site]
        if record.stopped_interval is not None:
            low, high = record.stopped_interval.low, record.stopped_interval.high
            covered.append(low <= other.effect <= high)
            continue
        effects.append(abs(record.effect - other.effect))
        ends.append(abs(record.effect_interval.low - other.effect_interval.low))
        ends.append(abs(record.effect_interval.high - other.effect_interval.high))
    names = ", ".join(component_name(record) for record in raced)
    return (
        f"the {keep} largest: {names}; those of the full run: {'yes' if is_equal else 'NO'}; "
        f"largest difference of an effect {max(effects):.0e}, of an end of its interval "
        f"{max(ends):.0e}; intervals of stopped heads cover {np.mean(covered):.3f} of "
        f"{len(covered)}"
    )


def in_random_orders(table, estimates, site_names, keep: int, orders: int) -> str:
    """The race on a table of effects, in random orders of the prompts."""
    sizes = np.abs(table.mean(1))
    largest = np.argsort(-sizes)[:keep]
    lost, shares, covered = [], [], []
    for seed in range(orders):
        of_stages = stages(table.shape[1], seed)

        def effects_of(stage, alive, of_stages=of_stages):
            return table[np.ix_(alive, of_stages[stage])]

        outcome = eliminate(effects_of, of_stages, estimates, site_names, keep)
        lost.append((outcome.ran_on[largest] < table.shape[1]).any())
        shares.append(outcome.ran_on.mean() / table.shape[1])
        low, high = outcome.intervals.T
        is_stopped, means = np.isfinite(low), table.mean(1)
        covered.append(((low <= means) & (means <= high))[is_stopped].mean())
    return (
        f"{orders} random orders: one of the true {keep} stopped in {np.mean(lost):.3f}, "
        f"share of edited forwards {np.mean(shares):.3f} ({min(shares):.3f} to "
        f"{max(shares):.3f}), intervals of stopped heads cover {np.mean(covered):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="ioi", choices=("ioi", "agreement"))
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--value", default="mean")
    parser.add_argument("--keep", type=int, default=10)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--again", action="store_true", help="the race twice: before and after")
    given = parser.parse_args()
    # A thread that waits for another one takes the processor's time too.
    torch.set_num_threads(1)
    start()
    subject = load(given.model, dtype="float32")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        data = folder / "data.jsonl"
        made_for(given.data, MakeOptions(model=subject, n=given.n, out=data))
        kind = "prompts" if given.data == "ioi" else "pairs"
        sides = {}
        with torch.no_grad():
            # What is imported and prepared once is in neither side's time.
            some = {kind: data, "limit": 2, "out": folder / "warm"}
            Side(AblateOptions(model=subject, value=given.value, **some), subject)
            for name in ("race", "full", "race again")[: 3 if given.again else 2]:
                options = AblateOptions(
                    model=subject,
                    value=given.value,
                    race=None if name == "full" else given.keep,
                    out=folder / name,
                    **{kind: data},
                )
                sides[name] = Side(options, subject)
                print(f"{name}: {sides[name].seconds:.1f} s of the processor", flush=True)
        full, race = sides["full"], sides["race"]
        records = race.results.records
        n_full = len(records) * given.n
        n_race = sum(record.ran_on for record in records)
        of_races = [side for name, side in sides.items() if name != "full"]
        seconds = sum(side.seconds for side in of_races) / len(of_races)
        print(
            f"{len(records)} heads, {given.n} {kind}, time of the processor: "
            f"{full.seconds / seconds:.2f}x"
        )
        print(f"edited forwards: full {n_full:,}, race {n_race:,}: {n_full / n_race:.2f}x")
        print(
            f"tokens through MLPs: full {full.tokens:,}, race {race.tokens:,}: "
            f"{full.tokens / race.tokens:.2f}x"
        )
        print(disagreement(full, race, given.keep))
        if given.again:
            is_same = race.results.records == sides["race again"].results.records
            print(f"both races have the same records: {'yes' if is_same else 'NO'}")
        table, _ = sweep_all(full.folder, full.grid, Local())
        estimates = gradients(race.folder, race.grid, "gradient").effects
        site_names = [part.site.name for part in race.grid.parts]
        print(in_random_orders(table, estimates, site_names, given.keep, given.orders))


if __name__ == "__main__":
    main()
