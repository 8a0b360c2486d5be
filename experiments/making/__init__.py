"""Data sets written by ``layerscope make``.

They combine our own templates and word lists. Every answer is a single token of the model.
"""
