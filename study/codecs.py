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
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, features

import utils
from runtime import files, signals
from runtime.errors import InputError


class Codec:
    """A codec with a range of qualities.

    Attributes:
      qualities: the default ones, about 0.1 to 1.5 bits per pixel on photographs.
      bounds: the lowest and the highest quality.
      number: type of a quality, int or float.
    """

    def __init__(self, qualities, bounds, number):
        self.qualities, self.bounds, self.number = qualities, bounds, number

    def missing(self):
        """What the codec lacks on this machine; '' if nothing."""
        raise NotImplementedError

    def version(self):
        """Name and version of the encoder."""
        raise NotImplementedError

    def settings(self, quality):
        """Everything that the encoder is told, by name."""
        raise NotImplementedError

    def encode(self, pixels, quality, threads):
        """Codes uint8 (H, W, 3); returns the bytes of a file.

        Raises:
          InputError: the encoder refuses the image.
        """
        raise NotImplementedError

    def decode(self, content, threads):
        """Decodes the bytes of a file to uint8 (H, W, 3)."""
        raise NotImplementedError


class PillowCodec(Codec):
    """A format that Pillow writes and reads.

    Args:
      kind: Pillow's name for the format.
      module: the library's name in `PIL.features`, or the module of the plugin.
      save: what Pillow's `save` is told besides the quality, a dict.
      package: name of the package with the plugin; None for a format that Pillow has itself.
    """

    def __init__(self, kind, module, save, *range_, package=None):
        super().__init__(*range_)
        self.kind, self.module, self.save, self.package = kind, module, save, package

    def missing(self):
        if self.package is None:
            return "" if features.check(self.module) else "Pillow was built without it"
        try:
            importlib.import_module(self.module)  # adds the format to Pillow
        except ImportError:
            return "the package {} is missing (requirements-study.txt)".format(self.package)
        return ""

    def version(self):
        if self.package is not None:
            version = importlib.import_module(self.module).__version__
            return "{} {}".format(self.package, version)
        name = "libjpeg_turbo" if features.check("libjpeg_turbo") else "libjpeg"
        name = name if self.module == "jpg" else self.module
        version = features.version(self.module if name == "libjpeg" else name)
        return "{} {}, Pillow {}".format(name, version, PIL.__version__)

    def settings(self, quality):
        return {"quality": quality, **self.save}

    def encode(self, pixels, quality, threads):
        save = dict(self.save, quality=quality)
        if self.kind == "JPEG2000":
            save["quality_layers"] = [save.pop("quality")]
        content = io.BytesIO()
        try:
            Image.fromarray(pixels).save(content, self.kind, **save)
        except (OSError, ValueError) as error:
            raise InputError("{} cannot be encoded: {}".format(self.kind, error))
        return content.getvalue()

    def decode(self, content, threads):
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))


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
        raise kind("{} {}".format(command[0], reason))


CODECS = {
    "jpeg": PillowCodec(
        "JPEG",
        "jpg",
        {"subsampling": "4:2:0", "optimize": True},
        (1, 5, 10, 15, 20, 30, 40, 50, 60, 70),
        (1, 95),
        int,
    ),
    "webp": PillowCodec(
        "WEBP", "webp", {"method": 6}, (0, 1, 5, 10, 20, 30, 40, 50, 65, 80), (0, 100), int
    ),
    "jpeg2000": PillowCodec(
        "JPEG2000",
        "jpg_2000",
        # Without `mct`, the colour transform, it loses 2 dB.
        {"irreversible": True, "mct": 1, "quality_mode": "rates"},
        (300.0, 200.0, 150.0, 100.0, 75.0, 50.0, 35.0, 25.0, 20.0, 16.0),
        (1, 10000),
        float,
    ),
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
    mse = np.mean((pixels.astype(np.float64) - decoded) ** 2)
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(255**2 / mse)
    values = {"mse": mse, "psnr": psnr, **utils.ms_ssim(pixels, decoded)}
    bpp = 8 * len(content) / (pixels.shape[0] * pixels.shape[1])
    values.update(dict.fromkeys(("est_bpp", "net_bpp", "actual_bpp"), bpp))
    values.update(
        seconds=done - begun, encode_seconds=encoded - begun, decode_seconds=done - encoded
    )
    return {key: np.array([value]) for key, value in values.items()}
