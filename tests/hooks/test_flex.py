"""Flex attention: seen and edited as eager attention is,
its kernel left at work where nothing is changed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaModel
from transformers.integrations import flex_attention as theirs

from hooks import Resume, capture, edits, intervene
from hooks.flex import flex_calls, with_asked
from layerscope.errors import UseError

IDS = torch.arange(14).reshape(2, 7) + 3
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
HEAD = "blocks.0.attn.hook_pattern[1]"

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling takes half a minute and changes nothing that is tested."""
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        yield


def model(name: str, implementation: str) -> Any:
    made = tiny.model(name).eval()
    made.set_attn_implementation(implementation)
    return made


# gemma2 has a soft cap and a sliding window.
@pytest.mark.parametrize("name", ["llama", "bert", "neox", "gemma2"])
def test_scores_patterns_and_edits_are_those_of_eager_attention(name: str) -> None:
    eager, flex = model(name, "eager"), model(name, "flex_attention")
    found = []
    for one in (eager, flex):
        with capture(one, ("pattern", 1), ("attn_scores", 1)) as acts:
            one(IDS, attention_mask=MASK)
        with intervene(one, {HEAD: edits.zero()}):
            edited = one(IDS, attention_mask=MASK)[0]
        found.append(
            [acts[("pattern", 1)].transpose(1, 2), acts[("attn_scores", 1)].transpose(1, 2), edited]
        )
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours[MASK.bool()], expected[MASK.bool()], atol=1e-6, rtol=1e-5)
    clean = flex(IDS, attention_mask=MASK)[0]
    assert (found[1][2] - clean)[MASK.bool()].abs().max() > 1e-4


class Allocated(TorchDispatchMode):
    """Bytes of new tensors that are ``query key``."""

    supports_higher_order_operators = True  # flex attention is one

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.bytes = length, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            v.untyped_storage().data_ptr() for v in tree_leaves(args) if isinstance(v, torch.Tensor)
        }
        for value in tree_leaves(out):
            is_square = isinstance(value, torch.Tensor) and value.shape[-2:] == (self.length,) * 2
            if is_square and value.untyped_storage().data_ptr() not in given:
                self.bytes += value.untyped_storage().nbytes()
        return out


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("edit", [False, True])
def test_one_head_of_many_costs_one_heads_memory(implementation: str, edit: bool) -> None:
    length, heads = 48, 32
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=heads, num_key_value_heads=8, num_hidden_layers=1,
        intermediate_size=32, vocab_size=50, attn_implementation=implementation,
    )  # fmt: skip
    made = LlamaModel(config).eval()
    ids = torch.arange(length)[None]

    def bytes_of(block: Any) -> int:
        with block, Allocated(length) as seen:
            made(ids)
        return seen.bytes

    bare = bytes_of(contextlib.nullcontext())
    site = "blocks.0.attn.hook_pattern[3]"
    watched = intervene(made, {site: edits.scale(0.5)}) if edit else capture(made, site)
    one, all_heads = 4 * length**2, 4 * heads * length**2
    found = bytes_of(watched) - bare
    # scores, their mask, the pattern and what is made of it; eager attention has all heads in one
    # tensor, and an edit of one copies it
    bound = 10 * one + (all_heads if edit and implementation == "eager" else 0)
    assert found <= bound, found / one
    assert 10 * one < all_heads


def test_the_kernels_output_goes_on_and_its_caller_is_put_back() -> None:
    flex, before = model("llama", "flex_attention"), theirs.compile_friendly_flex_attention
    clean = flex(IDS, attention_mask=MASK).logits
    with capture(flex, ("pattern", 1)):
        seen = flex(IDS, attention_mask=MASK).logits
    assert torch.equal(seen, clean)
    with (
        pytest.raises(ZeroDivisionError),
        intervene(flex, {HEAD: edits.function(lambda p: p / (1 // 0))}),
    ):
        flex(IDS, attention_mask=MASK)
    assert theirs.compile_friendly_flex_attention is before


def test_another_threads_calls_are_not_seen() -> None:
    flex = model("llama", "flex_attention")
    calls, said = [], []

    def forward() -> None:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            said.append(flex(IDS, attention_mask=MASK).logits)

    with flex_calls(lambda func, *args, **kwargs: calls.append(1) or func(*args, **kwargs)):
        other = threading.Thread(target=forward)
        other.start()
        other.join()
        assert not calls
        forward()
    assert len(calls) == 2  # one a layer
    assert torch.equal(*said)


def test_logarithmic_sums_are_given_where_a_gpus_call_asks_for_them() -> None:
    scores, out = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 8)
    _, aux = with_asked(out, scores, theirs.get_flex_attention_lse_kwargs(True))
    torch.testing.assert_close(aux.lse, scores.exp().sum(-1).log())
    assert with_asked(out, scores, theirs.get_flex_attention_lse_kwargs(False)) is out


def test_copies_of_padded_texts_keep_each_its_own_mask() -> None:
    noise = torch.randn(6, 7, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for implementation in ("eager", "flex_attention"):
        resume = Resume(model("llama", implementation), {"input_ids": IDS, "attention_mask": MASK})
        stream = resume.residual(1).repeat(3, 1, 1)
        found.append(resume.block(1, stream + noise[..., : stream.shape[-1]]))
    kept = MASK.repeat(3, 1).bool()
    torch.testing.assert_close(found[1][kept], found[0][kept], atol=1e-6, rtol=1e-5)


def test_gradients_that_a_cpu_does_not_give_are_one_line() -> None:
    flex = model("llama", "flex_attention")
    with torch.enable_grad(), pytest.raises(NotImplementedError, match="backward on CPU"):
        flex(IDS, attention_mask=MASK)  # PyTorch's own refusal
    with torch.enable_grad(), pytest.raises(UseError, match=r"no gradients on a CPU.*--attn sdpa"):
        capture(flex, ("resid_post", 1), grad=True)
