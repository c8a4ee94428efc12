"""Decoding of latents from what a file and the integers of a model hold, without TensorFlow.

    python -m coding.decoding <model.npz> <file.tfci>

prints a line per image, the SHA-256 of its y and z, as `coding.digests` does. The first file is of
tools/export_integers.py. This takes NumPy, constriction and tqdm, on any architecture.
"""

import collections
import contextlib
import functools
import hashlib
import io
import sys
import zipfile

import numpy as np

from coding import container
from coding.bits_back_codec import BitsBackCodec
from coding.grid_codec import GridCodec
from coding.integer_networks import HyperAnalysis, HyperSynthesis, Layer, Prior
from coding.stack import Exhausted, Stack, words_of
from runtime import files, signals
from runtime.errors import InputError, naming


class Decoder(
    collections.namedtuple("Decoder", "hyper_synthesis hyper_analysis prior medians digest")
):
    """The parts of a model that coding latents needs.

    hyper_analysis: None for the base model; medians: (C,) in units of 2^-12, zero for bits-back;
    digest: bytes that depend on every weight that a decoder uses and on the tables.
    """

    def check(self, header, name):
        """Raises `InputError` unless a file with this header was made with this model, `name`."""
        if self.digest != header.digest:
            raise InputError("made with another model than {}".format(name))
        if (self.hyper_analysis is not None) != (header.kind == container.BITS_BACK):
            raise InputError("made with another kind of model than {}".format(name))


def grid_latents(decoder, header, words):
    """Yields the number and the latents, a dict of y and z, of each image of a grid's file."""
    codec = GridCodec(decoder, header.kind, header.step)
    for number, own in enumerate(words):
        yield number, codec.decode(own, header.height, header.width)


def _in_silence(number):
    return contextlib.nullcontext(lambda done, loss: None)


def archive_latents(decoder, header, words, shown=_in_silence):
    """Yields the number and the latents of each image of a bits-back archive, the last one first.

    Args:
      decoder: `Decoder`.
      header, words: the `container.Header`; the stack.
      shown: `shown(number)` is a context manager that gives the `step` of `exact_posterior.fit`,
        while q(z|y) of an image is computed.

    Returns:
      the `Stack` that remains, with the side information.

    Raises:
      InputError: no encoder writes such a stack.
    """
    codec = BitsBackCodec(decoder, header.bits_back, Stack(words))

    def posterior(number, y):
        with shown(number) as step:
            return codec.posterior(y, header.height * header.width, step)

    try:
        for number in reversed(range(header.images)):
            own = functools.partial(posterior, number)
            y, z = codec.pop(header.height, header.width, own)
            yield number, {"y": y, "z": z}
    except Exhausted:
        raise InputError("not written by this program: a file with too few bits")
    return codec.stack


def digest(latents):
    """SHA-256 of an image's y and z, in hexadecimal; `latents` is a dict of arrays."""
    result = hashlib.sha256()
    for name in ("y", "z"):
        result.update(repr(latents[name].shape).encode())
        result.update((latents[name] + 0.0).astype("<f8").tobytes())  # + 0.0 turns -0 into 0
    return result.hexdigest()


_NETWORKS = {"hyper_synthesis": HyperSynthesis, "hyper_analysis": HyperAnalysis}


def write(decoder, file):
    """Writes a `Decoder` to an open binary file, as `.npz`."""
    arrays = {"prior": decoder.prior.weights, "medians": decoder.medians}
    arrays["digest"] = np.frombuffer(decoder.digest, np.uint8)
    for network in _NETWORKS:
        layers = getattr(decoder, network)
        for index, layer in enumerate(layers.layers if layers else ()):
            for field, value in layer._asdict().items():
                arrays["{}/{}/{}".format(network, index, field)] = value
    np.savez(file, **arrays)


def read(path):
    """Reads the `Decoder` that `write` wrote.

    Raises:
      InputError: the file is something else.
    """
    content = io.BytesIO(files.read_bytes(path))
    try:
        with np.load(content, allow_pickle=False) as arrays:
            networks = {
                network: made([_layer(arrays, network, index) for index in range(3)])
                for network, made in _NETWORKS.items()
                if network + "/0/kernel" in arrays
            }
            return Decoder(
                networks["hyper_synthesis"],
                networks.get("hyper_analysis"),
                Prior(arrays["prior"]),
                arrays["medians"],
                arrays["digest"].tobytes(),
            )
    except (ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
        line = "{}: not a file of a model's integers, as `python -m tools.export_integers` writes"
        raise InputError(line.format(path))


def _layer(arrays, network, index):
    fields = (arrays["{}/{}/{}".format(network, index, field)] for field in Layer._fields)
    return Layer(*(field if field.ndim else field.item() for field in fields))


def main():
    """Runs the command line described above."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    model, path = sys.argv[1:]
    with signals.command("decoding"):
        decoder = read(model)
        content = files.read_bytes(path)
        with naming(path):
            if container.is_packed(content):
                raise InputError("in the authors' format, which only `decompress` decodes")
            header, payloads = container.read(content)
            decoder.check(header, model)
            words = [words_of(payload) for payload in payloads]
            if header.bits_back:
                found = dict(archive_latents(decoder, header, words[0]))
            else:
                found = dict(grid_latents(decoder, header, words))
        print("\n".join(digest(found[number]) for number in range(header.images)))


if __name__ == "__main__":
    main()
