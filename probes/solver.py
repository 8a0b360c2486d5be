"""``fit_many``: solve all probes on the same X (tasks, controls, penalties) together.

The objective is  sum_i -log softmax(W x_i + b)[y_i] + l2/2 ||W||_F^2  with x standardised on the
rows given and the bias unpenalised: scikit-learn's multinomial LogisticRegression with C = 1/l2 on
standardised features. Two classes are a softmax over two columns, not a single logit;
scikit-learn's binomial fit of the same data has penalty C = 2/l2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .certificate import certify
from .choice import Choose, Target, choose_penalties, judge, labels_of
from .design import Design, penalties
from .fit import Fit
from .labels import Labels, encode_classes, encode_dev, encode_with
from .newton import Solution, minimise
from .objective import ABSENT
from .rows import OnDisk

DEFAULT_L2 = (1e4, 1e3, 3e2, 1e2, 3e1, 1e1, 1.0)
"""Strong to weak: on standardised features of language models dev accuracy peaks around 1e2 for
tens of thousands of words and around 1e1 for thousands; half a decade apart where it matters."""

FURTHER = 20
"""By what factor further a fit is solved whose certificate was missed: its curvature said that it
was done, and so knows little of the directions that are left.
"""

MOSTLY_FULL = 0.85
"""Least number of classes, as a share of the group's widest target,
with which a target joins the group.
"""

MAX_COLUMNS = 1024  # columns solved together; more bring no speed and cost memory

Features = Float[Tensor, "n d"] | np.ndarray | OnDisk


def _targets(
    n: int, targets: Mapping[str, Labels], m: int, dev_labels: Mapping[str, Labels] | None
) -> list[Target]:
    """Targets of n rows, and of m dev rows where there are dev labels."""
    coded = []
    for name, labels in targets.items():
        classes, index = encode_classes(name, labels, n)
        of_dev = None if dev_labels is None else encode_dev(name, dev_labels, classes, m)
        coded.append(Target(name, classes, index, of_dev))
    return coded


def _groups(targets: Sequence[Target]) -> Iterable[list[Target]]:
    """Targets of about the same number of classes, so that little is wasted on padding."""
    group: list[Target] = []
    # By falling number of classes: the first of a group is its widest.
    for target in sorted(targets, key=lambda t: -len(t.classes)):
        width = len(group[0].classes) if group else 0
        is_narrow = len(target.classes) < MOSTLY_FULL * width
        is_full = (len(group) + 1) * width > MAX_COLUMNS
        if group and (is_narrow or is_full):
            yield group
            group = []
        group.append(target)
    if group:
        yield group


def _start(
    group: Sequence[Target], design: Design, width: int, fits: Mapping[str, Fit] | None = None
) -> Float[Tensor, "r k c"]:
    """Coefficients 0 and the bias at the log class frequencies; of classes that a fit has,
    what it says.
    """
    W = torch.zeros(design.rotated.shape[1], len(group), width, dtype=torch.float64)
    # Padding columns have probability 0; a target's own classes are set below.
    W[-1] = ABSENT
    for j, target in enumerate(group):
        counts = np.bincount(target.index, minlength=len(target.classes))
        W[-1, j, : len(counts)] = torch.from_numpy(np.log(counts / counts.sum()))
        fit = fits.get(target.name) if fits else None
        if fit is None:
            continue
        if fit.coef.shape[1] != design.d:
            raise InputError(
                f"start: the fit of {target.name!r} has {fit.coef.shape[1]} features, "
                f"but X has {design.d}"
            )
        at = torch.from_numpy(encode_with(fit.classes, target.classes))
        is_known = at >= 0
        coef, bias = design.turned(fit.coef.to(design.device), fit.intercept.to(design.device))
        W[:-1, j, at[is_known]] = coef.cpu()[:, is_known]
        W[-1, j, at[is_known]] = bias.cpu()[is_known]
        # What all classes share is 0 at the optimum, and no step changes it.
        W[:-1, j, : len(counts)] -= W[:-1, j, : len(counts)].mean(-1, keepdim=True)
    return W.to(design.device, design.dtype)


@checked
def fit_many(
    X: Features | Design,
    targets: Mapping[str, Labels],
    l2: float | Sequence[float] = DEFAULT_L2,
    *,
    dev: tuple[Float[Tensor, "m d"] | np.ndarray | OnDisk, Mapping[str, Labels]] | None = None,
    choose: Choose = "accuracy",
    start: Mapping[str, Fit] | None = None,
    standardize: bool = True,
    tol: float = 5e-7,
    max_iter: int = 100,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Fit]:
    """Fit one multinomial logistic probe per target, all on the same rows, in one joint solve.

        min_W,b  sum_i -log softmax(W x_i + b)[y_i] + l2/2 ||W||_F^2

    Args:
        X: training features, [n d], or a ``Design`` made from them (shared between calls;
            ``standardize`` and ``device`` are then the design's). Rows ``OnDisk`` are read in
            blocks, once per iteration, and once more for its sample.
        targets: labels of every training row by target name; any hashable labels.
        l2: one penalty, or several, which need ``dev``: each target gets the penalty with the best
            dev score (ties: the stronger). Penalties are solved from strong to weak, each starting
            from the previous solution, to a relative error of ``CHOICE_TOL``, and the chosen one
            then to ``tol`` (`probes.choice`). Weaker penalties are skipped once the dev score has
            fallen twice in a row, or, where accuracy chooses, once a penalty added less than a
            standard error of accuracy and less than 1% of the bits.
        dev: features [m d] and labels by target name. Classes may be absent from dev; a dev label
            that is absent from training counts as wrong, and is excluded from bits.
        choose: the dev score: accuracy, or minus the bits per label.
        start: fits of these targets on other rows, used as starting points; the optimum is the
            same.
        tol: largest relative error of the objective.
        max_iter: Newton iterations per penalty.
        progress: called with (solves done, solves in all) after every penalty.

    Returns:
        A ``Fit`` per target, in the order given.

    Raises:
        ValueError: for features that are not finite (naming where), a target with one class, labels
            of another length or NaN, a penalty that is not positive, or a path without dev.

    Warns:
        ConvergenceWarning: naming the targets that did not reach tol.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3)); y = np.where(X[:, 0] > 0, "yes", "no")
    >>> float((fit_many(X, {"sign": y}, l2=1.0)["sign"].predict(X) == y).mean()) > 0.9
    True
    """
    path = penalties(l2, choose=dev is not None)
    if not tol > 0 or max_iter < 1:
        raise InputError(f"tol must be > 0 and max_iter >= 1, got {tol} and {max_iter}")
    design = X if isinstance(X, Design) else Design(X, standardize, device)
    dev_rows, dev_labels = (None, None) if dev is None else (design.rotate_dev(dev[0]), dev[1])
    m = 0 if dev_rows is None else len(dev_rows)
    todo = _targets(design.n, targets, m, dev_labels)
    # Every penalty of a path is a solve, and the chosen one is solved again, to ``tol``.
    n_solves = len(todo) * (len(path) + 1 if len(path) > 1 else 1)
    n_done = 0

    def advance(by: int) -> None:
        nonlocal n_done
        n_done += by
        if progress is not None:
            progress(n_done, n_solves)

    fits: dict[str, Fit] = {}
    with torch.no_grad():
        for group in _groups(todo):
            begin = _start(group, design, len(group[0].classes), start)
            strengths = path * len(group)
            if dev_rows is not None and len(path) > 1:
                begin, strengths = choose_penalties(
                    design, group, begin, path, dev_rows, choose, tol, max_iter, advance
                )
            l2s = torch.tensor(strengths, dtype=torch.float64, device=design.device)
            labels = labels_of(group, design)
            solution = minimise(design, labels, begin, l2s, tol=tol, max_iter=max_iter)
            solved = _fits(design, group, solution, l2s, tol, dev_rows, choose)
            solved |= _polish(design, group, solution, solved, tol, max_iter, dev_rows, choose)
            fits |= solved
            advance(len(group))
    _warn_unconverged([(name, fits[name]) for name in targets], tol, max_iter)
    return {name: fits[name] for name in targets}


def _polish(
    design: Design,
    group: Sequence[Target],
    solution: Solution,
    solved: Mapping[str, Fit],
    tol: float,
    max_iter: int,
    dev_rows: Float[Tensor, "m r"] | OnDisk | None,
    choose: Choose,
) -> dict[str, Fit]:
    """Again, by exact products from where the rough ones ended:
    the fits whose certificate they missed.
    """
    which = []
    for j, target in enumerate(group):
        has_time = solution.n_iter[j] < max_iter
        if not solved[target.name].converged and has_time:
            which.append(j)
    if not which:
        return {}
    members = [group[j] for j in which]
    penalty_of = [solved[target.name].l2 for target in members]
    l2s = torch.tensor(penalty_of, dtype=torch.float64, device=design.device)
    labels = labels_of(members, design)
    left = max_iter - int(solution.n_iter[which].min())
    start = solution.W[:, which]
    further = tol / FURTHER
    exact = minimise(design, labels, start, l2s, tol=further, max_iter=left, exact=True)
    exact = replace(exact, n_iter=solution.n_iter[which] + exact.n_iter)
    return _fits(design, members, exact, l2s, tol, dev_rows, choose)


def _warn_unconverged(fits: Sequence[tuple[str, Fit]], tol: float, max_iter: int) -> None:
    failed = [(name, fit) for name, fit in fits if not fit.converged]
    if not failed:
        return
    names = ", ".join(name for name, _ in failed[:5])
    worst = max(fit.gap / fit.objective for _, fit in failed)
    warnings.warn(
        f"{len(failed)} of {len(fits)} probes did not converge to a relative error of {tol:g} in "
        f"{max_iter} iterations (bound {worst:.1e}): {names}",
        ConvergenceWarning,
        stacklevel=3,
    )


def _fits(
    design: Design,
    group: Sequence[Target],
    solution: Solution,
    l2: Float[Tensor, " k"],
    tol: float,
    dev_rows: Float[Tensor, "m r"] | OnDisk | None,
    choose: Choose,
) -> dict[str, Fit]:
    """The targets' fits, in the units of the features, with what is proved of them."""
    certificate = certify(design, labels_of(group, design), solution.W, l2, tol)
    fits = {}
    for j, target in enumerate(group):
        weights, intercept = design.unrotate(solution.W[:, j, : len(target.classes)])
        if dev_rows is not None and not target.scores:
            score = judge(target, solution.W[:, j], dev_rows).score(choose)
            target.scores[float(l2[j])] = score
        fits[target.name] = Fit(
            l2=float(l2[j]),
            coef=weights,
            intercept=intercept,
            classes=target.classes,
            objective=float(certificate.loss[j]),
            gradient_norm=float(certificate.norm[j]),
            gap=float(certificate.gap[j]),
            n_iter=int(solution.n_iter[j]),
            converged=bool(certificate.proved[j]),
            dev_scores=target.scores,
        )
    return fits
