"""Probe the embedded demo model for a property of your own: does the word begin its sentence's subject?

python examples/your_own_property.py [OUT]
"""

import dataclasses
import sys
from pathlib import Path

from experiments.layerwise import demo_config, run
from experiments.properties import PROPERTIES, Property
from experiments.screen import show


def in_subject(sentence, train):
    """yes for the head of a subject, no for every other word."""
    return ["yes" if word.deprel.startswith("nsubj") else "no" for word in sentence.words]


PROPERTIES["in_subject"] = Property("in_subject", "word", "class", in_subject, "is it the head of a subject?")

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/in-subject")
config = dataclasses.replace(demo_config(out), property=("in_subject",), control_seeds=2, random_models=0)
show(run(config), out)
