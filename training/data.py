"""Random patches of the training images, with tf.data."""

import glob
import os
import re
import sys

import numpy as np

from imaging.reading import header_size, read_image
from runtime import console
from runtime.errors import InputError
from runtime.files import pattern_hint
from runtime.quiet_tf import tf
from training import horovod
from utils import is_array, open_array


def find_images(pattern, patchsize):
    """Paths of images that match `pattern` and hold a patch; names unusable ones on stderr.

    Raises:
      InputError: no file matches, or none of those that match can be used.
    """
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        hint = pattern_hint(pattern)
        raise InputError("--train_glob: no file matches {!r}{}".format(pattern, hint))
    usable = []
    for path in paths:
        try:
            if min(_header_size(path)) < patchsize:
                height, width = _open(path).shape[:2]  # turned upright, which the header is not
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


def batches(paths, batchsize, patchsize, threads, seed, flip=False):
    """Endless batches of patches, float32 (batchsize, patchsize, patchsize, 3) in [0, 1].

    Each pass visits all images in a new order and takes patches at random positions. From an `.npy`
    it reads a single patch. Other images are decoded whole, so that it takes as many patches as
    cover a quarter of the image, up to `MOST_PATCHES`, and mixes them with those of other images.
    An unreadable image is named on stderr and skipped; if all images are unreadable,
    `tf.errors.InvalidArgumentError` is raised.

    With several workers, each takes different images of that order, and its own positions. With
    `flip`, each patch is mirrored left to right with probability ½.
    """
    reported, noted = set(), set()
    own_seed = horovod.own_seed(seed)

    def read(path, places):
        path = os.fsdecode(path)

        def note(text):
            kind = re.sub("[0-9]+", "", text.replace(path, ""))
            if kind not in noted:
                noted.add(kind)
                console.note(text + " (said of the first such image only)")

        try:
            return _read_patches(path, patchsize, places, note)
        except InputError as error:
            if path not in reported:
                reported.add(path)
                _report_skipped(error)
            if len(reported) == len(paths):
                raise ValueError("no image can be read")
            return np.zeros((0, patchsize, patchsize, 3), np.float32)

    def load(path):
        places = tf.random.uniform([MOST_PATCHES, 2], dtype=tf.float64, seed=own_seed)
        patches = tf.numpy_function(read, [path, places], tf.float32)
        return tf.ensure_shape(patches, (None, patchsize, patchsize, 3))

    def maybe_mirrored(patch):
        is_mirrored = tf.random.uniform((), seed=own_seed) < 0.5
        return tf.cond(is_mirrored, lambda: tf.reverse(patch, [1]), lambda: patch)

    dataset = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths])
    dataset = dataset.shuffle(len(paths), seed=seed).repeat()
    dataset = dataset.shard(horovod.size(), horovod.rank())
    dataset = dataset.map(load, num_parallel_calls=threads)
    dataset = dataset.apply(tf.data.experimental.unbatch())
    if flip:
        dataset = dataset.map(maybe_mirrored)
    dataset = dataset.shuffle(MOST_PATCHES * batchsize, seed=own_seed)
    dataset = dataset.batch(batchsize, drop_remainder=True).prefetch(8)
    return tf.data.make_one_shot_iterator(dataset).get_next()


MOST_PATCHES = 16


def read_whole(path):
    """Reads a training or validation image as float32 (H, W, 3) in [0, 1].

    Raises:
      InputError: it cannot be read or has values outside [0, 1].
    """
    return _as_float(_open(path, console.note), path)


def _read_patches(path, patchsize, places, note):
    """Reads patches of an image; `places` (n, 2) in [0, 1) are their relative positions."""
    image = _open(path, note)
    height, width = image.shape[:2]
    number = height * width // (2 * patchsize) ** 2 if image.dtype == np.uint8 else 1
    corners = (places * (height - patchsize + 1, width - patchsize + 1)).astype(int)
    patches = np.array(
        [
            image[top : top + patchsize, left : left + patchsize]
            for top, left in corners[: max(number, 1)]
        ]
    )
    return _as_float(patches, path)


def _as_float(samples, path):
    """Scales uint8 to [0, 1], or checks that float32 is in [0, 1]; returns an array in memory."""
    if samples.dtype == np.uint8:
        return samples / np.float32(255)
    if not (samples.min() >= 0 and samples.max() <= 1):  # so that NaN fails too
        raise InputError("{}: has values outside [0, 1], or NaN".format(path))
    return np.array(samples)


def _header_size(path):
    """The two sides of an image, read from the file's header only."""
    return _open_image_array(path).shape[:2] if is_array(path) else header_size(path)


def _open(path, note=lambda text: None):
    """An image, uint8 or float32 (H, W, 3); `note` as for `read_image`."""
    return _open_image_array(path) if is_array(path) else read_image(path, note)


def _open_image_array(path):
    """Memory-maps an `.npy` image; raises `InputError` unless it is float32 (H, W, 3)."""
    array = open_array(path)
    if array.dtype != np.float32 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            "{}: {} {}, but training takes float32 (H, W, 3) in [0, 1]".format(
                path, array.dtype, array.shape
            )
        )
    return array


def _report_skipped(error):
    print("skipped: {}".format(error), file=sys.stderr)
