"""Codecs of Pillow: JPEG, WebP and JPEG 2000 as files of a quality, or of a size."""

import importlib
import io

import numpy as np
import PIL
from PIL import Image, features

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

    def encode(self, pixels, quality, threads=1):
        """Codes uint8 (H, W, 3); returns the bytes of a file.

        Raises:
          InputError: the encoder refuses the image.
        """
        raise NotImplementedError

    def decode(self, content, threads=1):
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

    def encode(self, pixels, quality, threads=1):
        save = dict(self.save, quality=quality)
        if self.kind == "JPEG2000":
            save["quality_layers"] = [save.pop("quality")]
        content = io.BytesIO()
        try:
            Image.fromarray(pixels).save(content, self.kind, **save)
        except (OSError, ValueError) as error:
            raise InputError("{} cannot be encoded: {}".format(self.kind, error))
        return content.getvalue()

    def decode(self, content, threads=1):
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))


PILLOW = {
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
}


# --- Files of a size -------------------------------------------------------------------------

LABELS = {"jpeg": "JPEG", "webp": "WebP", "jpeg2000": "JPEG 2000"}
# All qualities that make different files, from the smallest file on; ratios in steps of 1%.
GRIDS = {
    "jpeg": range(1, 96),
    "webp": range(0, 101),
    "jpeg2000": [1.01**exponent for exponent in range(800, 69, -1)],
}


def around_size(name, pixels, size):
    """The largest file of at most `size` bytes and the smallest above, by bisection.

    Args:
      name: one of `PILLOW`.
      pixels: uint8 (H, W, 3).
      size: number of bytes.

    Returns:
      Two bytes objects; None in place of a file that the codec cannot make.
    """
    grid = GRIDS[name]
    low, high = -1, len(grid)
    below = above = None
    while high - low > 1:
        middle = (low + high) // 2
        content = PILLOW[name].encode(pixels, grid[middle])
        if len(content) <= size:
            low, below = middle, content
        else:
            high, above = middle, content
    return below, above


def within_size(pixels, size):
    """Yields (label, bytes, decoded image) of each codec's largest file of at most `size` bytes.

    Codecs that Pillow lacks, or that cannot make a file that small, are left out.
    """
    for name, codec in PILLOW.items():
        content = None if codec.missing() else around_size(name, pixels, size)[0]
        if content is not None:
            yield LABELS[name], content, codec.decode(content)


def mse(pixels, decoded):
    """Mean squared error of uint8 (H, W, 3)."""
    return np.mean((pixels.astype(np.float64) - decoded) ** 2)


def psnr(pixels, decoded):
    """Peak signal-to-noise ratio in dB of uint8 (H, W, 3); infinite if they are equal."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / mse(pixels, decoded))


def psnr_at_size(name, pixels, size):
    """PSNR in dB of a codec at exactly `size` bytes, interpolated between two files.

    The interpolation is linear in the logarithm of the size. NaN if the codec's files are all
    larger, or all smaller.
    """
    files = around_size(name, pixels, size)
    if None in files:
        return np.nan
    sizes = [len(content) for content in files]
    values = [psnr(pixels, PILLOW[name].decode(content)) for content in files]
    return float(np.interp(np.log(size), np.log(sizes), values))
