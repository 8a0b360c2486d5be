"""Encoder-decoders on sources and targets that are given: ablation against edited weights,
losses against the model's own.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import zoo
from layerscope.experiments import cli
from layerscope.experiments.attribution import AttributionError, Target, attribute
from layerscope.experiments.corpus.prompts import Prompt
from layerscope.experiments.metrics.metrics import get_metric
from layerscope.experiments.metrics.reads import BITS, ItemError, MetricError
from layerscope.experiments.subject import Subject
from layerscope.experiments.sweep.components import components
from layerscope.experiments.sweep.estimate import estimates
from layerscope.experiments.sweep.sweep import Sweep, chunks
from layerscope.hooks import capture, edits, intervene, verify

from tools.command_grid import tokenizer

FAMILIES = (
    "T5ForConditionalGeneration",
    "BartForConditionalGeneration",
    "M2M100ForConditionalGeneration",
    "MarianMTModel",
    "T5GemmaForConditionalGeneration",
)
PROMPTS = (
    Prompt(" the old dog sees", " the birds", " the cats", target_prefix=" the red dog"),
    Prompt(" the cats love the big bird", " dogs see the cat", " cats see the old dog"),
)
PROJECTIONS = {
    "T5ForConditionalGeneration": ("SelfAttention.o", "EncDecAttention.o"),
    "T5GemmaForConditionalGeneration": ("self_attn.o_proj", "cross_attn.o_proj"),
}
"""Names of the output projections of self- and cross-attention; BART's elsewhere."""


@functools.cache
def subject_of(name: str) -> Subject:
    return Subject(zoo.build(name, std=0.3), tokenizer(), name=name)


def target_ids(subject: Subject, prompt: Prompt, answer: str) -> tuple[list[int], int]:
    """What the decoder is to say, by the tokenizer alone,
    and how many tokens the given beginning has.
    """
    given = subject.tokenizer(prompt.target_prefix or "")["input_ids"]
    return [*given, *subject.tokenizer(answer)["input_ids"]], len(given)


def log2p(subject: Subject, model: Any, prompt: Prompt, answer: str) -> float:
    """log2 p(answer | source, the target's beginning) by the model's own forward on one text,
    without padding.
    """
    labels, begin = target_ids(subject, prompt, answer)
    start = {
        "T5ForConditionalGeneration": 0,
        "MarianMTModel": 0,
        "T5GemmaForConditionalGeneration": 1,
    }
    decoder = [start.get(subject.name, 2), *labels[:-1]]
    source = torch.tensor([subject.tokenizer(prompt.prompt)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([decoder])).logits[0]
    of_tokens = logits.log_softmax(-1)[range(len(labels)), labels]
    return BITS * float(of_tokens[begin:].sum())


def difference(subject: Subject, model: Any, prompt: Prompt) -> float:
    wrong = prompt.wrong or ""
    return log2p(subject, model, prompt, prompt.answer) - log2p(subject, model, prompt, wrong)


def without_head(subject: Subject, site: str, head: int) -> Any:
    """A copy of the model whose head's columns of the output projection are zero."""
    model = copy.deepcopy(subject.model)
    own, cross = PROJECTIONS.get(subject.name, ("self_attn.out_proj", "encoder_attn.out_proj"))
    end = cross if "cross" in site else own
    stack = model.get_decoder() if site.startswith("decoder") else model.get_encoder()
    found = [module for path, module in stack.named_modules() if path.endswith(end)]
    weight = found[int(site.split(".")[1])].weight
    width = weight.shape[1] // 4
    with torch.no_grad():
        weight[:, head * width : (head + 1) * width] = 0
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_each_head_is_its_columns(name: str) -> None:
    subject, metric = subject_of(name), get_metric("answer_difference")
    reads = metric.reads(subject, PROMPTS)
    (chunk,) = chunks(subject, reads, 10_000)  # both prompts, padded to one length
    parts = components(subject.model, "heads", chunk.batch)
    kinds = {part.site.name.split(".")[0] + part.site.name.split(".")[2] for part in parts}
    assert kinds == {"blocksattn", "decoder_blocksattn", "decoder_blockscross_attn"}
    assert len(parts) == 3 * 2 * 4

    sweep = Sweep(subject, metric, chunk)
    clean = [difference(subject, subject.model, prompt) for prompt in PROMPTS]
    np.testing.assert_allclose(sweep.clean[np.argsort(chunk.prompts)], clean, atol=2e-4)
    effects = sweep.effects([(part, edits.zero()) for part in parts])
    assert sweep.changed.all()
    for part, effect in zip(parts, effects, strict=True):
        cut = without_head(subject, part.site.name, part.index or 0)
        expected = [difference(subject, cut, PROMPTS[number]) for number in chunk.prompts]
        expected = np.subtract(expected, [clean[number] for number in chunk.prompts])
        np.testing.assert_allclose(effect, expected, atol=3e-4, err_msg=str(part.site))


def test_an_estimate_is_the_gradient_at_the_output_projections() -> None:
    subject, metric = subject_of("BartForConditionalGeneration"), get_metric("answer_difference")
    prompt = PROMPTS[1]
    (chunk,) = chunks(subject, metric.reads(subject, [prompt]), 10_000)
    parts = components(subject.model, "heads", chunk.batch)
    estimated = estimates(subject, metric, chunk, parts, lambda part: edits.zero()).effects[:, 0]

    model, seen = subject.model, {}

    def keep(path: str, value: torch.Tensor) -> None:
        value.retain_grad()
        seen.setdefault(path, []).append(value)

    handles = []
    for path, module in model.named_modules():
        if path.endswith("out_proj"):
            handles.append(
                module.register_forward_pre_hook(lambda _, args, path=path: keep(path, args[0]))
            )
    source = torch.tensor([subject.tokenizer(prompt.prompt)["input_ids"]])
    for answer, sign in ((prompt.answer, 1), (prompt.wrong, -1)):
        labels = subject.tokenizer(answer)["input_ids"]
        decoder = torch.tensor([[2, *labels[:-1]]])
        logits = model(input_ids=source, decoder_input_ids=decoder).logits[0].log_softmax(-1)
        (sign * BITS * logits[range(len(labels)), labels].sum()).backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    for part, value in zip(parts, estimated, strict=True):
        kind = "encoder_attn" if "cross" in part.site.name else "self_attn"
        stack = "decoder" if part.site.name.startswith("decoder") else "encoder"
        states = seen[f"model.{stack}.layers.{part.layer}.{kind}.out_proj"]
        width = states[0].shape[-1] // 4
        at = slice((part.index or 0) * width, ((part.index or 0) + 1) * width)
        expected = sum(-float((s.detach() * s.grad)[..., at].sum()) for s in states)
        assert value == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_the_models_own() -> None:
    subject, metric = subject_of("BartForConditionalGeneration"), get_metric("loss")
    prompt = PROMPTS[1]
    (chunk,) = chunks(subject, metric.reads(subject, [prompt]), 10_000)
    source, labels = (
        torch.tensor([subject.tokenizer(text)["input_ids"]])
        for text in (prompt.prompt, prompt.answer)
    )
    with torch.no_grad():
        expected = BITS * float(subject.model(input_ids=source, labels=labels).loss)
    assert Sweep(subject, metric, chunk).clean[0] == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_one_line() -> None:
    pair = subject_of("T5ForConditionalGeneration")
    alone = Subject(zoo.build("LlamaForCausalLM"), tokenizer(), name="llama")
    with pytest.raises(ItemError, match="is for encoder-decoders"):
        get_metric("log_probability").reads(alone, [PROMPTS[0]])
    with pytest.raises(ItemError, match="expected an 'answer'"):
        get_metric("loss").reads(pair, [Prompt(" the dog", "")])
    with pytest.raises(MetricError, match="encoder-decoder"):
        get_metric("pair_difference").reads(pair, [])
    with pytest.raises(ItemError, match="has no token"):
        get_metric("log_probability").reads(pair, [Prompt(" the dog", "")])


TARGET = Target(" birds", prefix=" the red")
SOURCE = " the old dog sees"


def of_embeddings(subject: Subject, source: Any, target: Any) -> torch.Tensor:
    """log2 p of the token `` birds`` behind a target,
    when source and target have these embeddings.
    """
    (token,) = subject.tokenizer(" birds")["input_ids"]
    out = subject.model(inputs_embeds=source[None], decoder_inputs_embeds=target[None])
    return BITS * out.logits[0, -1].log_softmax(-1)[token]


def embedded(subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
    """The embeddings of the source and of the target's beginning, by the model's own layers."""
    start = 0 if subject.name.startswith("T5") else 2
    source = torch.tensor(subject.tokenizer(SOURCE)["input_ids"])
    target = torch.tensor([start, *subject.tokenizer(" the red")["input_ids"]])
    encoder, decoder = subject.model.get_encoder(), subject.model.get_decoder()
    return encoder.embed_tokens(source).detach(), decoder.embed_tokens(target).detach()


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_words_of_source_and_target_by_hand(name: str) -> None:
    subject = subject_of(name)
    prompt = Prompt(SOURCE, " birds", target_prefix=" the red")
    value = log2p(subject, subject.model, prompt, " birds")
    absent = [
        (prompt.prompt.replace(f" {word}", "", 1), prompt.target_prefix)
        for word in ("the", "old", "dog", "sees")
    ]
    absent += [(SOURCE, " red"), (SOURCE, " the")]
    losses = []
    for source, prefix in absent:
        changed = Prompt(source, "", target_prefix=prefix)
        losses.append(value - log2p(subject, subject.model, changed, " birds"))
    found = attribute(subject, SOURCE, target=TARGET, removal="delete")
    assert found.units == ("the", "old", "dog", "sees", "the", "red")
    np.testing.assert_allclose(found.scores, losses, atol=2e-4)

    source, target = (half.requires_grad_() for half in embedded(subject))
    of_embeddings(subject, source, target).backward()
    expected = [
        *(source * source.grad).sum(1).tolist(),
        *(target * target.grad).sum(1)[1:].tolist(),
    ]
    found = attribute(subject, SOURCE, target=TARGET, method="grad-input")
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)

    source, target = embedded(subject)
    with torch.no_grad():
        encoder, decoder = subject.model.get_encoder(), subject.model.get_decoder()
        vocabulary = torch.arange(100)
        source[:] = encoder.embed_tokens(vocabulary).mean(0)
        target[1:] = decoder.embed_tokens(vocabulary).mean(0)
        baseline = float(of_embeddings(subject, source, target))
    found = attribute(subject, SOURCE, target=TARGET, method="ig", baseline="mean")
    assert found.baseline == pytest.approx(baseline, abs=1e-4)
    assert found.scores.sum() == pytest.approx(value - baseline, rel=0.01)
    emptied = attribute(subject, SOURCE, target=TARGET, method="shapley", removal="mean")
    assert emptied.scores.sum() == pytest.approx(value - baseline, abs=1e-3)


def test_a_stacks_site_has_the_values_of_its_own_words() -> None:
    subject = subject_of("BartForConditionalGeneration")
    encoder, decoder = (
        attribute(subject, SOURCE, target=TARGET, method="grad-input", site=site).scores
        for site in ("blocks.1.hook_resid_post", "decoder_blocks.0.hook_resid_pre")
    )
    assert encoder.nonzero()[0].tolist() == [0, 1, 2, 3]
    assert decoder.nonzero()[0].tolist() == [4, 5]
    with pytest.raises(AttributionError, match="follows one stack"):
        attribute(subject, SOURCE, target=TARGET, method="lrp")
    with pytest.raises(AttributionError, match="leaves nothing that can be read"):
        attribute(subject, " dog", target=TARGET, removal="delete")
    alone = Subject(zoo.build("LlamaForCausalLM"), tokenizer(), name="llama")
    with pytest.raises(AttributionError, match="is for encoder-decoders"):
        attribute(alone, SOURCE, target=TARGET)


def test_a_cross_attention_head_is_out_while_a_target_is_written() -> None:
    subject = subject_of("BartForConditionalGeneration")
    site = "decoder_blocks.1.cross_attn.hook_z[2]"
    cut = without_head(subject, site, 2)
    source = torch.tensor([subject.tokenizer(SOURCE)["input_ids"]])
    written = dict[str, Any](max_new_tokens=6, min_new_tokens=6, do_sample=False, num_beams=2)
    with (
        torch.no_grad(),
        capture(subject.model, "decoder_blocks.1.cross_attn.hook_pattern") as acts,
    ):
        plain = subject.model.generate(source, **written)
    with torch.no_grad(), intervene(subject.model, {site: edits.zero()}):
        edited = subject.model.generate(source, **written)
    assert edited.tolist() == cut.generate(source, **written).tolist()
    assert plain.tolist() != edited.tolist()
    patterns = acts.all("decoder_blocks.1.cross_attn.hook_pattern")
    assert len(patterns) == 6
    assert {pattern.shape[-1] for pattern in patterns} == {source.shape[1]}


def saved(tmp_path: Path, name: str) -> Path:
    subject = subject_of(name)
    subject.model.save_pretrained(tmp_path / "model")
    subject.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_attribute_explains_what_is_written(tmp_path: Path) -> None:
    model, out = saved(tmp_path, "T5ForConditionalGeneration"), tmp_path / "run"
    args = ["attribute", "--model", str(model), "--text", SOURCE, "--target-prefix", " the"]
    args += ["--generate", "2", "--method", "ig", "--steps", "8", "--null-draws", "1"]
    assert cli.main([*args, "--device", "cpu", "--out", str(out)]) == 0
    records = json.loads((out / "results.json").read_text())["records"]
    first, second = [record for record in records if record["method"] == "ig"]
    assert first["text"] == f"{SOURCE}\n the"
    assert second["text"].startswith(first["text"])
    subject = subject_of("T5ForConditionalGeneration")
    source = torch.tensor([subject.tokenizer(SOURCE)["input_ids"]])
    start = torch.tensor([[0, *subject.tokenizer(" the")["input_ids"]]])
    with torch.no_grad():
        token = int(subject.model(input_ids=source, decoder_input_ids=start).logits[0, -1].argmax())
    assert repr(subject.tokenizer.decode([token])) in first["target"]


@pytest.mark.parametrize("value", ["mean", "mean-position", "resample"])
def test_ablate_runs_and_names_the_stacks(value: str, tmp_path: Path) -> None:
    model = saved(tmp_path, "BartForConditionalGeneration")
    lines = [
        {"prompt": f" the {noun} sees the {other}", "answer": " the old", "wrong": " the red"}
        for noun, other in (("dog", "cat"), ("cat", "bird"), ("bird", "dog"))
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "run"
    args = f"ablate --model {model} --prompts {file} --metric answer_difference --component heads"
    assert cli.main([*args.split(), "--value", value, "--device", "cpu", "--out", str(out)]) == 0
    records = json.loads((out / "results.json").read_text())["records"]
    assert len(records) == 24
    assert {record["site"].split(".")[0] for record in records} == {"blocks", "decoder_blocks"}
    page = (out / "report.html").read_text()
    assert (
        "decoder&#39;s attention to the source" in page
        or "decoder's attention to the source" in page
    )


def test_attend_shows_the_decoder_and_the_source(tmp_path: Path) -> None:
    model, out = saved(tmp_path, "T5ForConditionalGeneration"), tmp_path / "run"
    file = tmp_path / "prompts.jsonl"
    line = {"prompt": SOURCE, "target_prefix": " the red", "answer": " birds"}
    file.write_text(json.dumps(line) + "\n")
    args = ["attend", "--model", str(model), "--prompts", str(file), "--device", "cpu"]
    assert cli.main([*args, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    (text,) = results["shown_targets"]

    eager = hf.T5ForConditionalGeneration.from_pretrained(model, attn_implementation="eager").eval()
    tokens = subject_of("T5ForConditionalGeneration").tokenizer
    source = torch.tensor([tokens(SOURCE)["input_ids"]])
    target = torch.tensor([[0, *tokens(" the red birds")["input_ids"]]])
    with torch.no_grad():
        seen = eager(input_ids=source, decoder_input_ids=target, output_attentions=True)
    cross = torch.cat(seen.cross_attentions).numpy()
    np.testing.assert_allclose(text["heads"], cross, atol=6e-4)
    own = torch.cat(seen.decoder_attentions).numpy()
    by_name = {
        (head["stack"], head["layer"], head["index"]): head for head in results["target_heads"]
    }
    assert len(by_name) == 16
    last = by_name["D", 1, 2]
    assert last["previous"] == pytest.approx(
        float(own[1, 2, [1, 2, 3], [0, 1, 2]].mean()), abs=1e-4
    )
    uniform = -(own * np.log(own.clip(1e-30))).sum(-1)[1, 2, 1:] / np.log([2, 3, 4])
    assert last["entropy"] == pytest.approx(uniform.mean(), abs=1e-4)
    assert "Decoder and source" in (out / "report.html").read_text()


# -- two language models joined by transformers, of different widths


def joined_models(decoder: Any) -> Subject:
    """A BERT of width 32 that a decoder of another width reads."""
    torch.manual_seed(0)
    encoder = hf.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    both = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    both.decoder_start_token_id, both.pad_token_id = 2, 0
    model = hf.EncoderDecoderModel(both).eval()
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return Subject(model, tokenizer(), name="joined")


DECODERS = {
    "wider GPT-2": hf.GPT2Config(
        vocab_size=100, n_embd=48, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "narrower BERT": hf.BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_joined_model_has_the_sites_of_both_its_stacks(name: str) -> None:
    subject = joined_models(DECODERS[name])
    source, target = torch.randint(3, 90, (2, 6)), torch.randint(3, 90, (2, 4))
    layers = subject.model.encoder.encoder.layer
    decoder = subject.model.decoder
    blocks = decoder.transformer.h if name == "wider GPT-2" else decoder.bert.encoder.layer
    outputs = {}
    named = {f"blocks.{i}.hook_resid_post": layer for i, layer in enumerate(layers)}
    named |= {f"decoder_blocks.{i}.hook_resid_post": block for i, block in enumerate(blocks)}
    for site, module in named.items():

        def keep(_: Any, given: Any, output: Any, site: str = site) -> None:
            outputs[site] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(keep)
    with torch.no_grad(), capture(subject.model, *named) as acts:
        subject.model(input_ids=source, decoder_input_ids=target)
    assert outputs.keys() == named.keys()
    for site, output in outputs.items():
        assert torch.equal(acts[site], output)


@pytest.mark.parametrize("name", DECODERS)
def test_gradients_of_source_and_target_of_different_widths_by_hand(name: str) -> None:
    subject = joined_models(DECODERS[name])
    model = subject.model
    source = torch.tensor(subject.tokenizer(SOURCE)["input_ids"])
    target = torch.tensor([2, *subject.tokenizer(" the red")["input_ids"]])
    tables = model.encoder.get_input_embeddings(), model.decoder.get_input_embeddings()
    leaves = [
        table(ids).detach().requires_grad_()
        for table, ids in zip(tables, (source, target), strict=True)
    ]
    of_embeddings(subject, *leaves).backward()
    shares = [(leaf * leaf.grad).sum(1).tolist() for leaf in leaves]
    found = attribute(subject, SOURCE, target=TARGET, method="grad-input")
    np.testing.assert_allclose(found.scores, [*shares[0], *shares[1][1:]], atol=1e-4)

    sizes = [leaf.grad.abs().sum(1).tolist() for leaf in leaves]
    found = attribute(subject, SOURCE, target=TARGET, method="saliency")
    np.testing.assert_allclose(found.scores, [*sizes[0], *sizes[1][1:]], rtol=1e-3)

    with torch.no_grad():
        starts = [leaf.detach().clone() for leaf in leaves]
        starts[0][:] = tables[0].weight.mean(0)
        starts[1][1:] = tables[1].weight.mean(0)
        change = float(of_embeddings(subject, *leaves) - of_embeddings(subject, *starts))
    found = attribute(subject, SOURCE, target=TARGET, method="ig", baseline="mean")
    assert found.scores.sum() == pytest.approx(change, rel=0.01)
    for method in ("dig", "smoothgrad"):
        scores = attribute(subject, SOURCE, target=TARGET, method=method).scores
        assert np.isfinite(scores).all()
        assert scores.all()


def test_cross_attention_of_a_joined_gpt2_is_put_together_from_its_sites() -> None:
    subject = joined_models(DECODERS["wider GPT-2"])
    source, target = torch.randint(3, 90, (2, 6)), torch.randint(3, 90, (2, 4))
    block = "decoder_blocks.1"
    parts = [f"cross_attn.hook_{part}" for part in ("q", "k", "v", "z")]
    sums = ["hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_cross_attn_out"]
    sums += ["hook_resid_mid_cross", "hook_mlp_out", "hook_resid_post"]
    with torch.no_grad(), capture(subject.model, *(f"{block}.{p}" for p in parts + sums)) as acts:
        subject.model(input_ids=source, decoder_input_ids=target)
    q, k, v, z = (acts[f"{block}.{part}"].transpose(1, 2) for part in parts)
    by_torch = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(z, by_torch, atol=1e-5, rtol=1e-4)
    before, attention, mid, cross, mid_cross, mlp, after = (acts[f"{block}.{s}"] for s in sums)
    out = subject.model.decoder.transformer.h[1].crossattention.c_proj
    torch.testing.assert_close(
        cross, out(by_torch.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-4
    )
    for total, terms in (
        (mid, (before, attention)),
        (mid_cross, (mid, cross)),
        (after, (mid_cross, mlp)),
    ):
        torch.testing.assert_close(total, sum(terms), atol=1e-5, rtol=1e-4)


_SEEN = hf.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    image_size=16,
    patch_size=8,
)
_HEARD = hf.Wav2Vec2Config(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    conv_dim=(16, 16),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
_TROCR = hf.TrOCRConfig(
    vocab_size=100,
    d_model=48,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
)
_OF_PICTURES = hf.VisionEncoderDecoderModel, hf.VisionEncoderDecoderConfig
_OF_SOUNDS = hf.SpeechEncoderDecoderModel, hf.SpeechEncoderDecoderConfig
PICTURE, SOUND = (
    {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))},
    {"input_values": torch.randn(2, 400, generator=torch.Generator().manual_seed(0))},
)


@pytest.mark.parametrize(
    ("kinds", "encoder", "decoder", "given", "stack", "layers"),
    [
        (_OF_PICTURES, _SEEN, DECODERS["wider GPT-2"], PICTURE, "vision_blocks", "layers"),
        (_OF_PICTURES, _SEEN, _TROCR, PICTURE, "vision_blocks", "layers"),
        (_OF_SOUNDS, _HEARD, DECODERS["wider GPT-2"], SOUND, "audio_blocks", "encoder.layers"),
    ],
)
def test_a_model_that_writes_what_it_sees_or_hears_has_both_stacks_and_cross_attention(
    kinds: Any, encoder: Any, decoder: Any, given: Any, stack: str, layers: str
) -> None:
    torch.manual_seed(0)
    joined, config = kinds
    model = joined(config.from_encoder_decoder_configs(encoder, decoder)).eval()
    last = model.encoder.get_submodule(layers)[-1]
    outputs = []
    handle = last.register_forward_hook(lambda module, given, output: outputs.append(output))
    sites = (
        f"{stack}.1.hook_resid_post",
        "blocks.1.hook_cross_attn_out",
        "blocks.1.cross_attn.hook_z",
    )
    inputs = {**given, "decoder_input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]])}
    with torch.no_grad(), capture(model, *sites) as acts:
        clean = model(**inputs).logits
    handle.remove()
    seen = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert torch.equal(acts[sites[0]], seen)
    assert acts[sites[2]].shape == (2, 3, 4, 12)
    # Without cross-attention the decoder writes the same whatever it is given.
    cut = {f"blocks.{layer}.hook_cross_attn_out": edits.zero() for layer in range(2)}
    if decoder is DECODERS["wider GPT-2"]:
        cut["blocks.2.hook_cross_attn_out"] = edits.zero()
    (name,) = given
    other = {**inputs, name: -given[name]}
    with torch.no_grad(), intervene(model, cut):
        blind, as_blind = model(**inputs).logits, model(**other).logits
    assert torch.equal(blind, as_blind)
    assert not torch.allclose(clean, blind, atol=1e-4)
    wrong = [str(f) for f in verify(model, inputs).findings if f.status == "WRONG"]
    assert not wrong
