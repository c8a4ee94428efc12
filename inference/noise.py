"""Random numbers for the optimisation."""

import hashlib
import zlib

import numpy as np

from model import device
from runtime.quiet_tf import tf


def image_keys(pixels, seed):
    """A random-number key, int64 (N,), for each of the images uint8 (N, H, W, 3).

    A key depends only on the seed and the image, so that an image gets the same noise whatever its
    position and whichever images share its batch.
    """
    digests = (
        hashlib.sha256("{} {} ".format(seed, image.shape).encode() + image.tobytes()).digest()
        for image in pixels
    )
    return np.array([int.from_bytes(d[:8], "little", signed=True) for d in digests], np.int64)


class Noise:
    """Random numbers that depend only on the seed, the image, the step and a name.

    Args:
      image_keys: (N,) int64, a key per image that includes the seed (`image_keys`).
      t: step, int64 scalar.
      name: distinguishes latents and stages.
    """

    def __init__(self, image_keys, t=0, name=""):
        self.image_keys, self.t, self.name = image_keys, t, name

    def at(self, t, name):
        """The `Noise` of one latent at one step."""
        return Noise(self.image_keys, t, name)

    def uniform(self, like):
        """Samples of U[0, 1) with the shape of `like` (N, …)."""
        return self._draw(tf.random.stateless_uniform, like)

    def normal(self, like):
        """Samples of N(0, 1) with the shape of `like` (N, …)."""
        return self._draw(tf.random.stateless_normal, like)

    def _draw(self, sampler, like):
        with device.on_host():
            step = tf.cast(self.t, tf.int64) * 2**32 + zlib.crc32(self.name.encode())
            seeds = [tf.stack([key, step]) for key in tf.unstack(self.image_keys)]
        return tf.stack([sampler(like.shape[1:], seed=seed) for seed in seeds])
