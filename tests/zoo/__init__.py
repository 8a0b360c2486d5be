"""Tiny models of many families with each family's own flags: a configuration's defaults, only its
sizes made small.

One module a kind of model. A key is a class of transformers, with a variant behind a space; its
value is what its checkpoints set beside the defaults, and sizes with names of their own.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import transformers as hf
from torch import nn

from . import decoders, encoder_decoders, encoders, hybrids, mixtures, multimodal, speech, vision
from .sizes import small

#: Kind of model -> its families.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "decoders": decoders.FLAGS,
    "mixtures of experts": mixtures.FLAGS,
    "state spaces and hybrids": hybrids.FLAGS,
    "encoders": encoders.FLAGS,
    "encoder-decoders": encoder_decoders.FLAGS,
    "vision": vision.FLAGS,
    "sound": speech.FLAGS,
    "vision-language and sound-language": multimodal.FLAGS,
}
FLAGS = {name: flags for group in GROUPS.values() for name, flags in group.items()}


def build(name: str, seed: int = 0, std: float = 0.1) -> Any:
    """A class of transformers (its variant behind a space) with small random weights,
    none of them zero, ready to run.
    """
    kind = getattr(hf, name.partition(" ")[0])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model: nn.Module = kind(small(kind.config_class, FLAGS.get(name, {}))).eval()
        with torch.no_grad():
            for part, weight in model.named_parameters():
                if weight.ndim > 1 and "A_log" not in part and "conv" not in part:
                    weight.normal_(0, std)
                elif not weight.any():
                    weight.normal_(0, 0.1)
    return model
