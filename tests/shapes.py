"""Shapes in signatures are checked while the tests run: of functions and records whose annotations
name them, and of nothing else.

A checked call costs tens of microseconds, and a function within another would be compiled anew at
each call of the outer one: checking all that is annotated took half of the suite's time.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import beartype
import jaxtyping
from jaxtyping import _import_hook

ARRAYS = {"Bool", "Complex", "Float", "Inexact", "Int", "Integer", "Num", "Real", "Shaped", "UInt"}
ALIASES = {
    "Features",
    "Head",
    "HeadValues",
    "Masks",
    "Positions",
    "Right",
    "Rows",
    "Scores",
    "Slopes",
    "Vectors",
}
"""Names that modules give to annotations with shapes."""


def checked(annotated: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """What jaxtyping checks types by. A name of its own gives the compiled files theirs."""
    return beartype.beartype(annotated, **options)


class Shaped(_import_hook.JaxtypingTransformer):
    """Decorates as jaxtyping does, but only what it is needed for."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        arguments = node.args
        annotated = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        hints = [argument.annotation for argument in annotated]
        is_inner = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        if is_inner or not _name_shapes([*hints, node.returns]):
            return node
        return super().visit_FunctionDef(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:  # noqa: N802
        fields = [line.annotation for line in node.body if isinstance(line, ast.AnnAssign)]
        if _name_shapes(fields):
            return super().visit_ClassDef(node)
        self._parents.append(node)
        self.generic_visit(node)
        self._parents.pop()
        return node


def _name_shapes(hints: Sequence[ast.AST | None]) -> bool:
    parts = [part for hint in hints if hint is not None for part in ast.walk(hint)]
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    return not names.isdisjoint(ARRAYS | ALIASES)


def check_shapes(packages: Sequence[str]) -> None:
    """From now on modules of these packages are imported with their shapes checked."""
    _import_hook.JaxtypingTransformer = Shaped
    jaxtyping.install_import_hook(packages, f"{__name__}.{checked.__name__}")
