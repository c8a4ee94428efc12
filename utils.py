"""Images, metrics and result files."""

import contextlib
import os

import numpy as np
from PIL import Image
from scipy import ndimage

from imaging.reading import read_image
from runtime import console
from runtime.errors import InputError
from runtime.files import atomic_write, check_writable, file_sha256
from runtime.quiet_tf import tf

# --- Images ----------------------------------------------------------------------------------


def centre_crop(pixels, size):
    """Crops an image (H, W, …) to `size` = (width, height) around its centre.

    Raises:
      InputError: the image is smaller than that.
    """
    height, width = pixels.shape[:2]
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    if left < 0 or top < 0:
        raise InputError("{} x {} pixels, less than {} x {}".format(width, height, *size))
    return pixels[top : top + size[1], left : left + size[0]]


def write_png(path, pixels):
    """Writes uint8 (H, W, 3) as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="png")


@contextlib.contextmanager
def images_to(path, shape):
    """Yields `write(number, pixels)`, which writes image `number`, uint8 (H, W, 3).

    Args:
      path: an `.npy`, written to disk image by image, or the path of a single image.
      shape: (n, H, W, 3).
    """
    if is_array(path):
        with atomic_write(path) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()

            def write(number, pixels):
                file.seek(start + number * pixels.size)
                file.write(pixels.tobytes())

            yield write
    else:
        images = {}
        yield images.__setitem__
        write_png(path, images[0])


class Images:
    """The images to compress: one image file, or an `.npy` of several, which stays on disk.

    Args:
      path: an image file, or a uint8 `.npy` (n, H, W, 3).
      note: as in `read_image`.

    Attributes:
      shape: (n, H, W, 3).
      sha256: SHA-256 of the file, in hexadecimal.

    Raises:
      InputError: the file cannot be read or does not hold images.
    """

    def __init__(self, path, note=lambda text: None):
        self.path = path
        self._image = None
        if is_array(path):
            self.shape = self._open_array().shape
        else:
            self._image = read_image(path, note)[None]
            self.shape = self._image.shape
        self.sha256 = file_sha256(path)

    def _open_array(self):
        array = open_array(self.path)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
            raise InputError(
                "{}: {} {}, but a batch of images is uint8 (n, H, W, 3)".format(
                    self.path, array.dtype, array.shape
                )
            )
        return array

    def batches(self, size):
        """Yields uint8 (N, H, W, 3) with N ≤ `size`, in order."""
        for start in range(0, self.shape[0], size):
            # Mapped again for each batch, because pages once read would stay in memory.
            array = self._open_array() if self._image is None else self._image
            yield np.array(array[start : start + size])


def is_array(path):
    """Whether a file is an `.npy`, by its name."""
    return path.lower().endswith(".npy")


def open_array(path):
    """Memory-maps an `.npy`, so that a slice reads only its own part of the file.

    Raises:
      InputError: the file does not exist or is not an `.npy`.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError("{}: no such file".format(path))
    except Exception as error:  # NumPy raises a dozen types, even zipfile's and tokenize's
        raise InputError("{}: not a readable .npy file ({})".format(path, error))
    if not isinstance(array, np.ndarray):
        raise InputError("{}: not an .npy file but an .npz".format(path))
    return array


# --- Metrics ---------------------------------------------------------------------------------


MSSSIM_MIN_SIDE = 161  # pixels: five scales with a window of 11


def psnr(mse):
    """Peak signal-to-noise ratio in dB, from mean squared errors (tensor) on a 0 to 255 scale."""
    return 20 * np.log10(255) - 10 / np.log(10) * tf.math.log(mse)


def to_uint8(x):
    """Converts images in [0, 1] (tensor) to a decoder's output: clipped and rounded to uint8."""
    return tf.saturate_cast(tf.round(tf.clip_by_value(x, 0, 1) * 255), tf.uint8)


def quality(x, x_tilde):
    """mse (on a 0 to 255 scale) and psnr in dB of a decoder's 8-bit output, a dict of (N,).

    Args:
      x, x_tilde: original and reconstruction, float32 (N, H, W, 3), in [0, 1] except for overshoot.
    """
    difference = tf.cast(to_uint8(x_tilde), tf.float32) - 255 * x
    mse = tf.reduce_mean(tf.math.square(difference), axis=(1, 2, 3))
    return {"mse": mse, "psnr": psnr(mse)}


def ms_ssim(image, decoded):
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), plain and in dB.

    Equivalent to `tf.image.ssim_multiscale`, which takes seconds to build and first run.

    Args:
      image, decoded: uint8 (H, W, 3).

    Returns:
      dict of `msssim` and `msssim_db` = -10 log10(1 - msssim); both are NaN if a side has fewer
      than `MSSSIM_MIN_SIDE` pixels.
    """
    msssim = np.nan
    if min(image.shape[:2]) >= MSSSIM_MIN_SIDE:
        msssim = np.mean([_ms_ssim(image[..., i], decoded[..., i]) for i in range(3)])
    with np.errstate(divide="ignore"):
        return {"msssim": msssim, "msssim_db": -10 * np.log10(1 - msssim)}


MSSSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # one per scale
MSSSIM_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
MSSSIM_WINDOW /= MSSSIM_WINDOW.sum()


def _ms_ssim(x, y):
    """MS-SSIM of one channel, (H, W)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = 1.0
    for exponent in MSSSIM_EXPONENTS:
        mean_x, mean_y = _blurred(x), _blurred(y)
        means, squares = 2 * mean_x * mean_y, mean_x**2 + mean_y**2
        contrast = (2 * _blurred(x * y) - means + c2) / (_blurred(x**2 + y**2) - squares + c2)
        if exponent == MSSSIM_EXPONENTS[-1]:
            contrast *= (means + c1) / (squares + c1)  # luminance, only at the last scale
        product *= max(contrast.mean(), 0) ** exponent
        x, y = _halved(x), _halved(y)
    return product


def _blurred(plane):
    """The plane filtered with the window, without the margin in which the window does not fit."""
    for axis in (0, 1):
        plane = ndimage.correlate1d(plane, MSSSIM_WINDOW, axis, mode="constant")
    margin = len(MSSSIM_WINDOW) // 2
    return plane[margin:-margin, margin:-margin]


def _halved(plane):
    """Means of 2 × 2 samples; an odd last row or column is repeated."""
    height, width = plane.shape
    plane = np.pad(plane, ((0, height % 2), (0, width % 2)), "edge")
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4


# --- Result files ----------------------------------------------------------------------------


OF_RESULT = ("eval_batch_size", "checkpoint_step", "checkpoint_sha256")  # besides the method's
NAMES = {
    "lmbda": "--lambda",
    "checkpoint_sha256": "a model with the digest",
    "checkpoint_step": "a model of step",
    "side_info_sha256": "--side_info with the digest",
    "weight_map_sha256": "--weight_map with the digest",
}


def check_result(path, sha256, settings, defaults, overwrite):
    """Makes sure, before anything is computed, that a result can be written to `path`.

    A result of a model of the same name with fewer training steps may be replaced, with a note.

    Args:
      sha256: of the input.
      settings: dict of the numbers and strings that the result depends on, `OF_RESULT` among them.
      defaults: dict of what those of them were that an older result does not tell.
      overwrite: whether any file may be replaced.

    Raises:
      InputError: the folder is not writable, or `path` holds a result of another input, or one
        with other settings.
    """
    if not overwrite and os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as old:
                of_this_input = str(old["input_sha256"]) == sha256
                before = {key: old[key].item() for key in settings if key in old}
        except Exception:  # a file of another kind or a damaged one: zipfile, pickle, key errors
            of_this_input = False
        if not of_this_input:
            line = "{}: exists, and is no result of this input; --overwrite replaces it, another "
            raise InputError((line + "--results_dir keeps both").format(path))
        before = {**defaults, **before}
        for key in list(before):  # a file counts by its digest, not by its path
            if key + "_sha256" in before and key + "_sha256" in settings:
                del before[key]
        step = before.get("checkpoint_step", settings["checkpoint_step"])
        is_earlier = step < settings["checkpoint_step"]
        if is_earlier:
            del before["checkpoint_step"]
            before.pop("checkpoint_sha256", None)
        differing = [
            "{} {}, now {}".format(NAMES.get(key, "--" + key), _shown(before[key]), _shown(value))
            for key, value in settings.items()
            if key in before and before[key] != value
        ]
        if differing:
            line = "{}: exists with other settings ({}); --overwrite replaces it, another "
            raise InputError((line + "--results_dir keeps both").format(path, "; ".join(differing)))
        if is_earlier:
            line = "{}: a result of the model at step {} will be replaced"
            console.note(line.format(path, step))
    check_writable(path)


def _shown(value):
    return "none" if value == "" else value


def write_result(path, values):
    """Writes a dict of arrays as `.npz`."""
    with atomic_write(path) as file:
        np.savez(file, **values)


def write_reconstruction(result_path, images, number, pixels):
    """Writes a decoder's output as a PNG next to a result.

    Args:
      result_path: path of the result, an `.npz`.
      images: number of images in the result; if there are several, file names end in `number`.
      number: index of this image, from 0.
      pixels: uint8 (H, W, 3).
    """
    suffix = "-{}".format(number) if images > 1 else ""
    write_png("{}{}.png".format(result_path[: -len(".npz")], suffix), pixels)
