"""A model with its tokenizer: BOS, padding and position ids decided once, recorded and checked."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks.anatomy import body_of
from ...hooks.configuration import setting
from ...hooks.padding import Padding, Side, probe_padding
from ...hooks.placement import cut_gradients, device_of, dtype_of
from .batches import AnyBatch, Batch, make_batches
from .bos import decide_bos
from .encoding import TextEncoder, own_copy
from .errors import COMMANDS_FOR, ReadsNoText, SubjectError, one_line, reads_no_text
from .identity import hash_tensors, identity_of, processor_settings, settings_sha256
from .targets import decoder_start, joined
from .twin import random_twin
from .word_spans import Encoded, Pooler, Pooling
from .word_spans import word_spans as tokens_of_words

NO_LIMIT = 10**6
"""Tokens of the longest input where neither configuration nor tokenizer tells."""


class Subject:
    """A model and its tokenizer, neither of which is ever changed.

    Building one runs the model's body on a few short rows of token ids, to learn whether later
    tokens influence earlier ones and which position ids make padded rows equal single ones.

    Args:
        model: a transformers model in evaluation mode, with a head or without.
        tokenizer: its fast tokenizer; a private copy is used.
        name: what reports call it; by default the name in the model's configuration.
        bos: "auto" (see `experiments.subject.bos`), "always" (the declared BOS), "never" (no token
            in front of the text), "tokenizer" (as the tokenizer does), a token id, or a token.
        max_length: longest input in tokens; by default what configuration and tokenizer allow.
        random_seed: the seed, where the weights are freshly initialised.

    Attributes:
        bos: id of the token in front of every text, or None.
        bos_reason: one sentence on why.
        causal: whether a token sees only what stands before it (measured).
        notes: sentences a report should carry.

    Raises:
        SubjectError: a model in training mode, a tokenizer without offsets, an unknown BOS.
    """

    unit = "word"
    """What has a vector of its own in a study."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str | None = None,
        bos: str | int = "auto",
        max_length: int | None = None,
        random_seed: int | None = None,
        notes: Sequence[str] = (),
        hasher: Callable[[], str] | None = None,
    ) -> None:
        config = getattr(model, "config", None)
        if not isinstance(model, nn.Module) or config is None or tokenizer is None:
            raise SubjectError(
                f"a subject needs a transformers model and its tokenizer, got "
                f"{type(model).__name__} and {type(tokenizer).__name__}"
            )
        require_eval(model)
        if not getattr(tokenizer, "is_fast", False):
            raise SubjectError(
                f"tokenizer {type(tokenizer).__name__} gives no character offsets: words need "
                "a fast tokenizer (AutoTokenizer.from_pretrained gives one where it exists)"
            )
        self._hold(model, tokenizer, name, random_seed, notes, hasher)
        inputs = inspect.signature(self.body.forward).parameters
        if "input_ids" not in inputs:
            raise reads_no_text(type(model).__name__, next(iter(inputs), "nothing"))
        takes_positions = "position_ids" in inputs
        try:
            self.padding: Padding = probe_padding(
                self._run, self.pad_id, self.vocabulary, takes_positions
            )
        except (TypeError, AttributeError, ValueError, RuntimeError) as error:
            # CLIP's kind wants pictures beside the text, and fails somewhere inside without them.
            inputs = inspect.signature(model.forward).parameters
            raise ReadsNoText(
                f"{type(model).__name__} cannot be run on a short text alone "
                f"({type(error).__name__}: {error}); of a model that reads more than text "
                "load the part that reads texts",
                reads=next((name for name in COMMANDS_FOR if name in inputs), ""),
            ) from error
        self.causal = self.padding.causal
        choice = decide_bos(self, bos)
        self.bos, self.bos_reason = choice.token, choice.reason
        self.max_length = max_length or self._max_length()
        self._encoder = TextEncoder(
            self._tokenizer, choice.prefix, self.max_length, _n_embeddings(self.model)
        )
        if self.bos is None:
            self.notes.append(
                "no BOS: the first word of each text is at position 0, "
                "where the model may have an attention sink"
            )
        if not self.padding.right.possible:
            self.notes.append(self.padding.right.why + "; only texts of equal length share a batch")

    def _hold(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str | None = None,
        random_seed: int | None = None,
        notes: Sequence[str] = (),
        hasher: Callable[[], str] | None = None,
    ) -> None:
        """Keep what is given, and a private tokenizer that neither cuts nor pads."""
        self.model, self.tokenizer = model, tokenizer
        self.processor: Any = None  # of pictures and text, where prompts have pictures
        self.config: Any = model.config
        self.name = name or getattr(self.config, "_name_or_path", "") or type(model).__name__
        self.random_seed = random_seed
        self.notes: list[str] = list(notes)
        self._hasher = hasher
        with one_line(self.name):  # of files that do not fit together it cannot be copied
            self._tokenizer = own_copy(tokenizer)
        self.pad_id = self._pad_id()

    # -- what it is

    @property
    def reads_text(self) -> bool:
        """Whether what it reads, or the source of what it writes, is text."""
        return True

    @property
    def body(self) -> nn.Module:
        """What makes hidden states: no vocabulary projection, and only the encoder of a pair."""
        return body_of(self.model)

    @property
    def gives_tokens(self) -> bool:
        """Whether the model says of each token of a text what it might be."""
        encoder_decoder = getattr(self.config, "is_encoder_decoder", False)
        return not encoder_decoder and _method(self.model, "get_output_embeddings")() is not None

    @property
    def has_decoder(self) -> bool:
        """Whether it is an encoder-decoder with its head: what it says of a target's tokens,
        given a source.
        """
        is_pair = getattr(self.config, "is_encoder_decoder", False) and not self.classes
        return bool(is_pair) and _method(self.model, "get_output_embeddings")() is not None

    @property
    def continues(self) -> bool:
        """Whether an answer stands behind what was given, and not in a mask's place."""
        return self.causal or self.has_decoder

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of a model that classifies whole texts; empty for any other."""
        if not type(self.model).__name__.endswith("ForSequenceClassification"):
            return ()
        return tuple(str(self.config.id2label[i]) for i in range(self.config.num_labels))

    @property
    def device(self) -> torch.device:
        """Where its inputs belong."""
        return device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights that are not quantised, and of its activations."""
        return dtype_of(self.model)

    @property
    def has_sink_position(self) -> bool:
        """Whether position 0 is a token of no word, to be kept out of statistics."""
        return self.bos is not None

    @property
    def n_layers(self) -> int:
        return int(self._setting("num_hidden_layers", "num_layers", "n_layer", default=0))

    @property
    def d_model(self) -> int:
        return int(self._setting("hidden_size", "d_model", "n_embd", default=0))

    @property
    def d_inner(self) -> int:
        """Width of the feed-forward layers: as the configuration says it,
        or four times the stream's.
        """
        names = ("intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim", "ffn_dim")
        width = self._setting(*names, default=0)
        widths = width if isinstance(width, (list, tuple)) else [width]
        return int(max(widths)) or 4 * self.d_model

    @functools.cached_property
    def vocabulary(self) -> int:
        """How many token ids the model reads."""
        return int(self._setting("vocab_size", default=0) or len(self._tokenizer))

    def _setting(self, *names: str, default: Any = None) -> Any:
        """A setting of the part that reads texts: of an encoder and a decoder it is the encoder."""
        config = getattr(self.body, "config", self.config)
        return setting(config, *names, default=setting(self.config, *names, default=default))

    def token(self, token_id: int) -> str:
        """The token of an id, as the tokenizer spells it; an id that it lacks, as the last ones of
        a padded vocabulary, by its number.
        """
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return f"<id {token_id}>" if token is None else str(token)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of what decides the model's values on a text: weights, configuration, tokenizer."""
        parts = [self.identity[name] for name in ("weights", "configuration", "tokenizer")]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """Everything of the model that can decide a number, by name; files are hashed."""
        # A model may be given its processor after it was hashed, by the first study that has
        # pictures.
        return {**self._identity, "processor": settings_sha256(processor_settings(self.processor))}

    @functools.cached_property
    def _identity(self) -> dict[str, str]:
        """Those parts of the identity that stay."""
        return identity_of(self, self._hasher() if self._hasher else hash_tensors(self.model))

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        """Hash of all that decides how text is cut."""
        backend = self._tokenizer.backend_tokenizer.to_str()
        special = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
        return settings_sha256([type(self._tokenizer).__name__, backend, special])

    def describe(self) -> dict[str, Any]:
        """What a report must say about the model; the first call hashes the weights."""
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "sha256": self.sha256,
            "dtype": str(self.dtype).removeprefix("torch."),
            "bos": None if self.bos is None else self.token(self.bos),
            "bos_id": self.bos,
            "bos_reason": self.bos_reason,
            "attention": getattr(self.config, "_attn_implementation", None),
            "causal": self.causal,
            "max_length": self.max_length,
            "tokenizer": type(self.tokenizer).__name__,
            "tokenizer_sha256": self.tokenizer_sha256,
            "device": str(self.device),
            "random_seed": self.random_seed,
            "notes": list(self.notes),
        }

    def without_model(self) -> Subject:
        """The tokenizer and what was decided and hashed, without the weights:
        to cut text or to name the model elsewhere.
        """
        _ = self.sha256  # while the weights are there
        other = copy.copy(self)
        other.__dict__.pop("model")
        other._hasher = None
        return other

    def random_twin(self, seed: int) -> Subject:
        """The same architecture, tokenizer and BOS with fresh weights, initialised from `seed`."""
        name = f"{self.name} (random weights, seed {seed})"
        return self.of_model(random_twin(self.model, seed), name=name, random_seed=seed)

    def of_model(
        self, model: nn.Module, *, name: str | None = None, random_seed: int | None = None
    ) -> Subject:
        """Another model with the same tokenizer, BOS and longest input."""
        return Subject(
            model,
            self.tokenizer,
            name=name or self.name,
            bos="never" if self.bos is None else self.bos,
            max_length=self.max_length,
            random_seed=random_seed,
        )

    # -- text in

    def spans_of(self, encoded: Encoded, words: Sequence[tuple[int, int]]) -> list[slice | None]:
        """The tokens of each word; see `experiments.subject.word_spans`."""
        return tokens_of_words(encoded, words)

    def pooler(
        self, spans: Sequence[Sequence[slice | None]], pooling: Pooling, batch: AnyBatch
    ) -> Callable[[Float[Tensor, "batch pos d"]], Float[Tensor, "n d"]]:
        """From a site's values on a batch to a vector for each word;
        the words' places are looked up once for all sites.
        """
        return Pooler(spans, pooling)

    def example(self) -> Batch:
        """A batch of one short text."""
        return next(self.batches(self.encode(["a"])))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize, with the recorded BOS in front, cut to `max_length` at the end of the text."""
        return self._encoder.encode(texts)

    def encode_pair(self, first: str, second: str) -> tuple[Encoded, list[int]]:
        """Two texts as the tokenizer joins them, and the type of each token; offsets are in both
        texts, a line each.

        Nothing is cut: ``cut`` is set where the two are longer than `max_length`.
        """
        return self._encoder.encode_pair(first, second)

    def encode_row(self, source: str, target: str) -> Encoded:
        """A source and what the decoder reads behind its start token, as one row; see
        `experiments.subject.targets`.

        ``cut`` is set where either is longer than `max_length`.

        Raises:
            SubjectError: a model without a decoder.
        """
        if not self.has_decoder:
            raise SubjectError(
                f"{self.name} ({type(self.model).__name__}) is no encoder-decoder: "
                "expected a text without a target"
            )
        (encoded,) = self.encode([source])
        read = self._encoder.target(target, decoder_start(self))
        is_cut = encoded.cut is not None or len(read) > self.max_length
        return replace(joined(encoded, read), cut=0 if is_cut else None)

    def form(self, word: str) -> str:
        """A word as the model sees it:
        an uncased tokenizer makes no difference between ``The`` and ``the``.
        """
        return self._encoder.form(word)

    def batches(
        self, encoded: Sequence[Encoded], tokens: int = 8192, side: Side = "right"
    ) -> Iterator[Batch]:
        """Texts by falling length, as many to a batch as `tokens` positions hold (at least one).

        The largest batch comes first, so that memory that does not suffice fails at once.

        Raises:
            SubjectError: an empty text, or a side on which this architecture cannot be padded.
        """
        if side not in ("right", "left"):
            raise SubjectError(f"side={side!r}: expected 'right' or 'left'")
        policy = self.padding.left if side == "left" else self.padding.right
        if side == "left" and not policy.possible:
            raise SubjectError(f"{type(self.model).__name__}: {policy.why}; pad on the right")
        if empty := [i for i, e in enumerate(encoded) if not e.ids]:
            raise SubjectError(f"text {empty[0]} has no tokens: expected at least one")
        return make_batches(encoded, policy, self.pad_id, tokens, side)

    # -- running

    def forward(
        self, batch: Batch, *, logits: bool = False, grad: bool = False, **kwargs: Any
    ) -> Any:
        """Run the body (or, with `logits`, the whole model) on a batch: its transformers output.

        Nothing is cached between positions; unless `grad`, it runs under `torch.inference_mode`.

        Raises:
            SubjectError: a model set to training since, logits of a model without a head, or
                gradients that some layers do not let through.
        """
        require_eval(self.model)
        if logits and not (self.gives_tokens or self.classes or self.has_decoder):
            raise SubjectError(
                f"{type(self.model).__name__} gives no logits for a text alone: expected a causal "
                "or masked language model with its head"
            )
        if grad:
            self.require_gradients()
        if not logits and batch.target is not None:
            batch = batch.sources()  # the body of an encoder-decoder is its encoder
        with torch.enable_grad() if grad else torch.inference_mode():
            return self._run(batch.inputs(), model=self.model if logits else self.body, **kwargs)

    def require_gradients(self) -> None:
        """Refuse, with a SubjectError, a model that some gradients do not pass."""
        if why := cut_gradients(self.model):
            raise SubjectError(f"{self.name}: {why}")

    def _run(
        self, inputs: Mapping[str, Tensor], *, model: nn.Module | None = None, **kwargs: Any
    ) -> Any:
        model = model or self.body
        known = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        if "position_ids" in inputs and "position_ids" not in known and not takes_any:
            raise SubjectError(f"{type(model).__name__} takes no position_ids")
        if "use_cache" in known:
            kwargs["use_cache"] = False
        moved = {key: value.to(self.device) for key, value in inputs.items()}
        return model(**moved, return_dict=True, **kwargs)

    # -- limits

    def _pad_id(self) -> int:
        # Any id does where the mask hides it; RoBERTa's kind also counts positions by this one.
        for pad_id in (self._setting("pad_token_id"), self._tokenizer.pad_token_id):
            if isinstance(pad_id, int) and 0 <= pad_id < self.vocabulary:
                return pad_id
        return 0

    def _max_length(self) -> int:
        limits = [NO_LIMIT]
        relative = self._setting("relative_attention_num_buckets") is not None
        n_positions = self._setting("max_position_embeddings", "n_positions", "max_seq_len")
        if n_positions and int(n_positions) > 0 and not relative:  # XLNet writes -1 for no limit
            limits.append(int(n_positions) - self.padding.right.start)
        declared = self.tokenizer.model_max_length
        if declared and declared < NO_LIMIT:
            limits.append(int(declared))
        return min(limits)


def require_eval(model: nn.Module) -> None:
    """Refuse a model in training mode."""
    if any(module.training for module in model.modules()):
        raise SubjectError(
            f"{type(model).__name__} is in training mode, where dropout changes every activation: "
            "call model.eval() first"
        )


def _n_embeddings(model: nn.Module) -> int | None:
    """How many token embeddings a model has; None where it does not tell."""
    try:
        weight = getattr(_method(model, "get_input_embeddings")(), "weight", None)
    except NotImplementedError:
        return None
    return int(weight.shape[0]) if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _method(model: nn.Module, name: str) -> Callable[[], Any]:
    return getattr(model, name, lambda: None)
