"""Large corpora, most of which lies on disk, against the same corpora in memory."""

from __future__ import annotations

import itertools
import pickle
import tempfile

import pytest

from experiments.corpus import CorpusError, read_conllu, spooled
from experiments.corpus.annotation import Sentence, Word
from experiments.corpus.splits import read_splits
from experiments.corpus.spooled import Sentences
from experiments.demo import demo_paths
from experiments.tasks.properties import PROPERTIES

PATHS = demo_paths()


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(spooled, "WORDS_IN_MEMORY", 40)
    monkeypatch.setattr(spooled, "TEXTS_IN_MEMORY", 50)
    monkeypatch.setattr(spooled, "PENDING", 2000)


def test_sentences_on_disk_are_those_in_memory(on_disk, monkeypatch):
    from_disk = read_conllu(PATHS.dev)
    monkeypatch.setattr(spooled, "WORDS_IN_MEMORY", 10**9)
    in_memory = list(read_conllu(PATHS.dev))
    assert list(from_disk) == in_memory
    assert from_disk.sentences[-1] == in_memory[-1]
    assert list(from_disk.sentences[5:40:3]) == in_memory[5:40:3]
    assert list(from_disk.texts()) == [sentence.text for sentence in in_memory]
    assert from_disk.n_words == sum(len(sentence.words) for sentence in in_memory)
    some = from_disk.select([30, 2, 2]).sentences
    assert list(some) == [in_memory[30], in_memory[2], in_memory[2]]
    assert list(pickle.loads(pickle.dumps(some))) == list(some)
    readers = zip(from_disk, from_disk, strict=True)  # two at once do not move each other
    assert all(a == b for a, b in itertools.islice(readers, 60))


def test_a_sentence_keeps_whatever_its_columns_hold(on_disk):
    word = Word(
        1, 'a"\n\ud800', "é", "_", "\\", {"Case": "Nom,Acc"}, 0, "x:y", 0, 4, "0:x|1:y", "\t"
    )
    long = Word(2, "b" * 50, "_", "_", "_", {}, 1, "_", 5, 55)
    given = [Sentence(f"s{i}", 'a"\n\ud800 x', (word, long) * 15, None, "label") for i in range(9)]
    assert list(Sentences.of(given)) == given


def test_splits_of_a_corpus_on_disk_are_those_of_one_in_memory(monkeypatch):
    expected, notes = read_splits(PATHS.train, None, PATHS.test, 150, seed=3)
    monkeypatch.setattr(spooled, "WORDS_IN_MEMORY", 100)
    found, found_notes = read_splits(PATHS.train, None, PATHS.test, 150, seed=3)
    assert notes == found_notes
    for split, corpus in expected.items():
        assert list(found[split]) == list(corpus)


def test_no_room_for_them_is_one_line(on_disk, monkeypatch):
    class Full:
        @staticmethod
        def write(*_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spooled.os, "write", Full.write)
    with pytest.raises(CorpusError, match=f"{tempfile.gettempdir()}: expected room .* No space"):
        read_conllu(PATHS.dev)


def test_pairs_without_an_arc_are_drawn_from_all_words_that_have_none():
    """Against the list of those words, made for each word anew; a chain and a star,
    where that list is longest.
    """
    chain = [i - 1 for i in range(40)]
    star = [19 if i != 19 else -1 for i in range(40)]
    for heads in (chain, star, [1, -1], [-1], [2, 2, -1, 2, 0]):
        words = tuple(
            Word(i + 1, "w", "_", "_", "_", {}, h + 1, "_", 0, 1) for i, h in enumerate(heads)
        )
        pairs = PROPERTIES["arc:exists"].read(Sentence("s", "w " * len(words), words), None)
        free = {}
        for i, head in enumerate(heads):
            free[i] = [j for j, h in enumerate(heads) if j not in (i, head) and h != i]
        usable = [i for i, head in enumerate(heads) if head >= 0 and free[i]]
        assert [pair[0] for pair in pairs[::2]] == usable
        for (i, head, _), (again, other, label) in zip(pairs[::2], pairs[1::2], strict=True):
            mirrored = 2 * i - head
            assert (again, head, label) == (i, heads[i], "none")
            assert other in ([mirrored] if mirrored in free[i] else free[i])
