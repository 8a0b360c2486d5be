"""Probe for a property of your own: is the word the head of its sentence's subject?

python examples/your_own_property.py [OUT]     # of the embedded model and corpus
"""

import sys

from layerscope.experiments.demo import demo_paths
from layerscope.experiments.tasks.properties import PROPERTIES, Property

from layerscope import probe


def in_subject(sentence, train):
    """yes for the head of a subject, no for every other word."""
    return ["yes" if word.deprel.startswith("nsubj") else "no" for word in sentence.words]


PROPERTIES["in_subject"] = Property(
    "in_subject", "word", "class", in_subject, "is it the head of a subject?"
)


def main(out="runs/in-subject", limit=500):
    data = demo_paths()
    results = probe(
        model=data.model,
        corpus=data.train,
        property="in_subject",
        sample=limit,
        l2=10.0,
        control_seeds=2,
        random_models=0,
        out=out,
    )
    print("\n".join(results.findings))
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
