"""The part of a joint solve that depends on X only: standardisation and the eigenbasis of the Gram
matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError, LayerscopeError

from .rows import OnDisk

CPU_BLOCK = 2048  # rows whose logits, softmax and gradient stay in cache together
CUDA_BLOCK = 1 << 16


class NonFiniteError(LayerscopeError, ValueError):
    """The features contain NaN or infinity."""


def as_rows(X: object, device: torch.device | str | None = None) -> Float[Tensor, "n d"] | OnDisk:
    """X as it is on disk, or else as `as_features` makes it."""
    if isinstance(X, OnDisk):
        return X if device is None else X.to(device)
    return as_features(X, device)


def as_features(X: object, device: torch.device | str | None = None) -> Float[Tensor, "n d"]:
    """X as a float32 or float64 matrix: float64 stays, half precision becomes float32.

    Raises:
        ValueError: if X is not a non-empty matrix of real numbers.
    """
    if isinstance(X, Tensor):
        check_dense(X)
        tensor = X.detach()
    else:
        tensor = torch.as_tensor(_numbers(X))
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(f"X must be a matrix [n d] that is not empty, got {list(tensor.shape)}")
    if tensor.is_complex():
        raise InputError("X must hold real numbers. Complex data not supported")
    if not tensor.is_floating_point():
        tensor = tensor.double()
    elif tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    return tensor.to(device) if device is not None else tensor


def check_dense(tensor: Tensor) -> None:
    """Raise `InputError` for a tensor without values (``meta``), or a sparse one."""
    if tensor.is_meta or tensor.layout != torch.strided:
        got = "one on the device meta" if tensor.is_meta else f"the layout {tensor.layout}"
        raise InputError(f"expected a dense tensor with values, got {got}")


def _numbers(X: object) -> np.ndarray:
    """An array that torch can share: of its types, in this machine's order of bytes and in memory
    that may be written to, without steps backwards; a copy of any other.
    """
    try:
        array = np.asarray(X)
        is_known = array.dtype.kind in "biufc" and array.dtype.char not in "gG"  # not 80 bits
        array = array if is_known else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"X must be a matrix [n d] of numbers ({error})") from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch warns about memory that must not be written to (memory maps), and refuses steps back.
    is_usable = array.flags.writeable and min(array.strides, default=0) >= 0
    return array if is_usable else array.copy()


def check_finite(X: Float[Tensor, "n d"] | OnDisk, name: str = "X", block: int = 1 << 14) -> None:
    """Raise one line that says how many rows are not finite and where the first one is.

    Args:
        name: what the line calls the rows.

    Raises:
        NonFiniteError: naming the number of bad rows, and the first row and column.
    """
    bad, first = 0, None
    for start in range(0, len(X), block):
        part = X[start : start + block]
        # The sum is finite only if every entry is, apart from overflow, which the slow way settles.
        if bool(torch.isfinite(part.sum())):
            continue
        wrong = ~torch.isfinite(part)
        rows = wrong.any(1)
        if first is None and bool(rows.any()):
            row = int(rows.nonzero()[0, 0])
            column = int(wrong[row].nonzero()[0, 0])
            first = (start + row, column, float(part[row, column]))
        bad += int(rows.sum())
    if first is not None:
        row, column, value = first
        raise NonFiniteError(
            f"{name} must be finite, got NaN or infinity in {bad} of {len(X)} rows, "
            f"first at row {row}, column {column} ({value})"
        )


def penalties(l2: float | Sequence[float], choose: bool = False) -> list[float]:
    """Penalties from strong to weak.

    Args:
        choose: there are dev rows to choose on.

    Raises:
        ValueError: a penalty that is not positive and finite, or several and nothing to choose on.
    """
    is_single = isinstance(l2, Real) or getattr(l2, "ndim", None) == 0
    given: Any = [l2] if is_single else l2
    try:
        path = sorted({float(v) for v in given}, reverse=True)
    except (TypeError, ValueError):
        raise InputError(f"l2: expected a positive number or several, got {l2!r}") from None
    if not path or not all(np.isfinite(path)) or min(path) <= 0:
        raise InputError(f"l2 must be positive and finite, got {l2}")
    if len(path) > 1 and not choose:
        raise InputError(f"choosing among {len(path)} penalties needs dev=(X, targets), got none")
    return path


class Design:
    """Standardised features in the eigenbasis of their Gram matrix, ready to be shared by solves.

        Z = [(X - mean) / scale] Q,    Q diag(e) Q' = Gram matrix of the standardised features

    In this basis the ridge penalty keeps its form (Q is orthogonal), the features are uncorrelated,
    and directions without variance drop out, which also makes n < d cheap. Centring is always done:
    the bias is unpenalised and absorbs it.

    Args:
        X: features, [n d]; float64 is kept, everything else is solved in float32. Rows ``OnDisk``
            stay there, and so does what is made of them: one pass for the Gram matrix, one that
            turns the rows.
        standardize: divide by the standard deviation of the rows given here (the training rows).
        device: where to compute; None leaves X where it is.

    Attributes:
        mean, scale: [d], float64; the scale of a constant feature is 1 and its coefficient 0.
        basis: Q, [d r].
        rotated: [n r+1], the last column is 1 (the bias).
        eigenvalues: [r+1], float64, the last one is n.

    Raises:
        NonFiniteError: naming how many rows are bad and the first row and column.
    """

    @checked
    def __init__(
        self,
        X: Float[Tensor, "n d"] | np.ndarray | OnDisk,
        standardize: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        features = as_rows(X, device)
        self.features = features
        self.standardize = standardize
        self.n, self.d = features.shape
        self.device, self.dtype = features.device, features.dtype
        self.block = CUDA_BLOCK if features.is_cuda else CPU_BLOCK
        if isinstance(features, OnDisk):
            self.block = min(self.block, features.block)
        with torch.no_grad():
            # With more rows than columns the Gram matrix of the columns is all that is needed, and
            # one pass over the disk gives it with the moments; else the smaller matrix of the rows
            # is taken, which needs the moments first.
            if isinstance(features, OnDisk) and self.n >= self.d:
                self.mean, deviation, scatter = self._in_one_pass(features)
                self.scale = self._scale(deviation)
                gram = scatter / self.scale / self.scale[:, None]
                gram[self.constant] = gram[:, self.constant] = 0
                self._rotate(gram)
            else:
                check_finite(features)
                self.mean, deviation = self._moments()
                self.scale = self._scale(deviation)
                self._rotate(None)

    def sample_limit(self, columns: int) -> int:
        """How many rows a sample may have whose curvature is held for so many columns."""
        if not isinstance(self.rotated, OnDisk):
            return self.n
        # A sampled row is held with its features, and with four numbers for each column of
        # coefficients.
        values_a_row = self.rotated.shape[1] + 4 * columns
        return max(1, min(self.n, self.rotated.hold // (4 * values_a_row)))

    def _in_one_pass(
        self, X: OnDisk
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean, standard deviation and scatter about the mean, float64: parts merged by Chan's
        formula, so that nothing is subtracted from anything large."""
        mean, scatter = self._zeros(self.d), self._zeros(self.d, self.d)
        for rows in X.blocks():
            part = X[rows]
            if not bool(torch.isfinite(part.sum())):
                check_finite(X)  # says where
            before, m = rows.start, len(part)
            part_mean = part.mean(0, dtype=torch.float64)
            # Products are of the rows' own type, so the block is centred first; its centre is
            # rounded to that type.
            centre = part_mean.to(self.dtype)
            part -= centre
            rounding = part_mean - centre.double()
            scatter += (part.T @ part).double() - m * torch.outer(rounding, rounding)
            apart = part_mean - mean
            scatter += before * m / (before + m) * torch.outer(apart, apart)
            mean += m / (before + m) * apart
        return mean, (scatter.diagonal() / self.n).clamp(min=0).sqrt(), scatter

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)

    def _moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Mean and standard deviation in float64, in two passes (no cancellation)."""
        X, total = self.features, self._zeros(self.d)
        for start in range(0, self.n, self.block):
            total += X[start : start + self.block].sum(0, dtype=torch.float64)
        mean = total / self.n
        square = self._zeros(self.d)
        for start in range(0, self.n, self.block):
            square += (X[start : start + self.block].double() - mean).square_().sum(0)
        return mean, (square / self.n).sqrt()

    def _scale(self, deviation: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """What a feature is divided by: 1 for a constant one.

        Raises:
            ValueError: a feature whose standard deviation is not a finite number.
        """
        if not bool(deviation.isfinite().all()):
            column = int((~deviation.isfinite()).nonzero()[0, 0])
            raise InputError(
                "expected features whose squares are finite, "
                f"got a mean of {float(self.mean[column]):.3g} in column {column}"
            )
        self.constant = deviation <= 10 * torch.finfo(self.dtype).eps * self.mean.abs()
        scale = deviation if self.standardize else torch.ones_like(deviation)
        return torch.where(self.constant, torch.ones_like(scale), scale)

    def standardized(
        self, X: Float[Tensor, "m d"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "m d"]:
        """(X - mean) / scale, subtracted in float64; constant features become 0."""
        dtype = dtype or self.dtype
        if dtype == torch.float64 or X.dtype == torch.float64:
            out = (X.double() - self.mean).div_(self.scale)
        else:  # the rounding of the mean is corrected by its remainder
            high = self.mean.float()
            out = (X - high).sub_((self.mean - high).float()).div_(self.scale.float())
        out[:, self.constant] = 0
        return out.to(dtype)

    def blocks(self, dtype: torch.dtype | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Standardised rows of the original features, block by block."""
        for start in range(0, self.n, self.block):
            rows = slice(start, min(start + self.block, self.n))
            yield rows, self.standardized(self.features[rows], dtype)

    def _rotate(self, gram: Float[Tensor, "d d"] | None) -> None:
        is_wide = self.n < self.d
        if is_wide:
            # The small matrix of rows has the same eigenvalues as that of features.
            part = self.standardized(self.features[:], torch.float64)
            gram = part @ part.T
        elif gram is None:
            gram = self._zeros(self.d, self.d)
            for _, part in self.blocks():
                gram += part.T @ part
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        # Directions whose variance is rounding carry nothing, and would be divided by it.
        is_exact = self.dtype == torch.float64
        relative = 1e-15 * max(self.n, self.d) if is_exact else 1e-9
        floor = float(values[-1]) * relative
        keep = values > max(floor, 0.0)
        values, vectors = values[keep], vectors[:, keep]
        if is_wide:
            rows = self.standardized(self.features[:], torch.float64)
            vectors = rows.T @ (vectors / values.sqrt())
        self.basis = vectors
        rank = len(values)
        if isinstance(self.features, OnDisk):
            self.rotated = self.rotate(self.features)
        else:
            turn = vectors.to(self.dtype)
            self.rotated = torch.empty(self.n, rank + 1, dtype=self.dtype, device=self.device)
            for rows, part in self.blocks():
                torch.mm(part, turn, out=self.rotated[rows, :rank])
            self.rotated[:, rank] = 1
        # The column of ones, whose squares sum to n, is one direction more.
        self.eigenvalues = torch.cat([values, values.new_tensor([float(self.n)])])

    rotated: Float[Tensor, "n r"] | OnDisk

    def rotate(self, X: Float[Tensor, "m d"] | OnDisk) -> Float[Tensor, "m r"] | OnDisk:
        """Other rows (dev, test) in the same basis, with the column of ones;
        on disk where they are.
        """
        if not isinstance(X, OnDisk):
            return self._rotated(X)
        rotated = X.like(len(X), self.basis.shape[1] + 1)
        for rows in X.blocks():
            rotated[rows] = self._rotated(X[rows])
        return rotated

    def rotate_dev(
        self, X: Float[Tensor, "m d"] | np.ndarray | OnDisk
    ) -> Float[Tensor, "m r"] | OnDisk:
        """Dev rows, rotated.

        Raises:
            ValueError: rows of another width.
            NonFiniteError: rows with NaN or infinity.
        """
        features = as_rows(X, self.device)
        if features.shape[1] != self.d:
            raise InputError(f"dev has {features.shape[1]} features, but X has {self.d}")
        check_finite(features, "dev")
        return self.rotate(features)

    def _rotated(self, X: Float[Tensor, "m d"]) -> Float[Tensor, "m r"]:
        part = self.standardized(X.to(self.device)) @ self.basis.to(self.dtype)
        return torch.cat([part, part.new_ones(len(part), 1)], dim=1)

    def turned(
        self, coef: Float[Tensor, "c d"], intercept: Float[Tensor, " c"]
    ) -> tuple[Float[Tensor, "r c"], Float[Tensor, " c"]]:
        """Coefficients and intercept in original feature units as those of the rotated features,
        and the bias.
        """
        in_standardised = coef.T * self.scale[:, None]
        # The mean of the features goes into the bias.
        return self.basis.T @ in_standardised, intercept + coef @ self.mean

    def unrotate(
        self, W: Float[Tensor, "r1 c"]
    ) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
        """Coefficients [c d] and intercept [c] in the original feature units, float64."""
        coef = (self.basis @ W[:-1].double()) / self.scale[:, None]
        coef[self.constant] = 0
        return coef.T.contiguous(), W[-1].double() - self.mean @ coef
