"""Exam: one model, a few texts, and the forwards that the checks share."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from layerscope.errors import InputError

from ..activations import SiteNeverFired
from ..anatomy import anatomy, copied
from ..capture import capture
from ..configuration import text_config
from ..intervene import NothingChanged
from ..padding import Padding
from ..placement import byte_layers, device_of, dtype_of, is_offloaded
from ..resume import Resume
from ..site_map import Anatomy, UnknownArchitecture
from ..views import channels, turned
from .comparing import main_tensor, relative
from .findings import Finding
from .inputs import default_inputs, pad_id

LOCAL = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest relative difference that counts as rounding within one block."""
GLOBAL = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}
"""The same where it has gone through the whole model."""


MOST_NOISE = 0.1
"""A bound is never more than this for a model's own noise."""
NOISE = 2.0
"""Bounds are at least so many times what a model's own modules are off in a batch: some sites are
no module's output.
"""


class Exam:
    """What the checks are given.

    Args:
        model: in evaluation mode, as it will be used.
        inputs: keyword arguments of one forward of several items; by default random ones made from
            the configuration.
        sites: which sites; by default all that the anatomy lists. ``module:`` paths for a model
            without one.
        padding: how it is padded, where that is known; else it is found by trying.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any] | None = None,
        sites: Sequence[str] | None = None,
        padding: Padding | None = None,
    ) -> None:
        away = sum(p.is_meta for p in model.parameters())
        if away and not is_offloaded(model):
            raise InputError(
                f"{away} weights of {type(model).__name__} are on the meta device, "
                "which has no values: load it"
            )
        self.model = model
        self.attached = attached(model)
        self.inputs: dict[str, Any] = dict(inputs) if inputs is not None else default_inputs(model)
        try:
            self.anatomy: Anatomy | None = anatomy(model)
            self.unknown = ""
        except UnknownArchitecture as error:
            self.anatomy, self.unknown = None, str(error)
        # Single experts are many, and have a check of their own.
        places = self.anatomy.places if self.anatomy is not None else {}
        listed = [s for s in places if self._reached(s) and ".mlp.experts." not in s]
        self.sites = list(sites) if sites is not None else listed
        self.padding = padding
        # of `hooks.verify.response` and `hooks.verify.running`, made when they are first asked for
        self.response: Any = None
        self.running: Any = None
        self._calls_of_norms: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self.pad_id = pad_id(self.config)
        self.dtype, self.device = dtype_of(model), device_of(model)

    # -- what is known

    @property
    def n_layers(self) -> int:
        return self.anatomy.n_layers if self.anatomy is not None else 0

    @property
    def local(self) -> float:
        return LOCAL.get(self.dtype, 5e-2)

    @property
    def far(self) -> float:
        return GLOBAL.get(self.dtype, 0.25)

    @property
    def config(self) -> Any:
        return getattr(self.model, "config", None)

    @functools.cached_property
    def fused(self) -> bool:
        """Whether PyTorch has a kernel for whole layers; hooked ones run part by part."""
        return any(isinstance(part, nn.TransformerEncoderLayer) for part in self.model.modules())

    @functools.cached_property
    def text_sites(self) -> frozenset[str]:
        """Sites that fire where the texts are read without pictures beside them: Mllama's
        cross-attention then does not run.
        """
        if not any(kind in name for name in self.inputs for kind in ("pixel", "features")):
            return frozenset(self.acts)
        _, acts = self.watch({"input_ids": self.inputs["input_ids"]})
        return frozenset(acts)

    def block_path(self, layer: int) -> str:
        """The path of a block of the main stack."""
        place = (
            self.anatomy.places.get(f"blocks.{layer}.hook_resid_pre")
            if self.anatomy is not None
            else None
        )
        return place.path if place is not None else ""

    @property
    def learned_prompt(self) -> bool:
        """Whether an adapter puts learned tokens, or their keys and values,
        in front of every text.
        """
        adapters = getattr(self.model, "peft_config", None)
        return isinstance(adapters, dict) and any(
            getattr(a, "is_prompt_learning", False) for a in adapters.values()
        )

    @functools.cached_property
    def prefix(self) -> int:
        """How many learned keys stand in front of the text's own (prefix tuning)."""
        if not self.learned_prompt:
            return 0
        name = next((s for s in self.acts if s.endswith("attn.hook_pattern")), None)
        return self.acts[name].shape[-1] - self.acts[name].shape[-2] if name is not None else 0

    @property
    def caches(self) -> bool:
        """Whether its forward takes ``use_cache``."""
        return getattr(text_config(self.config), "use_cache", None) is not None

    def _reached(self, site: str) -> bool:
        """Whether the inputs run a site's tower:
        pictures and sounds are only given where the model is made of them.
        """
        given = "".join(self.inputs)
        towers = {"vision_blocks": "pixel", "audio_blocks": "input_features"}
        return all(kind in given for tower, kind in towers.items() if site.startswith(tower))

    @property
    def blocks(self) -> list[str]:
        """``blocks.0`` and so on, those of every stack that the inputs run."""
        stacks = self.anatomy.stacks if self.anatomy is not None else {}
        stacks = stacks or {"blocks": self.n_layers}
        return [
            f"{stack}.{layer}"
            for stack, count in stacks.items()
            if self._reached(stack)
            for layer in range(count)
        ]

    def has(self, *names: str) -> bool:
        """Whether every one of these sites is listed and has fired."""
        return all(name in self.acts for name in names)

    # -- forwards

    def run(self, inputs: Mapping[str, Any] | None = None, **arguments: Any) -> Tensor:
        """The model's answer: logits, else its hidden states,
        else the first tensor that it returns.
        """
        return main_tensor(self.raw(inputs, **arguments))

    def raw(self, inputs: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        """What the model returns, without a KV cache unless asked for."""
        given = {**(self.inputs if inputs is None else inputs)}
        if self.caches:
            arguments = {"use_cache": False, **arguments}
        moved = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in given.items()}
        return self.model(**moved, **arguments)

    def watch(
        self, inputs: Mapping[str, Any] | None = None, sites: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The answer and every site that fired."""
        wanted = self.sites if sites is None else sites
        with torch.no_grad(), quiet():
            if not wanted:
                return self.run(inputs), {}
            watching = capture(self.model, *wanted, clone=True)
            out: Any = None
            try:
                with watching as acts:
                    out = self.run(inputs)
            except SiteNeverFired:
                acts = watching.acts
        return out, dict(acts)

    @functools.cached_property
    def plain(self) -> Tensor:
        """The answer without a hook."""
        with torch.no_grad():
            return self.run()

    @functools.cached_property
    def _clean(self) -> tuple[Tensor, dict[str, Tensor]]:
        with self._keeping_norms():
            return self.watch()

    @property
    def watched(self) -> Tensor:
        """The answer with every site captured."""
        return self._clean[0]

    @functools.cached_property
    def resume(self) -> Resume:
        """The texts' forward, recorded block by block.

        Raises:
            InputError: the model cannot be continued from a block.
        """
        return Resume(self.model, self.inputs)

    @property
    def acts(self) -> dict[str, Tensor]:
        """Every site of the texts."""
        return self._clean[1]

    @functools.cached_property
    def batch(self) -> int:
        """How many items the inputs hold."""
        return next(len(v) for v in self.inputs.values() if isinstance(v, Tensor) and v.ndim)

    def item(self, at: int, copies: int = 1) -> dict[str, Any]:
        """The inputs of one item, repeated."""
        return {
            k: v[at : at + 1].repeat(copies, *[1] * (v.ndim - 1)) if self._by_item(v) else v
            for k, v in self.inputs.items()
        }

    def in_precision(self, dtype: torch.dtype) -> Exam:
        """The same examination of a copy with weights and inputs of another precision."""
        inputs = {}
        for name, value in self.inputs.items():
            is_real = isinstance(value, Tensor) and value.is_floating_point()
            inputs[name] = value.to(dtype) if is_real else value
        return Exam(copied(self.model, dtype), inputs, self.sites, self.padding)

    def of_one(self, tokens: int) -> Exam:
        """The examination of the first item alone, cut to its first tokens where it has tokens."""
        inputs = self.item(0)
        if "input_ids" in inputs:
            inputs["input_ids"] = inputs["input_ids"][:, :tokens]
        return Exam(self.model, inputs, self.sites, self.padding)

    def _by_item(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.batch

    @functools.cached_property
    def causal(self) -> bool | None:
        """Whether earlier positions are blind to the last one, by trying; None where the input is
        not token ids, or all one token.
        """
        ids = self.inputs.get("input_ids")
        name = self.last_stream
        if ids is None or name is None:
            return None
        other = ids.clone()
        other[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
        if torch.equal(other, ids):
            return None
        _, acts = self.watch({**self.inputs, "input_ids": other}, [name])
        error = relative(acts[name][:, :-1], self.acts[name][:, :-1])
        return error <= self.local or error <= self.bound_with_noise(self.local)

    @functools.cached_property
    def batch_noise(self) -> float:
        """How far the model's own modules and answer are off between a text alone and in its batch,
        seen by plain hooks; 0 where that is rounding.

        Layers of 8 bits scale and split their inputs by what else is there. In a model without such
        layers, texts that see each other are a fault.
        """
        if not byte_layers(self.model):
            return 0.0
        row = self.batch - 1
        alone, together = self._seen_plainly(self.item(row)), self._seen_plainly(self.inputs)
        errors = [0.0]
        for of_one, of_all in zip(alone, together, strict=False):
            if len(of_all) == self.batch and len(of_one) == 1:
                errors.append(relative(of_one[0], of_all[row]))
        noise_of_model = max(errors)
        return noise_of_model if noise_of_model > 0.1 * self.local else 0.0

    def _seen_plainly(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """The output of every module of the blocks, and the answer, without any hook of ours."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor):
                seen.append(value.clone())

        with ExitStack() as stack, torch.no_grad():
            blocks = (
                self.model.get_submodule(p) for p in map(self.block_path, range(self.n_layers))
            )
            for module in dict.fromkeys(part for block in blocks for part in block.modules()):
                stack.callback(module.register_forward_hook(keep).remove)
            answer = self.run(inputs)
        return [*seen, answer]

    def norms(self, block: str) -> list[tuple[Tensor, Tensor]]:
        """(input, output) of every norm in a block, on the texts."""
        return self._norms.get(block, [])

    @contextmanager
    def _keeping_norms(self) -> Iterator[None]:
        """Keep what the norms of the blocks read and give in the forward that runs inside."""
        calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        with ExitStack() as stack:
            for block in self.blocks:
                for module in self._modules_of(block):
                    if "norm" in type(module).__name__.lower() and module not in calls:
                        calls[module] = []
                        stack.callback(module.register_forward_hook(_keeper(calls[module])).remove)
            yield
        self._calls_of_norms = calls

    @functools.cached_property
    def _norms(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        assert self.anatomy is not None
        _ = self._clean  # the forward that keeps them
        pairs_of: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for block in self.blocks:
            place = self.anatomy.places.get(f"{block}.hook_resid_pre")
            # A block that all layers share has made as many calls as there are layers.
            call = place.call if place is not None and place.calls > 1 else 0
            modules = self._modules_of(block)
            calls = [self._calls_of_norms[m] for m in modules if self._calls_of_norms.get(m)]
            pairs = [made[call] for made in calls]
            post = self.anatomy.places.get(f"{block}.hook_resid_post")
            if post is not None and post.view in (turned, channels):
                pairs = [(post.view(given), post.view(out)) for given, out in pairs]
            pairs_of[block] = pairs
        return pairs_of

    def _modules_of(self, block: str) -> list[nn.Module]:
        """The modules of a block, which some models keep in several lists."""
        assert self.anatomy is not None
        sums = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
        places = [self.anatomy.places.get(f"{block}.{part}") for part in sums]
        modules = [
            module
            for place in places
            if place is not None
            for module in self.model.get_submodule(place.path).modules()
        ]
        return list(dict.fromkeys(modules))

    @property
    def last_stream(self) -> str | None:
        name = f"blocks.{self.n_layers - 1}.hook_resid_post"
        return name if self.has(name) else None

    # -- findings

    def within(self, site: str, measured: float, bound: float, reason: str = "") -> Finding:
        """OK if the number is within its bound,
        else WRONG with the reason (NaN is never within).
        """
        if not measured <= bound and bound >= self.local:
            bound = self.bound_with_noise(bound)  # measured only where it is needed
        good = measured <= bound
        return Finding(
            "",
            site,
            "OK" if good else "WRONG",
            float(measured),
            float(bound),
            "" if good else reason,
        )

    def bound_with_noise(self, bound: float) -> float:
        """A bound, or what the model's own noise allows where that is more."""
        return max(bound, min(NOISE * self.batch_noise, MOST_NOISE))

    def above(self, site: str, measured: float, bound: float, reason: str = "") -> Finding:
        """OK if the number is at least its bound."""
        good = measured >= bound
        return Finding(
            "",
            site,
            "OK" if good else "WRONG",
            float(measured),
            float(bound),
            "" if good else reason,
        )

    def cannot(self, site: str, reason: str) -> Finding:
        """UNSUPPORTED, and why."""
        return Finding("", site, "UNSUPPORTED", reason=reason)


def _keeper(kept: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and isinstance(output, Tensor) and given.shape == output.shape:
            kept.append((args[0].clone(), output.clone()))

    return hook


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that an edit changed nothing:
    the doctor edits with clean values on purpose.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        yield


def attached(model: nn.Module) -> int:
    """How many hooks the model's modules have, and how many modes are on."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds) + len(
        _get_current_function_mode_stack()
    )
