"""The logit lens: what the model would say next if each layer were its last.

The residual stream in front of each block goes through the model's own final norm and head
(nostalgebraist 2020); that these two are the model's end is measured first (`hooks.Resume`). An
early layer that predicts badly here may hold the answer in directions that the head does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from ....hooks import Resume
from ....hooks.output_heads import language_head
from ....probes.evaluation import ClusterBootstrap
from ...report.schema import estimated
from ...subject import Subject
from ...subject.word_spans import Encoded
from .records import LensRecord


class LensError(LayerscopeError, ValueError):
    """A model through whose end the layers cannot be read."""


@dataclass(frozen=True)
class Lens:
    """What each layer says of the next token.

    Args:
        log2p: log2 p(next token) at each layer and place; the last row is the model itself.
        rank: how many tokens are likelier than the next one.
        top: the likeliest token, and ``top_p`` its probability.
        texts: the text of each place.
    """

    log2p: Float[np.ndarray, "layer n"]
    rank: Int[np.ndarray, "layer n"]
    top: Int[np.ndarray, "layer n"]
    top_p: Float[np.ndarray, "layer n"]
    texts: Int[np.ndarray, " n"]

    def records(self, seed: int = 0) -> list[LensRecord]:
        """Each layer's mean with its interval over texts."""
        boot = ClusterBootstrap(self.texts, seed=seed)
        records = []
        for layer, (log2p, rank) in enumerate(zip(self.log2p, self.rank, strict=True)):
            mean, right = boot.mean(log2p), boot.mean(rank == 0)
            records.append(
                LensRecord(
                    layer=layer - 1,
                    **estimated("log2p", mean),
                    **estimated("top1", right),
                    median_rank=float(np.median(rank)),
                )
            )
        return records


def why_not(subject: Subject) -> str | None:
    """Why this model has no logit lens, or None."""
    if not subject.causal:
        return "a token of this model sees the next ones, so that it does not predict them"
    if language_head(subject.model) is None:
        return f"{type(subject.model).__name__} has no language-model head"
    return None


def logit_lens(subject: Subject, encoded: Sequence[Encoded], batch_tokens: int = 256) -> Lens:
    """Read every layer of some texts.

    Raises:
        LensError: the final norm and the head are not the model's end.
    """
    reason = why_not(subject)
    if reason is not None:
        raise LensError(f"no logit lens: {reason}")
    of_batches: list[Tensor] = []
    texts: list[int] = []
    usable = [text for text in encoded if len(text) > 1]
    for batch in subject.batches(usable, batch_tokens):
        inputs = batch.inputs(subject.device)
        mask = inputs["attention_mask"].bool()
        is_read = mask[:, :-1] & mask[:, 1:]  # tokens that another one follows
        targets = inputs["input_ids"][:, 1:][is_read]
        with torch.no_grad():
            clean = Resume(subject.model, inputs)
            if not clean.exact:
                raise LensError(
                    "no logit lens: final norm and head do not give the logits of "
                    f"{type(subject.model).__name__}"
                )
            layers = []
            for layer in range(clean.n_layers + 1):
                is_end = layer == clean.n_layers
                # No block runs: the residual stream goes to the final norm as it is.
                logits = clean.logits if is_end else clean.run(0, clean.residual(layer), order=[])
                read = _read(logits[:, :-1][is_read].float(), targets)
                layers.append(torch.stack(read))
        of_batches.append(torch.stack(layers).cpu().double())
        texts += [batch.rows[row] for row in is_read.nonzero()[:, 0].tolist()]
    whole = torch.cat(of_batches, dim=2).numpy()
    log2p, rank, top, top_p = whole.transpose(1, 0, 2)
    return Lens(log2p, rank.astype(int), top.astype(int), top_p, np.array(texts))


def _read(logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"]) -> list[Tensor]:
    """log2 p and rank of the target, the likeliest token and its p."""
    logp = logits.log_softmax(-1)
    of_target = logp.gather(1, targets[:, None])
    best, token = logp.max(-1)
    return [
        of_target[:, 0] / np.log(2),
        (logp > of_target).sum(-1).float(),
        token.float(),
        best.exp(),
    ]
