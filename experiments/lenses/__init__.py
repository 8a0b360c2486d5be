"""Lenses: what the model would predict if each layer were its last,
and which parts write a prediction.
"""
