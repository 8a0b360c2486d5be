"""Neurons that know a property: ranked, read by probes, taken out of the running model,
and shown in the words that move them.
"""
