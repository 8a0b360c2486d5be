"""The probing study: tasks, probes of every layer with their controls, mixes, trees,
and what they add up to.
"""
