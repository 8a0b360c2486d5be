"""Clauses and sentences of the demo grammar: an English-like language with gold trees.

``Grammar(Chooser(seed)).sentence()`` is the tree of one sentence, annotated as Universal
Dependencies would. Verbs agree with their subjects across prepositional phrases and relative
clauses; most content words belong to two or three parts of speech.
"""

from __future__ import annotations

from . import lexicon as lex
from .lexicon import Verb
from .nominals import adjective, adposition, adverb, feats
from .tree import Node
from .verbs import (
    Verbs,
    be,
    have_or_do,
    infinitive,
    past_participle,
    present_participle,
    simple,
)


def punctuation(form: str) -> Node:
    """A mark joined to the word before it."""
    xpos = "," if form == "," else "."
    return Node(form, form, "PUNCT", xpos, deprel="punct", joined=True)


def mark(form: str) -> Node:
    """A subordinating conjunction, or the ``to`` of an infinitive."""
    if form == "to":
        return Node("to", "to", "PART", "TO", deprel="mark")
    return Node(form, form, "SCONJ", "IN", deprel="mark")


def relative(form: str, deprel: str) -> Node:
    """A relative pronoun."""
    xpos = "WP" if form == "who" else "WDT"
    return Node(form, form, "PRON", xpos, "PronType=Rel", deprel)


class Grammar(Verbs):
    """The whole grammar; every choice is made by its `Chooser`."""

    # What stands behind a verb

    def complements(self, node: Node, frame: str, room: int) -> Node:
        """Give the verb the objects, clauses and particles of its frame."""
        choose, right = self.choose, node.right
        if frame in ("person", "thing", "event"):
            right.append(self.phrase(frame, room=room).as_("obj"))
        elif frame == "gives" and choose.maybe(0.55):
            right.append(self.phrase("person", room=0).as_("iobj"))
            right.append(self.common("thing", min(room, 1)).as_("obj"))
        elif frame == "gives":
            right.append(self.phrase("thing", room=0).as_("obj"))
            whom = self.phrase("person", room=min(room, 1)).as_("obl")
            whom.left.insert(0, adposition("to"))
            right.append(whom)
        elif frame == "says":
            clause = self.clause(room - 1).as_("ccomp")
            if choose.maybe(0.55):
                clause.left.insert(0, mark("that"))
            right.append(clause)
        elif frame == "wants":
            right.append(self.to_clause(room - 1).as_("xcomp"))
        return node

    def active(self) -> tuple[Verb, str]:
        """A verb for a person as subject, and its frame."""
        frame = self.choose.branch(
            thing=0.3, person=0.24, event=0.13, alone=0.17, gives=0.07, says=0.05, wants=0.04
        )
        lists = {
            "thing": lex.TAKES_THING,
            "person": lex.TAKES_PERSON,
            "event": lex.TAKES_EVENT,
            "alone": lex.INTRANSITIVE,
            "gives": lex.GIVES,
            "says": lex.SAYS,
            "wants": lex.WANTS,
        }
        return self.choose.pick(lists[frame]), frame

    def to_clause(self, room: int) -> Node:
        """``to`` and an infinitive with what belongs to it."""
        verb, frame = self.active()
        if room <= 0 and frame in ("says", "wants"):
            verb, frame = self.choose.pick(lex.TAKES_THING), "thing"
        node = self.complements(infinitive(verb), frame, max(room, 0))
        node.left.insert(0, mark("to"))
        return node

    def adjuncts(self, node: Node, room: int) -> Node:
        """Perhaps an adverb, a place or a time behind the rest."""
        choose = self.choose
        how = choose.branch(none=0.62, manner=0.1, place=0.12, time=0.08, before=0.08)
        if how == "manner":
            node.right.append(adverb(choose.pick(lex.MANNER)))
        elif how == "place":
            node.right.append(self.prepositional("obl", min(room, 1) - 1, place=True))
        elif how == "time":
            node.right.append(adverb(choose.pick(lex.TIMES)))
        elif how == "before":
            after = self.phrase("event", room=min(room, 1) - 1).as_("obl")
            word = choose.pick(("before", "after", "since", "during", "for"))
            after.left.insert(0, adposition(word))
            node.right.append(after)
        return node

    # Clauses

    def predicate(self, agreement: str, room: int) -> Node:
        """A verb phrase for a person as subject."""
        how = self.choose.branch(verb=0.82, particle=0.05, copular=0.13)
        if how == "copular":
            return self.adjuncts(self.copular(agreement, "person", room), room - 1)
        if how == "particle":
            verb, word = self.choose.pick(lex.PARTICLE)
            node = self.group(verb, agreement)
            particle = Node(word, word, "ADP", "RP", deprel="compound:prt")
            thing = self.phrase("thing", room=room - 1).as_("obj")
            apart = thing.upos == "PRON" or self.choose.maybe(0.4)
            node.right += [thing, particle] if apart else [particle, thing]
            return self.adjuncts(node, room - 1)
        verb, frame = self.active()
        if room <= 0 and frame in ("says", "wants"):
            verb, frame = self.choose.pick(lex.TAKES_PERSON), "person"
        node = self.complements(self.group(verb, agreement), frame, room - 1)
        return self.adjuncts(node, room - 1)

    def copular(self, agreement: str, kind: str, room: int) -> Node:
        """``is`` and an adjective, a noun phrase or a place."""
        how = self.choose.branch(adjective=0.55, noun=0.25, place=0.2)
        if how == "adjective":
            node = adjective(self.choose.pick(lex.ADJECTIVES), "root")
            if self.choose.maybe(0.3):
                node.left.append(adverb(self.choose.pick(lex.DEGREES)))
        elif how == "noun":
            node = self.common(kind, room - 1, plural=agreement[-1] == "p")
        else:
            node = self.prepositional("root", room - 1, place=True)
        return self.copula(node, agreement)

    def clause(self, room: int) -> Node:
        """A finite declarative clause with its subject."""
        choose = self.choose
        kind = choose.branch(person=0.72, thing=0.15, event=0.08, demonstrative=0.05)
        if kind == "demonstrative":
            plural = choose.maybe(0.3)
            form = choose.pick(("these", "those") if plural else ("that", "this"))
            lemma = {"these": "this", "those": "that"}.get(form, form)
            marks = feats(Number="Plur" if plural else "Sing", PronType="Dem")
            agreement = "3p" if plural else "3s"
            subject = Node(form, lemma, "PRON", "DT", marks, agreement=agreement)
            node = self.copular(agreement, "thing", room)
        elif kind == "person":
            subject = self.phrase("person", "subject", room)
            node = self.predicate(subject.agreement, room)
        else:
            subject = self.phrase(kind, "subject", room)
            how = choose.branch(copular=0.4, passive=0.4, alone=0.2)
            if how == "copular":
                node = self.copular(subject.agreement, kind, room)
            elif how == "passive":
                verbs = lex.TAKES_THING if kind == "thing" else lex.TAKES_EVENT
                node = self.by(self.passive(choose.pick(verbs), subject.agreement), room)
            else:
                verb = choose.pick(lex.INTRANSITIVE_THING)
                node = self.adjuncts(self.group(verb, subject.agreement), room - 1)
        passive = any(child.deprel == "aux:pass" for child in node.left)
        node.left.insert(0, subject.as_("nsubj:pass" if passive else "nsubj"))
        self.contract(node)
        if node.upos == "VERB" and choose.maybe(0.05) and room > 0:
            self.coordinate(node, subject.agreement, kind, room)
        return node

    def contract(self, node: Node) -> None:
        """Perhaps write a form of *be* onto the subject before it: ``she's``, ``the guard's``."""
        subject, verb = node.left[0], node.left[1] if len(node.left) > 1 else node
        if verb.form not in ("am", "is", "are"):
            return
        if (verb.form != "is" and subject.upos != "PRON") or subject.xpos == "DT":
            return
        negated = len(node.left) > 2 and node.left[2].clitic
        if not negated and self.choose.maybe(0.5 if subject.upos == "PRON" else 0.15):
            verb.form = {"am": "'m", "is": "'s", "are": "'re"}[verb.form]
            verb.clitic = True

    def coordinate(self, node: Node, agreement: str, kind: str, room: int) -> None:
        """A second predicate with the same subject."""
        if kind == "person":
            other = self.predicate(agreement, room - 1)
        else:
            other = self.group(self.choose.pick(lex.INTRANSITIVE_THING), agreement)
        word = self.choose.pick(("and", "but"))
        other.left.insert(0, Node(word, word, "CCONJ", "CC", deprel="cc"))
        node.right.append(other.as_("conj"))

    def by(self, node: Node, room: int) -> Node:
        """Perhaps the agent of a passive."""
        if self.choose.maybe(0.45):
            agent = self.phrase("person", room=room - 1).as_("obl:agent")
            agent.left.insert(0, adposition("by"))
            node.right.append(agent)
        return node

    def modify(self, noun: Node, kind: str, room: int) -> None:
        """A relative clause, a participle or an infinitive behind the noun."""
        choose = self.choose
        if kind == "person":
            how = choose.branch(subject=0.5, object=0.3, active=0.2)
        else:
            how = choose.branch(object=0.45, passive=0.3, subject=0.15, to=0.1)
        if how == "object":
            self.object_relative(noun, kind, room)
        elif how == "active":
            verb, frame = self.active()
            if frame in ("says", "wants"):
                verb, frame = choose.pick(lex.TAKES_THING), "thing"
            clause = self.complements(present_participle(verb), frame, 0)
            noun.right.append(clause.as_("acl"))
        elif how == "passive":
            verb = choose.pick(lex.TAKES_THING if kind == "thing" else lex.TAKES_EVENT)
            noun.right.append(self.by(past_participle(verb, passive=True), 0).as_("acl"))
        elif how == "to":
            noun.right.append(self.to_clause(0).as_("acl"))
        else:
            if kind == "person":
                node = self.predicate(noun.agreement, 0)
                word = "who" if choose.maybe(0.45) else "that"
            else:
                verb = choose.pick(lex.INTRANSITIVE_THING)
                node = self.adjuncts(self.group(verb, noun.agreement), 0)
                word = "that" if choose.maybe(0.75) else "which"
            node.left.insert(0, relative(word, "nsubj"))
            noun.right.append(node.as_("acl:relcl"))

    def object_relative(self, noun: Node, kind: str, room: int) -> None:
        """``the plan (that) the guards made``."""
        choose = self.choose
        lists = {"person": lex.TAKES_PERSON, "event": lex.TAKES_EVENT}
        subject = self.phrase("person", "subject", min(room, 0)).as_("nsubj")
        node = self.group(choose.pick(lists.get(kind, lex.TAKES_THING)), subject.agreement)
        node.left.insert(0, subject)
        if choose.maybe(0.7):
            node.left.insert(0, relative("that", "obj"))
        noun.right.append(node.as_("acl:relcl"))

    # Sentences

    def question(self) -> Node:
        """A yes/no question, or one with ``who``, ``what``, ``when``, ``where``, ``why``."""
        choose = self.choose
        how = choose.branch(yes_no=0.4, who=0.2, what=0.2, when=0.2)
        if how == "who":
            node = self.predicate("3s", 1)
            who = Node("who", "who", "PRON", "WP", "PronType=Int", "nsubj")
            node.left.insert(0, who)
            return node
        subject = self.phrase("person", "subject", 1).as_("nsubj")
        if how == "yes_no" and choose.maybe(0.3):
            node = adjective(choose.pick(lex.ADJECTIVES), "root")
            node.left[:0] = [be(self.tense(), subject.agreement, "cop"), subject]
            return node
        if choose.maybe(0.25):
            helper = self.modal()
        else:
            helper = have_or_do("do", self.tense(), subject.agreement)
        if how == "what":
            node = infinitive(choose.pick(lex.TAKES_THING))
            front = [Node("what", "what", "PRON", "WP", "PronType=Int", "obj")]
        else:
            verb, frame = self.active()
            node = self.complements(infinitive(verb), frame, 1)
            front = []
            if how == "when":
                word = choose.pick(("when", "where", "why", "how"))
                front = [Node(word, word, "ADV", "WRB", "PronType=Int", "advmod")]
        node.left[:0] = [*front, helper, subject]
        return node

    def existential(self) -> Node:
        """``There is a plan in the city``: the verb agrees with what follows."""
        choose = self.choose
        kind = choose.branch(person=0.4, thing=0.4, event=0.2)
        thing = self.common(kind, 1, plural=choose.maybe(0.45)).as_("nsubj")
        node = be(self.tense(), thing.agreement, "root")
        node.upos = "VERB"
        node.left.append(Node("there", "there", "PRON", "EX", deprel="expl"))
        node.right.append(thing)
        if choose.maybe(0.4):
            node.right.append(self.prepositional("obl", 0, place=True))
        return node

    def imperative(self) -> Node:
        """``Watch the guards.``"""
        verb, frame = self.active()
        node = self.complements(infinitive(verb), frame, 1)
        node.feats = feats(Mood="Imp", Person="2", VerbForm="Fin")
        return self.adjuncts(node, 1)

    def sentence(self) -> Node:
        """One sentence with its final mark."""
        choose = self.choose
        how = choose.branch(
            plain=0.68,
            fronted=0.06,
            after=0.07,
            before=0.04,
            two=0.03,
            question=0.06,
            existential=0.03,
            imperative=0.03,
        )
        end = "."
        if how == "question":
            node, end = self.question(), "?"
        elif how in ("existential", "imperative"):
            node = self.existential() if how == "existential" else self.imperative()
        else:
            node = self.clause(2 if how == "plain" else 1)
            if how == "fronted":
                if choose.maybe(0.5):
                    front = adverb(choose.pick(lex.TIMES))
                else:
                    front = self.prepositional("obl", 0, place=True)
                node.left[:0] = [front, punctuation(",")] if choose.maybe(0.7) else [front]
            elif how in ("after", "before"):
                other = self.clause(1).as_("advcl")
                opener = choose.pick(lex.CLAUSE_OPENERS)
                other.left.insert(0, mark(opener))
                if how == "after":
                    node.right.append(other)
                else:
                    node.left[:0] = [other, punctuation(",")]
            elif how == "two":
                other = self.clause(1).as_("conj")
                word = choose.pick(("and", "but", "so"))
                other.left[:0] = [punctuation(","), Node(word, word, "CCONJ", "CC", deprel="cc")]
                node.right.append(other)
        if end == "." and choose.maybe(0.05):
            end = "!"
        node.right.append(punctuation(end))
        return node.as_("root")

    # Minimal pairs

    def agreement_pair(self, attractor: str) -> tuple[Node, Node]:
        """A present-tense sentence and the same with the verb's number wrong.

        Args:
            attractor: ``none``, or a noun of the other number in between: ``pp`` or ``relative``.
        """
        choose = self.choose
        plural = choose.maybe(0.5)
        subject = self.common("person", 0, plural=plural)
        if attractor == "pp":
            inner = self.common(choose.branch(person=0.5, thing=0.5), 0, plural=not plural)
            inner.left.insert(0, adposition(choose.pick(lex.PREPOSITIONS)))
            subject.right.append(inner.as_("nmod"))
        elif attractor == "relative":
            owner = self.common("person", 0, plural=not plural).as_("nsubj")
            inner = simple(choose.pick(lex.TAKES_PERSON), "Past", owner.agreement)
            inner.left = [relative("that", "obj"), owner]
            subject.right.append(inner.as_("acl:relcl"))
        verb = choose.pick(lex.TAKES_THING)
        thing = self.common("thing", 0).as_("obj")
        good, bad = (simple(verb, "Pres", agreement) for agreement in ("3s", "3p"))
        if plural:
            good, bad = bad, good
        for node in (good, bad):
            node.left.append(subject.as_("nsubj"))
            node.right += [thing, punctuation(".")]
        return good, bad
