"""Models and modules in which hooks would not run: wrapped, scripted or compiled."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from layerscope.errors import LayerscopeError

from .rows import Place


class WrappedModel(LayerscopeError, ValueError):
    """A wrapped model in which hooks would not run; the message says what to pass instead."""


def refuse_wrapper(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise WrappedModel(
            f"{type(model).__name__} runs copies of the model, "
            "which hooks do not reach: pass the wrapped model, model.module"
        )
    if "_orig_mod" in model._modules:
        raise WrappedModel(
            "the model is compiled (torch.compile): compiled code skips hooks added "
            "later; pass the original model, model._orig_mod, which shares its weights"
        )
    _refuse_scripted(model)


def _refuse_scripted(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise WrappedModel(
            "the model is TorchScript, whose code runs no hooks: pass the module that was "
            "scripted or traced"
        )


def refuse_compiled(model: nn.Module) -> None:
    """No module may be compiled: for what asks of all sites."""
    for module in model.modules():
        _refuse_compiled_module(module)


def modules_at(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The modules at some paths and above them, by path;
    raises `AttributeError` where one is gone.
    """
    modules = {"": model}
    for path in paths:
        if path not in modules:
            _find_module(path, modules)
    return modules


def _find_module(path: str, modules: dict[str, nn.Module]) -> nn.Module:
    above, _, name = path.rpartition(".")
    parent = modules.get(above)
    if parent is None:
        parent = _find_module(above, modules)
    if isinstance(parent, torch.jit.ScriptModule):
        _refuse_scripted(parent)
    module = child_of(parent, name)
    if module is None:
        raise AttributeError(f"{type(parent).__name__} has no module {name!r}")
    modules[path] = module
    return module


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """The module of this name inside another one; None if there is none."""
    child = module._modules.get(name)
    return getattr(module, name, None) if child is None else child


def refuse_compiled_around(model: nn.Module, places: Iterable[Place]) -> None:
    """No module may be compiled that a place is in, nor a block beside it;
    the others are not looked at.
    """
    modules = set(modules_at(model, [place.path for place in places]).values())
    for module in [module for module in modules if isinstance(module, nn.ModuleList)]:
        modules.update(module)
    for module in modules:
        _refuse_compiled_module(module)


def _refuse_compiled_module(module: nn.Module) -> None:
    if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
        raise WrappedModel(
            "modules of the model are compiled in place (model.compile()): compiled code "
            "skips hooks added later; load the model again, "
            "or copy its weights into one that is not compiled"
        )
