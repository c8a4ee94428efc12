"""Where distortion counts: a map of weights over an image.

The loss becomes λ · 255² · mean(w · (x - x_tilde)²) + bpp, where w is a grey image scaled to a mean
of 1. This is the λ that varies over the image of Gao et al. 2022 (arXiv 2209.09244, section 3.3); a
decoder needs no map.
"""

import collections

import numpy as np

import utils
from runtime import console, files
from runtime.errors import InputError
from runtime.flags import Flag

FLAGS = {
    "weight_map": Flag("", "grey image of the images' size: distortion counts where it is bright"),
    "keep_weights": Flag(
        False,
        "multiply λ by the map as it is, white by 1; not scaled to mean 1",
        needs=("weight_map", True),
    ),
}
HALF = 128  # grey levels from here on are inside of the region


class Region(collections.namedtuple("Region", "weights inside sha256")):
    """A map of weights.

    weights: float32 (1, H, W, 3); inside: bool (H, W), where the map is at least half white;
    sha256: of its file, in hexadecimal.
    """

    def figures(self, pixels, reconstruction):
        """The weighted MSE, and PSNR in dB inside and outside, of uint8 (H, W, 3); a dict."""
        squares = np.square(pixels.astype(np.float64) - reconstruction)
        return {
            "weighted_mse": np.mean(self.weights[0] * squares),
            "psnr_inside": _psnr(squares[self.inside]),
            "psnr_outside": _psnr(squares[~self.inside]),
        }


def _psnr(squares):
    """PSNR in dB of squared errors; NaN if there are none, infinite if all are 0."""
    if not squares.size:
        return np.nan
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / squares.mean())


def read(path, size, keep_weights):
    """Reads a map of weights for images of `size` (H, W); returns a `Region`.

    Raises:
      InputError: the file is no image, of another size, coloured, or of one colour.
    """
    if utils.is_array(path):
        raise InputError("--weight_map: {} is an .npy; take a grey image".format(path))
    grey = utils.read_image(path, console.note)
    name = "--weight_map: {}: ".format(path)
    if grey.shape[:2] != tuple(size):
        line = "{} x {} pixels, but the image has {} x {}"
        raise InputError(name + line.format(*grey.shape[1::-1], *size[::-1]))
    if np.any(grey != grey[..., :1]):
        raise InputError(name + "has colours; take a grey image, bright where distortion counts")
    if not grey.any():
        raise InputError(name + "is black, so that no distortion counts; make the region bright")
    if grey.min() == grey.max():
        raise InputError(name + "is of one grey, which marks no region; --lambda changes λ")
    weights = grey.astype(np.float64) / (255 if keep_weights else grey.mean())
    weights = weights.astype(np.float32)[None]
    return Region(weights, grey[..., 0] >= HALF, files.file_sha256(path))
