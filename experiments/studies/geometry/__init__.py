"""What the space of a layer looks like: maps, what they hide, neighbours, similarity of layers,
the logit lens.
"""
