"""Finite verbs of the demo grammar: tense, aspect, negation, agreement."""

from __future__ import annotations

from . import lexicon as lex
from .lexicon import Verb
from .nominals import Nominals, feats
from .tree import Node

_NUMBER = {"s": "Sing", "p": "Plur", "2": ""}
_MODALS = ("will", "can", "may", "must", "should", "would", "could")


def _finite(tense: str, agreement: str, marked: bool = True) -> str:
    number = _NUMBER[agreement[-1]] if marked else ""
    person = agreement[0] if marked else ""
    return feats(Mood="Ind", Number=number, Person=person, Tense=tense, VerbForm="Fin")


def be(tense: str, agreement: str, deprel: str) -> Node:
    """``am``, ``is``, ``are``, ``was`` or ``were``."""
    if tense == "Pres":
        form = {"1s": "am", "3s": "is"}.get(agreement, "are")
        xpos = "VBZ" if form == "is" else "VBP"
    else:
        form = "was" if agreement in ("1s", "3s") else "were"
        xpos = "VBD"
    return Node(form, "be", "AUX", xpos, _finite(tense, agreement), deprel)


def have_or_do(verb: str, tense: str, agreement: str) -> Node:
    """``has``, ``have``, ``had``; ``does``, ``do``, ``did``, as auxiliaries."""
    third, past = {"have": ("has", "had"), "do": ("does", "did")}[verb]
    if tense == "Past":
        return Node(past, verb, "AUX", "VBD", _finite("Past", agreement, marked=False), "aux")
    form, xpos = (third, "VBZ") if agreement == "3s" else (verb, "VBP")
    return Node(form, verb, "AUX", xpos, _finite("Pres", agreement), "aux")


def simple(verb: Verb, tense: str, agreement: str) -> Node:
    """The verb itself, finite, in the simple present or past."""
    if tense == "Past":
        marks = _finite("Past", agreement, marked=False)
        return Node(verb.past, verb.lemma, "VERB", "VBD", marks)
    third = agreement == "3s"
    form, xpos = (verb.third, "VBZ") if third else (verb.lemma, "VBP")
    return Node(form, verb.lemma, "VERB", xpos, _finite("Pres", agreement))


def infinitive(verb: Verb) -> Node:
    """The bare infinitive."""
    return Node(verb.lemma, verb.lemma, "VERB", "VB", feats(VerbForm="Inf"))


def past_participle(verb: Verb, passive: bool = False) -> Node:
    """The past participle."""
    marks = feats(Tense="Past", VerbForm="Part", Voice="Pass" if passive else "")
    return Node(verb.participle, verb.lemma, "VERB", "VBN", marks)


def present_participle(verb: Verb) -> Node:
    """The form in -ing."""
    marks = feats(Tense="Pres", VerbForm="Part")
    return Node(verb.gerund, verb.lemma, "VERB", "VBG", marks)


class Verbs(Nominals):
    """Verb groups: each returns the verb with its auxiliaries as left dependents."""

    def tense(self) -> str:
        """Present two times in three."""
        return "Pres" if self.choose.maybe(0.66) else "Past"

    def negation(self) -> Node:
        """``n't`` written onto the auxiliary before it, or ``not``."""
        if self.choose.maybe(0.5):
            return Node("n't", "not", "PART", "RB", "Polarity=Neg", "advmod", clitic=True)
        return Node("not", "not", "PART", "RB", "Polarity=Neg", "advmod")

    def modal(self) -> Node:
        """A modal auxiliary."""
        form = self.choose.pick(_MODALS)
        return Node(form, form, "AUX", "MD", feats(VerbForm="Fin"), "aux")

    def group(self, verb: Verb, agreement: str) -> Node:
        """A finite verb group in the active voice."""
        how = self.choose.branch(
            simple=0.66, modal=0.09, progressive=0.09, perfect=0.06, negated=0.1
        )
        if how == "simple":
            node = simple(verb, self.tense(), agreement)
            if self.choose.maybe(0.1):
                node.left.append(self.often())
            return node
        if how == "modal":
            node = infinitive(verb)
            node.left.append(self.modal())
        elif how == "progressive":
            node = present_participle(verb)
            node.left.append(be(self.tense(), agreement, "aux"))
        elif how == "perfect":
            node = past_participle(verb)
            node.left.append(have_or_do("have", self.tense(), agreement))
        else:
            node = infinitive(verb)
            node.left += [have_or_do("do", self.tense(), agreement), self.negation()]
            return node
        if self.choose.maybe(0.12):
            node.left.append(self.often())
        return node

    def often(self) -> Node:
        """An adverb that stands before the verb."""
        form = self.choose.pick(lex.FREQUENCY)
        return Node(form, form, "ADV", "RB", deprel="advmod")

    def passive(self, verb: Verb, agreement: str) -> Node:
        """A passive verb group, its agent not included."""
        node = past_participle(verb, passive=True)
        how = self.choose.branch(simple=0.76, modal=0.14, perfect=0.1)
        if how == "simple":
            node.left.append(be(self.tense(), agreement, "aux:pass"))
        else:
            if how == "modal":
                node.left.append(self.modal())
                bare = Node("be", "be", "AUX", "VB", feats(VerbForm="Inf"), "aux:pass")
            else:
                node.left.append(have_or_do("have", self.tense(), agreement))
                marks = feats(Tense="Past", VerbForm="Part")
                bare = Node("been", "be", "AUX", "VBN", marks, "aux:pass")
            node.left.append(bare)
        return node

    def copula(self, predicate: Node, agreement: str) -> Node:
        """Make `predicate` (adjective, noun phrase, place) the head of a copular clause."""
        negated = self.choose.maybe(0.12)
        auxiliaries = [be(self.tense(), agreement, "cop")]
        # "am" takes no n't.
        if negated:
            negation = self.negation()
            if auxiliaries[0].form == "am":
                negation.form, negation.clitic = "not", False
            auxiliaries.append(negation)
        elif self.choose.maybe(0.1):
            auxiliaries.append(self.often())
        predicate.left[:0] = auxiliaries
        return predicate
