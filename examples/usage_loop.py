"""Decodable, and used? Number is probed at every layer, erased there from the running model, and
missed or not.

# by default the embedded model, corpus and pairs
python examples/usage_loop.py [MODEL CORPUS.conllu PAIRS.jsonl] [OUT]
"""

import sys

from layerscope.experiments.demo import demo_paths

from layerscope import usage


def main(model=None, corpus=None, pairs=None, out="runs/number-used", limit=300):
    data = demo_paths()
    results = usage(
        model=model or data.model,
        corpus=corpus or data.train,
        property="feats:Number",
        pairs=pairs or data.pairs,
        limit=60,
        sample=limit,
        l2=10.0,
        null_draws=2,
        out=out,
    )
    print("\n".join(results.findings))
    columns = [
        "site",
        "decodable",
        "erased_linear",
        "erased_mlp",
        "effect",
        "effect_low",
        "effect_high",
        "null",
    ]
    print(results.frame[columns].round(3).to_string(index=False))
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
