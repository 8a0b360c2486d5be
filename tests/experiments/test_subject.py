"""The oracle for padding is each text alone, by the model's plain forward; for spans, the text."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as t
import zoo
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from experiments.subject import Subject, SubjectError, bos, load
from experiments.subject.modes import with_adapter
from experiments.subject.twin import random_twin
from experiments.subject.word_spans import Encoded, pool_words, word_spans

VOCAB = 120
TEXTS = ["w1 w2 w3", "w9 w8 w7 w6 w5 w4 w3 w2 w1 w0 w11 w12", "w20", "w5 w6 w5 w6 w5 w6 w70"]
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
}


def _tokenizer(wrap: bool = False, **kwargs: Any) -> t.PreTrainedTokenizerFast:
    """Words w0, w1, ...; with `wrap`, <s> and </s> around every text."""
    words = ["[PAD]", "[UNK]", "<s>", "</s>", *(f"w{i}" for i in range(VOCAB - 4))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if wrap:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    names = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    return t.PreTrainedTokenizerFast(tokenizer_object=backend, **{**names, **kwargs})


BUILDERS: dict[str, Any] = {
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2, bos_token_id=2, eos_token_id=3)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**COMMON, num_key_value_heads=2)),
    "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**COMMON)),
    "gemma2": lambda: t.Gemma2ForCausalLM(
        t.Gemma2Config(**COMMON, num_key_value_heads=2, head_dim=8, sliding_window=4)
    ),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=40,
            word_embed_proj_dim=32,
        )
    ),
    "bloom": lambda: t.BloomForCausalLM(
        t.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)
    ),
    "bert": lambda: t.BertForMaskedLM(t.BertConfig(**COMMON)),
    "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**COMMON, pad_token_id=1)),
    "distilbert": lambda: t.DistilBertForMaskedLM(
        t.DistilBertConfig(
            vocab_size=VOCAB,
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=40,
        )
    ),
    "electra": lambda: t.ElectraForMaskedLM(t.ElectraConfig(**COMMON, embedding_size=16)),
    "albert": lambda: t.AlbertForMaskedLM(t.AlbertConfig(**COMMON, embedding_size=16)),
    "deberta-v2": lambda: t.DebertaV2ForMaskedLM(
        t.DebertaV2Config(
            **COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
        )
    ),
    "modernbert": lambda: t.ModernBertForMaskedLM(
        t.ModernBertConfig(
            **COMMON, local_attention=4, global_attn_every_n_layers=2, pad_token_id=0
        )
    ),
    "t5-encoder": lambda: t.T5EncoderModel(t.T5Config(**T5)),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5)),
}
ENCODERS = ("bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert")


def _model(family: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BUILDERS[family]().eval()
        for parameter in model.parameters():  # far from the init, so that mistakes are large
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def _subject(family: str, **kwargs: Any) -> Subject:
    return Subject(_model(family), _tokenizer(wrap=family in ENCODERS), **kwargs)


def _alone(subject: Subject, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """Hidden states of every layer, of one text, as the plain model gives them."""
    with torch.no_grad():
        out = subject.body(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [h[0] for h in out.hidden_states]


# -- padding


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", BUILDERS)
def test_batched_vectors_equal_single_ones(family: str, side: Any) -> None:
    subject = _subject(family)
    encoded = subject.encode(TEXTS)
    seen = []
    for batch in subject.batches(encoded, tokens=60, side=side):
        hidden = subject.forward(batch, output_hidden_states=True).hidden_states
        for i, row in enumerate(batch.rows):
            seen.append(row)
            at = slice(batch.shifts[i], batch.shifts[i] + len(encoded[row]))
            assert batch.input_ids[i, at].tolist() == list(encoded[row].ids)
            for ours, alone in zip(hidden, _alone(subject, encoded[row].ids), strict=True):
                scale = max(1.0, float(alone.abs().max()))
                assert float((ours[i, at] - alone).abs().max()) < 1e-5 * scale
    assert sorted(seen) == list(range(len(TEXTS)))


def test_plain_left_padding_is_wrong_for_gpt2() -> None:
    """The positive control: without position ids the same batch is far off."""
    subject = _subject("gpt2")
    encoded = subject.encode(TEXTS)
    batch = next(subject.batches(encoded, side="left"))
    i = len(batch) - 1
    with torch.no_grad():
        plain = subject.body(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    alone = _alone(subject, encoded[batch.rows[i]].ids)[-1]
    assert float((plain.last_hidden_state[i, batch.shifts[i] :] - alone).abs().max()) > 1e-3


def test_a_model_that_cannot_be_padded_on_the_left_says_so() -> None:
    """One that counts positions along the row and cannot be told otherwise."""

    class Deaf(t.BertModel):
        def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:  # type: ignore[override]
            return super().forward(input_ids=input_ids, attention_mask=attention_mask)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = Subject(Deaf(t.BertConfig(**COMMON)).eval(), _tokenizer(wrap=True))
    encoded = subject.encode(TEXTS)
    assert len(list(subject.batches(encoded))) == 1
    with pytest.raises(SubjectError, match="takes no position ids; pad on the right"):
        subject.batches(encoded, side="left")


def test_a_model_that_cannot_be_padded_gets_texts_of_one_length() -> None:
    class Maskless(t.BertModel):
        def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:  # type: ignore[override]
            return super().forward(input_ids=input_ids)

    subject = Subject(Maskless(t.BertConfig(**COMMON)).eval(), _tokenizer(wrap=True))
    batches = list(subject.batches(subject.encode([*TEXTS, "w4 w4 w4"])))
    assert all(bool(batch.attention_mask.all()) for batch in batches)
    assert sorted(len(batch) for batch in batches) == [1, 1, 1, 2]
    assert any("equal length" in note for note in subject.notes)


def test_batches_fall_in_length_and_keep_to_the_budget() -> None:
    subject = _subject("gpt2")
    encoded = subject.encode([" ".join(["w1"] * n) for n in (1, 9, 4, 30, 2, 4, 7)])
    batches = list(subject.batches(encoded, tokens=20))
    lengths = [batch.input_ids.shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(b) == 1 or b.input_ids.numel() <= 20 for b in batches)
    assert sorted(row for b in batches for row in b.rows) == list(range(7))


# -- the model stays as it was


def test_model_tokenizer_and_random_stream_are_left_alone() -> None:
    model, tokenizer = _model("gpt2"), _tokenizer(padding_side="left")
    tokenizer.backend_tokenizer.enable_truncation(3)
    state = copy.deepcopy(model.state_dict())
    config, attention = model.config.to_dict(), model.config._attn_implementation
    backend, stream = tokenizer.backend_tokenizer.to_str(), torch.get_rng_state()
    subject = Subject(model, tokenizer)
    encoded = subject.encode(TEXTS)
    for batch in subject.batches(encoded):
        assert not subject.forward(batch, logits=True).logits.requires_grad
    subject.random_twin(3)
    assert len(encoded[1]) == 13
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == attention
    assert tokenizer.backend_tokenizer.to_str() == backend
    assert tokenizer.padding_side == "left"
    assert torch.equal(torch.get_rng_state(), stream)


def test_training_mode_is_refused_and_kept() -> None:
    model = _model("gpt2").train()
    with pytest.raises(SubjectError, match=r"call model\.eval\(\) first"):
        Subject(model, _tokenizer())
    assert model.training
    subject = _subject("gpt2")
    batch = next(subject.batches(subject.encode(TEXTS)))
    subject.model.train()
    with pytest.raises(SubjectError, match=r"call model\.eval\(\) first"):
        subject.forward(batch)


def test_the_body_runs_without_the_vocabulary_projection() -> None:
    subject = _subject("llama")
    calls: list[int] = []
    subject.model.lm_head.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    batch = next(subject.batches(subject.encode(TEXTS)))
    body = subject.forward(batch).last_hidden_state
    assert not calls
    logits = subject.forward(batch, logits=True).logits
    assert calls
    with torch.no_grad():
        assert torch.allclose(subject.model.lm_head(body), logits, atol=1e-6)  # type: ignore[operator]
    assert subject.forward(batch, grad=True).last_hidden_state.requires_grad


def test_logits_of_a_body_are_refused() -> None:
    subject = Subject(_model("bert").base_model, _tokenizer(wrap=True))
    batch = next(subject.batches(subject.encode(TEXTS)))
    with pytest.raises(SubjectError, match="BertModel gives no logits"):
        subject.forward(batch, logits=True)


# -- BOS


def test_bos_is_prepended_to_a_causal_model_once() -> None:
    subject = _subject("gpt2")
    assert subject.causal
    assert subject.bos == 2
    assert "declared <s>" in subject.bos_reason
    assert subject.encode(["w0 w1"])[0].ids == (2, 4, 5)
    assert subject.has_sink_position
    own = Subject(_model("gpt2"), _tokenizer(wrap=True))
    assert own.encode(["w0 w1"])[0].ids == (2, 4, 5, 3)
    assert "by the tokenizer" in own.bos_reason


def test_bos_can_be_chosen() -> None:
    model = _model("gpt2")
    for asked, ids in [
        ("never", (4, 3)),
        ("tokenizer", (2, 4, 3)),
        ("always", (2, 4, 3)),
        ("w5", (9, 4, 3)),
        (7, (7, 4, 3)),
    ]:
        assert Subject(model, _tokenizer(wrap=True), bos=asked).encode(["w0"])[0].ids == ids
    with pytest.raises(SubjectError, match="is no token of this vocabulary"):
        Subject(model, _tokenizer(), bos="w5000")


def test_an_id_that_the_tokenizer_lacks_has_its_number() -> None:
    """Vocabularies of models are often longer than their tokenizers', to a round number."""
    subject = _subject("gpt2")
    known = len(subject.tokenizer)
    assert subject.token(known - 1) in subject.tokenizer.get_vocab()
    assert subject.token(known) == f"<id {known}>"


def test_an_encoder_without_one_gets_none_and_a_note() -> None:
    subject = _subject("t5-encoder")
    assert not subject.causal
    assert subject.bos is None
    assert any("position 0" in note for note in subject.notes)


def test_the_candidate_that_predicts_text_wins() -> None:
    """A model built to be certain of the next token only after </s>, while <s> is declared."""
    model = _model("gpt2")
    tokenizer = _tokenizer()

    def forward(input_ids: Any, **_: Any) -> Any:
        good = torch.where(input_ids[:, :1, None] == 3, 20.0, 2.0)
        logits = good * torch.nn.functional.one_hot(torch.ones_like(input_ids), VOCAB).float()
        return t.modeling_outputs.CausalLMOutput(logits=logits)

    model.forward = forward  # every word of the sentences is [UNK], id 1
    subject = Subject(model, tokenizer)
    assert subject.bos == 3
    assert "better than the declared <s>" in subject.bos_reason


def test_a_body_has_the_bos_that_its_whole_model_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _model("gpt2").save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(bos, "_losses_behind", lambda _, group: [float(t != 3) for t in group])
    body, whole = load(tmp_path, body_only=True), load(tmp_path)
    assert type(body.model).__name__ == "GPT2Model"
    assert type(whole.model).__name__ == "GPT2LMHeadModel"
    assert body.bos == whole.bos == 3


def test_a_subject_with_adapters_pads_right() -> None:
    pytest.importorskip("peft")
    subject = Subject(tiny.adapted(), tiny.tokenizer(), bos="always")
    assert subject.causal
    assert subject.padding.left.possible
    assert type(subject.body).__name__ == "LlamaModel"


# -- truncation, words


def test_truncation_keeps_special_tokens_and_loses_cut_words() -> None:
    subject = Subject(_model("bert"), _tokenizer(wrap=True), max_length=5)
    text = "w1 w2 w3 w4 w5"
    (encoded,) = subject.encode([text])
    assert encoded.ids == (2, 5, 6, 7, 3)
    assert encoded.cut == 9
    spans = word_spans(encoded, [(0, 2), (3, 5), (6, 8), (9, 11), (12, 14)])
    assert spans == [slice(1, 2), slice(2, 3), slice(3, 4), None, None]


def test_longest_input_by_family() -> None:
    assert _subject("gpt2").max_length == 40
    assert _subject("roberta").max_length == 38  # positions start at the pad id + 1
    assert _subject("t5-encoder").max_length == 10**6
    assert Subject(_model("gpt2"), _tokenizer(model_max_length=16)).max_length == 16


def test_a_word_cut_in_the_middle_is_lost() -> None:
    encoded = Encoded("abcd", (1,), ((0, 2),), (False,), cut=2)
    assert word_spans(encoded, [(0, 4)]) == [None]
    assert word_spans(encoded, [(0, 2), (2, 4)]) == [slice(0, 1), None]


def test_spans_share_trim_and_skip() -> None:
    offsets = ((0, 0), (0, 3), (3, 6), (6, 6), (6, 9))
    encoded = Encoded("abc de fg", (0, 1, 2, 3, 4), offsets, (True, *[False] * 4))
    # "c d" splits at 3: the token " de" belongs to "de" only, not to "abc".
    assert word_spans(encoded, [(0, 3), (4, 6), (7, 9)]) == [
        slice(1, 2),
        slice(2, 3),
        slice(4, 5),
    ]
    assert word_spans(encoded, [(0, 1), (1, 3)]) == [slice(1, 2), slice(1, 2)]
    with pytest.raises(ValueError, match="does not lie in a text of 9"):
        word_spans(encoded, [(7, 10)])


@pytest.mark.parametrize("how", ["first", "last", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_equals_a_loop(how: Any, dtype: torch.dtype) -> None:
    hidden = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    spans = [[slice(1, 4), None, slice(3, 9)], [], [slice(0, 1), slice(0, 2)]]
    expected = []
    for row, line in enumerate(spans):
        for span in (s for s in line if s is not None):
            tokens = hidden[row, span].double()
            expected.append({"first": tokens[0], "last": tokens[-1], "mean": tokens.mean(0)}[how])
    close = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        pool_words(hidden, spans, how).double(), torch.stack(expected), atol=close, rtol=close
    )


def test_pooling_refuses_what_it_cannot_do() -> None:
    hidden = torch.zeros(1, 4, 2)
    assert pool_words(hidden, [[None]]).shape == (0, 2)
    with pytest.raises(ValueError, match="leaves the 4 positions"):
        pool_words(hidden, [[slice(2, 5)]])
    with pytest.raises(ValueError, match="2 rows of spans for a batch of 1"):
        pool_words(hidden, [[], []])


def test_batch_spans_follow_left_padding() -> None:
    subject = _subject("gpt2")
    encoded = subject.encode(TEXTS)
    spans = [word_spans(e, [(0, 2)]) for e in encoded]
    pooled = {}
    for side in ("right", "left"):
        batch = next(subject.batches(encoded, side=side))  # type: ignore[arg-type]
        hidden = subject.forward(batch).last_hidden_state
        pooled[side] = pool_words(hidden, batch.spans(spans))
    torch.testing.assert_close(pooled["right"], pooled["left"], atol=1e-5, rtol=1e-5)


# -- loading


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("bert", "BertForMaskedLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("t5-encoder", "T5EncoderModel"),
    ],
)
def test_a_folder_gives_the_class_it_was_saved_from(
    family: str, expected: str, tmp_path: Path
) -> None:
    model = _model(family)
    model.save_pretrained(tmp_path)
    _tokenizer(wrap=family == "bert").save_pretrained(tmp_path)
    subject = load(tmp_path, device="cpu")
    about = subject.describe()
    file = tmp_path / "model.safetensors"
    assert about["architecture"] == expected
    assert subject.identity["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["n_layers"] == 2
    assert about["d_model"] == 32
    assert about["dtype"] == "float32"
    assert about["n_parameters"] == sum(p.numel() for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, subject.model.state_dict()[key])


def test_random_twin_has_the_architecture_and_the_bos_but_not_the_weights() -> None:
    subject = _subject("llama", bos="w9")
    twin = subject.random_twin(5)
    assert type(twin.model) is type(subject.model)
    assert twin.bos == subject.bos
    assert twin.sha256 == subject.random_twin(5).sha256 != subject.random_twin(6).sha256
    weight = twin.model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert abs(float(weight.std()) - 0.02) < 0.004  # the init of the architecture itself


def test_bad_sources_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(t.BertConfig(**COMMON).to_json_string())
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    cut = tmp_path / "cut"
    _model("gpt2").save_pretrained(cut)
    (cut / "model.safetensors").write_bytes(b"12345678")
    for source, message in [
        (tmp_path / "nowhere", "no model at"),
        (tmp_path / "empty", "no model in the folder"),
        (pickled, "pickled weights"),
        (cut, "expected safetensors"),
        ("someone/unheard-of", "the hub cannot be reached"),
    ]:
        with pytest.raises(SubjectError, match=message) as caught:
            load(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(SubjectError, match="float32, bfloat16"):
        load(cut, dtype="int7")


def test_a_checkpoint_of_another_shape_of_model_is_refused(tmp_path: Path) -> None:
    _model("gpt2").save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    t.GPT2Config(**{**GPT2, "n_layer": 3}, architectures=["GPT2LMHeadModel"]).save_pretrained(
        tmp_path
    )
    with pytest.raises(SubjectError, match="lacks 12 of the weights"):
        load(tmp_path)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(SubjectError, match="gives no character offsets"):
        Subject(_model("gpt2"), Slow())


# -- real models

HARD = [
    "I can't believe it's 3.5% — naïve café, résumé!",
    "Emoji 👩‍👩‍👧 and 🙂🙂 flags 🇫🇷 end.",
    "我喜欢 机器学习 very much。",
    "two  spaces and\u00a0a no-break  space",
    "don't-stop state-of-the-art e-mail@example.com",
]


def _check_words(subject: Subject) -> None:
    encoded = subject.encode(HARD)
    for e in encoded:
        words, place = [], 0
        for form in e.text.split():
            place = e.text.index(form, place)
            words.append((place, place + len(form)))
            place += len(form)
        for (start, end), span in zip(words, word_spans(e, words), strict=True):
            assert span is not None
            offsets = e.offsets[span]
            assert min(o[0] for o in offsets) <= start
            assert max(o[1] for o in offsets) >= end
            # Tight: neither end token lies wholly outside the word.
            assert offsets[0][1] > start
            assert offsets[-1][0] < end
        # Each visible character on its own has a token too.
        single = [(i, i + 1) for i, c in enumerate(e.text) if c.isalnum()]
        assert None not in word_spans(e, single)


@pytest.mark.real
def test_minilm(minilm_path: Path) -> None:
    subject = load(minilm_path, device="cpu")
    about = subject.describe()
    assert about["architecture"] == "BertModel"
    assert about["bos"] == "[CLS]"
    assert not subject.causal
    assert subject.max_length == 512
    assert len(subject.encode(["word " * 300])[0]) == 302  # not the 128 its tokenizer.json asks for
    _check_words(subject)
    _check_padding(subject)


@pytest.mark.real
def test_smollm2(smollm_path: Path) -> None:
    subject = load(smollm_path, device="cpu")
    assert subject.bos == 0
    assert subject.describe()["bos"] == "<|endoftext|>"
    assert "better than the declared <|im_start|>" in subject.bos_reason
    assert subject.identity["weights"] == hashlib.sha256(smollm_path.read_bytes()).hexdigest()
    _check_words(subject)
    _check_padding(subject)
    batch = next(subject.batches(subject.encode(["The capital of France is"])))
    best = subject.forward(batch, logits=True).logits[0, -1].argmax()
    assert subject.token(int(best)) == "ĠParis"
    assert load(smollm_path, device="cpu", body_only=True).bos == 0


def _check_padding(subject: Subject) -> None:
    encoded = subject.encode(HARD)
    for side in ("right", "left"):
        for batch in subject.batches(encoded, side=side):  # type: ignore[arg-type]
            hidden = subject.forward(batch).last_hidden_state
            for i, row in enumerate(batch.rows):
                alone = _alone(subject, encoded[row].ids)[-1]
                ours = hidden[i, batch.shifts[i] : batch.shifts[i] + len(alone)]
                scale = float(alone.abs().max())
                assert float((ours - alone).abs().max()) < 1e-5 * scale


def test_the_home_of_nobody_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="~no-such-user"):
        load("~no-such-user/model")
    with pytest.raises(SubjectError, match=r"--adapter ~no-such-user: expected a folder"):
        with_adapter(tiny.model("gpt2"), "~no-such-user")


@pytest.mark.parametrize(
    "name",
    [
        "OpenAIGPTLMHeadModel",
        "Wav2Vec2Model",
        "ApertusForCausalLM",
        "ViltModel",
        "LlamaForCausalLM",
    ],
)
def test_a_random_twin_has_the_weights_of_its_constructor(name: str) -> None:
    """transformers leaves memory undefined that only the constructor of a class fills."""
    model = zoo.build(name)
    twin, again = random_twin(model, seed=3), random_twin(model, seed=3)
    torch.manual_seed(0)
    constructed = dict(type(model)(model.config).named_parameters())
    for path, weight in twin.named_parameters():
        assert torch.isfinite(weight).all(), path
        torch.testing.assert_close(weight, again.get_parameter(path), rtol=0, atol=0)
        of_class = constructed[path]
        if of_class.numel() > 100 and of_class.detach().std() > 0:
            assert 0.7 < float(weight.detach().std() / of_class.detach().std()) < 1.4, path
        elif of_class.numel() and of_class.detach().std(unbiased=False) == 0:
            torch.testing.assert_close(weight, of_class, msg=path)
