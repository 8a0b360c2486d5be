"""The words of the demo grammar: lists written by hand, most frequent first.

Most nouns can also be verbs (``guard``, ``plan``, ``walk``), many adjectives also nouns, verbs or
adverbs: their tag must be computed from the context, which is what the demo study looks at.
Entries are ``lemma`` or ``lemma:irregular forms``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun and its plural."""

    lemma: str
    plural: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb and its forms: third person singular, past, past participle, present participle."""

    lemma: str
    third: str
    past: str
    participle: str
    gerund: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Verbs and nouns whose last consonant doubles before -ed and -ing.
_DOUBLING = frozenset(_words("plan stop trap map ship man dog"))


def _s_form(lemma: str) -> str:
    if lemma.endswith(("s", "x", "z", "ch", "sh")):
        return lemma + "es"
    if lemma.endswith("y") and lemma[-2] not in "aeiou":
        return lemma[:-1] + "ies"
    return lemma + "s"


def _noun(entry: str) -> Noun:
    lemma, _, plural = entry.partition(":")
    return Noun(lemma, plural or _s_form(lemma))


def _verb(entry: str) -> Verb:
    lemma, _, irregular = entry.partition(":")
    stem = lemma + lemma[-1] if lemma in _DOUBLING else lemma
    if lemma.endswith("e"):
        regular = lemma + "d"
    elif lemma.endswith("y") and lemma[-2] not in "aeiou":
        regular = lemma[:-1] + "ied"
    else:
        regular = stem + "ed"
    parts = irregular.split("/") if irregular else [regular, regular]
    past, participle, third = [*parts, _s_form(lemma)][:3]
    silent = lemma.endswith("e") and not lemma.endswith(("ee", "oe", "ye"))
    gerund = (lemma[:-1] if silent else stem) + "ing"
    return Verb(lemma, third, past, participle, gerund)


def _nouns(text: str) -> tuple[Noun, ...]:
    return tuple(_noun(entry) for entry in text.split())


def _verbs(text: str) -> tuple[Verb, ...]:
    return tuple(_verb(entry) for entry in text.split())


_BOTH_PERSON = (
    "guard guide cook judge coach nurse host pilot scout witness tutor mentor spy clown model "
    "butcher rival doctor captain referee partner ally"
)
_BOTH_THING = (
    "plan watch book record report paint call name mark study question answer play show trade "
    "order copy design note sign water map load cover film photograph picture box mail "
    "phone frame hammer lock brush plant trap bottle block post milk butter iron ship fence"
)
_BOTH_EVENT = (
    "visit test help attack search review change dance race start finish check repair measure "
    "trial sketch rescue march debate purchase"
)
# Words of one part of speech come first among the nouns and last among the verbs, so that a word
# of two is about as often the one as the other.
PERSONS = _nouns(
    "teacher child:children woman:women man:men student farmer "
    f"{_BOTH_PERSON} friend neighbor artist singer king lawyer boy girl soldier sailor "
    "patient adult native official criminal human "
    "queen writer driver uncle aunt brother sister mayor baker painter"
)
THINGS = _nouns(
    f"house letter car song story {_BOTH_THING} door table window coin key light secret "
    "orange cold "
    "novel painting building reading drawing ring cake apple hat lamp boat gift rope knife:knives "
    "shelf:shelves leaf:leaves"
)
EVENTS = _nouns(
    f"meeting wedding lesson journey {_BOTH_EVENT} walk talk smile dream sleep:sleep party "
    "wait cough "
    "pause dive sail rest fall rise storm warning ending game concert"
)
PLACES = _nouns(
    "city park garden river house village market kitchen bridge school field corner station "
    "mountain "
    "harbor forest square island tower library:libraries theater bank hill valley"
)
ANIMALS = _nouns("dog duck horse hound cat bird fox sheep:sheep mouse:mice goat wolf:wolves")

# Verbs by frame; a subject is a person (or an animal) unless the name says otherwise.
TAKES_PERSON = _verbs(
    f"{_BOTH_PERSON} help visit call name see:saw/seen trick rescue watch man:manned/manned "
    "dog hound attack question answer "
    "test love search photograph paint warn know:knew/known admire follow hear:heard/heard "
    "find:found/found meet:met/met believe remember"
)
TAKES_THING = _verbs(
    f"{_BOTH_THING} have:had/had/has check change park bank house bridge market garden field "
    "school corner harbor repair measure sketch "
    "review clean dry empty open warm cool light:lit/lit purchase find:found/found see:saw/seen "
    "make:made/made take:took/taken need like want read:read/read draw:drew/drawn "
    "build:built/built "
    "bring:brought/brought break:broke/broken carry buy:bought/bought write:wrote/written "
    "keep:kept/kept finish steal:stole/stolen hide:hid/hidden"
)
TAKES_EVENT = _verbs(
    "plan watch start finish report record review change study do:did/done/does question show "
    "debate end need like enjoy remember describe want hear:heard/heard stop"
)
INTRANSITIVE = _verbs(
    "walk talk work smile laugh rest sleep:slept/slept dream wait dive party travel cough pause "
    "duck horse dance march sail fall:fell/fallen rise:rose/risen cook paint watch park bank "
    "play race study answer call "
    "read:read/read arrive sing:sang/sung leave:left/left"
)
INTRANSITIVE_THING = _verbs(
    "change open fall:fell/fallen work cool dry warm clear start end slow "
    "break:broke/broken vanish remain appear"
)
GIVES = _verbs(
    "show hand mail order name give:gave/given send:sent/sent offer teach:taught/taught "
    "lend:lent/lent tell:told/told bring:brought/brought"
)
SAYS = _verbs(
    "hope report think:thought/thought say:said/said know:knew/known dream answer note "
    "believe doubt "
    "hear:heard/heard claim remember judge"
)
WANTS = _verbs("want hope plan try need like help start promise offer love remember wait")
PARTICLE = tuple(
    (verb, particle)
    for verb, particles in (
        ("pick", "up out"),
        ("turn", "on off over down"),
        ("call", "off up"),
        ("take:took/taken", "away down over off"),
        ("bring:brought/brought", "in up back"),
        ("clean", "up out"),
        ("check", "out over"),
        ("hand", "over in out"),
        ("mark", "down up"),
    )
    for verb in _verbs(verb)
    for particle in particles.split()
)

FEMALE = _words("Anna Rose Grace May Nora Joy Emma Dawn Faith Ruth Ivy Clara Hope Lena")
MALE = _words("Mark Will Frank Tom Bill Peter Jack Drew Grant Chase Oscar Carl Miles Hugo")
SURNAMES = _words(
    "Cook Walker Brooks Hill Young King Baker Field West Stone Rivers Marsh Park Banks Lane"
)
TOWNS = _words("Ashford Brook Reading Castle Bath Marlow Stone Holm Linden Harwich")

ADJECTIVES = _words(
    "cold light secret clean open fast warm empty human patient native orange old young small dry "
    "clear cool hard tall green famous quiet strange late calm brave early adult novel happy "
    "lazy official slow angry criminal tired daily clever heavy square wild bright kind tame narrow"
)
# Words that the lists above hold as adjectives and that are adverbs or nouns of manner too.
MANNER = _words("quickly fast well hard slowly late early quietly often again badly daily")
TIMES = _words("today yesterday now soon then here there sometimes often later once")
FREQUENCY = _words("often always never still also really only just")
DEGREES = _words("very so too quite really rather")
NUMBERS = _words("two three four five ten six twelve seven twenty")
PREPOSITIONS = _words("near with in behind like on by for beside under from before after about")
PLACE_PREPOSITIONS = _words("in near behind at by to from across over through past")
CLAUSE_OPENERS = _words("when because before after while if since as until")

# Participles of these stand before nouns as adjectives.
PARTICIPIAL = tuple(v for v in TAKES_THING if v.lemma not in ("have", "need", "like", "want"))


def held_out_lemmas() -> frozenset[str]:
    """Every ninth noun, verb and adjective: words that the probing train split never holds."""
    verbs = TAKES_PERSON + TAKES_THING + TAKES_EVENT + INTRANSITIVE + SAYS
    lemmas = {entry.lemma for entry in PERSONS + THINGS + EVENTS + PLACES + ANIMALS + verbs}
    kept = {verb.lemma for verb, _ in PARTICLE} | {"have", "do"}
    return frozenset(sorted((lemmas | set(ADJECTIVES)) - kept)[4::9])
