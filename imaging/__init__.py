"""Images without TensorFlow: `reading.py`, image files as pixels; `codecs.py`, classical codecs;
`panels.py`, images side by side.

All of the project reads its images here, so that a photograph is the same pixels to every script,
to training and to a study.
"""
