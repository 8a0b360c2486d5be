"""How the embedded demo was made: a grammar, a corpus, a small model;
`python -m tools.demo.make`.
"""
