"""How a method finds the latents of an image.

methods.py     what a method says of itself: flags, relaxation, how its latents are coded
rounding.py    relaxations of rounding, and the temperature
sga_plus.py    options of SGA beyond the paper
noise.py       random numbers that depend on the seed, the image and the step alone
optimise.py    the Adam run in the graph, early stopping, the record of its course
evaluation.py  images through a method, the coder and the metrics
scripts.py     which methods there are; running a script as a user does
"""
