"""Which heads carry subject-verb agreement: each replaced by its mean, on minimal pairs.

# by default the embedded model and its pairs
python examples/ablation.py [MODEL PAIRS.jsonl] [OUT]
"""

import sys

from layerscope.experiments.demo import demo_paths

from layerscope import ablate


def main(model=None, pairs=None, out="runs/agreement-heads", limit=60):
    data = demo_paths()
    results = ablate(
        model=model or data.model,
        pairs=pairs or data.pairs,
        component="heads",
        value="mean",
        limit=limit,
        out=out,
    )
    print("\n".join(results.findings))
    strongest = results.frame.sort_values("effect").head(5)
    print(strongest[["site", "effect", "effect_low", "effect_high", "q"]].to_string(index=False))
    results.plot().save(f"{out}/heads.svg")
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
