"""Tiny random-weight models of each architecture, and a tokenizer to go with them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

VOCAB = 100
_IDS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
}
_BERT: dict[str, Any] = {**_WIDE, **_IDS, "max_position_embeddings": 64}


def _llama(**more: Any) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_WIDE, **_IDS, num_key_value_heads=2, **more))


def save_classifier(folder: Path, tokenizer: Any, **changes: Any) -> None:
    """A Llama with a random head of two classes, good and bad,
    and the tokenizer that its texts are read with.
    """
    config = hf.LlamaConfig(
        **{**_WIDE, **changes},
        vocab_size=len(tokenizer),
        num_key_value_heads=4,
        pad_token_id=0,
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


#: name -> how to build it. Every architecture that the tests speak of is here once.
BUILD: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=64, **_IDS)
    ),
    "llama": _llama,
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_WIDE, **_IDS)),
    "neox-sequential": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**_WIDE, **_IDS, use_parallel_residual=False)
    ),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_WIDE, **_IDS, num_key_value_heads=2, head_dim=8)
    ),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_WIDE, **_IDS, num_key_value_heads=2)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            ffn_dim=64,
            word_embed_proj_dim=32,
            **_IDS,
        )
    ),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**_BERT)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_BERT)),
    "distilbert": lambda: hf.DistilBertModel(
        hf.DistilBertConfig(dim=32, n_heads=4, n_layers=2, hidden_dim=64, vocab_size=VOCAB)
    ),
    "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**_BERT, embedding_size=16)),
    "albert": lambda: hf.AlbertModel(hf.AlbertConfig(**_BERT, embedding_size=16)),
    "deberta-v2": lambda: hf.DebertaV2Model(hf.DebertaV2Config(**_BERT)),
    "modernbert": lambda: hf.ModernBertModel(
        hf.ModernBertConfig(**_WIDE, **_IDS, cls_token_id=1, sep_token_id=2)
    ),
    "t5-encoder": lambda: hf.T5EncoderModel(
        hf.T5Config(d_model=32, num_heads=4, d_kv=8, num_layers=2, d_ff=64, vocab_size=VOCAB)
    ),
    "t5-encoder-gated": lambda: hf.T5EncoderModel(
        hf.T5Config(
            d_model=32,
            num_heads=4,
            d_kv=8,
            num_layers=2,
            d_ff=64,
            feed_forward_proj="gated-gelu",
            vocab_size=VOCAB,
        )
    ),
    # Through TransformerLens's adapters.
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            new_decoder_architecture=False,
            **_IDS,
        )
    ),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(hidden_size=32, n_head=4, n_layer=2, **_IDS)
    ),
    "gptj": lambda: hf.GPTJForCausalLM(
        hf.GPTJConfig(n_embd=32, n_head=4, n_layer=2, rotary_dim=4, **_IDS)
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_WIDE, **_IDS, num_key_value_heads=2)),
    "stablelm": lambda: hf.StableLmForCausalLM(
        hf.StableLmConfig(**_WIDE, **_IDS, num_key_value_heads=2)
    ),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_WIDE, **_IDS, num_key_value_heads=2)),
    "granite": lambda: hf.GraniteForCausalLM(
        hf.GraniteConfig(**_WIDE, **_IDS, num_key_value_heads=2, residual_multiplier=0.5)
    ),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(
        hf.Starcoder2Config(**_WIDE, **_IDS, num_key_value_heads=2)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**_WIDE, **_IDS, num_key_value_heads=2, num_local_experts=2)
    ),
}


def model(name: str, seed: int = 0) -> Any:
    """A tiny model in eval mode; the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BUILD[name]().eval()


def adapted() -> Any:
    """The tiny Llama with LoRA adapters that are not zero; needs peft."""
    import peft

    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], r=2, init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model("llama"), config).eval()


def ids(batch: int = 2, pos: int = 7, seed: int = 0) -> Tensor:
    """Token ids without specials."""
    return torch.randint(3, VOCAB, (batch, pos), generator=torch.Generator().manual_seed(seed))


@functools.cache
def _tokenizer_folder() -> tempfile.TemporaryDirectory[str]:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    folder = tempfile.TemporaryDirectory()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="</s>",
    ).save_pretrained(folder.name)
    return folder


def tokenizer() -> Any:
    """A word-level tokenizer of the tiny models' vocabulary,
    read from a folder (a bridge loads it again by name).
    """
    return hf.AutoTokenizer.from_pretrained(_tokenizer_folder().name)


def save(model: Any, folder: Path) -> None:
    """A model with this tokenizer, where a command finds it."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


#: Where a norm follows the sum, resid_post is that norm's output and not the sum of the parts.
POST_NORM = {"bert", "roberta", "distilbert", "electra", "albert", "deberta-v2"}
