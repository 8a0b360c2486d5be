"""The live bench: a text, a model, edits, and what they do, in a browser or a notebook.

changes, session    what a person sees: a text and ordered edits, with undo and redo
bench, runs         the model, and one forward of a text under edits
views, grids        pure functions from a run to what the screen shows
worker, server      one thread that owns the model, and the web side (extra ``layerscope[explore]``)
widget              the same screen in a notebook (anywidget)
"""
