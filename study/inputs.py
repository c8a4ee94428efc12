"""The images of a study: files, folders, patterns and arrays, and their pixels."""

import collections
import glob
import hashlib
import os

import numpy as np

import utils
from runtime import console, errors, files
from runtime.errors import InputError
from study import tables

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")

Image = collections.namedtuple("Image", "name path index crop sha256 height width")
Image.__doc__ = """An image of a study.

name: by which results call it, as `tables.as_text` makes it; path: absolute, of its file; index: in
an `.npy`, else None; crop: (width, height) of the part in the middle that is taken, or None;
sha256: of the pixels; height, width: of what is taken.
"""


def find(patterns, crop=None):
    """Finds the images of folders (not of their subfolders), of patterns, and of files.

    Args:
      patterns: list of str.
      crop: (width, height) of the centre crops to take, swapped for portrait images; or None.

    Returns:
      list of `Image`, sorted by name.

    Raises:
      InputError: nothing matches, or a file is not an image or is smaller than `crop`.
    """
    paths = []
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        if os.path.isdir(pattern):
            pattern = os.path.join(glob.escape(pattern), "*")
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        found = [path for path in found if utils.is_array(path) or _is_image(path)]
        if not found:
            endings = " ".join((*SUFFIXES, ".npy"))
            hint = "" if os.path.isfile(pattern) else files.pattern_hint(pattern)
            line = "{}: no image there, whose name ends in {}{}"
            raise InputError(line.format(pattern, endings, hint))
        paths += found
    places = []
    for path in sorted({os.path.abspath(path) for path in paths}):
        if utils.is_array(path):
            number = utils.Images(path).shape[0]
            digits = len(str(number - 1))
            places += [(path, i, "-{:0{}}".format(i, digits)) for i in range(number)]
        else:
            places.append((path, None, ""))
    names = _names(places)
    return sorted(_image(name, *place[:2], crop) for name, place in zip(names, places))


def _is_image(path):
    return path.lower().endswith(SUFFIXES)


def _names(places):
    """Short names of (path, index, ending for the name), all different."""
    paths = [path for path, _, _ in places]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    places = [(tables.as_text(path), index, ending) for path, index, ending in places]
    common = tables.as_text(common)

    def relative(path):
        return os.path.relpath(path, common).replace(os.sep, "_")

    for short in (
        lambda path: os.path.basename(os.path.splitext(path)[0]),
        lambda path: os.path.splitext(relative(path))[0],
        relative,
    ):
        names = [short(path) + ending for path, _, ending in places]
        if len(set(names)) == len(names):
            return names
    raise InputError("two images are both called {}".format(max(names, key=names.count)))


def _image(name, path, index, crop):
    image = Image(name, path, index, crop, "", 0, 0)
    pixels = read(image, console.note)
    return image._replace(sha256=digest(pixels), height=pixels.shape[0], width=pixels.shape[1])


def digest(pixels):
    """SHA-256, in hexadecimal, of the size and values of pixels, uint8 (H, W, 3)."""
    return hashlib.sha256("{} ".format(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def read(image, note=lambda text: None):
    """The pixels of an `Image`, uint8 (H, W, 3); `note` as for `utils.read_image`."""
    if image.index is None:
        pixels = utils.read_image(image.path, note)
    else:
        pixels = np.array(utils.open_array(image.path)[image.index])
    if image.crop is None:
        return pixels
    size = image.crop if pixels.shape[1] >= pixels.shape[0] else image.crop[::-1]
    with errors.naming(image.path):
        return utils.centre_crop(pixels, size)
