"""At which layer can a property be read, and is the reading more than memory?

# by default the embedded model and corpus
python examples/layerwise_study.py [MODEL CORPUS.conllu] [OUT]
"""

import sys

from layerscope.experiments.demo import demo_paths

from layerscope import probe


def main(model=None, corpus=None, out="runs/layerwise", limit=500):
    data = demo_paths()
    results = probe(
        model=model or data.model,
        corpus=corpus or data.train,
        property=("upos", "deprel"),
        sample=limit,
        l2=10.0,
        control_seeds=2,
        out=out,
    )
    print("\n".join(results.findings))
    frame = results.frame  # one row a property and site
    print(frame.pivot(index="site", columns="property", values="score").round(3))
    print(frame.pivot(index="site", columns="property", values="selectivity").round(3))
    print(results.plot().save(f"{out}/scores.svg"), results.report(f"{out}/report.html"))
    return results


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*given[:2], *([given[2]] if given[2:] else []))
