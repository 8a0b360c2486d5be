"""Which token stands in front of every text.

1. A tokenizer that puts a special token in front itself (CLS, BOS) is left to do so.
2. Otherwise a causal language model gets a BOS: the declared one, unless another candidate (the
   other special tokens that open texts, or none at all) predicts a few plain sentences better by
   more than `MARGIN` nats a token. Models fine-tuned for chat declare a token that never opened a
   text in their pretraining.
3. An encoder without such a token gets none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...hooks.configuration import setting
from .encoding import read_with
from .errors import SubjectError

if TYPE_CHECKING:
    from .subject import Subject

MARGIN = 0.1
"""Nats a token by which another candidate must win against the declared BOS."""

OPENERS = ("<|endoftext|>", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]", "</s>")
"""Tokens that open texts in pretraining, tried where the vocabulary has them."""

SENTENCES = (
    "The train from the coast was late again, so we walked home through the park.",
    "She put the letter on the table and asked her brother to read it.",
    "Most of the houses in the old town were built in the eighteenth century.",
    "If it rains tomorrow, the children will stay inside and play a game.",
)


@dataclass(frozen=True)
class Choice:
    """The token in front (None for none), why, and what replaces the tokenizer's own prefix."""

    token: int | None
    reason: str
    prefix: tuple[int, ...] | None


def decide_bos(subject: Subject, asked: str | int) -> Choice:
    """Decide as the module says, or do as `asked`.

    Raises:
        SubjectError: a token that the vocabulary lacks, or "always" where none is declared.
    """
    prefix = _own_prefix(subject)
    declared = _declared(subject)
    if isinstance(asked, bool) or not isinstance(asked, (str, int)):
        raise SubjectError(f"bos={asked!r}: expected a token, its id, or a word such as 'auto'")
    if asked == "never":
        return Choice(None, "no token in front, as asked", ())
    if asked == "tokenizer" or (asked == "auto" and prefix):
        if not prefix:
            return Choice(None, "the tokenizer puts no special token in front", None)
        return Choice(
            prefix[0], f"{subject.token(prefix[0])} is put in front by the tokenizer", None
        )
    if asked == "always":
        if declared is None:
            raise SubjectError(
                "bos='always': neither tokenizer nor configuration declares a BOS; name a token"
            )
        return Choice(declared, f"the declared {subject.token(declared)}, as asked", (declared,))
    if asked != "auto":
        token = _lookup(subject, asked)
        return Choice(token, f"{subject.token(token)}, as asked", (token,))
    if not subject.causal:
        return Choice(None, "an encoder whose tokenizer adds no special token at the start", None)
    return _measured(subject, declared)


def _measured(subject: Subject, declared: int | None) -> Choice:
    default = (
        Choice(None, "a causal model that declares no BOS", None)
        if declared is None
        else Choice(
            declared,
            f"the declared {subject.token(declared)}, which the tokenizer does not add",
            (declared,),
        )
    )
    if subject.random_seed is not None or not _has_head(subject):
        return default
    losses = _losses(subject, _candidates(subject, declared))
    best = min(losses, key=lambda token: losses[token])
    table = ", ".join(
        f"{_spell(subject, token)} {loss:.2f}"
        for token, loss in sorted(losses.items(), key=lambda item: item[1])
    )
    if len(losses) < 2 or losses[best] > math.log(subject.vocabulary) - 1:
        return default  # a model that does not predict English has no say
    if losses[best] < losses[declared] - MARGIN:
        reason = (
            f"{_spell(subject, best)} predicts plain sentences best, better than the declared "
            f"{_spell(subject, declared)} (nats a token: {table})"
        )
        return Choice(best, reason, () if best is None else (best,))
    return Choice(default.token, f"{default.reason} (nats a token: {table})", default.prefix)


def _candidates(subject: Subject, declared: int | None) -> list[int | None]:
    tokenizer, config = subject.tokenizer, subject.config
    openers = [t for t in map(tokenizer.get_vocab().get, OPENERS) if t is not None]
    ends = [tokenizer.eos_token_id, _first(setting(config, "eos_token_id"))]
    candidates: list[int | None] = [declared, None, _first(setting(config, "bos_token_id"))]
    for token in (*openers, *ends):
        if token is not None and token < subject.vocabulary:
            candidates.append(int(token))
    return [t for t in dict.fromkeys(candidates) if t is None or 0 <= t < subject.vocabulary]


def _losses(subject: Subject, candidates: Sequence[int | None]) -> dict[int | None, float]:
    """Mean cross-entropy in nats of the sentences' tokens from the second on, behind each token."""
    # Those behind a token are as long as each other, and share a forward without padding.
    tokens = [token for token in candidates if token is not None]
    losses = dict.fromkeys(candidates, 0.0)
    for group in (tokens, [None] if None in losses else []):
        if group:
            losses.update(zip(group, _losses_behind(subject, group), strict=True))
    return losses


def _losses_behind(subject: Subject, group: Sequence[int | None]) -> list[float]:
    """Those of several tokens, or of none in front."""
    prefixes = [[] if token is None else [token] for token in group]
    n_front = len(prefixes[0])
    room = subject._max_length() - n_front
    totals, count = torch.zeros(len(group), dtype=torch.float64), 0
    for sentence in SENTENCES:
        text = read_with(subject._tokenizer, sentence, add_special_tokens=False)["input_ids"][:room]
        if len(text) < 2:
            continue
        ids = torch.tensor([prefix + text for prefix in prefixes], device=subject.device)
        with torch.inference_mode():
            logits = subject.model(input_ids=ids).logits.double()
        log_p = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])
        totals -= log_p[:, n_front:, 0].sum(1).cpu()
        count += len(text) - 1
    return (totals / max(count, 1)).tolist()


def _own_prefix(subject: Subject) -> tuple[int, ...]:
    tokenizer: Any = subject._tokenizer
    out = read_with(tokenizer, "a", return_special_tokens_mask=True)
    special = out["special_tokens_mask"]
    front = next((i for i, s in enumerate(special) if not s), 0)
    return tuple(out["input_ids"][:front])


def _declared(subject: Subject) -> int | None:
    for token_id in (subject.tokenizer.bos_token_id, setting(subject.config, "bos_token_id")):
        token = _first(token_id)
        if token is not None and 0 <= token < subject.vocabulary:
            return token
    return None


def _lookup(subject: Subject, asked: str | int) -> int:
    vocabulary = subject.tokenizer.get_vocab()
    token = asked if isinstance(asked, int) else vocabulary.get(asked, -1)
    if not 0 <= token < subject.vocabulary:
        special = ", ".join(map(str, subject.tokenizer.all_special_tokens)) or "none"
        raise SubjectError(
            f"bos={asked!r} is no token of this vocabulary of {subject.vocabulary} "
            f"(its special tokens: {special}; or 'auto', 'always', 'never', 'tokenizer')"
        )
    return token


def _has_head(subject: Subject) -> bool:
    return getattr(subject.model, "get_output_embeddings", lambda: None)() is not None


def _spell(subject: Subject, token: int | None) -> str:
    return "none" if token is None else subject.token(token)


def _first(value: Any) -> int | None:
    """The id, or the first of several that a configuration lists."""
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return value if isinstance(value, int) else None
