"""The live bench: what it shows is what plain PyTorch with `intervene` gives, and giving up a
request leaves nothing behind.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

from experiments.attribution.single_text import attribute
from experiments.explorer import grids, views
from experiments.explorer.bench import Bench
from experiments.explorer.changes import Change
from experiments.explorer.out import as_commands, as_python
from experiments.explorer.requests import ASKS, answered
from experiments.explorer.session import Session, View
from experiments.explorer.worker import GivenUp, Worker, interruptible
from experiments.subject import Subject
from layerscope import capture, edits, intervene
from layerscope.errors import InputError, LayerscopeError

TEXT = "w5 w6 w7 w8 w9 w10"
OTHER = "w5 w16 w7 w8 w19 w10"


def subject_of(name):
    return Subject(tiny.model(name), tiny.tokenizer(), bos="always")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def bench(request):
    return Bench(subject_of(request.param))


@pytest.fixture(scope="module")
def llama():
    return Bench(subject_of("llama"))


def inputs_of(subject, text):
    ids = [subject.bos, *subject.tokenizer(text, add_special_tokens=False)["input_ids"]]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def every_logit(bench, view):
    """Logits of all positions of a view's run."""
    return bench.read(view.text).logits(bench.run(view))


def made_by_hand(model, subject):
    """Edits as a person would write them with the public names:
    the text of a change -> site and edit.
    """
    inputs, other = inputs_of(subject, TEXT), inputs_of(subject, OTHER)
    z, resid = "blocks.0.attn.hook_z[2]", "blocks.1.hook_resid_post"
    pattern, scores = "blocks.1.attn.hook_pattern[1]", "blocks.0.attn.hook_attn_scores[3]"
    with torch.no_grad(), capture(model, pattern) as clean:
        model(**inputs)
    with torch.no_grad(), capture(model, z, resid) as there:
        model(**other)
    return {
        f"{z}=zero": (z, edits.zero()),
        "blocks.1.attn.hook_z[0]=zero": ("blocks.1.attn.hook_z[0]", edits.zero()),
        "blocks.1.attn.hook_z=scale:0.5": ("blocks.1.attn.hook_z", edits.scale(0.5)),
        "blocks.0.hook_mlp_out=scale:-2@1,3": ("blocks.0.hook_mlp_out", edits.scale(-2.0).at([1, 3])),
        "blocks.1.mlp.hook_post[7]=zero": ("blocks.1.mlp.hook_post[7]", edits.zero()),
        f"{resid}=patch@2": (resid, edits.patch(there[resid]).at([2])),
        f"{z}=patch": (z, edits.patch(there[z])),
        f"{pattern}=freeze": (pattern, edits.patch(clean[pattern])),
        f"{scores}=knockout:5>2": (scores, edits.knockout([5], [2])),
        "hook_embed=scale:0.25@4": ("hook_embed", edits.scale(0.25).at([4])),
        "ln_final.hook_normalized=scale:0.9": ("ln_final.hook_normalized", edits.scale(0.9)),
    }  # fmt: skip


def test_a_thousand_random_edits_and_undos_are_intervene_bit_for_bit(bench):
    model, subject = bench.model, bench.subject
    known = made_by_hand(model, subject)
    inputs = inputs_of(subject, TEXT)
    session, draw = Session(View(TEXT, OTHER)), random.Random(0)
    start = every_logit(bench, session.view).clone()
    expected = {}

    def plainly(changes):
        if changes not in expected:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")  # an edit may change nothing behind another
                for change in changes:
                    site, edit = known[str(change)]
                    stack.enter_context(intervene(model, {site: edit}))
                expected[changes] = model(**inputs).logits[0]
        return expected[changes]

    for _ in range(1000):
        step = draw.choice(["edit", "edit", "remove", "undo", "redo"])
        if step == "edit" and len(session.view.changes) < 2:
            session.edit(draw.choice(list(known)))
        elif step == "remove" and session.view.changes:
            session.remove(draw.randrange(len(session.view.changes)))
        elif step in ("undo", "redo"):
            getattr(session, step)()
        expected_logits = plainly(session.view.changes)
        assert torch.equal(every_logit(bench, session.view), expected_logits), session.view
        answer = bench.run(session.view).answer
        assert torch.allclose(answer, expected_logits[-1], atol=1e-6), session.view
    assert len(expected) > 80
    while session.view.changes:
        session.undo()
    assert torch.equal(every_logit(bench, session.view), start)
    assert hooks_of(model) == 0


def test_an_edit_reads_back_what_it_writes():
    for text in ("blocks.3.attn.hook_z[5]=zero", "blocks.0.hook_mlp_out=scale:0.5@2,3",
                 "blocks.1.attn.hook_attn_scores[0]=knockout:7>2", "hook_embed=absent@4,5",
                 "module:layers.1:output[0][5]=zero", "blocks.2.hook_resid_post=mean"):  # fmt: skip
        assert str(Change.parse(text)) == text
    session = Session("w5")
    view = session.edit("blocks.0.hook_mlp_out=zero")
    assert View.parse(view.to_json()) == view
    assert View.parse(json.loads(json.dumps(view.to_json()))) == view


@pytest.mark.parametrize("text", [
    "", "zero", "blocks.0.hook_mlp_out", "blocks.0.hook_mlp_out=melt", "blocks.0.hook_mlp_out=scale",
    "blocks.0.hook_mlp_out=scale:x", "blocks.0.hook_mlp_out=scale:inf", "blocks.0.hook_mlp_out=zero:1",
    "blocks.0.hook_mlp_out=knockout:1>2", "blocks.0.attn.hook_attn_scores[0]=knockout:1",
    "hook_embed=absent", "blocks.0.hook_mlp_out=freeze", "x" * 500 + "=zero",
])  # fmt: skip
def test_an_edit_that_cannot_be_read_is_one_line(text):
    with pytest.raises(InputError, match="edit") as error:
        Change.parse(text)
    assert "\n" not in str(error.value)


def test_the_answer_is_the_softmax_of_the_edited_logits(bench):
    view = Session(TEXT).edit("blocks.0.attn.hook_z[1]=zero")
    with torch.no_grad(), intervene(bench.model, {"blocks.0.attn.hook_z[1]": edits.zero()}):
        logits = bench.model(**inputs_of(bench.subject, TEXT)).logits[0].double()
    with torch.no_grad():
        clean = bench.model(**inputs_of(bench.subject, TEXT)).logits[0].double()
    first, words, alone = views.look(bench, view)
    for row in first["answer"]["rows"]:
        assert row["edited"] == pytest.approx(float(logits[-1].softmax(-1)[row["id"]]), abs=1e-7)
        assert row["clean"] == pytest.approx(float(clean[-1].softmax(-1)[row["id"]]), abs=1e-7)
    ids = inputs_of(bench.subject, TEXT)["input_ids"][0]
    bits = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none") / np.log(2)
    assert words["bits"][1:] == pytest.approx(bits.tolist(), abs=1e-6)
    pair = first["answer"]["contrast"]
    a, b = pair["answer"]["id"], pair["wrong"]["id"]
    assert [a, b] == clean[-1].topk(2).indices.tolist()
    effect = float(logits[-1, a] - logits[-1, b] - clean[-1, a] + clean[-1, b])
    assert alone["together"] == alone["alone"][0]["effect"] == pytest.approx(effect, abs=1e-5)


def test_the_lens_is_the_models_own_norm_and_head_on_each_stream(llama):
    view = Session(TEXT).edit("blocks.0.attn.hook_z[1]=zero")
    names = [f"blocks.{n}.hook_resid_post" for n in range(2)]
    with torch.no_grad(), intervene(llama.model, {"blocks.0.attn.hook_z[1]": edits.zero()}):
        with capture(llama.model, "hook_embed", *names) as acts:
            llama.model(**inputs_of(llama.subject, TEXT))
    streams = [acts["hook_embed"], *[acts[name] for name in names]]
    columns = {}
    for message in views.lens(llama, view):
        columns |= dict(zip(message["positions"], message["columns"], strict=True))
    assert sorted(columns) == list(range(7))
    model = llama.model
    for at, layer in itertools.product(range(7), range(3)):
        with torch.no_grad():
            p = model.lm_head(model.model.norm(streams[layer][0, at])).double().softmax(-1)
        assert columns[at][layer]["p"] == pytest.approx(float(p.max()), abs=1e-6)
        assert columns[at][layer]["text"] == views.name_of(llama, int(p.argmax()))
    ten = views.cell(llama, view, 1, 6)["rows"]
    assert ten[0]["p"] == pytest.approx(columns[6][2]["p"], abs=1e-7)
    assert len(ten) == 10


def test_a_pattern_under_edits_is_that_of_the_whole_forward(bench):
    known = made_by_hand(bench.model, bench.subject)
    inputs = inputs_of(bench.subject, TEXT)
    texts = list(known)
    for one, other in zip(texts, texts[3:] + texts[:3], strict=True):
        view = Session(View(TEXT, OTHER)).edit(one)
        session = Session(view)
        view = session.edit(other)
        for layer in (0, 1):
            name = f"blocks.{layer}.attn.hook_pattern"
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for text in (one, other):
                    site, edit = known[text]
                    stack.enter_context(intervene(bench.model, {site: edit}))
                acts = stack.enter_context(capture(bench.model, name))
                bench.model(**inputs)
            expected = acts[name][0, 2].numpy()
            found = grids.pattern_values(bench, view, layer, 2)
            assert np.allclose(found, expected, atol=1e-6), (one, other, layer)


def test_patterns_sinks_and_sizes_are_those_of_the_captured_tensors(llama):
    view = Session(TEXT).edit("blocks.0.hook_mlp_out=zero")
    name = "blocks.1.attn.hook_pattern"
    with torch.no_grad(), intervene(llama.model, {"blocks.0.hook_mlp_out": edits.zero()}):
        with capture(llama.model, name, "blocks.1.attn.hook_z") as acts:
            llama.model(**inputs_of(llama.subject, TEXT))
    pattern = acts[name][0]
    assert np.allclose(grids.pattern_values(llama, view, 1, 2), pattern[2], atol=1e-7)
    looked = grids.heads(llama, view, "attention", 3)["rows"][1]["values"]
    assert looked == pytest.approx(pattern[:, -1, 3].tolist(), abs=1e-7)
    sinks = grids.heads(llama, view, "sink")["rows"][1]["values"]
    assert sinks == pytest.approx(pattern[:, 1:, 0].mean(1).tolist(), abs=1e-6)
    weight = llama.model.model.layers[1].self_attn.o_proj.weight.detach().T.unflatten(0, (4, -1))
    sizes = torch.einsum("hd,hdm->hm", acts["blocks.1.attn.hook_z"][0, -1], weight).norm(dim=1)
    found = grids.heads(llama, view, "norm")["rows"][1]["values"]
    assert found == pytest.approx(sizes.tolist(), abs=1e-5)


def test_estimates_are_the_gradient_and_measured_parts_are_exact(llama):
    view = View(TEXT)
    a, b = llama.contrast(view)
    inputs = inputs_of(llama.subject, TEXT)
    with capture(llama.model, "blocks.*.attn.hook_z", "blocks.*.mlp.hook_post", grad=True) as acts:
        logits = llama.model(**inputs).logits[0, -1]
        (logits[a] - logits[b]).backward()
    llama.model.zero_grad()
    logits = logits.detach()
    found = grids.heads(llama, view)
    for row in found["rows"]:
        name = f"blocks.{row['layer']}.attn.hook_z"
        by_hand = -(acts[name] * acts.grad[name]).sum((0, 1, 3))
        assert row["values"] == pytest.approx(by_hand.tolist(), abs=1e-5)
    sizes = torch.stack([(acts[n] * acts.grad[n]).sum((0, 1)).abs() for n in acts if "post" in n])
    assert found["neurons"][0]["effect"] == pytest.approx(
        float(sizes.max()) * np.sign(found["neurons"][0]["effect"]), abs=1e-5
    )
    *progress, after = grids.measure(llama, view)
    assert [m["done"] for m in progress] == list(range(1, len(progress) + 1))
    for site, effect in after["exact"].items():
        with torch.no_grad(), intervene(llama.model, {site: edits.zero()}):
            edited = llama.model(**inputs).logits[0, -1]
        assert effect == pytest.approx(
            float(edited[a] - edited[b] - logits[a] + logits[b]), abs=1e-4
        )
    assert after["agreement"]["n"] == len(after["exact"]) >= 10


@pytest.mark.parametrize("method", ["grad-input", "leave-one-out"])
def test_attributions_are_those_of_the_study(llama, method):
    view = View(TEXT)
    a, b = (f"w{i}" for i in llama.contrast(view))
    expected = attribute(
        llama.subject, TEXT, target=views_target(f" {a}", f" {b}"), method=method, level="word"
    )
    *progress, found = grids.attribution(llama, view, method)
    scores = [unit["score"] for unit in found["units"]]
    assert scores == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert bool(progress) == (method == "leave-one-out")


def views_target(answer, wrong):
    from experiments.attribution.question import Target

    return Target(answer, wrong, measure="logit")


def test_generation_is_that_of_transformers_under_the_same_edits(bench):
    session = Session(View(TEXT, OTHER))
    changes = [
        "blocks.0.attn.hook_z[1]=zero",
        "blocks.1.hook_mlp_out=scale:3",
        "hook_embed=scale:2@2",
    ]
    for change in changes:
        view = session.edit(change)
    inputs = inputs_of(bench.subject, TEXT)
    given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    sides = {}
    for message in views.generate(bench, view, 12):
        sides[message["side"]] = message["ids"]
    clean = bench.model.generate(**inputs, **given)[0, 7:].tolist()
    with intervene(bench.model, {
        "blocks.0.attn.hook_z[1]": edits.zero(),
        "blocks.1.hook_mlp_out": edits.scale(3.0),
        "hook_embed": edits.scale(2.0).at([2]),
    }):  # fmt: skip
        edited = bench.model.generate(**inputs, **given)[0, 7:].tolist()
    assert sides == {"clean": upto_end(clean), "edited": upto_end(edited)}
    assert hooks_of(bench.model) == 0


def upto_end(ids):
    return ids[: ids.index(2)] if 2 in ids else ids


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored") / "llama"
    tiny.save(tiny.model("llama"), folder)
    return folder


def test_the_copied_python_gives_the_numbers_on_the_screen(saved, capsys):
    from experiments.subject import load

    bench = Bench(load(str(saved), bos="auto"))
    session = Session(View(TEXT, OTHER))
    view = session.view
    for change in ("blocks.0.attn.hook_z[2]=zero", "blocks.0.attn.hook_z[1]=mean", "hook_embed=absent@2",
                   "blocks.1.hook_resid_post=patch@2,3", "blocks.1.attn.hook_pattern[1]=freeze",
                   "blocks.0.attn.hook_attn_scores[3]=knockout:5>2", "blocks.0.attn.hook_z[2]=scale:2"):  # fmt: skip
        view = session.edit(change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0 scaled by 2 is 0
        exec(compile(as_python(bench, view), "copied", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    shown = bench.difference(view, bench.run(view))
    assert float(printed[-1].split(":")[1]) == pytest.approx(shown, abs=1e-6)
    assert len(printed) == 11


def test_the_copied_command_prints_the_same_numbers(saved, capsys):
    import shlex

    from experiments.cli import main
    from experiments.subject import load

    bench = Bench(load(str(saved)))
    view = Session(TEXT).edit("blocks.0.attn.hook_z[2]=zero")
    lines = as_commands(bench, view).splitlines()
    words = shlex.split(lines[1])
    assert words[:2] == ["layerscope", "explore"]
    assert main([*words[1:], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed[0]["answer"]["contrast"] == next(views.look(bench, view))["answer"]["contrast"]


# -- what cannot be shown


def test_bad_texts_and_numbers_are_one_line(llama):
    def problem(**given):
        with pytest.raises(LayerscopeError) as error:
            list(answered(llama, {"do": "look", **given}))
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert "got none" in problem(view={"text": "  "})
    assert "at most 512 tokens" in problem(view={"text": "w5 " * 4000})
    assert "characters" in problem(view={"text": "x" * 100_000})
    assert "expected text" in problem(view={"text": 3})
    assert "unknown field" in problem(view={"text": TEXT, "path": "/etc/passwd"})
    assert "at most 64 edits" in problem(view={"text": TEXT, "edits": ["hook_embed=zero"] * 65})
    assert "second text" in problem(view={"text": TEXT, "edits": ["blocks.0.hook_mlp_out=patch"]})
    assert "tokens 0 to 6" in problem(view={"text": TEXT, "edits": ["hook_embed=zero@40"]})
    assert "token below 100" in problem(view={"text": TEXT, "answer": 4000})
    assert "got one twice" in problem(view={"text": TEXT, "answer": 5, "wrong": 5})
    assert "blocks" in problem(view={"text": TEXT, "edits": ["blocks.9.hook_mlp_out=zero"]})
    assert "request" in problem(do="shell", view={"text": TEXT})
    for name in ASKS:
        with pytest.raises(LayerscopeError):
            list(answered(llama, {"do": name, "view": {"text": ""}, "path": "x"}))
    assert hooks_of(llama.model) == 0


def test_other_kinds_of_models_show_what_they_have():
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"mask_token": "w99"})
    masked = Bench(Subject(tiny.model("bert"), tokenizer))
    with pytest.raises(InputError, match="put one w99"):
        masked.read(TEXT)
    view = Session("w5 w99 w7").edit("blocks.0.attn.hook_z[1]=zero")
    first, _ = views.look(masked, view)
    (row, *_) = first["answer"]["rows"]
    with torch.no_grad(), intervene(masked.model, {"blocks.0.attn.hook_z[1]": edits.zero()}):
        logits = masked.model(**masked.read(view.text).inputs).logits[0, first["position"]]
    assert row["edited"] == pytest.approx(float(logits.double().softmax(-1)[row["id"]]), abs=1e-6)
    with pytest.raises(InputError, match="lens"):
        list(views.lens(masked, view))
    assert len(grids.heads(masked, view)["rows"]) == 2

    encoder = Bench(Subject(tiny.model("electra"), tiny.tokenizer()))
    (only,) = views.look(encoder, View(TEXT))
    assert only["answer"] is None
    assert len(grids.heads(encoder, View(TEXT), "sink")["rows"]) == 2
    with pytest.raises(InputError, match="no head"):
        grids.question_of(encoder, View(TEXT))


def test_a_classifier_shows_its_classes():
    config = hf.BertConfig(**{**tiny._BERT, "num_labels": 3})
    model = hf.BertForSequenceClassification(config).eval()
    bench = Bench(Subject(model, tiny.tokenizer()))
    view = Session(TEXT).edit("blocks.1.attn.hook_z[0]=zero")
    first, alone = views.look(bench, view)
    with torch.no_grad(), intervene(model, {"blocks.1.attn.hook_z[0]": edits.zero()}):
        p = model(**bench.read(TEXT).inputs).logits[0].double().softmax(-1)
    shown = {row["id"]: row["edited"] for row in first["answer"]["rows"]}
    assert shown == pytest.approx({i: float(p[i]) for i in range(3)}, abs=1e-6)
    assert alone["alone"][0]["effect"] == alone["together"]
    *_, found = grids.attribution(bench, view)
    a, b = bench.contrast(view)
    labels = bench.subject.classes
    expected = attribute(bench.subject, TEXT, target=views_target(labels[a], labels[b]),
                         method="grad-input", level="word")  # fmt: skip
    assert [u["score"] for u in found["units"]] == pytest.approx(expected.scores.tolist(), abs=1e-6)


# -- giving up


def test_a_forward_that_is_given_up_leaves_no_hook(llama):
    event = threading.Event()
    event.set()
    llama._runs.clear()
    with pytest.raises(GivenUp), interruptible(llama.model, event):
        llama.run(Session(TEXT).edit("blocks.0.attn.hook_z[3]=zero"))
    assert hooks_of(llama.model) == 0
    with torch.no_grad():
        after = llama.model(**inputs_of(llama.subject, TEXT)).logits[0]
    assert torch.equal(after, every_logit(llama, View(TEXT)))


def test_the_latest_request_wins_and_screens_take_turns(llama):
    worker = Worker(llama)
    heard = {"one": [], "two": []}
    texts = [f"w{10 + n % 60} w{11 + n % 60} w12" for n in range(40)]
    try:
        for number, text in enumerate(texts, 1):
            for screen in heard:
                request = {
                    "do": "look",
                    "id": number,
                    "view": {"text": text, "edits": ["blocks.0.hook_mlp_out=zero"]},
                }
                worker.ask(screen, request, heard[screen].append)
        assert worker.idle()
        for messages in heard.values():
            assert messages[-1] == {"part": "done", "id": 40, "of_request": "look"}
            assert len([m for m in messages if m["part"] == "done"]) < 40
        worker.ask("one", {"do": "look", "id": 41, "view": {"text": ""}}, heard["one"].append)
        assert worker.idle()
        assert [m["part"] for m in heard["one"][-2:]] == ["problem", "done"]
        worker.ask(
            "one",
            {"do": "generate", "id": 42, "view": {"text": TEXT}, "length": 50},
            heard["one"].append,
        )
        worker.stop("one")
        assert worker.idle()
    finally:
        worker.close()
    assert hooks_of(llama.model) == 0


def test_a_port_in_use_and_a_missing_model_end_with_one_line(tmp_path):
    import socket

    from experiments.explorer.server import bound

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            bound("127.0.0.1", taken.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", "layerscope", "explore", "--model", str(tmp_path / "none"), "--no-browser"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2


# -- lenses, probes, raw modules, memory, studies


def test_a_fitted_lens_and_saved_probes_are_read_as_they_were_fitted(llama):
    from experiments.lenses.lens import Lens
    from layerscope import LogisticProbe

    draw = torch.Generator().manual_seed(0)
    lens = Lens(
        "tuned", torch.randn(2, 32, 32, generator=draw) / 6, torch.randn(2, 32, generator=draw)
    )
    site = "blocks.0.hook_resid_post"
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(60) % 3]
    probe = LogisticProbe(l2=1.0).fit(rng.normal(size=(60, 32)), labels)
    probe.about_ = {"site": site, "property": "letter", "pooling": "mean"}
    bench = Bench(llama.subject, [lens], [probe])
    view = Session(TEXT).edit("blocks.0.hook_mlp_out=scale:2")
    with torch.no_grad(), intervene(llama.model, {"blocks.0.hook_mlp_out": edits.scale(2.0)}):
        with capture(llama.model, site) as acts:
            llama.model(**inputs_of(llama.subject, TEXT))
    stream = acts[site][0]
    (first, _) = views.lens(bench, view, "tuned")
    with torch.no_grad():
        moved = stream[-1] @ lens.weight[1].T + lens.bias[1]
        p = llama.model.lm_head(llama.model.model.norm(moved)).double().softmax(-1)
    assert first["columns"][0][1]["p"] == pytest.approx(float(p.max()), abs=1e-6)
    found = views.probes(bench, view)
    expected = probe.predict_proba(stream[1:].numpy())
    assert found["words"] == TEXT.split()
    for cell, row in zip(found["rows"][0]["cells"], expected, strict=True):
        assert cell["p"] == pytest.approx(row.max(), abs=1e-6)
        assert cell["label"] == probe.classes_[row.argmax()]


def test_a_model_without_a_map_is_edited_by_its_modules(monkeypatch):
    import experiments.explorer.bench as module
    from layerscope import UnknownArchitecture

    def none(model):
        raise UnknownArchitecture("no map")

    subject = subject_of("llama")
    monkeypatch.setattr(module, "sites", none)
    monkeypatch.setattr(module, "components", lambda *_: none(None))
    monkeypatch.setattr("experiments.explorer.runs.Resume", lambda *_: none(None))
    bench = Bench(subject)
    assert not views.about(bench)["has_map"]
    name = "module:model.layers.0.mlp:output"
    first, _, alone = views.look(bench, Session(TEXT).edit(f"{name}=zero"))
    with torch.no_grad(), intervene(subject.model, {name: edits.zero()}):
        logits = subject.model(**inputs_of(subject, TEXT)).logits[0, -1].double()
    for row in first["answer"]["rows"]:
        assert row["edited"] == pytest.approx(float(logits.softmax(-1)[row["id"]]), abs=1e-7)
    assert alone["together"] != 0
    for make in (lambda: grids.heads(bench, View(TEXT)), lambda: grids.heads(bench, View(TEXT), "sink"),
                 lambda: list(views.lens(bench, View(TEXT)))):  # fmt: skip
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried"),
                                   torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_no_memory_is_a_message_and_the_worker_lives(llama, monkeypatch, error):
    worker, heard = Worker(llama), []

    def fails(*_):
        raise error

    try:
        with monkeypatch.context() as patched:
            patched.setattr(llama, "run", fails)
            worker.ask("s", {"do": "look", "id": 1, "view": {"text": TEXT}}, heard.append)
            assert worker.idle()
        worker.ask("s", {"do": "look", "id": 2, "view": {"text": TEXT}}, heard.append)
        assert worker.idle()
    finally:
        worker.close()
    assert [m["part"] for m in heard] == ["problem", "done", "look", "surprise", "done"]
    assert "not enough memory" in heard[0]["text"]


def test_a_question_goes_to_a_study_over_many_prompts(saved, tmp_path, monkeypatch):
    from experiments.explorer.runner import Runner

    monkeypatch.chdir(tmp_path)
    lines = "\n".join(
        json.dumps({"prompt": f"w5 w{n} w7", "answer": " w9", "wrong": " w8"})
        for n in range(10, 24)
    )
    told, ended = [], threading.Event()

    def send(message):
        told.append(message)
        if message["state"] in ("finished", "failed"):
            ended.set()

    runner = Runner(str(saved))
    with pytest.raises(InputError, match="expected ablate"):
        runner.start("../x", lines, send)
    with pytest.raises(InputError, match="enter prompts"):
        runner.start("ablate", "", send)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    runner.start("ablate", lines, send)
    assert ended.wait(120)
    assert told[-1]["state"] == "finished", told
    assert len(told) > 2
    results = json.loads((runner.folders[0] / "results.json").read_text())
    assert results["records"][0]["n"] == 14
    assert "<html" in runner.page(0).read_text()
    assert runner.page(1) is None
    with pytest.raises(InputError, match="in memory"):
        Runner(None).start("ablate", lines, send)


def test_a_translator_is_refused_before_the_page_opens():
    config = hf.T5Config(
        d_model=32, num_heads=4, d_kv=8, num_layers=1, d_ff=64, vocab_size=tiny.VOCAB
    )
    translator = hf.T5ForConditionalGeneration(config).eval()
    with pytest.raises(InputError, match="reads a source and a target"):
        Bench(Subject(translator, tiny.tokenizer(), bos="never"))
