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

sizes = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
adapted = t.OlmoForCausalLM(t.OlmoConfig(**sizes, num_key_value_heads=4)).eval()
tabled = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4)).eval()
for model in (adapted, tabled):
    assert "blocks.1.attn.hook_z" in ls.sites(model)
print("SAELens", sae_lens.__version__, "TransformerLens", importlib.metadata.version("transformer-lens"), "ok")
PYTHON
}
check
"$folder/venv/bin/pip" install --quiet --no-deps transformer-lens==3.5.0
check
