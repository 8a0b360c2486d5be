r"""OV and QK circuits of heads, from the weights alone (Elhage et al. 2021).

    W_OV = W_V W_O      what a head writes for what it reads:  x -> x W_OV
    W_QK = W_Q W_K'     what it looks for:
                        score(x, y) = x W_QK y' / sqrt(d_head)

    of tokens           N(E) W_OV G U'          N(E) W_QK N(E)'
    eigenvalue share    sum(lambda) / sum |lambda|, 1 where a token raises itself (copying score),
                        -1 where it lowers itself
    composition         ||W_OV R||_F / (||W_OV||_F ||R||_F),
                        R = W_QK (Q), W_QK' (K), W_OV (V) of a later head;
                        unrelated matrices give about 1 / sqrt(d_model)

What is not in a product of weights is treated so. Norms: gains are folded into the weights, and a
layer norm's mean is taken out, scales are left out; an embedding E is put through the block's own
norm N without its bias, G is the gain of the final norm. Biases are left out. Rotary positions: the
circuit is that of equal positions, where the rotations cancel; ALiBi and learned positions are
added to it and left out. Grouped heads: each query head has its group's key and value weights.

A family is refused by name where a head is no such product: values or queries read from a latent
and not from the stream, outputs that are gated or normed head by head; normed queries and keys have
no QK circuit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks import anatomy, capture, sites
from ...hooks.configuration import setting
from ...hooks.placement import weight_of
from ..attention.norms import output_weights
from ..subject import Subject
from .frozen_norm import LinearNorm, linear_norm
from .streams import LensError

PROVED_ON = 8
"""Tokens on which it is measured that a head is the product of its weights."""
TOLERANCE = 1e-3
"""Largest difference in that, relative to the largest value."""
ROWS = 1 << 11
"""Tokens whose pairs are scored at a time."""


@dataclass(frozen=True)
class Heads:
    """The weights of a block's heads, with the norms around the attention folded in.

    Args:
        q, k: None where queries and keys are normed.
        reading: the norm in front of the attention; None where it reads the stream itself.
    """

    q: Float[Tensor, "head d_model d_head"] | None
    k: Float[Tensor, "head d_model d_head"] | None
    v: Float[Tensor, "head d_model d_head"]
    o: Float[Tensor, "head d_head d_model"]
    reading: LinearNorm | None


@dataclass(frozen=True)
class Pair:
    """Two tokens and what a circuit gives from the first to the second."""

    source: int
    target: int
    value: float


def all_heads(subject: Subject, fold: bool = True) -> dict[int, Heads]:
    """The heads of every block with attention.

    Args:
        fold: False leaves gains and means of the norms out.

    Raises:
        LensError: a family whose heads are no products of weights.
    """
    model = subject.model
    known = set(sites(model))
    layers = [n for n in range(subject.n_layers) if f"blocks.{n}.attn.hook_v" in known]
    if not layers:
        raise LensError(f"{subject.name}: the values of single heads cannot be read: no circuits")
    tried = _Trial.of(subject, layers)
    return {layer: _heads(subject, layer, tried, fold) for layer in layers}


class _Trial:
    """What modules took and gave in one short forward: it proves the weights."""

    def __init__(self) -> None:
        self.taken: dict[nn.Module, Tensor] = {}
        self.given: dict[nn.Module, Tensor] = {}
        self.acts: dict[str, Tensor] = {}

    @classmethod
    def of(cls, subject: Subject, layers: list[int]) -> _Trial:
        """Run the model once on some tokens."""
        trial = cls()

        def keep(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            given = out[0] if isinstance(out, tuple) else out
            first = args[0] if args else kwargs.get("hidden_states")
            if isinstance(first, Tensor) and isinstance(given, Tensor):
                trial.taken[module], trial.given[module] = first, given

        parts = ("attn.hook_v", "attn.hook_z", "hook_attn_out")
        names = [f"blocks.{n}.{part}" for n in layers for part in parts]
        known = set(sites(subject.model))
        if missing := [name for name in names if name not in known]:
            raise LensError(
                f"{subject.name}: circuits need {missing[0]}, which cannot be read on it"
            )
        vocabulary = int(setting(subject.config, "vocab_size"))
        ids = torch.arange(PROVED_ON, device=subject.device)[None] % vocabulary
        modules = list(subject.model.modules())
        handles = [one.register_forward_hook(keep, with_kwargs=True) for one in modules]
        try:
            with torch.no_grad(), capture(subject.model, *names) as acts:
                subject.model(input_ids=ids)
            trial.acts = {name: acts[name][0].float() for name in names}
        finally:
            for handle in handles:
                handle.remove()
        return trial


def _heads(subject: Subject, layer: int, tried: _Trial, fold: bool) -> Heads:
    """One block."""
    name, model = f"{subject.name}: block {layer}", subject.model
    out = output_weights(model, layer)
    if out is None:
        raise LensError(f"{name}: its output projection is no plain matrix: no circuits")
    n_heads = len(out)
    v_module = _module(model, layer, "attn.hook_v")
    v = _reading_weights(subject, layer, "attn.hook_v", tried, n_heads)
    _require_values_are_written(name, layer, tried, n_heads)
    block = model.get_submodule(anatomy(model).places[f"blocks.{layer}.hook_resid_pre"].path)
    norm = _norm_in_front(name, block, tried, tried.taken[v_module])
    reading = None if norm is None else _linear(name, norm, tried)
    writing = _norm_behind(name, layer, model, block, tried) if fold else None
    attention = anatomy(model).places[f"blocks.{layer}.attn.hook_z"].path.rpartition(".")[0]
    raw = {"v": v}
    if not _norms_of_queries(model.get_submodule(attention)):
        for part in ("q", "k"):
            raw[part] = _reading_weights(subject, layer, f"attn.hook_{part}", tried, n_heads)
    if fold and reading is not None:
        raw = {part: reading.in_front(weight) for part, weight in raw.items()}
    o = out.float() if writing is None else writing.behind(out.float())
    return Heads(raw.get("q"), raw.get("k"), raw["v"], o, reading)


def _module(model: nn.Module, layer: int, part: str) -> nn.Module:
    """The projection whose output a site is."""
    return model.get_submodule(anatomy(model).places[f"blocks.{layer}.{part}"].path)


def _reading_weights(
    subject: Subject, layer: int, part: str, tried: _Trial, n_heads: int
) -> Float[Tensor, "head d_model d_head"]:
    """The weights of queries, keys or values by query head,
    proved on what the module took and gave.
    """
    name = f"{subject.name}: block {layer}"
    place = anatomy(subject.model).places.get(f"blocks.{layer}.{part}")
    if place is None:
        raise LensError(f"{name}: {part} cannot be read on this model: no circuits")
    module: Any = subject.model.get_submodule(place.path)
    rows = weight_of(module) if place.end == "output" else None
    if rows is None:
        raise LensError(f"{name}: {part} is no output of a linear projection: no circuits")
    rows = rows.float()
    taken, given = tried.taken[module].float(), tried.given[module].float()
    if rows.shape[0] != subject.d_model:
        raise LensError(
            f"{name}: {part} is read from {rows.shape[0]} numbers and not from the stream "
            f"of {subject.d_model}: no circuits"
        )
    bias = 0 if getattr(module, "bias", None) is None else module.bias.detach().float()
    error = float((taken @ rows + bias - given).abs().max())
    if error > TOLERANCE * float(given.abs().max()):
        raise LensError(f"{name}: {part} does not equal weights times input: no circuits")
    heads = place.view(rows[None])[0].transpose(0, 1)
    return heads.repeat_interleave(n_heads // len(heads), dim=0)


def _require_values_are_written(name: str, layer: int, tried: _Trial, n_heads: int) -> None:
    """The first token sees itself alone: what its heads write is its value,
    or less of it where there is a sink.
    """
    z = tried.acts[f"blocks.{layer}.attn.hook_z"][0]
    values = tried.acts[f"blocks.{layer}.attn.hook_v"][0]
    value = values.repeat_interleave(n_heads // len(values), dim=0)
    if z.shape == value.shape:
        # The share of the value that is written, by least squares.
        squares = (value * value).sum(-1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
        share = (z * value).sum(-1, keepdim=True) / squares
        error = float((z - share * value).abs().max())
        is_written = error <= TOLERANCE * float(value.abs().max())
        if is_written and bool((share >= 0).all()):
            return
    raise LensError(f"{name}: heads do not write their weighted values: no circuits")


def _norm_in_front(name: str, block: nn.Module, tried: _Trial, taken: Tensor) -> nn.Module | None:
    """The module whose output the attention reads; None where it reads the stream."""
    stream = tried.taken.get(block)
    if stream is not None and torch.equal(stream, taken):
        return None
    for module in block.modules():
        given = tried.given.get(module)
        has_parts = any(True for _ in module.children())
        if given is not None and not has_parts and given is taken:
            return module
    for module in block.modules():
        given = tried.given.get(module)
        if given is not None and given.shape == taken.shape and torch.equal(given, taken):
            return module
    raise LensError(f"{name}: heads do not read a norm of the stream: no circuits")


def _norm_behind(
    name: str, layer: int, model: nn.Module, block: nn.Module, tried: _Trial
) -> LinearNorm | None:
    """The norm between the output projection and the stream; None where there is none,
    or only a factor.
    """
    projection = _module(model, layer, "attn.hook_z")
    written, added = tried.given[projection][0].float(), tried.acts[f"blocks.{layer}.hook_attn_out"]
    factor = (written * added).sum() / (written * written).sum()
    if float((factor * written - added).abs().max()) <= TOLERANCE * float(added.abs().max()):
        return None
    for module in block.modules():
        given = tried.given.get(module)
        if given is None or module is projection or given[0].shape != added.shape:
            continue
        if torch.equal(given[0].float(), added):
            return _linear(name, module, tried)
    raise LensError(f"{name}: heads do not add their output to the stream: no circuits")


def _linear(name: str, norm: nn.Module, tried: _Trial) -> LinearNorm:
    """The linear form of a norm, at the last token of the trial."""
    taken, given = tried.taken[norm][0, -1].float(), tried.given[norm][0, -1].float()
    return linear_norm(norm, taken, given, f"{name}: its norm")


def _norms_of_queries(attention: nn.Module) -> list[str]:
    """Modules that norm queries or keys behind their projections."""
    return [
        name
        for name, _ in attention.named_children()
        if "norm" in name.lower() and name.lower()[0] in "qk"
    ]


# -- circuits of tokens


@dataclass(frozen=True)
class TokenSides:
    """What tokens are to heads: read through their norm without its gain, and written through the
    final one.

    Args:
        crossed: unembedded' embedded.
        gram: embedded' embedded.
    """

    embedded: Float[Tensor, "vocab d_model"]
    unembedded: Float[Tensor, "vocab d_model"]
    crossed: Float[Tensor, "d_model d_model"]
    gram: Float[Tensor, "d_model d_model"]


def token_sides(subject: Subject, heads: Heads) -> TokenSides:
    """Embeddings as the heads of a block read them, and the head's rows in front of the final norm.

    Raises:
        LensError: embeddings or head of another width than the stream, or no plain final norm.
    """
    model: Any = subject.model
    place = anatomy(model).places.get("ln_final.hook_normalized")
    embedding, head = model.get_input_embeddings(), weight_of(model.get_output_embeddings())
    embedded = getattr(embedding, "weight", None)
    parts = [] if embedded is None or head is None else [embedded, head.T]
    widths = {int(part.shape[-1]) for part in parts}
    if place is None or embedded is None or head is None or widths != {subject.d_model}:
        raise LensError(f"{subject.name}: expected embeddings, a final norm and a linear head")
    embedded, head = embedded.detach().float(), head.float()
    final = model.get_submodule(place.path)
    row = embedding.weight[-1:].detach()
    with torch.no_grad():
        normed = final(row)[0].float()
    norm = linear_norm(final, row[0].float(), normed, f"{subject.name}: its final norm")
    if heads.reading is not None:
        embedded = heads.reading.unit(embedded)
    unembedded = norm.in_front(head).T
    return TokenSides(embedded, unembedded, unembedded.T @ embedded, embedded.T @ embedded)


def ov_factors(heads: Heads, head: int, tokens: TokenSides) -> tuple[Tensor, Tensor]:
    """A [vocab, d_head] and B [d_head, vocab] of the OV circuit of tokens."""
    return tokens.embedded @ heads.v[head], heads.o[head] @ tokens.unembedded.T


def qk_factors(heads: Heads, head: int, tokens: TokenSides) -> tuple[Tensor, Tensor] | None:
    """The same of the QK circuit, from query to key, over sqrt(d_head);
    None where there is none.
    """
    if heads.q is None or heads.k is None:
        return None
    q, k = heads.q[head], heads.k[head]
    return tokens.embedded @ q / math.sqrt(q.shape[-1]), (tokens.embedded @ k).T


def ov_shares(heads: Heads, tokens: TokenSides) -> list[float]:
    """The eigenvalue share of every head's OV circuit of tokens: its copying score."""
    return _shares(heads.o @ tokens.crossed @ heads.v)


def qk_shares(heads: Heads, tokens: TokenSides) -> list[float | None]:
    """The same of the QK circuits: above 0 where tokens look for their like;
    None where there is none.
    """
    if heads.q is None or heads.k is None:
        return [None] * len(heads.v)
    return [*_shares(heads.k.transpose(1, 2) @ tokens.gram @ heads.q)]


def _shares(small: Float[Tensor, "head d_head d_head"]) -> list[float]:
    """sum(lambda) / sum |lambda| of B A, whose eigenvalues are those of A B that are not 0."""
    values = torch.linalg.eigvals(small.double().cpu())
    return (values.real.sum(-1) / values.abs().sum(-1).clamp(min=1e-30)).tolist()


def top_pairs(
    a: Float[Tensor, "n d_head"], b: Float[Tensor, "d_head m"], count: int = 10
) -> list[Pair]:
    """The largest entries of A B, exactly; blocks that cannot hold one are not multiplied.

    No entry of row i is larger than ||a_i|| max ||b_j||, so rows are taken by falling norm until
    that is too small.
    """
    n_columns = b.shape[1]
    order = a.norm(dim=1).argsort(descending=True)
    longest = float(b.norm(dim=0).max())
    best = torch.full((count,), -math.inf, device=a.device)
    places = torch.zeros(count, 2, dtype=torch.long, device=a.device)
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        bound = float(a[rows[0]].norm()) * longest
        if bound < float(best[-1]):
            break
        entries = (a[rows] @ b).flatten()
        values, flat = entries.topk(min(count, len(entries)))
        of_block = torch.stack([rows[flat // n_columns], flat % n_columns], dim=1)
        best, kept = torch.cat([best, values]).topk(count)
        places = torch.cat([places, of_block])[kept]
    pairs = []
    for (source, target), value in zip(places.tolist(), best.tolist(), strict=True):
        if math.isfinite(value):
            pairs.append(Pair(source, target, value))
    return pairs


# -- between heads


def composition_scores(
    heads: dict[int, Heads], mode: str
) -> Float[Tensor, "writer head reader head"]:
    """How much of what each head writes each head of a later block reads as Q, K or V; 0 elsewhere.

    With Grams: ||V O X Y'||^2 = <V'V, (O X) (Y'Y) (O X)'>, so that nothing of d_model x d_model is
    made.

    Raises:
        LensError: queries and keys that are normed, for Q and K.
    """
    layers = sorted(heads)
    if mode != "V" and any(heads[layer].q is None for layer in layers):
        raise LensError("queries and keys are normed: no Q or K composition")
    sides = {layer: _sides(heads[layer], mode) for layer in layers}
    n_heads = len(heads[layers[0]].v)
    out = torch.zeros(len(layers), n_heads, len(layers), n_heads)
    for i, writer in enumerate(layers):
        v, o = heads[writer].v, heads[writer].o
        gram_v = v.transpose(1, 2) @ v
        written = _norms(v, o.transpose(1, 2))
        for j, reader in enumerate(layers[i + 1 :], i + 1):
            x, y = sides[reader]
            gram_y = y.transpose(1, 2) @ y
            read = _norms(x, y)
            met = torch.einsum("adm,bme->abde", o, x)  # O X, of writer a and reader b
            squares = torch.einsum("abde,bef,abcf,acd->ab", met, gram_y, met, gram_v)
            product = squares.clamp(min=0).sqrt()
            scores = product / (written[:, None] * read[None, :])
            out[i, :, j] = scores.cpu()
    return out


def _sides(heads: Heads, mode: str) -> tuple[Tensor, Tensor]:
    """X and Y of what a head reads with, X Y'."""
    if mode == "V":
        return heads.v, heads.o.transpose(1, 2)
    assert heads.q is not None
    assert heads.k is not None
    return (heads.q, heads.k) if mode == "Q" else (heads.k, heads.q)


def _norms(
    x: Float[Tensor, "head d_model d_head"], y: Float[Tensor, "head d_model d_head"]
) -> Float[Tensor, " head"]:
    """||X Y'|| of each head, from the Grams of both."""
    grams = (x.transpose(1, 2) @ x) * (y.transpose(1, 2) @ y)
    return grams.sum((1, 2)).clamp(min=0).sqrt()
