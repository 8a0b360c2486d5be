"""What heads do, told from where they look: on repeated random tokens, and on annotated sentences.

On random tokens that come twice there is nothing to read but the repetition, so a score is what the head does by itself:

    previous    mean A[q, q - 1]
    duplicate   mean A[q, q - T],      q in the second half
    induction   mean A[q, q - T + 1],  q in the second half: the token after the earlier copy of q

On sentences, a head follows a dependency if its most attended word is the governor (or the dependent) more often than
the best fixed offset would be; a positional head looks at one offset nearly always. Attention between words is summed
over the attended word's tokens and averaged over the attending word's (Clark et al. 2019). Sources: Olsson et al. 2022;
Voita et al. 2019, section 5.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.corpus import Sentence
from experiments.features import Layout
from experiments.subject import Subject
from experiments.words import Encoded
from hooks import Site, capture, sites
from probes.evaluation import ClusterBootstrap

OFFSETS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
POSITIONAL = 0.9
"""Share of tokens whose most attended token is at one offset, from which a head is called positional (Voita et al. 2019)."""
SYNTACTIC = 0.1
"""By how much a head must beat the best fixed offset to be called syntactic (Voita et al. 2019)."""


def repeated_tokens(
    subject: Subject, length: int = 50, texts: int = 10, seed: int = 0, vocabulary: Sequence[int] | None = None
) -> Int[Tensor, "texts pos"]:
    """Random tokens twice in a row, between what the model's texts begin and end with.

    Args:
        length: tokens before they come again; shortened to what the model's positions hold.
        vocabulary: ids to draw from; by default all that are not special.
    """
    lead, end = _around(subject)
    length = min(length, (subject.max_length - len(lead) - len(end)) // 2)
    if vocabulary is None:
        vocabulary = sorted(set(range(len(subject.tokenizer))) - set(subject.tokenizer.all_special_ids))
    pool, generator = torch.tensor(vocabulary), torch.Generator().manual_seed(seed)
    drawn = pool[torch.randint(len(pool), (texts, length), generator=generator)]
    return torch.cat([torch.tensor([lead] * texts).long(), drawn, drawn, torch.tensor([end] * texts).long()], dim=1)


def _around(subject: Subject) -> tuple[list[int], list[int]]:
    """The ids that stand before and after every text."""
    text = subject.encode(["a"])[0]
    first = text.special.index(False)
    ids = list(zip(text.ids, text.special, strict=True))
    return [i for i, s in ids[:first] if s], [i for i, s in ids[first:] if s]


def text_patterns(subject: Subject, texts: Sequence[Encoded], most: int = 1 << 20) -> dict[str, Any] | None:
    """Every head's attention on the shortest of some texts, as a report shows it; None for more than ``most`` weights.

    Returns:
        ``tokens``; ``layers`` that have a pattern; ``heads``; ``weights``, one byte each, round(255 w), in the order
        layer, head, query, key, as base64.
    """
    names = sites(subject.model, "blocks.*.attn.hook_pattern")
    shortest = min(texts, key=len)
    (batch,) = subject.batches([shortest])
    with torch.no_grad(), capture(subject.model, *names) as acts:
        subject.model(**batch.inputs(subject.device))
    patterns = torch.stack([acts[name][0].float() for name in names]).cpu()
    if patterns.numel() > most:
        return None
    return {
        "tokens": [subject.token(token) for token in shortest.ids],
        "layers": [Site.parse(name).layer for name in names],
        "heads": patterns.shape[1],
        "weights": base64.b64encode((255 * patterns).round().to(torch.uint8).numpy().tobytes()).decode(),
    }


def repetition_scores(
    subject: Subject, length: int = 50, texts: int = 10, seed: int = 0, vocabulary: Sequence[int] | None = None
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """The scores ``previous``, ``duplicate`` and ``induction`` of every head."""
    ids = repeated_tokens(subject, length, texts, seed, vocabulary).to(subject.device)
    before, after = _around(subject)
    lead, half = len(before), (ids.shape[1] - len(before) - len(after)) // 2
    names = sites(subject.model, "blocks.*.attn.hook_pattern")
    second = torch.arange(lead + half, lead + 2 * half)
    offsets = {
        "previous": (torch.arange(lead + 1, lead + 2 * half), 1),
        "duplicate": (second, half),
        "induction": (second, half - 1),
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in offsets}
    with torch.no_grad(), capture(subject.model, *names) as acts:
        subject.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        for site in names:
            for name, (queries, back) in offsets.items():
                found[name].append(acts[site][:, :, queries, queries - back].double().mean((0, 2)).cpu().numpy())
    return {name: np.stack(rows) for name, rows in found.items()}


@dataclass(frozen=True)
class RelationScore:
    """How often a head's most attended word is the one that a dependency names.

    Args:
        direction: ``to governor`` (from the dependent) or ``to dependent`` (from the governor).
        score: share of the dependencies; ``baseline`` that of the best fixed ``offset``.
        gain: score - baseline, with its interval over sentences.
    """

    layer: int
    head: int
    relation: str
    direction: str
    score: float
    baseline: float
    offset: int
    gain: float
    low: float
    high: float
    n: int

    @property
    def syntactic(self) -> bool:
        """Clearly better than every fixed offset, by at least ``SYNTACTIC``."""
        return self.gain >= SYNTACTIC and self.low > 0


@dataclass(frozen=True)
class SentenceRoles:
    """What heads do on annotated sentences.

    Args:
        relations: the best head for each relation and direction.
        positional: share of words whose most attended word is at the head's favourite offset, and that offset.
        n_left_out: words without tokens, or sentences of one word.
    """

    relations: list[RelationScore]
    positional: Float[np.ndarray, "layer head"]
    offset: Int[np.ndarray, "layer head"]
    n_left_out: int


def sentence_roles(
    subject: Subject, sentences: Sequence[Sentence], least: int = 20, batch_tokens: int = 4096, seed: int = 0
) -> SentenceRoles:
    """Which heads follow which dependencies, and which look at fixed places.

    In a causal model only what stands before a word can be seen from it: other dependencies are not counted.

    Args:
        least: relations seen less often are left out.
    """
    layout = Layout.of(subject, sentences)
    names = sites(subject.model, "blocks.*.attn.hook_pattern")
    hits: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    by_offset: dict[tuple[str, str], list[np.ndarray]] = {}
    places = np.zeros(0)
    seen = 0
    for batch in subject.batches(layout.encoded, batch_tokens):
        with torch.no_grad(), capture(subject.model, *names) as acts:
            subject.model(**batch.inputs(subject.device))
        patterns = torch.stack([acts[name].float() for name in names]).cpu()  # layer batch head query key
        spans = batch.spans(layout.spans)
        for row, number in enumerate(batch.rows):
            sentence = sentences[number]
            have = [i for i, span in enumerate(spans[row]) if span is not None]
            if len(have) < 2:
                continue
            best = _most_attended(patterns[:, row], [spans[row][i] for i in have], subject.causal)
            where = {sentence.words[i].id: place for place, i in enumerate(have)}
            first = 1 if subject.causal else 0
            relative = best[first:] - np.arange(first, len(have))[:, None, None]
            counted = np.stack([(relative == offset).sum(0) for offset in OFFSETS])
            places = counted if not seen else places + counted
            seen += len(have) - first
            for i in have:
                word = sentence.words[i]
                if word.head not in where:
                    continue
                dependent, governor = where[word.id], where[word.head]
                for direction, query, key in (
                    ("to governor", dependent, governor),
                    ("to dependent", governor, dependent),
                ):
                    if subject.causal and key > query:
                        continue
                    kind = (word.deprel, direction)
                    hits.setdefault(kind, []).append((number, best[query] == key))
                    by_offset.setdefault(kind, []).append(np.array([key - query == offset for offset in OFFSETS]))
    relations = [
        _best_head(kind, hits[kind], by_offset[kind], seed) for kind in sorted(hits) if len(hits[kind]) >= least
    ]
    left_out = sum(len(line) for line in layout.spans) - layout.n_rows
    favourite = places.argmax(0)
    return SentenceRoles(relations, places.max(0) / max(seen, 1), np.array(OFFSETS)[favourite], left_out)


def _most_attended(
    patterns: Float[Tensor, "layer head query key"], spans: Sequence[slice | None], causal: bool
) -> Int[np.ndarray, "word layer head"]:
    """Each word's most attended other word that it can see."""
    to_words = torch.stack([patterns[..., span].sum(-1) for span in spans], dim=-1)  # layer head query word
    words = torch.stack([to_words[:, :, span].mean(2) for span in spans], dim=2)  # layer head word word
    n = words.shape[-1]
    hidden = torch.eye(n, dtype=torch.bool)
    if causal:
        hidden |= torch.ones(n, n, dtype=torch.bool).triu()
    return words.masked_fill(hidden, -1.0).argmax(-1).permute(2, 0, 1).numpy()


def _best_head(
    kind: tuple[str, str], hits: Sequence[tuple[int, np.ndarray]], by_offset: Sequence[np.ndarray], seed: int
) -> RelationScore:
    """The head with the highest share of hits, against the offset with the highest."""
    right = np.stack([hit for _, hit in hits]).astype(float)  # dependency layer head
    fixed = np.stack(by_offset).astype(float)
    means, baselines = right.mean(0), fixed.mean(0)
    layer, head = (int(i) for i in np.unravel_index(int(means.argmax()), means.shape))
    offset = int(baselines.argmax())
    gain = ClusterBootstrap(np.array([number for number, _ in hits]), seed=seed).mean(
        right[:, layer, head] - fixed[:, offset]
    )
    return RelationScore(
        layer=layer,
        head=head,
        relation=kind[0],
        direction=kind[1],
        score=float(means[layer, head]),
        baseline=float(baselines[offset]),
        offset=OFFSETS[offset],
        gain=gain.value,
        low=gain.low,
        high=gain.high,
        n=len(hits),
    )
