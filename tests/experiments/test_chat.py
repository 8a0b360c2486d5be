"""Chat templates: one BOS whoever writes it, and a template that raises,
loops or blows up is one clear line.
"""

from __future__ import annotations

import resource
from typing import Any

import pytest
import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experiments.calibration.questions import Question, Templates, token_probabilities
from experiments.subject import Subject, SubjectError, chat, chat_spawn
from experiments.subject.chat import render_chat

WORDS = [
    "<s>",
    "</s>",
    "<unk>",
    "[INST]",
    "[/INST]",
    "Question:",
    "Answer:",
    "Who",
    "wins?",
    "we",
    "they",
]
OURS = "{{ bos_token }}{% for m in messages %} [INST] {{ m['content'] }} [/INST] {% endfor %}"


def tokenizer(adds_bos: bool, template: Any = OURS) -> Any:
    words = {word: i for i, word in enumerate(WORDS)} | {
        f"x{i}": i for i in range(len(WORDS), tiny.VOCAB)
    }
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    fast.chat_template = template
    return fast


@pytest.mark.parametrize(("adds_bos", "bos"), [(True, "auto"), (False, "always"), (False, "never")])
def test_a_chat_is_read_as_transformers_reads_it(adds_bos: bool, bos: str) -> None:
    """The ids are those of ``apply_chat_template(tokenize=True)``,
    and so are the probabilities of the choices.
    """
    subject = Subject(tiny.model("llama"), tokenizer(adds_bos), bos=bos)
    templates = Templates(subject, None, chat=True)
    turn = [{"role": "user", "content": "Question: Who wins?"}]
    expected = subject.tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False)
    if adds_bos and expected[:2] == [0, 0]:
        expected = expected[1:]
    expected += [WORDS.index("Answer:")]
    (encoded,) = subject.encode([templates.ask("answer", question="Who wins?")])
    assert list(encoded.ids) == expected
    assert encoded.ids.count(0) == 1
    (found,) = token_probabilities(
        subject, [Question("Who wins?", ("we", "they"), 0)], templates, False, 64
    )
    with torch.no_grad():
        p = torch.softmax(subject.model(torch.tensor([expected])).logits[0, -1].double(), -1)[
            [9, 10]
        ]
    assert found == pytest.approx((p / p.sum()).numpy(), abs=1e-5)


def test_a_text_that_begins_with_bos_has_one() -> None:
    subject = Subject(tiny.model("llama"), tokenizer(True))
    (plain, spelled) = subject.encode(["we they", "<s> we they"])
    assert spelled.ids == plain.ids == (0, 9, 10)
    assert [spelled.text[start:end] for start, end in spelled.offsets] == ["", "we", "they"]
    ordinary = Subject(tiny.model("llama"), tokenizer(False), bos="we")  # a token that texts hold
    assert ordinary.encode(["we they"])[0].ids == (9, 9, 10)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages[9]['content'] }}", "UndefinedError"),
        ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
        ("{{ 'a' * 10 ** 7 }}", "expected a text of at most 1,000,000 characters"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        (
            (
                "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% "
                "endfor %}{% endfor %}{% endfor %}"
            ),
            "expected a text within 1 s and",
        ),
    ],
)
def test_a_bad_template_is_one_line(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "CPU_SECONDS", 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SubjectError) as error:
        render_chat(tokenizer(True, template), "Who wins?")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # kilobytes


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 'a' * 10 ** 10 }}", "expected a text within 1 s and 512 MB"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1 s"),
    ],
)
def test_without_fork_a_program_of_its_own_renders_within_the_same_bounds(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "CPU_SECONDS", 1)
    ours, bad = tokenizer(True), tokenizer(True, template)
    expected = [render_chat(ours, "Who wins?"), render_chat(ours, "we \u00e9\n")]
    monkeypatch.delattr("os.fork")
    assert [render_chat(ours, "Who wins?"), render_chat(ours, "we \u00e9\n")] == expected
    with pytest.raises(SubjectError) as error:
        render_chat(bad, "Who wins?")
    assert message in str(error.value)
    assert render_chat(ours, "Who wins?") == expected[0]
    chat_spawn._CHILDREN.clear()


def test_half_a_character_is_one_line() -> None:
    subject = Subject(tiny.model("llama"), tokenizer(True))
    with pytest.raises(
        SubjectError,
        match=r"text 1 \('we \\ud800'\): expected characters, got half of one \(\\ud800",
    ):
        subject.encode(["we", "we \ud800"])
