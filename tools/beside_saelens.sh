#!/usr/bin/env bash
# Installs layerscope beside SAELens, which pins an older TransformerLens, in a fresh environment, and reads the sites of two
# models there: one of our own table, one through TransformerLens's adapters; then the same with the oldest TransformerLens.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 -e . sae-lens
check() {
    "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import sae_lens
import transformers as t

import layerscope as ls

sizes = dict(vocab_size=60, n_embd=32, n_layer=2, n_head=4)
tabled = t.GPT2LMHeadModel(t.GPT2Config(**sizes)).eval()
adapted = t.GPTJForCausalLM(t.GPTJConfig(**sizes, rotary_dim=4)).eval()
for model, source in ((tabled, "layerscope"), (adapted, "TransformerLens")):
    anatomy = ls.anatomy(model)
    assert anatomy.source.startswith(source), anatomy.source
    assert "blocks.1.attn.hook_z" in ls.sites(model)
    assert ls.verify(model, quick=True).status == "OK"
print("SAELens", sae_lens.__version__, "TransformerLens", importlib.metadata.version("transformer-lens"), "ok")
PYTHON
}
check
"$folder/venv/bin/pip" install --quiet --no-deps transformer-lens==3.5.0
check
