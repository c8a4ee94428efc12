"""Trains as mbt2018.py does, but on given patches and with the same noise for each of them.

    python same_patches.py PATCHES ARGUMENTS

PATCHES is an .npy, float32 (steps, B, H, W, 3): the patches of each step, divided equally among the
workers. ARGUMENTS are those of mbt2018.py.
"""

import sys

import conftest  # noqa: F401, which finds the scripts
import numpy as np

import mbt2018
import tf_boilerplate
from inference import methods
from runtime.quiet_tf import tf
from training import data, horovod


def batches(paths, batchsize, patchsize, threads, seed, flip):
    """Stands in for `data.batches`."""
    mine = slice(horovod.rank() * batchsize, (horovod.rank() + 1) * batchsize)
    dataset = tf.data.Dataset.from_tensor_slices(np.load(sys.argv[1])[:, mine])
    return tf.data.make_one_shot_iterator(dataset).get_next()


def uniform(shape, low, high):
    """Stands in for `tf.random.uniform`."""
    return tf.zeros(shape) + tf.random.stateless_uniform(shape[1:], (0, 1), low, high)


data.batches = batches
tf.random.uniform = uniform
tf_boilerplate.main(methods.find_method("mbt2018"), mbt2018.training_graph, sys.argv[2:])
