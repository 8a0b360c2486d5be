"""Data sets that ``layerscope make`` writes: templates and word lists of our own,
with answers that are one token of the model.
"""
