"""Reads image files as a viewer shows them: upright, in sRGB, without transparency.

    file → decoded → 8 bits → sRGB → over white → turned → uint8 (H, W, 3)

What a step loses or guesses is noted. The pixels of an 8-bit RGB file in sRGB stay as they are.
"""

import functools
import io
import os
import re
import warnings

import numpy as np
from PIL import Image, ImageCms

from imaging import headers, jpeg
from runtime.errors import InputError

# Pillow warns of large images, and of metadata that do not matter here.
warnings.filterwarnings("ignore", module=r"PIL\b")

ORIENTATION, CAMERA, INTEROPERABILITY = 0x0112, 0x8769, 0xA005  # EXIF tags
# What turns an image upright, by its EXIF orientation.
TURNS = {
    2: Image.FLIP_LEFT_RIGHT,
    3: Image.ROTATE_180,
    4: Image.FLIP_TOP_BOTTOM,
    5: Image.TRANSPOSE,
    6: Image.ROTATE_270,
    7: Image.TRANSVERSE,
    8: Image.ROTATE_90,
}


def read_image(path, note=lambda text: None):
    """Reads a PNG, JPEG or other image file as uint8 (H, W, 3).

    It is turned as its EXIF data say, and converted to sRGB if it has another ICC profile.
    Grayscale and palette images become RGB, 16 bits become 8, CMYK is converted, and alpha is
    composited over white. Of several frames, the first is read.

    Args:
      path: of the file.
      note: called with a line of text for whatever is lost.

    Raises:
      InputError: no such file, not an image, truncated.
    """

    def note_of_file(text):
        note("{}: {}".format(path, text))

    image, sample, frames, (orientation, is_adobe_rgb) = _decoded(path, note_of_file)
    if frames > 1:
        note_of_file("{} frames, of which only the first is read".format(frames))
    turn = None if image.format == "TIFF" else TURNS.get(orientation)  # Pillow turns TIFF itself
    profile = _profile(image)
    if profile is None and (is_adobe_rgb or _has_other_colours(image)):
        note_of_file("not in sRGB, as its metadata say, but without an ICC profile; taken as sRGB")
    if profile is None and image.mode == "CMYK":
        note_of_file("CMYK without an ICC profile; its colours are a guess")
    try:
        image, alpha = _separated(_in_8_bits(image, sample, note_of_file))
        image = _in_srgb(image, profile, note_of_file)
    except ValueError as error:
        raise InputError("{}: {}; convert it to 8-bit RGB".format(path, error))
    if alpha is not None:
        note_of_file("has an alpha channel, composited over white")
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(image if turn is None else image.transpose(turn))


def header_size(path):
    """(width, height) from the file's header alone, before the image is turned.

    Raises:
      InputError: no such file, not an image.
    """
    try:
        with _open(path) as image:
            return image.size
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error)


def _open(path):
    if not os.path.isfile(path):
        reason = "a folder, not an image" if os.path.isdir(path) else "no such image"
        raise InputError("{}: {}".format(path, reason))
    return Image.open(path)


def _unreadable(path, error):
    """The `InputError` for whatever Pillow raised: a dozen types, struct.error among them."""
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        return InputError("{}: more than {} megapixels; cut it into parts".format(path, most))
    return InputError("{}: not a readable image ({})".format(path, error))


def _decoded(path, note):
    """The decoded `Image`, its `_sample_format`, the number of frames, and its `_exif`."""
    try:
        with _open(path) as image:
            sample = _sample_format(image, path)
            # Pillow counts the layers of a PSD file, but reads all of them as one.
            frames = 1 if image.format == "PSD" else getattr(image, "n_frames", 1)
            exif = _exif(image, note) if image.format == "TIFF" else None
            try:
                image.load()
            except OSError:
                if image.format not in ("JPEG", "MPO"):
                    raise
                with open(path, "rb") as file:
                    whole = jpeg.with_end_marker(file.read())
                if whole is None:
                    raise
                image = Image.open(io.BytesIO(whole))
                image.load()
                note("lacks the end marker of a JPEG file, but no pixels")
            # In a PNG they may come after the samples; a TIFF is closed once it is loaded.
            exif = exif or _exif(image, note)
            _add_colours(image, path)
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error)
    return image, sample, frames, exif


def _add_colours(image, path):
    """Adds to an image's `info` what Pillow leaves out: a profile, or `other_colours` than sRGB."""
    if image.format == "PNG":
        points = headers.coding_points(path)
        if points is not None:
            image.info["other_colours"] = points != headers.SRGB
    elif image.format == "JPEG2000":
        profile, image.info["other_colours"] = headers.jp2_colours(path)
        if profile is not None:
            image.info["icc_profile"] = profile


def _sample_format(image, path):
    """How an image that is not decoded yet stores its samples, such as "RGB;16B" or "L;4"."""
    if image.format == "JPEG2000":  # whose modes of 16 bits Pillow fills, whatever the depth
        depth = headers.jpeg2000_depth(path)
        return "{};{}".format(image.mode, depth)
    if not image.tile:
        return image.mode
    arguments = image.tile[0][3]
    if isinstance(arguments, tuple) and arguments:
        if image.format == "PPM" and (arguments[-1] or 0) > 255:  # the largest sample
            return "{};16".format(image.mode)
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else image.mode


def _exif(image, note):
    """The orientation of an image, and whether a camera says that it is in Adobe RGB."""
    try:
        data = image.getexif()
        of_camera = INTEROPERABILITY in data.get_ifd(CAMERA)
        is_adobe_rgb = of_camera and data.get_ifd(INTEROPERABILITY).get(1) == "R03"
        return data.get(ORIENTATION), is_adobe_rgb
    except Exception:  # whatever damaged data make Pillow raise
        note("its EXIF data are damaged; taken as upright")
        return None, False


# --- Samples ---------------------------------------------------------------------------------


def _in_8_bits(image, sample, note):
    """An image whose samples have 8 bits, with an alpha channel if it has transparency.

    Args:
      image: `PIL.Image`.
      sample: see `_sample_format`.
      note: of `read_image`, as are those below.

    Raises:
      ValueError: signed or floating-point samples, or more than 16 bits: their white is unknown.
    """
    bits = int((re.findall(r"(?<!BGR);(\d+)", sample) or [8])[-1])
    transparent = image.info.get("transparency")
    alpha = None
    if image.mode == "F":
        raise ValueError("floating-point samples")
    if bits > 16:
        raise ValueError("{} bits per sample".format(bits))
    if sample.endswith("S"):
        raise ValueError("signed samples")
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        values = np.asarray(image, dtype=np.int64)
        # Pillow stretches those of JPEG 2000 to 16 bits.
        largest = 4095 if bits == 12 and image.format != "JPEG2000" else 65535
        if values.min() < 0 or values.max() > largest:
            raise ValueError("more than 16 bits per sample")
        bits = bits if 8 < bits < 16 else 16
        if transparent is not None:
            alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # WhiteIsZero
            values = largest - values
        image = Image.fromarray(np.round(values * (255 / largest)).astype(np.uint8))
    elif transparent is not None and image.mode in ("1", "L"):
        # In the file's bits, while Pillow has stretched the samples to 8.
        bits_of_key = 1 if image.mode == "1" else min(bits, 8)
        image = image.convert("L")
        image.info["transparency"] = transparent * 255 // (2**bits_of_key - 1)
    elif transparent is not None and image.mode == "RGB" and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # as the samples
    if bits > 8:
        note("{} bits per sample, reduced to 8".format(bits))
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _separated(image):
    """Grey, RGB or CMYK samples, and the alpha channel: None if the image is opaque."""
    mode = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}
    mode = mode.get(image.mode, "RGB")
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image.convert(mode), None
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    return image.convert(mode), None if alpha.getextrema()[0] == 255 else alpha


# --- Colours ---------------------------------------------------------------------------------


SAME = 2  # levels of 255 by which a profile may differ from sRGB and still be taken for it


SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x, y of white, red, green, blue


def _profile(image):
    """The ICC profile of an image, bytes; b"" for one that is damaged; None without any."""
    if "icc_profile" not in image.info:
        return None
    return image.info["icc_profile"] or b""


def _has_other_colours(image):
    """Whether metadata that say what an ICC profile does name other colours than sRGB.

    They are the chunks gAMA, cHRM and cICP of PNG, and the enumerated colours of JPEG 2000.
    """
    if "other_colours" in image.info:
        return image.info["other_colours"]
    if "srgb" in image.info:
        return False
    gamma, places = image.info.get("gamma", 1 / 2.2), image.info.get("chromaticity", SRGB)
    return abs(gamma * 2.2 - 1) > 0.05 or np.abs(np.subtract(places, SRGB)).max() > 0.01


def _in_srgb(image, profile, note):
    """An RGB image in sRGB.

    Args:
      image: in the colours of `profile`.
      profile: see `_profile`.

    Raises:
      ValueError: colours that cannot be converted.
    """
    if profile is not None:
        try:
            space, transform = _transform(profile, image.mode)
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            note("its ICC profile is damaged or not for its kind of colours; ignored")
        else:
            image = image.convert(space)
            return transform.apply(image) if transform else image.convert("RGB")
    return image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(content, mode):
    """Converts colours of an ICC profile to sRGB.

    Args:
      content: of the profile, bytes.
      mode: Pillow's, of the image.

    Returns:
      mode: that of the profile's colours, to which the image has to be converted first.
      transform: `ImageCms.ImageCmsTransform`; None if the profile is sRGB, up to `SAME`.

    Raises:
      ValueError, OSError, ImageCms.PyCMSError: no profile, or not one for such an image.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    spaces = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
    space = spaces.get(profile.profile.xcolor_space.strip())
    if space != mode and not (space == "RGB" and mode == "L"):  # grey is an RGB colour too
        raise ValueError("a profile of another kind of image")
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        space,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.FLAGS["BLACKPOINTCOMPENSATION"],
    )
    if space in ("RGB", "L"):
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        colours = Image.fromarray(grid).convert(space)
        change = np.asarray(colours.convert("RGB"), int) - np.asarray(transform.apply(colours))
        if np.abs(change).max() <= SAME:
            transform = None
    return space, transform
