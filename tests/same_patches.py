"""Trains as mbt2018.py does, on given patches, with noise that is the same for each of them.

    python same_patches.py PATCHES ARGUMENTS

PATCHES is an .npy, float32 (steps, B, H, W, 3): patches of each step, which the workers share in
equal parts. ARGUMENTS are those of mbt2018.py.
"""

import sys

import conftest  # noqa: F401, which finds the scripts
import numpy as np

import inference
import mbt2018
import patches
import tf_boilerplate
import workers
from quiet_tf import tf


def batches(paths, batchsize, patchsize, threads, seed):
    """Stands in for `patches.batches`."""
    mine = slice(workers.rank() * batchsize, (workers.rank() + 1) * batchsize)
    dataset = tf.data.Dataset.from_tensor_slices(np.load(sys.argv[1])[:, mine])
    return tf.data.make_one_shot_iterator(dataset).get_next()


def uniform(shape, low, high):
    """Stands in for `tf.random.uniform`."""
    return tf.zeros(shape) + tf.random.stateless_uniform(shape[1:], (0, 1), low, high)


patches.batches = batches
tf.random.uniform = uniform
tf_boilerplate.main(inference.find_method("mbt2018"), mbt2018.training_graph, sys.argv[2:])
