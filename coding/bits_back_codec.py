"""Bits-back coding of the bits-back model's latents, with images chained on one stack.

    push an image                             pop an image
    z ← pop with q(z|y)                       z ← pop with p(z)
    push y with p(y|z)                        y ← pop with p(y|z)
    push z with p(z)                          push z with q(z|y)

The first image's z is popped from the initial bits: side information (any file, which the decoder
recovers) or random padding. The z of every other image is popped from the bits of the images before
it. z lies on a grid of spacing 2^-z_bits, on which q(z|y) and p(z) are masses; their ratio hardly
depends on the spacing. Townsend, Bird and Barber 2019 (arXiv 1901.04866); lossy, with q optimised:
Yang et al. 2020, section 3.3.
"""

import collections
import copy

import numpy as np

from coding import arithmetic, container, exact_posterior
from coding.grid_codec import channels
from coding.integer_networks import FRACTION_BITS, UNIT
from coding.stack import WORD_BYTES, Stack, bytes_of
from coding.tables import Gaussians, PriorTables
from runtime.errors import InputError

MAX_SYMBOL_BITS = 24  # bits of the least probable z
_END = b"\x01"  # ends the side information, because the top word of a stack must not be 0

Posterior = collections.namedtuple("Posterior", "codes shifts z_mean z_logvar record")
Posterior.__doc__ = """q(z|y) as used for coding.

codes, shifts: from `tables.Gaussians`, for z in units of its grid; z_mean, z_logvar: float64
(h, w, C), rounded like the tables; record: from `exact_posterior.fit`.
"""


class BitsBackCodec:
    """Pushes images onto a stack and pops them, last in first out.

    Args:
      decoder: `decoding.Decoder` of a bits-back model.
      settings: `container.BitsBack`.
      stack: the initial `Stack`; None: random padding, as much as is needed.
    """

    def __init__(self, decoder, settings, stack=None):
        self._decoder, self._settings = decoder, settings
        self._q_tables = Gaussians(escape=False)  # popped symbols always lie in a table
        self._y_tables = Gaussians()
        self._z_tables = PriorTables(decoder.prior, decoder.medians, 2.0**-settings.z_bits)
        self._padding = None
        if stack is None:
            self._padding = np.random.Philox(key=settings.seed)
            stack = Stack(np.append(self._random_words(1), np.uint32(1)))
        self.stack = stack
        self.initial_words = len(stack)

    def on(self, stack):
        """A copy of this codec that uses another stack."""
        codec = copy.copy(self)
        codec.stack, codec.initial_words, codec._padding = stack, len(stack), None
        return codec

    def snapshot(self):
        """A copy of this codec as it is, which pushes what this one would."""
        codec = copy.copy(self)
        codec.stack, codec._padding = self.stack.copy(), copy.deepcopy(self._padding)
        codec.stack.lowest = self.stack.lowest
        return codec

    def posterior(self, y, num_pixels, step):
        """The `Posterior` given y, integers as float64 (h, w, C); see `exact_posterior.fit`."""
        z_mean, z_logvar, record = exact_posterior.fit(
            self._decoder, y, num_pixels, self._settings.posterior, self._settings.seed, step
        )
        bits = self._settings.z_bits
        codes, shifts, mean, log2_sigma = self._q_tables.codes(
            z_mean * 2.0**bits, z_logvar * (0.5 * arithmetic.LOG2_E) + bits
        )
        z_logvar = 2 * arithmetic.LN2 * (log2_sigma - bits)
        return Posterior(codes, shifts, mean * 2.0**-bits, z_logvar, record)

    def push(self, y, q):
        """Pushes an image with latents y and posterior `q` (`posterior`); returns its z, float64.

        Raises:
          Exhausted: there are too few bits to pop z from.
        """
        z = self._pop_z(q)
        codes, shifts = self._p_y(z, y.shape[:2])
        self.stack.push(y - shifts, codes, self._y_tables)
        self.stack.push(z, channels(z.shape), self._z_tables)
        return z * 2.0**-self._settings.z_bits

    def pop(self, height, width, posterior):
        """Pops an image of height × width pixels; returns its y and z, float64.

        `posterior(y)` must return the `q` that was passed to `push`.

        Raises:
          Exhausted: the stack has too few bits.
        """
        y_size, z_size = container.latent_sizes(height, width)
        z = self.stack.pop(channels((*z_size, len(self._decoder.medians))), self._z_tables)
        codes, shifts = self._p_y(z, y_size)
        y = self.stack.pop(codes, self._y_tables) + shifts
        self.stack.check()
        q = posterior(y)
        self.stack.push(z - q.shifts, q.codes, self._q_tables)
        return y, z * 2.0**-self._settings.z_bits

    def net_words(self):
        """Number of words on the stack in addition to the initial ones."""
        return len(self.stack) - self.initial_words

    def bytes_needed(self, q):
        """The approximate number of bytes that popping z takes."""
        codec = BitsBackCodec(self._decoder, self._settings)
        codec._pop_z(q)
        return WORD_BYTES * -codec.net_words()

    def finish(self):
        """The words of the payload, without unneeded padding. Nothing can be pushed after this."""
        unused = self.stack.lowest if self._padding is not None else 0
        self.initial_words -= unused
        return self.stack.words()[unused:]

    def _pop_z(self, q):
        if self._padding is not None:
            self._pad(q.codes.size * MAX_SYMBOL_BITS // 32 + 4)
        z = self.stack.pop(q.codes, self._q_tables) + q.shifts
        self.stack.check()
        return z

    def _p_y(self, z, size):
        mu, log_sigma, _ = self._decoder.hyper_synthesis.forward(
            z * 2.0 ** (FRACTION_BITS - self._settings.z_bits), size
        )
        log2_sigma = log_sigma * (UNIT * arithmetic.LOG2_E)
        codes, shifts, _, _ = self._y_tables.codes(mu * UNIT, log2_sigma)
        return codes, shifts

    def _pad(self, words):
        """Adds padding at the bottom if the stack has fewer than this number of words."""
        missing = words - len(self.stack)
        if missing > 0:
            self.initial_words += missing
            self.stack = self.stack.raised(self._random_words(missing))

    def _random_words(self, number):
        words = self._padding.random_raw(number)
        return (words >> np.uint64(32)).astype(np.uint32)


def side_information(content, seed):
    """The initial stack that holds a file's bytes.

    The bytes are scrambled, because popping z assumes random bits and files are seldom random.
    """
    filling = b"\0" * (-(len(content) + 1) % WORD_BYTES)
    return Stack(np.frombuffer(filling + _scrambled(content, seed) + _END, "<u4"))


def _scrambled(content, seed):
    """The bytes XOR pseudo-random ones; this function is its own inverse."""
    generator = np.random.Philox(key=seed, counter=1 << 128)
    random = generator.random_raw(-(-len(content) // 8)).astype("<u8").view(np.uint8)
    return (np.frombuffer(content, np.uint8) ^ random[: len(content)]).tobytes()


def read_side_information(stack, size, seed):
    """The bytes of the side information, which remain on the stack after all images are popped.

    Raises:
      InputError: the stack holds something else.
    """
    content = bytes_of(stack.words())
    filling = len(content) - size - 1
    if not (0 <= filling < WORD_BYTES and content.endswith(_END) and not any(content[:filling])):
        raise InputError("not written by this program: a file with other side information")
    return _scrambled(content[filling : filling + size], seed)
