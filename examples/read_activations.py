"""Read residual stream, attention and gradients by name.

python examples/read_activations.py [MODEL] [TEXT]     # by default the embedded model
"""

import sys

from layerscope.experiments.demo import demo_paths
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerscope import capture, sites


def main(model=None, text="The old teachers near the big house are happy."):
    path = model or demo_paths().model
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForCausalLM.from_pretrained(path).eval(),
    )
    batch = tokenizer(text, return_tensors="pt")
    print(f"{text!r}: {len(sites(model))} sites, such as {', '.join(sites(model)[:4])}")

    with capture(
        model, "blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern", grad=True
    ) as acts:
        logits = model(**batch).logits
        logits[0, -2].max().backward()  # of the likeliest last token

    for site, value in acts.items():
        print(f"{site:32} {tuple(value.shape)!s:18} |gradient| {acts.grad[site].norm():.4f}")
    looked = int(acts["blocks.1.attn.hook_pattern[0]"][0, -1].argmax())
    print(f"head 0 of block 1 looks from the last token at token {looked}")
    return acts


if __name__ == "__main__":
    main(*sys.argv[1:])
