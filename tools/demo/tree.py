"""Dependency trees built by the demo grammar, the choices that built them, and CoNLL-U out."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Node:
    """A word with its annotation and its dependents to the left and to the right, in order.

    `agreement` is the person and number a verb agrees with: 1s, 2, 3s, 1p or 3p. A `clitic` is
    written onto the word before it (``does`` + ``n't``) and shares its multiword token;
    `joined` says that no space stands before the word (punctuation).
    """

    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str = "_"
    deprel: str = "root"
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)
    agreement: str = "3s"
    clitic: bool = False
    joined: bool = False

    def as_(self, deprel: str) -> Node:
        """The same node, now with this relation to its head."""
        self.deprel = deprel
        return self

    def in_order(self) -> list[Node]:
        """This node and all below it, as they are read."""
        nodes: list[Node] = []
        for child in self.left:
            nodes += child.in_order()
        nodes.append(self)
        for child in self.right:
            nodes += child.in_order()
        return nodes


class Chooser:
    """Seeded choices that add up their own information.

    `nats` is the information of every choice since it was last set to 0: averaged over sentences
    it is the entropy of the derivations, an upper bound on that of the sentences. Only
    ``Random.random`` is used, the one method whose sequence Python promises to keep.

    Args:
        seed: of the choices.
        banned: lemmas that are never picked.
    """

    def __init__(self, seed: int, banned: frozenset[str] = frozenset()) -> None:
        self._random = random.Random(seed)
        self._bounds: dict[int, list[float]] = {}
        self.banned = banned
        self.nats = 0.0

    def maybe(self, probability: float) -> bool:
        """True with this probability."""
        yes = self._random.random() < probability
        self.nats -= math.log(probability if yes else 1 - probability)
        return yes

    def branch(self, **weights: float) -> str:
        """One of the names, by weight."""
        total = sum(weights.values())
        mark = self._random.random() * total
        *others, name = weights
        for other in others:
            mark -= weights[other]
            if mark < 0:
                name = other
                break
        self.nats -= math.log(weights[name] / total)
        return name

    def pick(self, items: Sequence[T]) -> T:
        """One item by rank: the weight of the r-th is 1 / (r + 6), Zipf's law with a flat top."""
        if len(items) not in self._bounds:
            weights = [1 / (rank + 6) for rank in range(len(items))]
            self._bounds[len(items)] = list(accumulate(weights))
        bounds = self._bounds[len(items)]
        while True:
            index = bisect_right(bounds, self._random.random() * bounds[-1], hi=len(items) - 1)
            item = items[index]
            lemma = item if isinstance(item, str) else getattr(item, "lemma", None)
            if lemma not in self.banned:
                self.nats += math.log(bounds[-1] * (index + 6))
                return item


def surface(root: Node) -> tuple[str, list[tuple[Node, str, bool]]]:
    """The text, and per node (node, form as written, space after)."""
    nodes = root.in_order()
    forms = [node.form for node in nodes]
    forms[0] = forms[0][0].upper() + forms[0][1:]
    spaced = [not (after.clitic or after.joined) for after in nodes[1:]] + [False]
    text = "".join(form + (" " if space else "") for form, space in zip(forms, spaced, strict=True))
    return text, list(zip(nodes, forms, spaced, strict=True))


def to_conllu(root: Node, name: str) -> str:
    """The sentence as a CoNLL-U block, with multiword tokens for clitics."""
    text, rows = surface(root)
    number = {id(node): i for i, (node, _, _) in enumerate(rows, start=1)}
    head = {id(root): 0}
    for node, _, _ in rows:
        for child in node.left + node.right:
            head[id(child)] = number[id(node)]
    lines = [f"# sent_id = {name}", f"# text = {text}"]
    for i, (node, form, space) in enumerate(rows, start=1):
        next_is_clitic = i < len(rows) and rows[i][0].clitic
        if next_is_clitic:
            after = "_" if rows[i][2] or i + 1 == len(rows) else "SpaceAfter=No"
            token = f"{i}-{i + 1}\t{form}{rows[i][1]}"
            lines.append(f"{token}\t_\t_\t_\t_\t_\t_\t_\t{after}")
        joined = not (space or next_is_clitic or node.clitic or i == len(rows))
        columns = (
            str(i),
            form,
            node.lemma,
            node.upos,
            node.xpos,
            node.feats,
            str(head[id(node)]),
            node.deprel,
            "_",
            "SpaceAfter=No" if joined else "_",
        )
        lines.append("\t".join(columns))
    return "\n".join(lines) + "\n\n"
