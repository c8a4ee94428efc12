"""Writers of whole files, which take one image at a time.

A writer rounds the latents of an image to the values that a decoder gets, codes them, decodes them
again as a check, and returns the file in the end.
"""

import abc
import collections
import os
import tempfile
import time

import numpy as np

from coding import container, digests, integer_model, tfci
from coding.bits_back_codec import BitsBackCodec, side_information
from coding.grid_codec import GridCodec
from coding.stack import WORD_BYTES, Exhausted, bytes_of
from model import device
from runtime import files
from runtime.errors import InputError
from runtime.quiet_tf import tf

Coded = collections.namedtuple("Coded", "latents encode_seconds decode_seconds record")
Coded.__doc__ = """The result of coding an image.

latents: dict of arrays (h, w, C) that a decoder gets (for bits-back, z_mean and z_logvar too);
encode_seconds, decode_seconds: without the image's transforms; record: from `exact_posterior.fit`,
or empty.
"""


class Writer(abc.ABC):
    """Writes one file of images that have the same size.

    Attributes:
      its: number of iterations that coding an image takes.
    """

    its = 0

    @abc.abstractmethod
    def add(self, latents, size, step):
        """Codes an image; returns `Coded`.

        Args:
          latents: dict of float arrays (h, w, C), the optimised latents.
          size: (H, W) of the image, the same in each call.
          step: see `exact_posterior.fit`; called only if there are iterations.

        Raises:
          InputError: the image cannot be coded.
        """

    def take_back(self):
        """Takes back the image added last."""
        raise NotImplementedError

    @abc.abstractmethod
    def finish(self):
        """Returns the bytes of the file, and a dict of figures in bits, each (n,).

        `actual` is the image's share of all bits of the file. Bits-back files also have `net`, the
        bits that the image adds to the stack, without the header and the initial bits, from which
        the first image's z is decoded.
        """

    def check(self, content, digests_coded, verbose):
        """Checks a file in a fresh process, if its decoding is a long computation.

        Args:
          content: the bytes of the file.
          digests_coded: digests of the images' latents, in order.
          verbose: whether to announce the check.

        Raises:
          Unfinished: the process fails, or decodes other latents.
        """
        return  # most files need no such check


class GridWriter(Writer):
    """Writes latents on a grid in the project's container.

    Args:
      run: `checkpoints.Run` of a base model.
      kind, step: see `grid_codec.GridCodec`.
    """

    def __init__(self, run, kind, step=0):
        self._decoder = integer_model.load(run, bits_back=False)
        self._codec = GridCodec(self._decoder, kind, step)
        self._kind, self._step, self._size, self._payloads = kind, step, None, []

    def add(self, latents, size, step):
        self._size = size
        begun = time.time()
        words, sent = self._codec.encode(latents["y"], latents["z"])
        coded = time.time()
        _check_equal(self._codec.decode(words, *size), sent)
        self._payloads.append(bytes_of(words))
        return Coded(sent, coded - begun, time.time() - coded, {})

    def take_back(self):
        self._payloads.pop()

    def finish(self):
        header = container.Header(
            self._kind, self._decoder.digest, len(self._payloads), *self._size, None, self._step
        )
        content = container.write(header, self._payloads)
        lengths = np.array([len(payload) for payload in self._payloads])
        return content, {"actual": 8 * _shares(content, lengths)}


class BitsBackWriter(Writer):
    """Writes the latents of a bits-back model, with all images on one stack.

    Args:
      run: `checkpoints.Run` of a bits-back model.
      z_spacing: spacing of the grid of z.
      settings: `container.Settings`.
      seed: seed of the random numbers.
      side_info: path of the side information; '' for none.

    Raises:
      InputError: z_spacing, seed or settings are invalid, or the file cannot be read.
    """

    def __init__(self, run, z_spacing, settings, seed, side_info):
        self._run = run
        if settings.its and not container.are_settings(settings):
            raise InputError(
                "q(z|y) cannot be fitted with these flags: at most {} iterations and decay rates "
                "of Adam below 1 are allowed".format(container.MAX_ITS)
            )
        content = files.read_bytes(side_info) if side_info else None
        self.its = settings.its
        self._side_info = side_info
        self._settings = container.BitsBack(
            z_bits(z_spacing), settings, seed, None if content is None else len(content)
        )
        self._decoder = integer_model.load(run, bits_back=True)
        stack = None if content is None else side_information(content, seed)
        self._codec = BitsBackCodec(self._decoder, self._settings, stack)
        self._size, self._growths, self._before = None, [], None

    def add(self, latents, size, step):
        self._size = size
        self._before = self._codec.snapshot()
        y = np.rint(latents["y"].astype(np.float64))
        begun = time.time()
        q = self._codec.posterior(y, size[0] * size[1], step)
        found = time.time()
        words_before = self._codec.net_words()
        try:
            z = self._codec.push(y, q)
        except Exhausted:
            needed = self._codec.bytes_needed(q)
            raise InputError(
                "{}: too few bits to decode z from; it takes about {} bytes".format(
                    self._side_info, needed
                )
            )
        self._growths.append(self._codec.net_words() - words_before)
        coded = time.time()
        back = self._codec.on(self._codec.stack.copy())
        y_back, z_back = back.pop(*size, posterior=lambda y: q)
        _check_equal({"y": y_back, "z": z_back}, {"y": y, "z": z})
        decode_seconds = time.time() - coded + (found - begun)  # the decoder also computes q
        sent = {"y": y, "z": z, "z_mean": q.z_mean, "z_logvar": q.z_logvar}
        return Coded(sent, coded - begun, decode_seconds, q.record)

    def take_back(self):
        self._codec = self._before
        self._growths.pop()

    def finish(self):
        payload = bytes_of(self._codec.finish())
        header = container.Header(
            container.BITS_BACK,
            self._decoder.digest,
            len(self._growths),
            *self._size,
            self._settings,
        )
        content = container.write(header, [payload])
        growths = WORD_BYTES * np.array(self._growths)
        return content, {"actual": 8 * _shares(content, growths), "net": 8 * growths}

    def check(self, content, digests_coded, verbose):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "check.tfci")
            files.write_bytes(path, content)
            digests.check_elsewhere(self._run, path, digests_coded, verbose)


def z_bits(spacing):
    """The number of bits after the binary point of z on a grid of this spacing.

    Raises:
      InputError: there is none.
    """
    bits = -int(np.round(np.log2(spacing)))
    if not (0 <= bits <= container.MAX_Z_BITS and 2.0**-bits == spacing):
        line = "--z_spacing: {} is not a power of 2 from 2^-{} to 1"
        raise InputError(line.format(spacing, container.MAX_Z_BITS))
    return bits


class PackedWriter(Writer):
    """Writes the `.tfci` format of the authors' base codec.

    Args:
      run, weights: the `checkpoints.Run` of a base model, and its weights from `checkpoints.load`.
    """

    def __init__(self, run, weights):
        from runtime.quiet_tf import (
            tfc,  # noqa: F401  so that a missing tfc fails before anything is computed
        )

        self._weights = weights
        self._tables = tfci.read_range_coder_tables(run)
        self._size, self._strings = None, []

    def _build(self, shapes):
        with tf.Graph().as_default(), device.on_cpu():
            model = tfci.bounded_model(self._weights)
            self._raw = {k: tf.placeholder(tf.float32, (1, *s)) for k, s in shapes.items()}
            self._sent = model.round_centred(**self._raw)
            self._encoded = tfci.encode(model, self._tables, **self._sent)
            self._to_decode = [tf.placeholder(tf.string, ()) for _ in range(2)]
            y, z = tfci.decode(model, self._tables, *self._to_decode, self._size)
            self._decoded = {"y": y, "z": z}
            self._session = tf.Session(config=device.cpu_config())

    def add(self, latents, size, step):
        if self._size is None:
            self._size = size
            self._build({key: value.shape for key, value in latents.items()})
        begun = time.time()
        feed = {self._raw[key]: value[None] for key, value in latents.items()}
        sent, strings = self._session.run([self._sent, self._encoded], feed)
        coded = time.time()
        _check_equal(self._session.run(self._decoded, dict(zip(self._to_decode, strings))), sent)
        self._strings.append(strings)
        sent = {key: value[0] for key, value in sent.items()}
        return Coded(sent, coded - begun, time.time() - coded, {})

    def finish(self):
        y_strings, z_strings = (list(strings) for strings in zip(*self._strings))
        content = tfci.pack(y_strings, z_strings, self._size)
        lengths = np.array([len(y) + len(z) for y, z in self._strings])
        return content, {"actual": 8 * _shares(content, lengths)}


def _check_equal(decoded, sent):
    for key, value in decoded.items():
        if not np.array_equal(value, sent[key]):
            raise AssertionError("{} does not decode to what was coded".format(key))


def _shares(content, lengths):
    """The bytes of each image: its payload and an equal share of the rest of the file."""
    return lengths + (len(content) - lengths.sum()) / len(lengths)
