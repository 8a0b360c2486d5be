"""What the demo model has learned: agreement on minimal pairs, plain probes of every layer.

These are quick looks for the person who makes the demo again, with scikit-learn's probe and no
controls; the honest study is ``layerscope demo``.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from layerscope.experiments.corpus import Corpus, read_conllu
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .generate import SEED, SPLITS


@torch.no_grad()
def pair_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Path
) -> dict[str, float]:
    """The share of pairs, by UID, in which the good sentence is the likelier one."""
    model.eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for line in pairs.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        scores: list[float] = []
        for text in (pair["sentence_good"], pair["sentence_bad"]):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            scores.append(float(logits.gather(1, ids[0, 1:, None]).sum()))
        right[pair["UID"]].append(scores[0] > scores[1])
    return {uid: float(np.mean(values)) for uid, values in right.items()}


@torch.no_grad()
def word_vectors(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> list[Float[np.ndarray, "words d_model"]]:
    """The last subword's state of every word: the embedding, then the output of each block."""
    model.eval()
    layers: list[list[Tensor]] = [[] for _ in range(len(model.model.layers) + 1)]
    caught: list[Tensor] = []

    def catch(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    # A block's own output: the last of transformers' hidden_states is after the final norm.
    modules = [model.model.embed_tokens, *model.model.layers]
    handles = [module.register_forward_hook(catch) for module in modules]
    try:
        for sentence in corpus:
            encoded = tokenizer(sentence.text, return_offsets_mapping=True)
            ends = [end for _, end in encoded["offset_mapping"]]
            last = [
                next(i for i, end in enumerate(ends) if end >= word.end) for word in sentence.words
            ]
            caught.clear()
            model(input_ids=torch.tensor([encoded["input_ids"]]))
            for layer, states in zip(layers, caught, strict=True):
                layer.append(states[0, last])
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(states).float().numpy() for states in layers]


def layer_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, train: Path, test: Path
) -> dict[str, dict[str, list[float] | float]]:
    """Per property: test accuracy of a plain probe at every layer,
    and of the word type's usual tag.
    """
    corpora = read_conllu(train), read_conllu(test)
    vectors = [word_vectors(model, tokenizer, corpus) for corpus in corpora]
    types = [[w.form.lower() for s in corpus for w in s.words] for corpus in corpora]
    by_property: dict[str, dict[str, list[float] | float]] = {}
    for name in ("upos", "deprel"):
        labels = [np.array([getattr(w, name) for s in c for w in s.words]) for c in corpora]
        scores: list[float] = []
        for x_train, x_test in zip(*vectors, strict=True):
            scaler = StandardScaler().fit(x_train)
            probe = LogisticRegression(C=0.1, max_iter=100, tol=1e-2)
            probe.fit(scaler.transform(x_train), labels[0])
            scores.append(float(probe.score(scaler.transform(x_test), labels[1])))
        by_type: dict[str, Counter[str]] = defaultdict(Counter)
        for form, label in zip(types[0], labels[0].tolist(), strict=True):
            by_type[form][label] += 1
        usual = Counter(labels[0].tolist()).most_common(1)[0][0]
        guesses = [
            by_type[form].most_common(1)[0][0] if form in by_type else usual for form in types[1]
        ]
        by_property[name] = {
            "layers": scores,
            "type_majority": float(np.mean(np.array(guesses) == labels[1])),
        }
    return by_property


def describe(facts: dict[str, Any], folder: Path) -> str:
    """The README of the data folder, with what was measured."""
    files = (
        "train.conllu",
        "dev.conllu",
        "test.conllu",
        "agreement_pairs.jsonl",
        "demo-llama/model.safetensors",
    )
    sizes = [f"| `{name}` | {(folder / name).stat().st_size / 1e6:.2f} MB |" for name in files]
    pairs = [f"| `{uid}` | {value:.3f} |" for uid, value in facts["pairs"].items()]
    probes: list[str] = []
    for name, scores in facts["probes"].items():
        cells = " | ".join(f"{score:.3f}" for score in scores["layers"])
        probes.append(f"| {name} | {scores['type_majority']:.3f} | {cells} |")
    n_layers = len(facts["probes"]["upos"]["layers"])
    heads = " | ".join(["embedding", *(f"block {i}" for i in range(n_layers - 1))])
    return f"""# The embedded demo

Made by `python -m tools.demo.make` (seed {SEED}) and covered by this project's licence: the
grammar, its words and its trees are ours (`lexicon.py`, `nominals.py`, `verbs.py`, `grammar.py`).

- `train.conllu`, `dev.conllu`, `test.conllu`: {SPLITS["train"]}, {SPLITS["dev"]} and {SPLITS["test"]}
  sentences with gold annotation. No sentence is in two of them or in the model's training text,
  and every ninth noun, verb and adjective is missing from the train split, so that the others
  hold word types a probe has not seen. The same bytes on every machine.
- `agreement_pairs.jsonl`: minimal pairs of subject-verb agreement in BLiMP's form, with no noun or
  with one of the other number between subject and verb.
- `demo-llama/`: a Llama of {n_layers - 1} blocks, width 128, 4 heads, {facts["parameters"]:,} parameters in
  float32, and its byte-level BPE tokenizer of 1,200 tokens, which puts `<bos>` in front. Trained
  on {facts["sentences"]:,} sentences ({facts["tokens"]:,} tokens) of the grammar; `training.log` has the losses.

| file | size |
|---|---|
{chr(10).join(sizes)}

On 2,000 fresh sentences the model needs {facts["nats"]:.2f} nats per sentence. The choices that made
them hold {facts["entropy"]:.2f} nats, an upper bound on the entropy of the text.

The good sentence is the likelier one in this share of the pairs (chance: 0.5):

| pairs | accuracy |
|---|---|
{chr(10).join(pairs)}

A plain logistic probe of each layer (last subword of the word, test accuracy), beside the most
frequent tag of the word type:

| property | word type | {heads} |
|---|---|{"---|" * n_layers}
{chr(10).join(probes)}
"""
