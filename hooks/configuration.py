"""Settings of a model's configuration, wherever it keeps them.

A model of text alone has its settings at the top. One of pictures or sounds and text has a
configuration of parts, and the text's part holds the vocabulary, heads, caps and cache flag. Every
reader of a setting asks here.
"""

from __future__ import annotations

from typing import Any


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the text model;
    itself where there are no parts.
    """
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of these settings that is not None, in the text's part or else at the top.

    >>> from transformers import LlavaConfig
    >>> config = LlavaConfig()
    >>> setting(config, "n_head", "num_attention_heads"), setting(config, "image_seq_length")
    (32, 576)
    """
    for part in (text_config(config), config):
        for name in names:
            if (value := getattr(part, name, None)) is not None:
                return value
    return default


_HEADS = ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")


def head_counts(config: Any) -> tuple[int, int]:
    """Heads of queries, and of keys and values, as a configuration counts them."""
    config = text_config(config)
    n_heads = int(_first(config, *_HEADS, default=1))
    n_kv = int(_first(config, *_KV_HEADS, default=n_heads))
    # Falcon's and GPTBigCode's configurations count the heads otherwise
    is_multi_query = getattr(config, "multi_query", False)
    if is_multi_query and not getattr(config, "new_decoder_architecture", False):
        n_kv = 1
    return n_heads, n_kv


def _first(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if value is not None and not isinstance(value, list | tuple | dict):
            return value
    return default
