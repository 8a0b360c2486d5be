"""The lists of words that come with the command; the options name them,
so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping

PRONOUNS = (("he", "she"), ("him", "her"), ("his", "her"), ("himself", "herself"))
MEN = (
    "James John Robert Michael David William Richard Thomas Mark Charles Steven Paul Andrew "
    "Kevin Brian George Edward Peter Frank Scott"
)
WOMEN = (
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy "
    "Sandra Ashley Emily Donna Michelle Carol Amanda Melissa"
)
LISTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "pronouns": PRONOUNS,
    "names": tuple(zip(MEN.split(), WOMEN.split(), strict=True)),
}
"""Name -> pairs. Names are among the most frequent in the United
States of people born from 1940 to 1990.
"""
