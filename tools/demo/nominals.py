"""Noun phrases of the demo grammar: pronouns, names, determiners, modifiers, coordination."""

from __future__ import annotations

from . import lexicon as lex
from .lexicon import Noun
from .tree import Chooser, Node

_KINDS: dict[str, tuple[Noun, ...]] = {
    "person": lex.PERSONS,
    "thing": lex.THINGS,
    "event": lex.EVENTS,
    "place": lex.PLACES,
    "animal": lex.ANIMALS,
}
# agreement: (subject, object, possessive, number, person)
_PRONOUNS = {
    "I": ("1s", "I", "me", "my", "Sing", "1"),
    "you": ("2", "you", "you", "your", "", "2"),
    "he": ("3s", "he", "him", "his", "Sing", "3"),
    "she": ("3s", "she", "her", "her", "Sing", "3"),
    "it": ("3s", "it", "it", "its", "Sing", "3"),
    "we": ("1p", "we", "us", "our", "Plur", "1"),
    "they": ("3p", "they", "them", "their", "Plur", "3"),
}
_WHO = ("she", "he", "they", "I", "we", "you")


def feats(**values: str) -> str:
    """Features as the format wants them: sorted, joined, ``_`` where there are none."""
    pairs = [f"{name}={value}" for name, value in sorted(values.items()) if value]
    return "|".join(pairs) or "_"


def adposition(form: str, deprel: str = "case") -> Node:
    """A preposition."""
    return Node(form, form, "ADP", "IN", deprel=deprel)


def adverb(form: str) -> Node:
    """An adverb, as advmod."""
    return Node(form, form, "ADV", "RB", deprel="advmod")


def adjective(form: str, deprel: str = "amod") -> Node:
    """An adjective."""
    return Node(form, form, "ADJ", "JJ", feats(Degree="Pos"), deprel)


class Nominals:
    """Noun phrases; subclasses say what a clause that modifies a noun is (`modify`)."""

    def __init__(self, choose: Chooser) -> None:
        self.choose = choose

    def modify(self, noun: Node, kind: str, room: int) -> None:
        """Add a clause to the noun phrase."""
        raise NotImplementedError

    def pronoun(self, lemma: str, role: str) -> Node:
        """A personal pronoun as subject, object or possessive."""
        agreement, subject, other, possessive, number, person = _PRONOUNS[lemma]
        if role == "possessive":
            marks = feats(Case="Gen", Number=number, Person=person, Poss="Yes", PronType="Prs")
            return Node(possessive, possessive, "PRON", "PRP$", marks, "nmod:poss")
        case = "Nom" if role == "subject" else "Acc"
        marks = feats(Case=case, Number=number, Person=person, PronType="Prs")
        form = subject if role == "subject" else other
        return Node(form, lemma, "PRON", "PRP", marks, agreement=agreement)

    def name(self) -> Node:
        """A first name, a third of the time with a surname."""
        first = self.choose.pick(lex.FEMALE if self.choose.maybe(0.5) else lex.MALE)
        node = Node(first, first, "PROPN", "NNP", feats(Number="Sing"))
        if self.choose.maybe(0.33):
            last = self.choose.pick(lex.SURNAMES)
            node.right.append(Node(last, last, "PROPN", "NNP", feats(Number="Sing"), "flat"))
        return node

    def noun(self, kind: str, plural: bool) -> Node:
        """A bare common noun."""
        entry = self.choose.pick(_KINDS[kind])
        number, xpos = ("Plur", "NNS") if plural else ("Sing", "NN")
        form = entry.plural if plural else entry.lemma
        marks = feats(Number=number)
        return Node(form, entry.lemma, "NOUN", xpos, marks, agreement="3p" if plural else "3s")

    def phrase(self, kind: str, role: str = "object", room: int = 1) -> Node:
        """A noun phrase of this kind as subject or object; `room` is how deep it may nest."""
        if kind == "person" and self.choose.maybe(0.06) and room > 0:
            kind = "animal"
        if kind == "person":
            how = self.choose.branch(pronoun=0.2, name=0.14, common=0.66)
            if how == "pronoun":
                return self.pronoun(self.choose.pick(_WHO), role)
            if how == "name":
                return self.name()
        elif kind == "thing" and self.choose.maybe(0.06):
            return self.pronoun("it" if self.choose.maybe(0.7) else "they", role)
        elif kind == "place" and self.choose.maybe(0.12):
            town = self.choose.pick(lex.TOWNS)
            return Node(town, town, "PROPN", "NNP", feats(Number="Sing"))
        node = self.common(kind, room)
        if room > 0 and self.choose.maybe(0.07):
            other = self.common(kind, 0).as_("conj")
            both = self.choose.maybe(0.85)
            word = "and" if both else "or"
            other.left.insert(0, Node(word, word, "CCONJ", "CC", deprel="cc"))
            node.right.append(other)
            node.agreement = "3p" if both else other.agreement
        return node

    def common(self, kind: str, room: int, plural: bool | None = None) -> Node:
        """A common noun with determiner and modifiers."""
        choose = self.choose
        if plural is None:
            plural = choose.maybe(0.42)
        node = self.noun(kind, plural)
        if room >= 0 and choose.maybe(0.06) and kind != "place":
            compound = self.noun(choose.branch(thing=0.5, event=0.3, place=0.2), False)
            node.left.append(compound.as_("compound"))
        if choose.maybe(0.28):
            node.left.insert(0, adjective(choose.pick(lex.ADJECTIVES)))
            if choose.maybe(0.12):
                node.left[0].left.append(adverb(choose.pick(lex.DEGREES)))
        elif choose.maybe(0.1):
            entry = choose.pick(lex.PARTICIPIAL)
            form = entry.participle if choose.maybe(0.6) else entry.gerund
            node.left.insert(0, adjective(form))
        self.determine(node, plural, room)
        if room > 0:
            self.complement(node, kind, room)
        return node

    def determine(self, node: Node, plural: bool, room: int) -> None:
        """Put an article, a demonstrative, a number or a possessor in front."""
        choose = self.choose
        if plural:
            how = choose.branch(
                the=0.38, bare=0.22, these=0.05, those=0.05, some=0.07, number=0.08, poss=0.15
            )
        else:
            how = choose.branch(
                the=0.43, a=0.23, this=0.05, that=0.08, every=0.04, each=0.02, poss=0.15
            )
        if how == "bare":
            return
        if how == "number":
            word = choose.pick(lex.NUMBERS)
            marks = feats(NumForm="Word", NumType="Card")
            number = Node(word, word, "NUM", "CD", marks, "nummod")
            node.left.insert(0, number)
            return
        if how == "poss":
            node.left.insert(0, self.possessor(room))
            return
        if how == "a":
            following = node.left[0].in_order()[0].form if node.left else node.form
            form = "an" if following[0] in "aeiou" else "a"
            marks = feats(Definite="Ind", PronType="Art")
        elif how == "the":
            form, marks = "the", feats(Definite="Def", PronType="Art")
        elif how in ("every", "each", "some"):
            form, marks = how, feats(PronType="Ind" if how == "some" else "Tot")
        else:
            form, marks = how, feats(Number="Plur" if plural else "Sing", PronType="Dem")
        lemma = {"an": "a", "these": "this", "those": "that"}.get(form, form)
        node.left.insert(0, Node(form, lemma, "DET", "DT", marks, "det"))

    def possessor(self, room: int) -> Node:
        """``her``, ``Anna's`` or ``the guard's``."""
        how = self.choose.branch(pronoun=0.66, name=0.14, **({"noun": 0.2} if room >= 0 else {}))
        if how == "pronoun":
            lemma = self.choose.pick(("she", "he", "they", "I", "we", "you", "it"))
            return self.pronoun(lemma, "possessive")
        if how == "name":
            owner = self.name()
        else:
            owner = self.common("person", -1, plural=False)
        owner.right.append(Node("'s", "'s", "PART", "POS", deprel="case", clitic=True))
        return owner.as_("nmod:poss")

    def complement(self, node: Node, kind: str, room: int) -> None:
        """Perhaps a prepositional phrase or a clause behind the noun."""
        weights = {"person": (0.26, 0.16), "thing": (0.13, 0.08), "event": (0.12, 0.05)}
        prepositional, clause = weights.get(kind, (0.05, 0.04))
        how = self.choose.branch(pp=prepositional, clause=clause, none=1 - prepositional - clause)
        if how == "pp":
            node.right.append(self.prepositional("nmod", room - 1))
        elif how == "clause":
            self.modify(node, kind, room - 1)

    def prepositional(self, deprel: str, room: int, place: bool = False) -> Node:
        """A prepositional phrase."""
        if place:
            word = self.choose.pick(lex.PLACE_PREPOSITIONS)
            inner = self.phrase("place", room=room)
        else:
            word = self.choose.pick(lex.PREPOSITIONS)
            kind = self.choose.branch(place=0.3, thing=0.3, person=0.25, event=0.15)
            inner = self.phrase(kind, room=room)
        inner.left.insert(0, adposition(word))
        return inner.as_(deprel)
