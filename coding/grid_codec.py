"""Coding of latents on grids, used by all methods for the base model.

The grid of z has a spacing of 1, that of y a spacing D = 2^(k / 8), a `step`; y and mu are in units
of D here. In these units p(y|z) = N(mu / D, (sigma / D)²) * U(-½, ½).

Each image has its own stack. Decoding pops z with p(z) first, and then y with p(y|z), whose mu and
sigma follow from z.
"""

import numpy as np

from coding import arithmetic, container
from coding.integer_networks import UNIT
from coding.stack import Stack
from coding.tables import Gaussians, PriorTables
from runtime.errors import InputError

LOG2_SIGMA_MIN = -3.1844245711374275  # log2 of 0.11


class GridCodec:
    """Coder for single images.

    Args:
      decoder: `decoding.Decoder` of a base model.
      kind: `container.INTEGERS`, `CENTRED` or `CENTRED_BOUNDED`.
      step: k, where the grid of y has a spacing of 2^(k / 8).
    """

    def __init__(self, decoder, kind, step=0):
        self._decoder = decoder
        self._centred = kind != container.INTEGERS
        self._bounded = kind == container.CENTRED_BOUNDED
        self._medians = decoder.medians if self._centred else np.zeros_like(decoder.medians)
        self._z_tables = PriorTables(decoder.prior, self._medians * UNIT)
        self._gaussians = Gaussians()
        self._scale = spacing(-step)
        self._log2_step = step / container.STEPS_PER_OCTAVE

    def encode(self, y, z):
        """Rounds latents to their grid and codes them.

        Args:
          y, z: float arrays (h, w, C), the optimised latents.

        Returns:
          words: uint32, the payload.
          latents: dict of y and z as a decoder gets them, float64.
        """
        y, z = (np.asarray(v, np.float64) for v in (y, z))  # sums of float32 are not exact
        centres = self._medians * UNIT
        z = nearest(z, centres) if self._centred else np.rint(z)
        mu, codes, shifts = self._p_y(z, y.shape[:2])
        # Symbols rather than y less mu, which is no integer to the last bit if D is no power of 2.
        symbols = np.floor(y - mu + 0.5) if self._centred else np.rint(y)
        y = symbols + mu if self._centred else symbols
        stack = Stack()
        stack.push(symbols - shifts, codes, self._gaussians)
        stack.push(z - (centres if self._centred else 0), channels(z.shape), self._z_tables)
        return stack.words(), {"y": y, "z": z}

    def decode(self, words, height, width):
        """The dict of latents, as from `encode`, of an image of height × width pixels.

        Raises:
          InputError: the payload does not consist of exactly these latents.
        """
        y_size, z_size = container.latent_sizes(height, width)
        stack = Stack(words)
        z = stack.pop(channels((*z_size, len(self._medians))), self._z_tables)
        z = z + self._medians * UNIT
        mu, codes, shifts = self._p_y(z, y_size)
        y = stack.pop(codes, self._gaussians) + shifts
        if not stack.is_empty():
            raise InputError("not written by this program: a file with more than its latents")
        return {"y": y + mu if self._centred else y, "z": z}

    def _p_y(self, z, size):
        mu, log_sigma, _ = self._decoder.hyper_synthesis.forward(z / UNIT, size)
        mu *= UNIT * self._scale
        log2_sigma = log_sigma * (UNIT * arithmetic.LOG2_E)
        if self._bounded:
            log2_sigma = np.maximum(log2_sigma, LOG2_SIGMA_MIN)
        # On a centred grid, the symbols' Gaussian has mean 0.
        mean = np.zeros_like(mu) if self._centred else mu
        codes, shifts, _, _ = self._gaussians.codes(mean, log2_sigma - self._log2_step)
        return mu, codes, shifts


def spacing(step):
    """D = 2^(`step` / 8), bit for bit the same everywhere."""
    octaves, eighths = divmod(step, container.STEPS_PER_OCTAVE)
    root = arithmetic.exp(np.array(eighths * arithmetic.LN2 / container.STEPS_PER_OCTAVE))
    return float(np.ldexp(root, octaves))


def nearest(v, centre):
    """The point closest to v on the grid of spacing 1 through `centre`."""
    return np.floor(v - centre + 0.5) + centre


def channels(shape):
    """The channel index of each element of a latent of `shape` (h, w, C)."""
    return np.broadcast_to(np.arange(shape[2]), shape)
