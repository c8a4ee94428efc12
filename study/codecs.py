"""Classical codecs as methods of a study.

    method    encoder                        quality
    jpeg      libjpeg-turbo, by Pillow       1 to 95 (best); 4:2:0, optimised Huffman tables
    webp      libwebp, by Pillow             0 to 100 (best); lossy, method 6
    jpeg2000  OpenJPEG, by Pillow            compression ratio: 24 bits over bits per pixel;
                                             irreversible wavelet and colour transform
    avif      libaom, by pillow-avif-plugin  0 to 100 (best); 4:2:0, speed 6
    jpegxl    cjxl, djxl                     5 to 100 (lossless); effort 7
    heic      heif-enc, heif-convert         0 to 100 (best); x265, 4:2:0

The rate is that of the whole file, headers included. Each codec decodes its own files, to 8-bit
RGB, which is compared with the original.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

import utils
from imaging.codecs import PILLOW, Codec, PillowCodec, mse, psnr
from runtime import files, signals
from runtime.errors import InputError


class CommandCodec(Codec):
    """A codec whose encoder and decoder are commands.

    Args:
      package: Debian package that has the commands.
      ending: of the names of its files.
      version: a command that prints the encoder's version, and a regular expression that finds it.
      encoder, decoder: command lines, in which {png}, {file}, {quality} and {threads} are filled
        in.
    """

    def __init__(self, package, ending, version, encoder, decoder, *range_):
        super().__init__(*range_)
        self.package, self.ending, self._version = package, ending, version
        self.encoder, self.decoder = encoder.split(), decoder.split()

    def missing(self):
        lacking = [words[0] for words in (self.encoder, self.decoder) if not shutil.which(words[0])]
        line = "{} not on the PATH (Debian package {})"
        return line.format(" and ".join(lacking), self.package) if lacking else ""

    def version(self):
        command, pattern = self._version
        printed = subprocess.run(command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        match = re.search(pattern, printed.stdout.decode(errors="replace"))
        return match.group() if match else "unknown"

    def settings(self, quality):
        return {"quality": quality, "encoder": " ".join(self.encoder)}

    def encode(self, pixels, quality, threads):
        with self._folder() as paths:
            utils.write_png(paths["png"], pixels)
            _run(self.encoder, quality=quality, threads=threads, **paths)
            return files.read_bytes(paths["file"])

    def decode(self, content, threads):
        with self._folder() as paths:
            files.write_bytes(paths["file"], content)
            _run(self.decoder, threads=threads, **paths)
            with Image.open(paths["png"]) as image:
                return np.asarray(image.convert("RGB"))

    @contextlib.contextmanager
    def _folder(self):
        """Paths in a temporary folder, to fill in."""
        with tempfile.TemporaryDirectory() as folder:
            names = {"png": "image.png", "file": "image." + self.ending}
            yield {key: os.path.join(folder, name) for key, name in names.items()}


def _run(words, **values):
    """Runs a command line with `values` filled in.

    Raises:
      InputError: it refuses its input.
      RuntimeError: a signal ended it.
    """
    command = [word.format(**values) for word in words]
    process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if process.returncode:
        kind = RuntimeError if process.returncode < 0 else InputError
        reason = signals.reason(process.returncode, process.stderr.decode(errors="replace"))
        raise kind("{}: {}".format(command[0], reason))


CODECS = {
    **PILLOW,
    "avif": PillowCodec(
        "AVIF",
        "pillow_avif",
        # Tiles by themselves would depend on the number of cores.
        {"subsampling": "4:2:0", "speed": 6, "codec": "aom", "autotiling": False},
        (0, 5, 10, 15, 20, 25, 30, 40, 50, 60),
        (0, 100),
        int,
        package="pillow-avif-plugin",
    ),
    "jpegxl": CommandCodec(
        "libjxl-tools",
        "jxl",
        ("cjxl --version", r"cjxl v[\d.]+"),
        "cjxl {png} {file} --quality={quality} --effort=7 --num_threads={threads}",
        "djxl {file} {png} --num_threads={threads}",
        (5.0, 8.0, 12.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0),
        (5, 100),  # cjxl 0.7 refuses less
        float,
    ),
    "heic": CommandCodec(
        "libheif-examples",
        "heic",
        ("heif-enc --help", r"libheif version: [\d.]+"),
        "heif-enc --quality {quality} --output {file} {png}",
        "heif-convert {file} {png}",
        (0, 5, 10, 15, 20, 25, 30, 35, 40, 50),
        (0, 100),
        int,
    ),
}


def parse(name, flags):
    """The qualities, of the codec's number type, that `flags` ask of a codec.

    Args:
      name: one of `CODECS`.
      flags: list of words after the name on a command line.

    Raises:
      InputError: a flag is not --quality, or a quality is out of bounds.
    """
    codec = CODECS[name]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--quality", nargs="*", default=codec.qualities)
    args, unknown = parser.parse_known_args(flags)
    if unknown or not args.quality:
        line = "{}: the only flag is --quality, with numbers"
        raise InputError(line.format(" ".join(map(shlex.quote, [name, *flags]))))
    return [_quality(name, text) for text in args.quality]


def _quality(name, text):
    codec = CODECS[name]
    with contextlib.suppress(ValueError):
        quality = codec.number(text)
        if codec.bounds[0] <= quality <= codec.bounds[1]:
            return quality
    kind = {int: "a whole number", float: "a number"}[codec.number]
    line = "{} --quality {}: not {} from {} to {}"
    raise InputError(line.format(name, text, kind, *codec.bounds))


def evaluate(name, pixels, quality, threads):
    """Codes and decodes an image, and measures the result.

    Args:
      name: one of `CODECS`.
      pixels: uint8 (H, W, 3).
      quality: as `parse` returns it.
      threads: number of threads that the commands may use.

    Returns:
      dict of arrays (1,): metrics and seconds, as in the result of a script. All three rates are
      that of the file, in bits per pixel.

    Raises:
      InputError: the codec refuses the image.
    """
    codec = CODECS[name]
    begun = time.time()
    content = codec.encode(pixels, quality, threads)
    encoded = time.time()
    decoded = codec.decode(content, threads)
    done = time.time()
    if decoded.shape != pixels.shape:
        raise InputError("{}: decodes to another size, {}".format(name, decoded.shape))
    values = {"mse": mse(pixels, decoded), "psnr": psnr(pixels, decoded)}
    values.update(utils.ms_ssim(pixels, decoded))
    bpp = 8 * len(content) / (pixels.shape[0] * pixels.shape[1])
    values.update(dict.fromkeys(("est_bpp", "net_bpp", "actual_bpp"), bpp))
    values.update(
        seconds=done - begun, encode_seconds=encoded - begun, decode_seconds=done - encoded
    )
    return {key: np.array([value]) for key, value in values.items()}
