"""Images, run folders and result files."""
import contextlib
import glob
import json
import os
import re
import signal
import sys
import tempfile

import numpy as np
from PIL import Image

from quiet_tf import tf


class InputError(Exception):
    """Something that the user gave is wrong; its text is the one line that is shown."""


# --- Files -----------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path):
    """Opens a temporary file beside `path` for binary writing; renames it if all went well."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    except OSError as error:
        raise InputError("{}: cannot be written: {}".format(path, error.strerror))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- Images ----------------------------------------------------------------------------------


def read_image(path, note=lambda text: None):
    """Reads a PNG, JPEG or other image file as uint8 (H, W, 3).

    Grayscale and palette images become RGB, 16 bits become 8, CMYK is converted, and alpha is
    composited over white, all of which `note` is told of where it loses something.

    Raises:
      InputError: no such file, not an image, truncated.
    """
    if not os.path.isfile(path):
        raise InputError("{}: no such image".format(path))
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow raises a dozen types, struct.error and SyntaxError too
        raise InputError("{}: not a readable image ({})".format(path, error))
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        note("{}: 16 bits per sample, reduced to 8".format(path))
        values = np.round(np.asarray(image, dtype=np.float64) / 257)
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise InputError("{}: floating-point samples; convert it to 8 bits".format(path))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            note("{}: has an alpha channel, composited over white".format(path))
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def write_png(path, pixels):
    """Writes uint8 (H, W, 3) as a PNG."""
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="png")


# --- Metrics ---------------------------------------------------------------------------------


def psnr(mse):
    """Peak signal-to-noise ratio in dB of a mean squared error (tensor) on the scale 0 to 255."""
    return 20 * np.log10(255) - 10 / np.log(10) * tf.math.log(mse)


def to_uint8(x):
    """What a decoder shows of images in [0, 1] (tensor): clipped and rounded to uint8."""
    return tf.saturate_cast(tf.round(tf.clip_by_value(x, 0, 1) * 255), tf.uint8)


# --- Run folders -----------------------------------------------------------------------------


def run_name(script, num_filters, num_hfilters, lmbda):
    """Name of the folder with a model's checkpoints; the model itself ignores num_hfilters."""
    hfilters = "-num_hfilters={}".format(num_hfilters) if num_hfilters > 0 else ""
    return "{}-num_filters={}{}-lmbda={:g}".format(script, num_filters, hfilters, lmbda)


# --- Signals ---------------------------------------------------------------------------------


@contextlib.contextmanager
def stop_signals():
    """Within, SIGINT and SIGTERM append to the list that this yields, instead of ending us.

    A second one ends us after all.
    """
    received = []

    def receive(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
