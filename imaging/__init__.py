"""Image files as pixels: `reading.py`, which needs no TensorFlow.

All of the project reads its images here, so that a photograph is the same pixels to every script,
to training and to a study.
"""
