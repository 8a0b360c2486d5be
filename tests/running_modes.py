"""One oracle for every edit under every way of running: the same edit on the text alone, in one
forward without a cache.

An edit at a place is a `Case`; a way of running (`hooks.verify.ways`, and those here that only
tests need) takes what `Case.edits` makes of its rows.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from hooks import Edit, Reference, capture, edits, intervene, sites
from hooks.verify import ways
from hooks.verify.ways import (
    Answer,
    Make,
    Texts,
    Way,
    beams,
    by_position,
    generated,
    padded,
    rows_of,
    steps,
)

VOCAB, WIDTH, LAYERS, NEW = 40, 32, 2, 2
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOLERANCE = 2e-4
"""Largest difference of two logits (which are of size 1 to 10) that counts as rounding."""


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))


TO_COME = 7
LONG, SHORT, MORE = tokens(7, 1), tokens(4, 2), tokens(NEW, 3)
BLOCK = "blocks.1."


def _model(kind: str, attention: str = "sdpa", **options: Any) -> Any:
    made = getattr(hf, kind + "ForCausalLM")(
        getattr(hf, kind + "Config")(**SIZES, **options)
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25, generator=generator)
    made.set_attn_implementation(attention)
    return made


@functools.cache
def model(name: str) -> Any:
    """A tiny model whose edits move its logits well beyond rounding; grouped heads,
    as most have today.
    """
    match name:
        case "window":
            return _model("Mistral", sliding_window=3)
        case "sinks":
            options = {
                "head_dim": 8,
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "sliding_window": 3,
            }
            made = _model(
                "GptOss", "eager", **options, layer_types=["full_attention", "sliding_attention"]
            )
            with torch.no_grad():
                for layer in made.model.layers:
                    layer.self_attn.sinks.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]))
            return made
        case "eager":
            return _model("Llama", "eager")
        case "lora" | "prompt" | "prefix":
            return _adapted(name)
        case _:
            return _model("Llama")


def _adapted(name: str) -> Any:
    import peft

    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    config = {
        "lora": lambda: peft.LoraConfig(
            **common, r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        ),
        "prompt": lambda: peft.PromptTuningConfig(**common, num_virtual_tokens=3),
        "prefix": lambda: peft.PrefixTuningConfig(**common, num_virtual_tokens=3),
    }[name]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(_model("Llama"), config).eval()


# ---------------------------------------------------------------- edits and places

OTHER = tokens(7 + NEW, 4)
VECTOR = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))


@functools.cache
def _reference(on: str, site: str, length: int = 16) -> Reference:
    """Three texts, longer than any that is run, or shorter."""
    batch = {"input_ids": torch.stack([tokens(length, seed) for seed in (6, 7, 8)])}
    return Reference.of(model(on), site, batches=[batch])


@functools.cache
def _other_run(on: str, site: str) -> Tensor:
    with torch.no_grad(), capture(model(on), site) as acts:
        model(on)(input_ids=OTHER[None], attention_mask=torch.ones(1, len(OTHER), dtype=torch.long))
    return acts[site].clone()


RESIDUAL, SCORES, PATTERN = "hook_resid_post", "attn.hook_attn_scores", "attn.hook_pattern"

#: name -> (site within the block, from the model's name and the site to the edit)
EDITS: dict[str, tuple[str, Callable[[str, str], Edit]]] = {
    "zero": ("mlp.hook_post[3:30]", lambda on, site: edits.zero()),
    "mean": ("attn.hook_z[1]", lambda on, site: edits.mean(_reference(on, site))),
    "mean per position": (
        RESIDUAL,
        lambda on, site: edits.mean(_reference(on, site), per="position"),
    ),
    "mean of short texts": (
        RESIDUAL,
        lambda on, site: edits.mean(_reference(on, site, 4), per="position"),
    ),
    "resample short texts": (
        RESIDUAL,
        lambda on, site: edits.resample(_reference(on, site, 4), seed=2),
    ),
    "resample": ("hook_mlp_out", lambda on, site: edits.resample(_reference(on, site), seed=3)),
    "patch": (RESIDUAL, lambda on, site: edits.patch(_other_run(on, site))),
    "add": ("hook_resid_mid", lambda on, site: edits.add(VECTOR)),
    "scale": ("attn.hook_k[0]", lambda on, site: edits.scale(3.0)),
    "erase": (RESIDUAL, lambda on, site: edits.erase(torch.stack([VECTOR, VECTOR.flip(0)]))),
    "constant": ("hook_resid_pre", lambda on, site: edits.constant(VECTOR)),
    "turned": (RESIDUAL, lambda on, site: edits.turned(edits.scale(0.0), seed=1)),
    "copy": (RESIDUAL, lambda on, site: edits.copy(BLOCK + "hook_resid_pre")),
    "function": ("hook_attn_out", lambda on, site: edits.function(lambda x: -2 * x)),
    "zero scores": (SCORES, lambda on, site: edits.zero()),
    "scale a head's scores": (SCORES + "[2]", lambda on, site: edits.scale(-2.0)),
    "halve a head's pattern": (PATTERN + "[1]", lambda on, site: edits.scale(0.5)),
    "knockout": (SCORES, lambda on, site: edits.knockout(keys=[0])),
    "zero weights": (PATTERN, lambda on, site: edits.zero_weights(keys=slice(2, 7))),
}
PLACES = ("all", "index", "several", "slice", "mask", "to come", "last", "keys")


@dataclass(frozen=True)
class Case:
    """An edit at a place."""

    edit: str
    place: str

    @property
    def site(self) -> str:
        return BLOCK + EDITS[self.edit][0]

    def edits(self, on: str, rows: Tensor, columns: int | None = None) -> dict[Any, Any]:
        """What `intervene` takes for these rows; where they are a whole text,
        a mask marks its first ``columns`` only.
        """
        site = self.site.partition("[")[0]
        edit = EDITS[self.edit][1](on, site)
        if self.edit == "patch" and columns is not None:
            other = _other_run(on, site)
            edit = edits.patch(other[:, : other.shape[1] - len(OTHER) + rows.shape[1]])
        marked = rows % 3 == 1  # padding is token 0
        marked[:, slice(columns, None) if columns is not None else slice(0, 0)] = False
        match self.place:
            case "all":
                return {self.site: edit}
            case "keys":
                cut = edits.zero_weights if PATTERN in self.site else edits.knockout
                return {self.site: cut(keys=marked)}
        place = {
            "index": 2,
            "several": [0, 3],
            "slice": slice(1, 3),
            "mask": marked,
            "to come": TO_COME,
            "last": -1,
        }[self.place]
        return {self.site: edit.at(place)}


KEY_EDITS = ("knockout", "zero weights")
"""Edits whose keys a mask may give."""


# ---------------------------------------------------------------- ways of running

TEXTS = Texts((LONG, SHORT), MORE)


def keywords(whole: Any, make: Make, texts: Texts) -> Answer:
    with intervene(whole, make(LONG[None])):
        yield LONG, len(LONG), whole(input_ids=LONG[None]).logits[0]


def threads(whole: Any, make: Make, texts: Texts) -> Answer:
    """Each text in a thread of its own,
    in which another edit is at work on another text at the same time.
    """
    found: dict[str, Tensor] = {}
    failed: list[Exception] = []
    barrier = threading.Barrier(2)

    def run(name: str, text: Tensor, what: dict[Any, Any]) -> None:
        try:
            with torch.no_grad(), intervene(whole, what):
                barrier.wait(10)
                found[name] = whole(input_ids=text[None]).logits[0]
        except Exception as error:
            failed.append(error)

    other = {BLOCK + "hook_resid_pre": edits.scale(2.0).at(1)}
    workers = [
        threading.Thread(target=run, args=args)
        for args in (("own", LONG, make(LONG[None])), ("", SHORT, other))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    for error in failed:
        raise error
    yield LONG, len(LONG), found["own"]


def raised(whole: Any, make: Make, texts: Texts) -> Answer:
    """A forward that fails half-way, behind the block that is edited,
    and a good one in the same block.
    """

    def fail(*_: Any) -> None:
        raise ValueError("half-way")

    ids, mask, at = texts.batch("left")
    with intervene(whole, make(ids)):
        handle = whole.model.norm.register_forward_hook(fail)
        try:
            whole(input_ids=ids, attention_mask=mask, position_ids=at)
        except ValueError:
            handle.remove()
        yield from rows_of(
            ids, mask, whole(input_ids=ids, attention_mask=mask, position_ids=at).logits
        )


def copied(whole: Any, make: Make, texts: Texts) -> Answer:
    """A copy that was made before the block is edited as the model is."""
    twin = copy.deepcopy(whole)
    with intervene(twin, make(LONG[None])):
        yield LONG, len(LONG), twin(input_ids=LONG[None]).logits[0]


def checkpointed(whole: Any, make: Make, texts: Texts) -> Answer:
    twin = copy.deepcopy(whole).train()
    twin.gradient_checkpointing_enable({"use_reentrant": False})
    ids, mask, at = texts.batch("left")
    with torch.enable_grad(), intervene(twin, make(ids)):
        logits = twin(input_ids=ids, attention_mask=mask, position_ids=at).logits
        logits.sum().backward()
    yield from rows_of(ids, mask, logits.detach())


def _forward(whole: Any) -> Any:
    return whole.forward


def _body(whole: Any) -> Any:
    return whole.model


def _body_forward(whole: Any) -> Any:
    return whole.model.forward


def one_text(way: Way) -> Way:
    """A way with the first prompt alone."""
    return lambda whole, make, texts: way(whole, make, texts.alone())


#: way -> (model, how it runs)
WAYS: dict[str, tuple[str, Way]] = {
    "plain": ("llama", keywords),
    "left": ("llama", padded("left")),
    "right": ("llama", padded("right")),
    "left eager": ("eager", padded("left")),
    "right sinks": ("sinks", padded("right")),
    "cached steps": ("llama", steps(cache="dynamic")),
    "cached steps, the model's own": ("llama", steps()),
    "cached steps, positional": ("llama", steps(by_position, cache="dynamic")),
    "cached steps, forward": ("llama", steps(by_position, _forward, "dynamic")),
    "cached steps of the body": ("llama", steps(by_position, _body, "dynamic")),
    "cached steps of the body's forward": ("llama", steps(by_position, _body_forward, "dynamic")),
    "cached steps, sinks": ("sinks", steps(cache="dynamic")),
    "cached steps, window": ("window", steps(cache="dynamic")),
    "cached pairs": ("llama", steps(cache="dynamic", size=2)),
    "static cache": ("llama", steps(cache="static")),
    "static cache, window": ("window", steps(cache="static")),
    "generate": ("llama", generated()),
    "generate, one text": ("llama", one_text(generated())),
    "generate, no cache": ("llama", generated(use_cache=False)),
    "generate, static cache": ("llama", generated(cache_implementation="static")),
    "generate, chunked prefill": ("llama", generated(prefill_chunk_size=3)),
    "beams": ("llama", beams()),
    "lora": ("lora", generated()),
    "prompt tuning": ("prompt", one_text(generated())),
    "prefix tuning": ("prefix", generated()),
    "threads": ("llama", threads),
    "raised half-way": ("llama", raised),
    "copy": ("llama", copied),
    "checkpointing": ("llama", checkpointed),
}
IN_ONE_FORWARD = {"plain", "left", "right", "left eager", "right sinks", "threads",
                  "raised half-way", "copy", "checkpointing"}  # fmt: skip
IN_PIECES = {"generate, chunked prefill", "cached pairs"}
ONE_TEXT = {"plain", "generate, one text", "beams", "prompt tuning", "threads", "copy"}


def alone(case: Case, on: str, text: Tensor, prompt: int) -> Tensor:
    """The oracle: logits of a text by itself, in one forward without a cache."""
    return _alone(case, on, tuple(text.tolist()), prompt)


@functools.cache
def _alone(case: Case, on: str, text: tuple[int, ...], prompt: int) -> Tensor:
    rows = torch.tensor([text])
    if case.place == "to come" and len(text) <= TO_COME:
        return unedited(on, text)
    return ways.alone(model(on), case.edits(on, rows, prompt), rows[0])


@functools.cache
def unedited(on: str, text: tuple[int, ...]) -> Tensor:
    return ways.alone(model(on), {}, torch.tensor(text))


def difference(case: Case, way: str) -> tuple[float, float]:
    """How far the logits are from the oracle's, and how far the edit moves those:
    both the largest of all texts.
    """
    on, run = WAYS[way]
    wrong, effect = 0.0, 0.0
    with torch.no_grad():
        answers = list(run(model(on), functools.partial(case.edits, on), TEXTS))
    if "resample" in case.edit:
        answers = answers[:1]  # each row draws its own
    for answer in answers:
        text, prompt, found = answer
        expected = ways.wanted(answer, functools.partial(alone, case, on))
        wrong = max(wrong, float((found - expected).abs().max()))
        whole = alone(case, on, text, prompt)
        effect = max(effect, float((whole - unedited(on, tuple(text.tolist()))).abs().max()))
    return wrong, effect


def is_refused(case: Case, way: str) -> bool:
    """What has no one meaning under a way of running, and is refused in one line there."""
    if case.edit == "patch" and way not in ONE_TEXT:  # one text's values for several rows
        return True
    if case.place == "last" and way in IN_PIECES:
        return True
    if way in IN_ONE_FORWARD:
        # of a longer text
        return case.place == "to come" or (case.edit == "patch" and case.place == "all")
    return False


def is_comparable(case: Case, way: str) -> bool:
    """Whether the oracle is one:
    what was the last token once is no longer the last of the whole text.
    """
    if case.place == "keys" and case.edit not in KEY_EDITS:
        return False
    if case.site.partition("[")[0] not in sites(model(WAYS[way][0])):
        return False
    if "short texts" in case.edit and case.place not in ("index", "several", "slice"):
        return False
    return case.place != "last" or way in IN_ONE_FORWARD or way in IN_PIECES
