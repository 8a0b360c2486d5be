"""Does the model know what it knows: calibration of predictions, questions asked,
and its own explanations.
"""
