"""Dependencies and offsets,
on patterns that are put in a head's place and on counts whose answer is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from naive import subject
from torch import Tensor

from experiments.attention.arcs import OFFSETS, WordTotals, _Scores
from experiments.attention.passes import pass_over
from experiments.corpus import read_conllu
from experiments.features.layout import Layout
from hooks import edits, intervene
from probes.evaluation import ClusterBootstrap

SENTENCES = """# text = w3 w4 w5 w6
1	w3	_	X	_	_	2	det	_	_
2	w4	_	X	_	_	0	root	_	_
3	w5	_	X	_	_	4	det	_	_
4	w6	_	X	_	_	2	obj	_	_

# text = w7 w8 w9 w10 w11
1	w7	_	X	_	_	3	obj	_	_
2	w8	_	X	_	_	3	det	_	_
3	w9	_	X	_	_	0	root	_	_
4	w10	_	X	_	_	3	det	_	_
5	w11	_	X	_	_	1	det	_	_
"""


def looks(targets: list[list[int]]) -> edits.Edit:
    """A pattern in which token i of text t looks at token targets[t][i] alone,
    where one is named.
    """

    def apply(pattern: Tensor) -> Tensor:
        out = pattern.clone()
        for text, row in enumerate(targets):
            for query, key in enumerate(row):
                if key >= 0:
                    out[text, ..., query, :] = 0
                    out[text, ..., query, key] = 1
        return out

    return edits.function(apply)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_heads_that_look_at_governors_and_at_fixed_places_are_named(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "s.conllu").write_text((SENTENCES + "\n") * 2, encoding="utf-8")
    sentences = list(read_conllu(tmp_path / "s.conllu"))
    one = subject(name)
    lead = 1 if one.encode(["w3"])[0].special[0] else 0
    longest = max(len(s.words) for s in sentences)
    layout = Layout.of(one, sentences)
    (batch,) = one.batches(layout.encoded)
    governors, previous = [], []
    for row in batch.rows:
        words = sentences[row].words
        blank = [-1] * (longest - len(words) + 3)
        governors.append([-1] * lead + [w.head - 1 + lead if w.head else -1 for w in words] + blank)
        previous.append([-1] * lead + [max(i - 1 + lead, 0) for i in range(len(words))] + blank)
    sites = {
        "blocks.1.attn.hook_pattern[2]": looks(governors),
        "blocks.0.attn.hook_pattern[3]": looks(previous),
    }
    # One copy of each sentence chooses the heads, the other scores them.
    totals = WordTotals(one, sentences, layout, np.array([0, 2, 1, 3]), least=1)
    with intervene(one.model, sites):
        pass_over(one, layout.encoded, [totals])
    found = totals.result()
    det = next(r for r in found.relations if (r.relation, r.direction) == ("det", "to governor"))
    assert (det.layer, det.head) == (1, 2)
    assert det.score == 1
    # Dependents whose governor is visible: in a causal model only those that stand after it.
    expected = [-1, -4] if name == "gpt2" else [1, 1, 1, -1, -4]
    assert det.n == len(expected)
    best = max(OFFSETS, key=lambda offset: expected.count(offset))
    assert det.baseline == pytest.approx(expected.count(best) / len(expected))
    assert det.offset == best
    assert det.gain == pytest.approx(1 - det.baseline)
    assert found.offset[0, 3] == -1
    # The first word has no previous one; a causal model's is not counted.
    assert found.positional[0, 3] >= (1 if name == "gpt2" else 7 / 9) - 1e-9
    assert found.positional.max() == found.positional[0, 3]


def test_a_relation_of_few_texts_is_left_out_however_many_arcs_they_have(tmp_path: Path) -> None:
    (tmp_path / "s.conllu").write_text((SENTENCES + "\n") * 4, encoding="utf-8")
    sentences = list(read_conllu(tmp_path / "s.conllu"))
    one = subject("bert")
    # 4 texts in each half
    layout, groups = Layout.of(one, sentences), np.arange(8) // 2 * 2 + np.arange(8) // 4
    for least, kinds in ((4, {"det", "obj"}), (5, set())):  # 10 arcs of det in each half
        totals = WordTotals(one, sentences, layout, groups, least=least)
        assert {relation for relation, _ in totals.kinds} == kinds


def test_of_random_heads_few_are_called_syntactic_and_a_planted_one_is() -> None:
    """Heads that look anywhere: the best of many gains on the half that chooses,
    and nothing on the other.
    """
    rng = np.random.default_rng(0)
    groups, heads, arcs = 60, 400, 3
    hits = rng.binomial(arcs, 0.3, size=(1, groups, 1, heads)).astype(float)
    hits[0, :, 0, 7] = rng.binomial(arcs, 0.8, size=groups)
    n, by_offset = np.full((1, groups), float(arcs)), np.zeros((1, groups, len(OFFSETS)))
    by_offset[0, :, 3] = rng.binomial(arcs, 0.3, size=groups)
    chooses = np.arange(groups) % 2 == 1
    boot = ClusterBootstrap(np.arange(groups // 2))
    planted = _Scores([0], [("det", "to governor")], hits, n, by_offset, chooses, boot)
    (best,) = planted.best_heads()
    assert (best.head, best.syntactic) == (7, True)
    assert best.score == pytest.approx(0.8, abs=0.08)
    assert [r.head for r in planted.syntactic_heads()][:1] == [7]
    assert len(planted.syntactic_heads()) <= 3
    hits[0, :, 0, 7] = rng.binomial(arcs, 0.3, size=groups)
    (null,) = _Scores([0], [("det", "to governor")], hits, n, by_offset, chooses, boot).best_heads()
    assert not null.syntactic
    assert abs(null.score - 0.3) < 0.1  # the half that chose it said more


SHARED = """# text = w3 w4 w55
1	w3	_	X	_	_	3	det	_	_
2	w4	_	X	_	_	1	det	_	_
3	w5	_	X	_	_	0	root	_	SpaceAfter=No
4	5	_	X	_	_	3	det	_	_
"""


def test_dependencies_between_words_of_one_token_are_left_out_and_counted(tmp_path: Path) -> None:
    """``w5`` and ``5`` are the token ``w55``:
    of three arcs one is between words that are the same.
    """
    (tmp_path / "s.conllu").write_text((SHARED + "\n") * 2, encoding="utf-8")
    sentences = list(read_conllu(tmp_path / "s.conllu"))
    one = subject("bert")
    layout = Layout.of(one, sentences)
    assert layout.spans[0][2] == layout.spans[0][3]
    totals = WordTotals(one, sentences, layout, np.array([0, 1]), least=1)
    lead = 1 if one.encode(["w3"])[0].special[0] else 0
    # Every word looks at the last token: w3 at its governor w5, and the two words of the token at
    # what else there is.
    last = [[lead + 2] * (lead + 3) + [-1] * 3] * 2
    with intervene(one.model, {"blocks.0.attn.hook_pattern[1]": looks(last)}):
        pass_over(one, layout.encoded, [totals])
    assert totals.result().n_shared == 2
    scores = {(r.direction, r.n): r.score for r in totals.result().relations}
    assert {n for _, n in scores} == {2}  # w3 and w4 have governors of other tokens
    assert totals.kinds == [("det", "to dependent"), ("det", "to governor")]
