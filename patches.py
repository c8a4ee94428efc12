"""Random patches of the training images, through tf.data."""

import glob
import sys

import numpy as np
from PIL import Image

from quiet_tf import tf
from utils import InputError, open_array, read_image


def find_images(pattern, patchsize):
    """Paths that match `pattern` and hold at least one patch; the others are named on stderr.

    Raises:
      InputError: nothing matches, or nothing that matches can be used.
    """
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise InputError("--train_glob: no file matches {!r}".format(pattern))
    usable = []
    for path in paths:
        try:
            height, width = _size(path)
            if min(height, width) < patchsize:
                raise InputError(
                    "{}: {}x{} is smaller than the {}x{} patch".format(
                        path, width, height, patchsize, patchsize
                    )
                )
        except InputError as error:
            _report_skipped(error)
        else:
            usable.append(path)
    if not usable:
        raise InputError(
            "--train_glob: none of the {} files of {!r} can be used".format(len(paths), pattern)
        )
    return usable


def batches(paths, batchsize, patchsize, threads, seed):
    """Endless batches of patches, float32 (batchsize, patchsize, patchsize, 3) in [0, 1].

    Each pass takes one patch, at a random place, of every image, in a new order. An image that
    turns out to be unreadable is named on stderr and passed over; where all are,
    `tf.errors.InvalidArgumentError` is raised.
    """
    reported = set()

    def read(path, row, column):
        path = path.decode()
        try:
            return _read_patch(path, patchsize, row, column)
        except InputError as error:
            if path not in reported:
                reported.add(path)
                _report_skipped(error)
            if len(reported) == len(paths):
                raise ValueError("no image can be read")
            return np.zeros((0, 0, 3), np.float32)

    def load(path):
        row, column = tf.unstack(tf.random.uniform([2], dtype=tf.float64, seed=seed))
        return tf.numpy_function(read, [path, row, column], tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.shuffle(len(paths), seed=seed).repeat()
    dataset = dataset.map(load, num_parallel_calls=threads)
    dataset = dataset.filter(lambda patch: tf.size(patch) > 0)
    dataset = dataset.batch(batchsize).prefetch(8)
    x = tf.data.make_one_shot_iterator(dataset).get_next()
    return tf.ensure_shape(x, (batchsize, patchsize, patchsize, 3))


def _read_patch(path, patchsize, row, column):
    """The patch whose corner lies at `row`, `column` in [0, 1) of the possible places."""
    image = _open_image_array(path) if path.endswith(".npy") else read_image(path)
    top = int(row * (image.shape[0] - patchsize + 1))
    left = int(column * (image.shape[1] - patchsize + 1))
    patch = image[top : top + patchsize, left : left + patchsize]
    if patch.dtype == np.uint8:
        return patch / np.float32(255)
    if not (patch.min() >= 0 and patch.max() <= 1):  # so that NaN fails too
        raise InputError("{}: has values outside of [0, 1], or NaN".format(path))
    return np.array(patch)


def _size(path):
    """(height, width), from the file's header alone."""
    if path.endswith(".npy"):
        return _open_image_array(path).shape[:2]
    try:
        with Image.open(path) as image:
            return image.size[::-1]
    except Exception as error:  # Pillow raises a dozen types
        raise InputError("{}: not a readable image ({})".format(path, error))


def _open_image_array(path):
    """A memory-mapped `.npy` image."""
    array = open_array(path)
    if array.dtype != np.float32 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            "{}: {} {}, where training takes float32 (H, W, 3) in [0, 1]".format(
                path, array.dtype, array.shape
            )
        )
    return array


def _report_skipped(error):
    print("skipped: {}".format(error), file=sys.stderr)
