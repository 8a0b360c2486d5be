"""The doctor over every architecture of its table in the docs, and what is left out of a map because it is not true."""

from __future__ import annotations

from pathlib import Path

import architectures
import pytest
import torch

from hooks import UnknownSite, capture, edits, intervene, sites

NAMES = [name for group in architectures.ARCHITECTURES.values() for name in group]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def test_there_are_sixty_and_the_docs_have_a_row_for_each():
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(NAMES) == len(set(NAMES)) >= 60
    listed = {line.split("|")[1].strip() for line in rows} - {""}
    assert listed == set(NAMES)
    assert not [line for line in rows if "WRONG" in line]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong(name):
    verdict = architectures.examined(name)[0]
    assert verdict.wrong == []
    assert all(f.reason for f in verdict.unsupported)


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
