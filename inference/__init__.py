"""Per-image inference: how a method finds the latents of an image.

methods.py     base classes of the methods: flags, relaxation, coding of the latents
rounding.py    relaxations of rounding, and the temperature
sga_plus.py    options of SGA beyond the paper
noise.py       random numbers that depend only on the seed, the image and the step
optimise.py    Adam runs in the graph, early stopping, and records of the optimisation
targets.py     a size, a rate or a PSNR that a result is to have
steering.py    λ, changed during a run so that the result meets a target
regions.py     where distortion counts
steps.py       the spacing of y's grid
evaluation.py  runs images through a method, the coder and the metrics
choice.py      the choice of the model, and of what its results are to have, from the command line
scripts.py     the registry of methods and models; running a script as a user does
"""
