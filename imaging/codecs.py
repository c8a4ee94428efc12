"""Classical codecs of Pillow at a given file size.

JPEG has 4:2:0 chroma and optimised Huffman tables, WebP its slowest setting (method 6), JPEG 2000
the irreversible wavelet and the colour transform (`mct=1`, without which it loses 2 dB).
"""

import collections
import io

import numpy as np
from PIL import Image

Codec = collections.namedtuple("Codec", "label options qualities")
Codec.__doc__ = """A codec and its files of one image, from the smallest to the largest.

label: its name for readers; options: `options(quality)`, Pillow's arguments for a file; qualities:
sorted so that files grow.
"""

CODECS = {
    "jpeg": Codec(
        "JPEG",
        lambda quality: {
            "format": "JPEG",
            "quality": quality,
            "subsampling": "4:2:0",
            "optimize": True,
        },
        range(1, 96),
    ),
    "webp": Codec(
        "WebP",
        lambda quality: {"format": "WEBP", "quality": quality, "method": 6},
        range(0, 101),
    ),
    # Compression ratios in steps of 1%.
    "jpeg2000": Codec(
        "JPEG 2000",
        lambda ratio: {
            "format": "JPEG2000",
            "irreversible": True,
            "mct": 1,
            "quality_mode": "rates",
            "quality_layers": [ratio],
        },
        [1.01**exponent for exponent in range(800, 69, -1)],
    ),
}


def encode(codec, pixels, quality):
    """The bytes of a file of uint8 (H, W, 3), with one of the `qualities` of a name in `CODECS`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **CODECS[codec].options(quality))
    return file.getvalue()


def decode(content):
    """The uint8 (H, W, 3) of a file's bytes."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def around_size(codec, pixels, size):
    """The largest file of at most `size` bytes and the smallest above, by bisection.

    Args:
      codec: a name in `CODECS`.
      pixels: uint8 (H, W, 3).
      size: number of bytes.

    Returns:
      Two bytes objects; None in place of a file that the codec cannot make.
    """
    qualities = CODECS[codec].qualities
    low, high = -1, len(qualities)
    below = above = None
    while high - low > 1:
        middle = (low + high) // 2
        content = encode(codec, pixels, qualities[middle])
        if len(content) <= size:
            low, below = middle, content
        else:
            high, above = middle, content
    return below, above


def psnr(pixels, decoded):
    """Peak signal-to-noise ratio in dB of uint8 (H, W, 3)."""
    return 10 * np.log10(255**2 / np.mean((pixels.astype(np.float64) - decoded) ** 2))


def psnr_at_size(codec, pixels, size):
    """PSNR in dB of a codec at exactly `size` bytes, interpolated between two files.

    The interpolation is linear in the logarithm of the size. NaN if the codec's files are all
    larger, or all smaller.
    """
    files = around_size(codec, pixels, size)
    if None in files:
        return np.nan
    sizes = [len(content) for content in files]
    values = [psnr(pixels, decode(content)) for content in files]
    return float(np.interp(np.log(size), np.log(sizes), values))
