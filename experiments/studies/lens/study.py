"""``layerscope lens``: what each layer would predict, how far to believe it, and which parts write the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Tensor

from ....probes.evaluation import ClusterBootstrap, Interval, bootstrap_p, holm, interval
from ...corpus import read_conllu
from ...corpus.prompts import Prompt, numbered_lines, read_prompts
from ...lenses.contributions import Contributions, contributions, exact_effects
from ...lenses.streams import LensError, Streams, all_streams, require_lens
from ...lenses.translators import KINDS, Lens, Reliability, jacobian, least_squares, tuned
from ...report.schema import Finding, Note
from ...report.words import layer_label
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...subject import Subject
from ...subject.word_spans import Encoded
from .options import LensOptions
from .records import (
    Candidate,
    ComparisonRecord,
    ContributionRecord,
    LayerRecord,
    ReadingRecord,
    Results,
    TextRecord,
)

TOP = 10
"""Candidates of a reading."""
MOST_TOKENS = 512
"""Of a text that is read position by position."""


@dataclass(kw_only=True)
class LensInputs(Inputs):
    """What the study has read.

    Args:
        kinds: the lenses that are read, in the order of `KINDS`.
        prompts: texts to read, with what is followed.
        train, test: texts of the corpus to fit and to test on.
        saved: lenses from files.
    """

    kinds: tuple[str, ...]
    prompts: list[Prompt]
    train: list[Encoded]
    test: list[Encoded]
    saved: list[Lens]


def prepare(options: LensOptions, load: Load) -> LensInputs:
    """Texts, model and saved lenses.

    Raises:
        LensError: nothing to read, a lens that has no corpus to be fitted on, a text that is too long or too short.
    """
    if not (options.text or options.prompts or options.corpus):
        raise LensError("expected --text, --prompts or --corpus")
    if options.wrong is not None and options.target is None:
        raise LensError("--wrong needs --target")
    if options.corpus is not None and not 0 < options.held_out < 1:
        raise LensError(f"--held-out: expected a share between 0 and 1, got {options.held_out}")
    prompts = [Prompt(text, options.target or "", options.wrong) for text in options.text]
    data = []
    if options.prompts is not None:
        read = read_prompts(options.prompts, options.limit, answers=False)
        prompts += [
            replace(p, answer=options.target or p.answer, wrong=options.wrong or p.wrong)
            for p in read
        ]
        data.append(DataFile.of("prompts", options.prompts, len(read)))
    texts = _corpus(options)
    if options.corpus is not None:
        data.append(DataFile.of("corpus", options.corpus, len(texts)))
    data += [DataFile.of(f"lens {number}", path, 1) for number, path in enumerate(options.lens, 1)]
    subject = load()
    require_lens(subject)
    saved = [Lens.load(path, subject) for path in options.lens]
    kinds = tuple(
        kind for kind in KINDS if kind in options.kind or kind in {lens.kind for lens in saved}
    ) or ("logit",)
    fitted = [
        kind for kind in kinds if kind != "logit" and kind not in {lens.kind for lens in saved}
    ]
    if fitted and not texts:
        raise LensError(
            f"--kind {fitted[0]}: expected --corpus to fit it on, or --lens FILE of another run"
        )
    for encoded in subject.encode([prompt.prompt for prompt in prompts]):
        if len(encoded) > MOST_TOKENS or encoded.cut is not None:
            most = min(MOST_TOKENS, subject.max_length)
            raise LensError(
                f"{encoded.text[:40]!r}: expected a text of at most {most} tokens, got a longer one"
            )
    train, test = _halves(subject, texts, options)
    return LensInputs(
        options=options,
        subject=subject,
        data=data,
        kinds=kinds,
        prompts=prompts,
        train=train,
        test=test,
        saved=saved,
    )


def _corpus(options: LensOptions) -> list[str]:
    """The texts of the corpus."""
    if options.corpus is None:
        return []
    if options.corpus.suffix == ".conllu":
        return [sentence.text for sentence in read_conllu(options.corpus, options.limit)]
    return [line.strip() for _, line in islice(numbered_lines(options.corpus), options.limit)]


def _halves(
    subject: Subject, texts: Sequence[str], options: LensOptions
) -> tuple[list[Encoded], list[Encoded]]:
    """The corpus divided at random, equal texts on one side only."""
    if not texts:
        return [], []
    different = list(dict.fromkeys(texts))
    order = np.random.default_rng(options.seed).permutation(len(different))
    n_test = max(1, round(options.held_out * len(different)))
    encoded = subject.encode([different[i] for i in order])
    train, test = (
        [text for text in half if len(text) > 1] for half in (encoded[n_test:], encoded[:n_test])
    )
    if not train or not test:
        raise LensError(
            f"{options.corpus}: expected texts of two tokens or more to fit and to test on, got {len(different)} texts"
        )
    return train, test


def cost(inputs: LensInputs) -> Cost:
    """Texts, and the matrices of the lenses."""
    assert inputs.subject is not None
    fitted = [kind for kind in inputs.kinds if kind != "logit"]
    width, n_layers = inputs.subject.d_model, inputs.subject.n_layers
    text = f"{len(inputs.prompts)} texts to read by {', '.join(inputs.kinds)}"
    if inputs.train:
        text += f"; {len(inputs.train):,} texts to fit on, {len(inputs.test):,} to test on"
    size = len(fitted) * n_layers * width * width * 4
    return Cost(text, memory=6 * size, disk=size)


def measure(inputs: LensInputs, run: Run) -> Results:
    """Fit the lenses, test them, read the texts, and attribute the targets' logits."""
    subject, options = inputs.subject, inputs.options
    assert subject is not None
    notes: list[Note] = []
    reliabilities: list[Reliability] = []
    with run.timed("fitting"):
        lenses = _fitted(inputs, run, reliabilities, notes)
    layers: list[LayerRecord] = []
    comparisons: list[ComparisonRecord] = []
    if inputs.test:
        with run.timed("testing"):
            scores = _scores(subject, lenses, inputs.test, options.batch_tokens)
            layers = [
                row for kind in scores for row in _layer_records(kind, scores[kind], options.seed)
            ]
            layers = [_with_reliability(row, reliabilities) for row in layers]
            comparisons = _compared(scores, [lens.kind for lens in lenses], options.seed)
            layers += _random_models(subject, inputs, options)
    texts, readings, parts = [], [], []
    for number, prompt in enumerate(inputs.prompts):
        (encoded,) = subject.encode([prompt.prompt])
        target, wrong = (
            _first_token(subject, encoded, answer, notes)
            for answer in (prompt.answer, prompt.wrong)
        )
        readings += _readings(subject, number, encoded, lenses, target)
        record = TextRecord(
            text=prompt.prompt,
            tokens=spelled(subject, encoded),
            target=prompt.answer or None,
            wrong=prompt.wrong,
        )
        if target is not None:
            direct = contributions(subject, encoded, target, wrong, options.by or "head")
            parts += _contribution_records(
                subject, number, encoded, direct, target, wrong, options.exact
            )
            record = replace(record, logit=direct.logit, bias=direct.biases, sum_error=direct.error)
        texts.append(record)
    if len(inputs.prompts) and not inputs.test:
        notes.append(
            Note(
                kind="info", text="single texts have no interval: --corpus tests the lenses on many"
            )
        )
    return Results(
        records=readings,
        texts=texts,
        layers=layers,
        comparisons=comparisons,
        contributions=parts,
        findings=findings(layers, readings, texts, parts),
        notes=notes,
    )


def _fitted(
    inputs: LensInputs, run: Run, reliabilities: list[Reliability], notes: list[Note]
) -> list[Lens]:
    """Every lens that is asked for: read from a file, kept by an interrupted run, or fitted and kept."""
    subject, options = inputs.subject, inputs.options
    assert subject is not None
    lenses: dict[str, Lens] = {lens.kind: lens for lens in inputs.saved} | {"logit": Lens("logit")}
    folder = options.out / "lenses"
    about = {"model": subject.name, "model_sha256": subject.sha256}
    with console.progress() as bars:
        for kind in inputs.kinds:
            path = folder / f"{kind}.safetensors"
            if kind in lenses:
                continue
            if path.exists():
                lenses[kind] = Lens.load(path, subject)
                continue
            folder.mkdir(exist_ok=True)
            if kind == "least-squares":
                lens = _least_squares(inputs, bars)
            elif kind == "tuned":
                start = lenses.get("least-squares") or _least_squares(inputs, bars)
                bar = bars.add_task("tuned lens", total=options.steps)
                kept = max(1, len(inputs.train) // 10)
                lens = tuned(
                    subject, start, inputs.train[kept:] or inputs.train, inputs.train[:kept], options.batch_tokens,
                    steps=options.steps, seed=options.seed, advance=lambda n, bar=bar: bars.advance(bar, n),
                )  # fmt: skip
                notes.append(
                    Note(kind="info", text=f"tuned: {lens.about['layers_improved']} of {subject.n_layers} layers are better "
                         f"on validation texts than the least squares that they start from")
                )  # fmt: skip
            else:
                bar = bars.add_task(
                    "Jacobian lens", total=min(options.jacobian_texts, len(inputs.train))
                )
                stop = options.reliability if options.reliability < 1 else None
                lens, found = jacobian(
                    subject, inputs.train[: options.jacobian_texts], first=options.first_position, stop_at=stop,
                    advance=lambda n, bar=bar: bars.advance(bar, n),
                )  # fmt: skip
                lens = replace(
                    lens, about={**lens.about, "reliability": [vars(one) for one in found]}
                )
                if left := lens.about["left_out_texts"]:
                    text = f"jacobian: {left} texts are too short for it (under {options.first_position + 2} tokens)"
                    notes.append(Note(kind="dropped", text=text))
            lens = replace(lens, about={**lens.about, **about})
            lens.save(path)
            lenses[kind] = lens
    if "jacobian" in lenses:
        reliabilities += [
            Reliability(**one) for one in lenses["jacobian"].about.get("reliability", ())
        ]
    return [lenses[kind] for kind in inputs.kinds]


def _least_squares(inputs: LensInputs, bars: Progress) -> Lens:
    """The lens that least squares fit, with a progress bar."""
    bar = bars.add_task("least squares", total=len(inputs.train))
    return least_squares(
        inputs.subject,
        inputs.train,
        inputs.options.batch_tokens,
        lambda texts: bars.advance(bar, texts),
    )


# -- on the corpus


def _scores(
    subject: Subject,
    lenses: Sequence[Lens],
    texts: Sequence[Encoded],
    batch_tokens: int,
    control: bool = True,
) -> dict[str, Float[np.ndarray, "layer measure token"]]:
    """For each lens (and each with its layers shuffled) KL, loss, agreement and rank of every token; the last row of
    measures is the token's text."""
    named = {lens.kind: lens for lens in lenses}
    if control:
        named |= {
            f"{lens.kind}, layers shuffled": lens.shuffled()
            for lens in lenses
            if lens.weight is not None
        }
    out: dict[str, list[Tensor]] = {name: [] for name in named}
    with torch.no_grad():
        for streams in all_streams(subject, texts, batch_tokens):
            places = streams.mask[:, :-1] & streams.mask[:, 1:]
            places[:, : 1 if subject.has_sink_position else 0] = False
            if not places.any():
                continue
            following = streams.ids[:, 1:][places]
            model = streams.clean.logits[:, :-1][places].float().log_softmax(-1)
            owners = torch.tensor(
                [streams.batch.rows[row] for row in places.nonzero()[:, 0].tolist()]
            ).double()
            for name, lens in named.items():
                rows = []
                for layer in range(streams.n_layers):
                    logits = streams.logits(lens(layer, streams.stream(layer)))
                    rows.append(
                        _judged(logits[:, :-1][places].float().log_softmax(-1), model, following)
                    )
                table = torch.stack(rows).cpu().double()
                out[name].append(torch.cat([table, owners.expand(len(rows), 1, -1)], dim=1))
    return {name: torch.cat(parts, dim=2).numpy() for name, parts in out.items()}


def _judged(guess: Tensor, model: Tensor, following: Tensor) -> Float[Tensor, "4 token"]:
    """KL(model || layer) and loss in bits, agreement with the model, rank of the true next token."""
    bits = float(np.log(2))
    kl = (model.exp() * (model - guess)).sum(-1) / bits
    of_next = guess.gather(1, following[:, None])
    agree = (guess.argmax(-1) == model.argmax(-1)).float()
    return torch.stack([kl, -of_next[:, 0] / bits, agree, (guess > of_next).sum(-1).float()])


def _layer_records(
    kind: str, scores: Float[np.ndarray, "layer measure token"], seed: int
) -> list[LayerRecord]:
    """Means with intervals over texts."""
    texts = np.unique(scores[0, 4], return_inverse=True)[1]
    boot = ClusterBootstrap(texts, seed=seed)
    single = boot.n_clusters < 2
    records = []
    for layer, (kl, loss, agree, rank, _) in enumerate(scores):
        means = {"kl": boot.mean(kl), "loss": boot.mean(loss), "agreement": boot.mean(agree)}
        fields = {
            name: value
            for key, found in means.items()
            for name, value in _spread(key, found, single).items()
        }
        records.append(
            LayerRecord(
                kind=kind, layer=layer - 1, median_rank=float(np.median(rank)), n_texts=boot.n_clusters,
                n_tokens=len(kl), **fields,  # pyright: ignore[reportArgumentType]
            )
        )  # fmt: skip
    return records


def _spread(name: str, found: Interval, single: bool) -> dict[str, float | None]:
    """A mean and the ends of its interval; one text has none."""
    return {
        name: found.value,
        f"{name}_low": None if single else found.low,
        f"{name}_high": None if single else found.high,
    }


def _with_reliability(record: LayerRecord, reliabilities: Sequence[Reliability]) -> LayerRecord:
    if record.kind != "jacobian" or record.layer + 1 >= len(reliabilities):
        return record
    here = reliabilities[record.layer + 1]
    return replace(record, cosine=here.cosine, texts_needed=here.texts_needed)


def _random_models(subject: Subject, inputs: LensInputs, options: LensOptions) -> list[LayerRecord]:
    """The logit lens of the same architecture with random weights, against its own predictions."""
    records = []
    for number in range(options.random_models):
        twin = subject.random_twin(options.seed + number)
        scores = _scores(twin, [Lens("logit")], inputs.test, options.batch_tokens, control=False)
        records += _layer_records("logit, random weights", scores["logit"], options.seed)
    return records


def _compared(
    scores: dict[str, np.ndarray], kinds: Sequence[str], seed: int
) -> list[ComparisonRecord]:
    """Every two lenses, paired over texts, at every layer."""
    pairs = [(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :]]
    if not pairs:
        return []
    texts = np.unique(scores[kinds[0]][0, 4], return_inverse=True)[1]
    boot = ClusterBootstrap(texts, seed=seed)
    if boot.n_clusters < 2:
        return []
    rows, p = [], []
    for a, b in pairs:
        for layer in range(len(scores[a])):
            columns = np.column_stack(
                [scores[b][layer, 0] - scores[a][layer, 0], np.ones(len(texts))]
            )
            sums = boot.sums(columns)
            replicates = sums[:, 0] / sums[:, 1]
            found = interval(float(columns[:, 0].mean()), replicates)
            p.append(bootstrap_p(replicates))
            rows.append((a, b, layer, found))
    return [
        ComparisonRecord(
            a=a,
            b=b,
            layer=layer - 1,
            difference=found.value,
            low=found.low,
            high=found.high,
            p_holm=float(value),
        )
        for (a, b, layer, found), value in zip(rows, holm(p), strict=True)
    ]


# -- on the texts


def spelled(subject: Subject, text: Encoded) -> list[str]:
    """The tokens as a reader knows them: decoded, white space shown."""
    return [shown_token(subject, i) for i in text.ids]


def shown_token(subject: Subject, token: int) -> str:
    """One token, decoded; a token that is no text by itself keeps the tokenizer's spelling."""
    decoded = subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    plain = decoded if decoded and "\ufffd" not in decoded else subject.token(token)
    return plain.replace("\n", "⏎").replace("\t", "⇥")


def _first_token(
    subject: Subject, text: Encoded, answer: str | None, notes: list[Note]
) -> int | None:
    """The first token of a continuation, as it stands behind the text."""
    if not answer:
        return None
    (whole,) = subject.encode([text.text + answer])
    ids = subject.tokenizer.encode(answer, add_special_tokens=False)
    own = len([s for s in text.special if not s]) + sum(text.special[:1])
    token = whole.ids[own] if whole.ids[:own] == text.ids[:own] and len(whole.ids) > own else ids[0]
    if len(ids) > 1:
        note = Note(
            kind="info",
            text=f"{answer!r} is {len(ids)} tokens: the first, {shown_token(subject, token)!r}, is followed",
        )
        if note not in notes:
            notes.append(note)
    return int(token)


def _readings(
    subject: Subject, number: int, text: Encoded, lenses: Sequence[Lens], target: int | None
) -> list[ReadingRecord]:
    """Every layer and position of a text, under every lens; the last layer is the model itself, once."""
    (batch,) = subject.batches([text])
    streams = Streams.of(subject, batch)
    tokens = spelled(subject, text)
    records = []
    with torch.no_grad():
        for place, lens in enumerate(lenses):
            for layer in range(streams.n_layers + (place == len(lenses) - 1)):
                logits = streams.logits(lens(layer, streams.stream(layer)))[0].float()
                probabilities = logits.softmax(-1)
                best = probabilities.topk(min(TOP, probabilities.shape[-1]), -1)
                for position in range(len(text)):
                    top = [
                        Candidate(token=shown_token(subject, int(token)), probability=float(p))
                        for p, token in zip(
                            best.values[position], best.indices[position], strict=True
                        )
                    ]
                    p = None if target is None else probabilities[position, target]
                    records.append(
                        ReadingRecord(
                            text=number,
                            kind=lens.kind if layer < streams.n_layers else "model",
                            layer=layer - 1,
                            position=position,
                            token=tokens[position],
                            top=top,
                            target_probability=None if p is None else float(p),
                            target_rank=None
                            if p is None
                            else int((probabilities[position] > p).sum()),
                        )
                    )
    return records


def _contribution_records(
    subject: Subject,
    number: int,
    text: Encoded,
    direct: Contributions,
    target: int,
    wrong: int | None,
    exact: int,
) -> list[ContributionRecord]:
    """Every part, and the exact effect of the largest that can be edited."""
    editable = [part for part in direct.parts if part.site]
    largest = sorted(editable, key=lambda part: -abs(part.logit))[:exact]
    effects = dict(
        zip(map(id, largest), exact_effects(subject, text, largest, target, wrong), strict=True)
    )
    return [
        ContributionRecord(
            text=number, component=part.component, layer=part.layer, index=part.index, logit=part.logit,
            exact=effects.get(id(part)),
        )
        for part in direct.parts
    ]  # fmt: skip


def findings(
    layers: Sequence[LayerRecord],
    readings: Sequence[ReadingRecord],
    texts: Sequence[TextRecord],
    parts: Sequence[ContributionRecord],
) -> list[Finding]:
    """What is read first."""
    out = []
    for kind in dict.fromkeys(row.kind for row in layers if row.kind in KINDS):
        rows = [row for row in layers if row.kind == kind]
        middle, last = rows[len(rows) // 2], rows[-1]
        span = (
            "" if middle.kl_low is None else f" (95% {middle.kl_low:.3g} to {middle.kl_high:.3g})"
        )
        out.append(
            Finding(
                property=kind,
                text=f"{kind}: half-way, at layer {layer_label(middle.layer)}, the reading is {middle.kl:.3g} bits a token{span} "
                f"from the model's own prediction and its likeliest token agrees for {middle.agreement:.0%} of tokens; at "
                f"the last layer {last.kl:.3g} bits and {last.agreement:.0%}.",
            )
        )
    for number, text in enumerate(texts):
        out += _text_findings(number, text, readings, parts)
    return out


def _text_findings(
    number: int,
    text: TextRecord,
    readings: Sequence[ReadingRecord],
    parts: Sequence[ContributionRecord],
) -> list[Finding]:
    """Where the prediction of one text appears, and what writes it."""
    last = [r for r in readings if r.text == number and r.position == len(text.tokens) - 1]
    answer = next(r for r in last if r.kind == "model").top[0].token
    out = []
    for kind in dict.fromkeys(r.kind for r in last if r.kind != "model"):
        steps = [r for r in last if r.kind in (kind, "model")]
        first = next(
            i for i in range(len(steps)) if all(step.top[0].token == answer for step in steps[i:])
        )
        label = layer_label(steps[first].layer)
        out.append(
            Finding(
                property=kind,
                text=f"text {number + 1}: the model predicts {answer!r}; under the {kind} lens that is the likeliest "
                f"token from layer {label} on.",
            )
        )
    rows = [part for part in parts if part.text == number]
    if rows and text.logit is not None:
        named = [
            row
            for row in rows
            if row.component in ("head", "mlp", "attention", "neuron", "position", "embedding")
        ]
        largest = sorted(named, key=lambda row: -abs(row.logit))[:5]
        words = ", ".join(f"{part_name(row)} ({row.logit:+.2f})" for row in largest)
        against = f" over {text.wrong!r}" if text.wrong else ""
        out.append(
            Finding(
                property="contributions",
                text=f"text {number + 1}: the logit of {text.target!r}{against} is {text.logit:.2f}; the largest direct "
                f"contributions are {words}.",
            )
        )
    return out


def part_name(record: ContributionRecord) -> str:
    """How people call it: L3H5, L3 MLP, L3N17."""
    if record.layer is None:
        return record.component
    after = {
        "head": f"H{record.index}",
        "neuron": f"N{record.index}",
        "position": f" position {record.index}",
    }
    words = {"mlp": " MLP", "attention": " attention"}
    return f"L{record.layer}{after.get(record.component) or words.get(record.component) or f' {record.component}'}"
