"""Where each model family keeps its parts: one row a family, one module a kind of model, read by
`hooks.rows`.

A row maps a site to a place in the grammar of raw modules, ``path:end|view if other``:

- ``end`` is ``input`` or ``output``, with ``[i]`` for one element of a tuple
- the view after ``|`` reads the site off the raw tensor (see `hooks.rows`)
- ``if other`` holds only where the block has the module ``other``
- a path behind ``^`` begins at what holds the list of blocks; ``{i}`` is the block's number,
  ``{before}`` the last one's
- ``one or another``: the first whose modules the block has, so that one row serves the layers of a
  hybrid

Paths of the sites inside a block are relative to the block; the others to the body (the model
without its head). An empty path is the block itself. Five families that every version of
TransformerLens that we take describes alike are read off its adapters (`hooks.adapters.PROVED`);
its import takes seconds.
"""

from __future__ import annotations

from . import (
    decoders,
    encoder_decoders,
    encoders,
    hybrids,
    mixtures,
    multimodal,
    speech,
    vision,
)
from .row import Family, PlaceSpec

__all__ = ["FAMILIES", "Family", "PlaceSpec"]

# : Hugging Face ``config.model_type`` -> rows; the first whose ``when`` holds is the model's
# family. A site whose module : a block lacks (the MLP sites of a mixture of experts) is not listed
# for that block.
FAMILIES: dict[str, tuple[Family, ...]] = {
    **decoders.ROWS,
    **mixtures.ROWS,
    **hybrids.ROWS,
    **encoders.ROWS,
    **encoder_decoders.ROWS,
    **vision.ROWS,
    **speech.ROWS,
    **multimodal.ROWS,
}
