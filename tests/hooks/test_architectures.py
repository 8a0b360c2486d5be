"""The doctor over architectures: a sample each time, all of them where slow tests run; and its table in the docs."""

from __future__ import annotations

from pathlib import Path

import architectures
import pytest
import torch

from hooks import UnknownSite, capture, edits, intervene, sites, verify

NAMES = [name for group in architectures.ARCHITECTURES.values() for name in group]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
FAST = ["fires", "residual sums", "chain of blocks", "attention rows", "pattern x v", "projections", "norm and head"]


def test_there_are_sixty_and_the_docs_have_a_row_for_each():
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(NAMES) == len(set(NAMES)) >= 60
    listed = {line.split("|")[1].strip() for line in rows} - {""}
    assert len(listed) >= 60
    assert listed <= set(NAMES)
    assert not [line for line in rows if "WRONG" in line]


@pytest.mark.parametrize(
    "name", ["openai-gpt", "bitnet", "qwen2-moe", "gpt-oss", "falcon-alibi", "xglm", "glm4", "bart", "vit", "wav2vec2"]
)
def test_a_sample_is_mapped_right(name):
    verdict = verify(architectures.build(name), only=FAST)
    assert verdict.wrong == []
    assert all(f.reason for f in verdict.unsupported)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong(name):
    assert architectures.examined(name)[0].wrong == []


def test_what_is_no_heads_own_is_not_listed():
    """Behind a norm over all heads (BitNet), in a mixture of experts, where a softmax does not show its heads (XGLM)."""
    assert not [s for s in sites(architectures.build("bitnet")) if s.endswith(("hook_z", "mlp.hook_post"))]
    assert not [s for s in sites(architectures.build("qwen2-moe")) if "mlp.hook_p" in s]
    assert not [s for s in sites(architectures.build("xglm")) if "pattern" in s]


@pytest.mark.parametrize(("name", "block"), [("t5", "decoder.block.0"), ("bart", "model.decoder.layers.0")])
def test_decoders_are_refused_by_name_and_read_by_path(name, block):
    model, ids = architectures.build(name), torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(UnknownSite, match=rf"its encoder's .* 'module:{block}:output'"):
        capture(model, "decoder_blocks.0.cross_attn.hook_pattern")
    site = f"module:{block}:output"
    with torch.no_grad(), capture(model, site, "blocks.0.hook_resid_post") as acts:
        plain = model(input_ids=ids, decoder_input_ids=ids[:, :2]).logits
    assert acts[site].shape == (1, 2, 32)
    assert acts["resid_post", 0].shape == (1, 4, 32)
    with torch.no_grad(), intervene(model, {site: edits.zero()}):
        assert not torch.equal(model(input_ids=ids, decoder_input_ids=ids[:, :2]).logits, plain)
