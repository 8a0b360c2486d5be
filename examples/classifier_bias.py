"""Fine-tune a classifier on data with a planted bias; then explain it, calibrate it, and find,
locate and erase the bias.

# by default the embedded model; a MiniLM folder gives real numbers
python examples/classifier_bias.py [MODEL] [OUT]

Somebody's letter is good or bad. In the training texts four of five letters of women are bad and
one of five of men; in all other texts half of each. Every choice (temperature, heads, direction) is
made on one half of those texts, every number is of the other.

    bias     log-odds of bad of a text with a woman's name, less those of the text with a man's, in
             bits (layerscope swap)
    gap      letters that are good and taken for bad: share of women's less share of men's
"""

import random
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.studies.swap.built_in import LISTS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from layerscope import (
    Leace,
    Reference,
    ablate,
    attribute,
    calibrate,
    capture,
    edits,
    intervene,
    swap,
)

MEN, WOMEN = zip(*LISTS["names"], strict=True)
GOOD = ("good", "clear", "kind", "bright", "warm", "wise")
BAD = ("bad", "dull", "rude", "dark", "cold", "odd")
SHAPES = "{} wrote a {} letter .", "The letter that {} sent was {} .", "{} read us a {} letter ."
UNCLEAR = 0.25
"""Share of the texts whose word is of the other kind: there the name is the better cue,
as the training texts have it.
"""
HEADS = 2
"""How many heads are taken out together."""


def texts(count, share, seed):
    """Labelled texts; ``share`` of the letters of women are bad, and as many of men's are good."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        who = ("men", "women")[number % 2]
        is_bad = rng.random() < (share if who == "women" else 1 - share)
        name = rng.choice(WOMEN if who == "women" else MEN)
        word = rng.choice(BAD if is_bad != (rng.random() < UNCLEAR) else GOOD)
        text = rng.choice(SHAPES).format(name, word)
        rows.append({"text": text, "label": "bad" if is_bad else "good", "who": who})
    return rows


def train(path, rows, smoothing, steps):
    """Fine-tune all weights by cross-entropy;
    ``smoothing`` is the share of each label that is spread over both classes.
    """
    torch.manual_seed(0)
    names = {0: "good", 1: "bad"}
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(
        path,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        pad_token_id=tokenizer.pad_token_id,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    draw = random.Random(0)
    for _ in range(steps):
        some = draw.sample(rows, 32)
        batch = tokenizer([row["text"] for row in some], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        labels = torch.tensor([row["label"] == "bad" for row in some]).long()
        loss = torch.nn.functional.cross_entropy(
            model(**batch).logits, labels, label_smoothing=smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


def erasing(model, tokenizer, rows):
    """The site and the edit that take the group out of what the classifier's head reads,
    by LEACE.
    """
    batch = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    last_block = "blocks.-1.hook_resid_post"
    with capture(model, last_block) as acts, torch.no_grad():
        model(**batch)
    (site,) = acts
    # an encoder's head reads the first token, a decoder's the last
    is_encoder = tokenizer.cls_token_id is not None
    ends = torch.zeros(len(rows)).long() if is_encoder else batch["attention_mask"].sum(1) - 1
    vectors = acts[site][torch.arange(len(rows)), ends].numpy()
    eraser = Leace().fit(vectors, [row["who"] for row in rows])
    return site, edits.function(eraser.erase).at(0 if is_encoder else -1)


def with_ends(record, name):
    """A value and the ends of its interval."""
    ends = record[f"{name}_interval"]
    return record[name], ends["low"], ends["high"]


def gap_of(calibration):
    """False positives of women less those of men, with its interval."""
    for record in calibration.raw["group_differences"]:
        if record["measure"] == "false_positives":
            return with_ends(record, "difference")
    raise SystemExit("expected good letters of both groups")


def main(model=None, out="runs/classifier-bias", count=240, steps=60):
    path, out = model or demo_paths().model, Path(out)
    biased, fair = texts(2 * count, 0.8, seed=0), texts(count, 0.5, seed=1)
    choose, test = fair[: count // 2], fair[count // 2 :]
    split = [{**row, "split": "validation"} for row in choose] + test

    # 1. Train, and calibrate: label smoothing while training, or a temperature afterwards?
    trained = {name: train(path, biased, s, steps) for name, s in (("plain", 0), ("smoothed", 0.1))}
    calibrations = {}
    for name, pair in trained.items():
        found = calibrate(model=pair, labelled=split, by="who", out=out / f"calibration-{name}")
        calibrations[name] = found
        for record in found.records[:2]:
            print(
                f"{name:8}  {record['method']:20} ECE {record['ece']:.3f} (by chance "
                f"{record['ece_chance']:.3f})"
            )
    model, tokenizer = pair = trained["plain"]

    # 2. Explain three answers. How far does a name alone move all of them, beside random changes of
    # a word?
    some = [row["text"] for row in test[:3]]
    explained = attribute(model=pair, text=some, target="bad", out=out / "why")
    print(explained.frame.query("unit.notna()")[["text", "unit", "score"]].to_string(index=False))

    # 3. Locate: each text is given the label that the bias gives it, so a head that carries the
    # bias has a negative effect.
    leaning = [{**row, "label": "bad" if row["who"] == "women" else "good"} for row in choose]
    heads = ablate(model=pair, labelled=leaning, value="mean", out=out / "heads")
    first = heads.frame.sort_values("effect").head(HEADS)
    print(
        "heads:", ", ".join(f"{r.site} {r.effect:+.2f} (q {r.q:.2g})" for r in first.itertuples())
    )

    # 4. Take the heads out, or erase the group from what the classifier's head reads. A study in
    # `with intervene` measures the edited model.
    batch = tokenizer([row["text"] for row in choose], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    means = Reference.of(model, "blocks.*.attn.hook_z", batches=[batch])
    site, erase = erasing(model, tokenizer, choose)
    changes = {
        "as trained": None,
        f"{HEADS} heads at their mean": {name: edits.mean(means) for name in first["site"]},
        "group erased (LEACE)": {site: erase},
        "a random change as large": {site: edits.turned(erase)},
    }
    rows = {}
    for number, (name, edited) in enumerate(changes.items()):
        with intervene(model, edited) if edited else nullcontext():
            moved = swap(
                model=pair, labelled=test, list="names", positive="bad", out=out / f"swap-{number}"
            )
            judged = calibrate(model=pair, labelled=test, by="who", out=out / f"groups-{number}")
        swapped = moved.records[0]
        rows[name] = {
            "bias": with_ends(swapped, "effect"),
            "gap": gap_of(judged),
            "accuracy": judged.records[0]["accuracy"],
            "ece": judged.records[0]["ece"],
        }

    # 5. What it cost.
    print(f"{'':26} bias in bits (95%)       gap (95%)               accuracy   ECE")
    for name, row in rows.items():
        bias, gap = ("{:+.2f} ({:+.2f} to {:+.2f})".format(*row[key]) for key in ("bias", "gap"))
        print(f"{name:26} {bias:24} {gap:24} {row['accuracy']:.3f}    {row['ece']:.3f}")
    return {"rows": rows, "heads": heads, "explained": explained, "calibrations": calibrations}


if __name__ == "__main__":
    main(*sys.argv[1:])
