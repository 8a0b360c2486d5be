"""What heads do on random tokens that come twice: there is nothing to read but the repetition.

    previous    mean A[q, q - 1]
    duplicate   mean A[q, q - T],      q in the second half
    induction   mean A[q, q - T + 1],  q in the second half: the token after the earlier copy of q

Source: Olsson et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

from ...hooks import capture, sites
from ..subject import Subject


def repeated_tokens(
    subject: Subject,
    length: int = 50,
    texts: int = 10,
    seed: int = 0,
    vocabulary: Sequence[int] | None = None,
) -> Int[Tensor, "texts pos"]:
    """Random tokens twice in a row, between what the model's texts begin and end with.

    Args:
        length: tokens before they come again; shortened to what the model's positions hold.
        vocabulary: ids to draw from; by default all that are not special.
    """
    lead, end = _around(subject)
    length = min(length, (subject.max_length - len(lead) - len(end)) // 2)
    if vocabulary is None:
        vocabulary = sorted(
            set(range(len(subject.tokenizer))) - set(subject.tokenizer.all_special_ids)
        )
    pool, generator = torch.tensor(vocabulary), torch.Generator().manual_seed(seed)
    # Random tokens: nothing but the repetition tells what comes next.
    drawn = pool[torch.randint(len(pool), (texts, length), generator=generator)]
    return torch.cat(
        [torch.tensor([lead] * texts).long(), drawn, drawn, torch.tensor([end] * texts).long()],
        dim=1,
    )


def _around(subject: Subject) -> tuple[list[int], list[int]]:
    """The ids that stand before and after every text."""
    text = subject.encode(["a"])[0]
    first = text.special.index(False)
    ids = list(zip(text.ids, text.special, strict=True))
    return [i for i, s in ids[:first] if s], [i for i, s in ids[first:] if s]


def repetition_scores(
    subject: Subject,
    length: int = 50,
    texts: int = 10,
    seed: int = 0,
    vocabulary: Sequence[int] | None = None,
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """The scores ``previous``, ``duplicate`` and ``induction`` of every head.

    Raises:
        InputError: attention that is NaN.
    """
    ids = repeated_tokens(subject, length, texts, seed, vocabulary).to(subject.device)
    before, after = _around(subject)
    lead, half = len(before), (ids.shape[1] - len(before) - len(after)) // 2
    names = sites(subject.model, "blocks.*.attn.hook_pattern")
    # The ids are [before] A A [after]. From the second A on, the token's earlier occurrence is
    # `half` back; an induction head looks at what came behind that one.
    second = torch.arange(lead + half, lead + 2 * half)
    offsets = {
        "previous": (torch.arange(lead + 1, lead + 2 * half), 1),
        "duplicate": (second, half),
        "induction": (second, half - 1),
    }
    by_layer: dict[str, list[np.ndarray]] = {name: [] for name in offsets}
    with torch.no_grad(), capture(subject.model, *names) as acts:
        subject.body(input_ids=ids, attention_mask=torch.ones_like(ids))
        for site in names:
            for name, (queries, back) in offsets.items():
                looks_back = acts[site][:, :, queries, queries - back]
                by_layer[name].append(looks_back.double().mean((0, 2)).cpu().numpy())
    scores = {name: np.stack(rows) for name, rows in by_layer.items()}
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise InputError(
            f"{subject.name} gives NaN on random tokens of its vocabulary: "
            "an embedding or a weight is not a finite number"
        )
    return scores
