"""Reference: activations on a set of texts, for mean and resampling edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerscope.arguments import checked
from layerscope.errors import LayerscopeError

from .activations import Activations, select
from .capture import capture
from .sites import HEAD_AXIS, Site, SiteLike

if TYPE_CHECKING:
    from .positions import Where


class ReferenceMismatch(LayerscopeError, ValueError):
    """A reference set that does not fit the site or the text it is used on."""


class Reference:
    """Activations of selected sites on reference texts, without padding.

    Positions are counted within each text, so left padding does not shift them.

    >>> from transformers import GPT2Config, GPT2Model
    >>> size = dict(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
    >>> model = GPT2Model(GPT2Config(**size)).eval()
    >>> ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    >>> batch = {"input_ids": ids, "attention_mask": mask}
    >>> reference = Reference.of(model, "blocks.0.attn.hook_z", batches=[batch])
    >>> reference.n_texts, reference.n_tokens
    (2, 5)
    """

    @checked
    def __init__(
        self,
        values: Mapping[str, Float[Tensor, "text pos *width"]],
        mask: Bool[Tensor, "text pos"],
        templates: Sequence[str] | None = None,
        skip: int = 0,
        ids: Int[Tensor, "text pos"] | None = None,
    ) -> None:
        if templates is not None and len(templates) != len(mask):
            raise ReferenceMismatch(
                f"expected {len(mask)} template labels, one a text, got {len(templates)}"
            )
        self._values, self._mask = dict(values), mask
        self._lengths = mask.sum(1).cpu()
        self._templates = list(templates) if templates is not None else None
        self._means: dict[tuple[str, str], Tensor] = {}
        self._skip, self._ids = skip, ids
        self.n_texts, self.n_tokens = len(mask), int(mask.sum())

    @classmethod
    @checked
    def of(
        cls,
        model: nn.Module,
        *sites: SiteLike,
        batches: Iterable[Mapping[str, Any]],
        templates: Sequence[str] | None = None,
        skip: int = 0,
        order: Sequence[int] | None = None,
    ) -> Reference:
        """Run the model on reference texts and keep the whole values of these sites (selections
        are applied when the reference is used).

        Args:
            batches: keyword arguments of one forward pass each; ``attention_mask`` marks padding.
            templates: a label for each text, for ``mean(reference, per="template:NAME")``.
            skip: number of first tokens of each text that the mean over all tokens excludes; use 1
                if texts begin with a BOS, which may be an attention sink.
            order: index of each text in the reference set, if it differs from the batch order.
        """
        whole = [Site(Site.parse(site).name) for site in sites]
        parts: list[tuple[dict[str, Tensor], Tensor, Tensor | None]] = []
        for batch in batches:
            # Cloned, since a model may write into its own activations after this; stopped, since
            # nothing behind the last site is needed.
            captured = capture(model, *whole, stop=True, clone=True)
            with torch.no_grad(), captured as acts:
                model(**batch)
            parts.append(cls._aligned(acts, captured, batch.get("input_ids")))
        if not parts:
            raise ReferenceMismatch("a reference set needs at least one batch, got none")
        length = max(mask.shape[1] for _, mask, _ in parts)
        values = {}
        for name in parts[0][0]:
            values[name] = torch.cat([_grow(part[name], length) for part, _, _ in parts])
        mask = torch.cat([_grow(mask, length) for _, mask, _ in parts])
        of_parts = [_grow(part, length) for _, _, part in parts if part is not None]
        ids = torch.cat(of_parts) if len(of_parts) == len(parts) else None
        if order is not None:
            # `order` says where each text belongs; what is needed is which text belongs at each
            # place: the inverse permutation.
            texts = torch.tensor(order).argsort()
            for name, of_site in values.items():
                values[name] = of_site[texts.to(of_site.device)]
            mask = mask[texts]
            ids = ids[texts] if ids is not None else None
        return cls(values, mask, templates, skip, ids)

    @staticmethod
    def _aligned(
        acts: Activations, captured: capture, ids: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Values, mask and tokens with every text starting at column 0;
        None for tokens that are not of the same columns.
        """
        names = list(acts)
        for name in names:
            if HEAD_AXIS.get(Site.parse(name).part) == 1:
                raise ReferenceMismatch(
                    f"{name}: a reference holds one value a token, "
                    "attention has one a pair; use patch"
                )
        is_token = captured.positions(acts[names[0]]) >= 0
        # Sorted stably, tokens come first in their own order, and padding is behind them.
        order = torch.argsort(~is_token, dim=1, stable=True)
        rows = torch.arange(len(is_token))[:, None]
        # Pictures and virtual tokens stand in columns that have no id.
        has_ids = ids is not None and ids.shape == is_token.shape
        aligned = ids.cpu()[rows, order] if ids is not None and has_ids else None
        return {name: acts[name][rows, order] for name in names}, is_token[rows, order], aligned

    def mean_for(self, value: Tensor, where: Where, per: str) -> Tensor:
        """The mean that `edits.mean` puts in; the shape of ``value``."""
        key = where.site.name, per
        if key not in self._means:
            self._means[key] = self._mean(where.site, per)
        mean = self._means[key]
        if per == "all":
            return select_part(mean, where.site).to(value).expand_as(value)
        at, used = where.used(value)
        last = int(torch.where(used, at, 0).max())
        if last >= len(mean):
            raise ReferenceMismatch(
                f"{where.site}: the reference's texts have at most {len(mean)} tokens, "
                f"position {last} is asked for"
            )
        return select_part(mean, where.site, lead=1)[at.clamp(max=len(mean) - 1)].to(value)

    def moments(self, site: SiteLike) -> tuple[Float[Tensor, "*width"], Float[Tensor, "*width"]]:
        """Mean and standard deviation over all tokens of a whole site."""
        site = Site.parse(site)
        mean, whole = self._mean(site, "all"), self._whole(site)
        is_counted = self._mask & (torch.arange(self._mask.shape[1]) >= self._skip)
        tokens = whole[is_counted.to(whole.device)].double()
        return mean, (tokens - mean).square().mean(0).sqrt()

    def _mean(self, site: Site, per: str) -> Tensor:
        """The mean over all tokens, or per position (as far as some text reaches)."""
        whole, mask = self._whole(site), self._mask
        if per.startswith("template:"):
            rows = self._with_template(per.partition(":")[2])
            whole, mask = whole[rows], mask[rows]
        elif per not in ("all", "position"):
            raise ReferenceMismatch(
                f"mean per {per!r}: expected 'all', 'position' or 'template:NAME'"
            )
        if per == "all":
            mask = mask & (torch.arange(mask.shape[1]) >= self._skip)
            if not mask.any():
                raise ReferenceMismatch(
                    f"{site}: expected reference texts of more than {self._skip} tokens, "
                    f"which are skipped, got {self.n_texts} texts of "
                    f"{self.n_tokens} tokens in all"
                )
        width = [1] * (whole.ndim - 2)
        is_token = mask.to(whole.device).view(*mask.shape, *width)
        # Padding may hold NaN, which 0 times it would keep.
        tokens = torch.where(is_token, whole, 0.0).double()
        if per == "all":
            return tokens.sum((0, 1)) / int(mask.sum())
        count = mask.sum(0)
        reach = int((count > 0).sum())
        return tokens[:, :reach].sum(0) / count[:reach].to(whole.device).view(-1, *width)

    def _with_template(self, name: str) -> Bool[Tensor, " texts"]:
        """The texts with a label."""
        if self._templates is None or name not in self._templates:
            known = sorted(set(self._templates or []))
            raise ReferenceMismatch(
                f"no reference text has the template {name!r}; templates: {known}"
            )
        return torch.tensor([template == name for template in self._templates])

    def rows_for(self, value: Tensor, where: Where, rows: Sequence[int]) -> Tensor:
        """What `edits.resample` puts in:
        for each text the values of the reference text that was chosen for it.
        """
        at, used = where.used(value)
        chosen = where.by_row(torch.tensor(rows), len(value))
        if len(chosen) != len(value):
            raise ReferenceMismatch(
                f"{where.site}: expected a reference text for each of {len(value)} texts, "
                f"got {len(rows)}"
            )
        unknown = chosen[(chosen < 0) | (chosen >= self.n_texts)].tolist()
        if unknown:
            raise ReferenceMismatch(
                f"{where.site}: expected indices of reference texts from 0 to "
                f"{self.n_texts - 1}, got {unknown[0]}"
            )
        needed, lengths = torch.where(used, at + 1, 0).amax(1), self._lengths[chosen]
        short = (lengths < needed).nonzero().flatten().tolist()
        if short:
            row = short[0]
            raise ReferenceMismatch(
                f"{where.site}: expected a reference text of at least {int(needed[row])} tokens, "
                f"got text {int(chosen[row])} of {int(lengths[row])}"
            )
        whole = select_part(self._whole(where.site), where.site, lead=2)
        return whole[chosen[:, None], at.clamp(max=whole.shape[1] - 1)].to(value)

    def draw_for(self, value: Tensor, where: Where, seed: int) -> Tensor:
        """What `edits.resample` puts in: for each text the values of one drawn reference text,
        never those of the text itself.
        """
        whole = select_part(self._whole(where.site), where.site, lead=2)
        at, used = where.used(value)
        lengths = self._lengths
        needed = torch.where(used, at, 0).amax(1)
        last, shortest = int(needed.max()), int(lengths[lengths > 0].min())
        if where.start > where.virtual and shortest <= last:
            raise ReferenceMismatch(
                f"{where.site}: expected reference texts of at least {last + 1} tokens, "
                f"so that a text keeps the one drawn for it, got one of {shortest}"
            )
        copies = where.seen.copies(len(value))
        generator = torch.Generator().manual_seed(seed)
        itself, begins = self._itself(value, whole, where)
        rows = []
        for text, longest in enumerate(needed.view(-1, copies).amax(1).tolist()):
            is_long_enough = lengths > longest
            others = is_long_enough & ~begins[text * copies]
            if not others.any() and self.n_texts > 1:
                # All begin alike: so few tokens do not tell the text from the others.
                others = is_long_enough & ~itself[text * copies]
            long_enough = others.nonzero().squeeze(1)
            if not is_long_enough.any():
                raise ReferenceMismatch(
                    f"{where.site}: expected reference texts of {longest + 1} tokens, "
                    f"the longest has {int(lengths.max())}"
                )
            if not len(long_enough):
                raise ReferenceMismatch(
                    f"{where.site}: expected another reference text of {longest + 1} tokens "
                    f"for text {text}, got only the text itself"
                )
            # The same numbers at every site, so that two sites of one forward draw the same texts.
            place = int(torch.rand((), generator=generator) * len(long_enough))
            rows.append(int(long_enough[place]))
        row_of = torch.tensor(rows).repeat_interleave(copies)[:, None]
        return whole[row_of, at.clamp(max=whole.shape[1] - 1)].to(value)

    def _itself(
        self, value: Tensor, whole: Tensor, where: Where
    ) -> tuple[Bool[Tensor, "row text"], Bool[Tensor, "row text"]]:
        """For each row of the forward the reference texts that are it, and those that begin with
        it: they put back what was there.

        Where the reference does not know tokens, or the edit is applied outside a forward, the
        values say it.
        """
        itself = torch.zeros(len(value), self.n_texts, dtype=torch.bool)
        begins = torch.zeros_like(itself)
        lengths = self._lengths
        text = where.text(len(value))
        if self._ids is not None and text is not None:
            for row, (ids, is_token) in enumerate(zip(*text, strict=True)):
                tokens = ids[is_token]
                if len(tokens) <= self._ids.shape[1]:
                    is_alike = (self._ids[:, : len(tokens)] == tokens).all(1)
                    begins[row] = is_alike & (lengths >= len(tokens))
                    itself[row] = is_alike & (lengths == len(tokens))
            return itself, begins
        if where.tokens is not None:
            return itself, begins
        at, is_used = where.used(value)
        for row in range(len(value)):
            columns = is_used[row].nonzero().squeeze(1)
            places = at[row, columns]
            if len(places) and int(places.max()) < whole.shape[1]:
                same = (whole[:, places] == value[row, columns].to(whole)).flatten(1).all(1)
                itself[row] = same.cpu() & (lengths > int(places.max()))
        return itself, itself

    def _whole(self, site: Site) -> Tensor:
        if site.name not in self._values:
            raise ReferenceMismatch(
                f"the reference holds no {site.name}; it holds {', '.join(list(self._values)[:5])}"
            )
        return self._values[site.name]


def _grow(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[1]
    if not missing:
        return tensor
    padding = tensor.new_zeros(len(tensor), missing, *tensor.shape[2:])
    return torch.cat([tensor, padding], dim=1)


def select_part(value: Tensor, site: Site, lead: int = 0) -> Tensor:
    """A site's selection on a tensor whose first axes are ``lead`` of (batch, pos)."""
    if site.select is None:
        return value
    part = select(value.view(*[1] * (2 - lead), *value.shape), site)
    return part.reshape(value.shape[:lead] + part.shape[2:])


def partners(
    texts: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    seed: int = 0,
    related: Callable[[int, int], bool] = lambda text, reference: False,
) -> list[int | None]:
    """For each text, the index of a random reference text that is at least as long; None if there
    is no such text.

    A reference text with the same tokens is the text itself and is never drawn.

    >>> partners([[5, 6], [7, 8]], [[5, 6], [7, 8], [9]])
    [1, 0]

    Args:
        texts, references: tokens.
        related: whether a reference text (by index) is too closely related to a text (by index) to
            be drawn for it.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int | None] = []
    for place, text in enumerate(texts):
        able = [
            number
            for number, reference in enumerate(references)
            if len(reference) >= len(text)
            and list(reference) != list(text)
            and not related(place, number)
        ]
        # One draw a text, able partners or none: what one text may take does not move the draws of
        # the next.
        drawn = float(torch.rand((), generator=generator))
        chosen.append(able[int(drawn * len(able))] if able else None)
    return chosen
