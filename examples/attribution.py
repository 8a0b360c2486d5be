"""Why did it say that: which words made the model prefer one verb to the other, by several methods
beside random scores.

python examples/attribution.py [MODEL TEXT TARGET WRONG] [OUT]     # by default the embedded model
"""

import sys

from layerscope.experiments.demo import demo_paths

from layerscope import attribute


def main(
    model=None,
    text="The old teachers near the big house",
    target=" are",
    wrong=" is",
    out="runs/why",
):
    results = attribute(
        model=model or demo_paths().model,
        text=text,
        target=target,
        wrong=wrong,
        method=("leave-one-out", "kernel-shap", "ig"),
        out=out,
    )
    print("\n".join(results.findings))
    print(results.report(f"{out}/report.html"))
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
