"""Read residual stream, attention and gradients of the embedded demo model, by name.

python examples/read_activations.py
"""

from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.demo import demo_paths
from hooks import capture, sites

paths = demo_paths()
model = AutoModelForCausalLM.from_pretrained(paths.model).eval()
tokenizer = AutoTokenizer.from_pretrained(paths.model)
text = next(line.removeprefix("# text = ") for line in paths.test.read_text().splitlines() if line.startswith("# text"))
batch = tokenizer(text, return_tensors="pt")
print(f"{text!r}: {len(sites(model))} sites, such as {', '.join(sites(model)[:4])}")

with capture(model, "blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern", grad=True) as acts:
    logits = model(**batch).logits
    logits[0, -2].max().backward()  # the most likely last token

for site, value in acts.items():
    print(f"{site:32} {tuple(value.shape)!s:18} |gradient| {acts.grad[site].norm():.4f}")
print(
    "head 0 of block 1 looks from the last token at position",
    int(acts["blocks.1.attn.hook_pattern[0]"][0, -1].argmax()),
)
