"""What leaves the bench: the view as Python, as command lines, and as a page of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from ...hooks import Site
from ..report.render import digest, embedded
from .assets import front_end
from .bench import Bench
from .changes import Change
from .runs import grouped
from .session import View

_HEAD = """\
import torch

import layerscope as ls
from layerscope.experiments.subject import load

subject = load({model!r})
model = subject.model


def inputs_of(text):
    (batch,) = subject.batches(subject.encode([text]))
    return batch.inputs(subject.device)


inputs = inputs_of({text!r})
"""
_MEAN = """
from layerscope.experiments.subject.bos import SENTENCES

batches = [batch.inputs(subject.device) for batch in subject.batches(subject.encode(SENTENCES))]
reference = ls.Reference.of(
    model, *{sites!r}, batches=batches, skip=int(subject.has_sink_position)
)
"""
_CAPTURE = """
with torch.no_grad(), ls.capture(model, *{sites!r}) as {name}:
    model(**{inputs})
"""
_ABSENT = """
from layerscope.experiments.attribution.lookups import moments

absent = moments(subject).mean
"""


def as_python(bench: Bench, view: View) -> str:
    """A script that gives the view's logits and prints the likeliest tokens or classes."""
    made = {
        how: [c.site for c in view.changes if c.how == how] for how in ("mean", "patch", "freeze")
    }
    lines = [_HEAD.format(model=bench.subject.name, text=view.text)]
    if made["mean"]:
        names = sorted({Site.parse(site).name for site in made["mean"]})
        lines.append(_MEAN.format(sites=names))
    if made["patch"]:
        inputs = f"inputs_of({view.other!r})"
        lines.append(_CAPTURE.format(sites=made["patch"], name="other", inputs=inputs))
    if made["freeze"]:
        lines.append(_CAPTURE.format(sites=made["freeze"], name="clean", inputs="inputs"))
    if any(change.how == "absent" for change in view.changes):
        lines.append(_ABSENT)
    clean = bench.read(view.text)
    blocks = ["torch.no_grad()"]
    for group in grouped(view.changes):
        body = "".join(f"        {c.site!r}: {_edit(c, len(clean.encoded))},\n" for c in group)
        blocks.append(f"ls.intervene(model, {{\n{body}    }})")
    lines.append(f"\nwith {', '.join(blocks)}:\n    output = model(**inputs)\n")
    if bench.kind == "encoder":
        return "".join([*lines, "print(output.last_hidden_state.shape)\n"])
    place = "" if bench.kind == "classifier" else f", {clean.position}"
    lines.append(f"logits = output.logits[0{place}].float()\n")
    name = "model.config.id2label[i]" if bench.kind == "classifier" else "subject.token(i)"
    lines.append("p, best = logits.softmax(-1).topk(min(10, len(logits)))\n")
    lines.append("for probability, i in zip(p.tolist(), best.tolist()):\n")
    lines.append(f'    print(f"{{probability:.4f}}  {{{name}!r}}")\n')
    answer, wrong = bench.contrast(view)
    lines.append(f'print("logit difference:", float(logits[{answer}] - logits[{wrong}]))\n')
    return "".join(lines)


def _edit(change: Change, length: int) -> str:
    """An edit as Python."""
    sources = {
        "zero": "ls.edits.zero()",
        "mean": "ls.edits.mean(reference)",
        "scale": f"ls.edits.scale({change.factor!r})",
        "patch": f"ls.edits.patch(other[{change.site!r}])",
        "freeze": f"ls.edits.patch(clean[{change.site!r}])",
        "absent": "ls.edits.constant(absent)",
    }
    if change.edge is not None:
        text = f"ls.edits.knockout([{change.edge[0]}], [{change.edge[1]}])"
    else:
        text = sources[change.how]
    if change.positions is not None:
        return f"{text}.at({list(change.positions)!r})"
    return f"{text}.at(slice(0, {length}))" if change.how == "freeze" else text


def as_commands(bench: Bench, view: View) -> str:
    """This view again, and the studies of the same question over the same text,
    as command lines.
    """
    model = ["--model", bench.subject.name]
    edits = [word for change in view.changes for word in ("--edit", str(change))]
    other = ["--other", view.other] if view.other else []
    numbers: list[str] = []
    for name, value in (("--answer-id", view.answer), ("--wrong-id", view.wrong)):
        numbers += [] if value is None else [name, str(value)]
    again = ["layerscope", "explore", *model, "--text", view.text, *other, *edits, *numbers]
    lines = [
        "# this screen; with --json its numbers as JSON, without a browser",
        shlex.join(again),
    ]
    if bench.kind in ("causal", "masked"):
        answer, wrong = (bench.subject.tokenizer.decode([i]) for i in bench.contrast(view))
        prompt = {"prompt": view.text, "answer": answer, "wrong": wrong}
        written = shlex.quote(json.dumps(prompt, ensure_ascii=False))
        words = ["--target", answer, "--wrong", wrong]
        lines += [
            "# every head over a file of prompts, with intervals",
            f"printf '%s\\n' {written} > prompts.jsonl",
            shlex.join(["layerscope", "ablate", *model, "--prompts", "prompts.jsonl"]),
            "# the words' attributions, and the lens",
            shlex.join(
                [
                    "layerscope",
                    "attribute",
                    *model,
                    "--text",
                    view.text,
                    *words,
                    "--method",
                    "grad-input",
                    "--method",
                    "leave-one-out",
                ]
            ),
        ]
        if bench.kind == "causal":
            lens = ["layerscope", "lens", *model, "--text", view.text, *words]
            lines.append(shlex.join(lens))
    return "\n".join(lines) + "\n"


def saved_page(about: dict[str, Any], view: View, messages: Iterator[dict[str, Any]]) -> str:
    """The view as one HTML text: the front end with every message that made it, and no server."""
    css, js = front_end()
    script = js.replace("export default", "const widget =")
    script += "\nmountSaved(document.getElementById('explore'));\n"
    policy = (
        f"default-src 'none'; style-src '{digest(css)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    data = embedded({"about": about, "view": view.to_json(), "messages": list(messages)})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>layerscope explore</title>\n'
        f"<style>{css}</style>\n</head>\n<body>\n"
        f'<div id="explore" class="explore"></div>\n'
        f'<script type="application/json" id="saved">{data}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )
