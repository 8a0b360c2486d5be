"""What an attribution reads: texts, targets, the model's own continuation, and another model's proposals."""

from __future__ import annotations

from ...attribution import AttributionError, Target
from ...corpus.prompts import Prompt, read_prompts
from ...metrics.reads import prediction_reads
from ...runs.execute import DataFile, modes_of
from ...subject import Subject, load
from .options import AttributeOptions

SHOWN_TEXT = 40
"""Characters of a text that a message quotes."""


def prompts_of(options: AttributeOptions) -> list[Prompt]:
    """The texts, from the command line or a file."""
    if bool(options.text) == (options.prompts is not None):
        raise AttributionError("expected one of --text TEXT and --prompts FILE")
    if options.prompts is not None:
        if options.text_pair:
            raise AttributionError(
                "--text-pair belongs to --text: in a file, give each line its own text_pair"
            )
        return read_prompts(options.prompts, options.limit, answers=False)
    if options.text_pair and len(options.text_pair) != len(options.text):
        raise AttributionError(
            f"expected a --text-pair for each of {len(options.text)} --text, got {len(options.text_pair)}"
        )
    pairs = options.text_pair or (None,) * len(options.text)
    return [Prompt(text, "", pair=pair) for text, pair in zip(options.text, pairs, strict=True)]


def proposer_of(options: AttributeOptions) -> Subject | None:
    if options.proposals is None:
        return None
    return load(options.proposals, **modes_of(options))


def data_of(
    options: AttributeOptions,
    n_prompts: int,
    n_known: int,
    n_references: int,
    proposer: Subject | None,
) -> list[DataFile]:
    """Everything that is read beside the model."""
    data = []
    if options.prompts is not None:
        data.append(DataFile.of("prompts", options.prompts, n_prompts))
    if options.probe is not None:
        data.append(DataFile.of("probe", options.probe, 0))
    if options.known is not None:
        data.append(DataFile.of("known", options.known, n_known))
    if options.reference is not None:
        data.append(DataFile.of("reference", options.reference, n_references))
    if proposer is not None:
        data.append(DataFile.of_model("proposals", proposer))
    return data


def target_of(options: AttributeOptions, prompt: Prompt) -> Target:
    """The target of one text: its line's, or the command's."""
    answer = prompt.answer or options.target
    wrong = prompt.wrong if prompt.answer else options.wrong
    return Target(answer, wrong, options.measure, options.probe, options.word)


def steps_of(subject: Subject, prompt: Prompt, steps: int) -> list[Prompt]:
    """A text and the model's own continuation, one token at a time; each is asked why that token came."""
    if not steps:
        return [prompt]
    if not (subject.causal and subject.gives_tokens):
        raise AttributionError(
            f"--generate needs a causal language model, got {type(subject.model).__name__}"
        )
    text, continued = prompt.prompt, []
    for _ in range(steps):
        # As text, not as ids: each step is a prompt of its own, which another method or person can be given.
        longer = _continued(subject, text)
        if longer is None:
            break
        continued.append(Prompt(text, longer[len(text) :]))
        text = longer
    if not continued:
        raise AttributionError(
            f"the model ends {prompt.prompt[:SHOWN_TEXT]!r} at once: nothing to explain"
        )
    return continued


def _continued(subject: Subject, text: str) -> str | None:
    """The text with the model's likeliest next token; None where it ends, or where that is half a character."""
    read = prediction_reads(subject, [Prompt(text, "")])
    encoded, last = read.texts[0], int(read.places[0, 1])
    (batch,) = subject.batches(read.texts)
    token = int(subject.forward(batch, logits=True).logits[0, last].argmax())
    if token in subject.tokenizer.all_special_ids:
        return None
    # The special tokens stand in front of the text: what follows them is the text itself.
    special = sum(encoded.special)
    ids = [*encoded.ids[: last + 1], token]
    longer = subject.tokenizer.decode(ids[special:], clean_up_tokenization_spaces=False)
    return longer if longer.startswith(text) and longer != text else None
