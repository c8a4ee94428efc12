"""The file format: a header, the payloads and a checksum.

    magic           4 bytes, `MAGIC`
    version, kind   1 byte: version · 16 + index in `KINDS`, + 8 if y's grid has a step
    digest          4 bytes, of the model and the tables (`decoding.Decoder`)
    n, H, W         number of images; their height and width in pixels
    step            only if y's grid has one: 1 byte, 128 + k for a step of 2^(k / 8)
    bits-back only  1 byte: bits of z's grid · 16 + index in `PRESETS`, or 15 for other settings;
                    unless the index is 0, the iterations; if it is 15, the 4 settings in float64;
                    the seed; 0, or 1 + length of the side information
    lengths         of all payloads except the last, in bytes
    payloads        one per image; for bits-back, one for all images
    CRC-32          4 bytes, of everything before it

Numbers without a given size are unsigned LEB128 (7 bits per byte, lowest first; the highest bit is
set if more bytes follow), in their shortest form. Multi-byte values elsewhere are little-endian.
The shapes of the latents follow from H and W: y is ⌈H/16⌉ × ⌈W/16⌉, z a quarter of that along each
side, rounded up. With the methods' own settings, a file of one image has 16 to 24 bytes in addition
to its payload.
"""

import collections
import struct
import zlib

from runtime.errors import InputError

MAGIC = b"\xc9IIC"
VERSION = 1
DIGEST_BYTES = 4
MAX_SIDE = 1 << 16  # pixels
MAX_PIXELS = 1 << 27  # per image
MAX_IMAGES = 1 << 20

INTEGERS, CENTRED, CENTRED_BOUNDED, BITS_BACK = KINDS = (
    "integers",  # y and z are integers
    "centred",  # z lies on the grid through the medians, y on the grid through mu
    "centred, sigma bounded",  # like "centred", with sigma at least 0.11, as in training
    "bits-back",  # y are integers, z lies on a grid of its own
)

Header = collections.namedtuple(
    "Header", "kind digest images height width bits_back step", defaults=(0,)
)
Header.__doc__ = """The fields of a file before its payloads.

kind: one of `KINDS`; digest: bytes; images, height, width: numbers; bits_back: a `BitsBack` or
None; step: k, where y's grid has a spacing of 2^(k / 8).
"""

BitsBack = collections.namedtuple("BitsBack", "z_bits posterior seed side_info")
BitsBack.__doc__ = """The additional fields of a bits-back archive.

z_bits: the spacing of z's grid is 2^-z_bits; posterior: `Settings`; seed: seed of the random
numbers; side_info: length of the side information in bytes, or None.
"""

Settings = collections.namedtuple(
    "Settings", "its lr adam_beta1 adam_beta2 adam_epsilon", defaults=(0, 0.0, 0.0, 0.0, 0.0)
)
Settings.__doc__ = "Settings of Adam for fitting q(z|y); `its` is 0 if it is not optimised."

# Common values of the fields after `its`; other values take four float64s in a file.
PRESETS = (Settings()[1:], (5e-3, 0.9, 0.999, 1e-8), (3e-3, 0.9, 0.999, 1e-8))
_NO_PRESET = 15
_HAS_STEP = 8
STEPS_PER_OCTAVE = 8
MAX_STEP = 3 * STEPS_PER_OCTAVE  # y's grid has a spacing from 1/8 to 8
MAX_ITS = 10**6
MAX_Z_BITS = 6  # `tables.py` covers finer grids poorly


def latent_sizes(height, width):
    """The (height, width) of y and of z, for an image's height and width in pixels."""
    y = (-(-height // 16), -(-width // 16))
    return y, tuple(-(-side // 4) for side in y)


def write(header, payloads):
    """The bytes of a file with a `Header` and a list of payloads, bytes."""
    kind = KINDS.index(header.kind) + (_HAS_STEP if header.step else 0)
    parts = [
        MAGIC,
        bytes([VERSION * 16 + kind]),
        header.digest,
        _number(header.images),
        _number(header.height),
        _number(header.width),
    ]
    if header.step:
        parts.append(bytes([128 + header.step]))
    if header.bits_back:
        z_bits, settings, seed, side_info = header.bits_back
        numbers = tuple(settings[1:])
        preset = PRESETS.index(numbers) if numbers in PRESETS else _NO_PRESET
        parts.append(bytes([z_bits * 16 + preset]))
        if preset:
            parts.append(_number(settings.its))
        if preset == _NO_PRESET:
            parts.append(struct.pack("<4d", *numbers))
        parts += [_number(seed), _number(0 if side_info is None else side_info + 1)]
    parts += [_number(len(payload)) for payload in payloads[:-1]] + payloads
    content = b"".join(parts)
    return content + struct.pack("<I", zlib.crc32(content))


def overhead(height, width):
    """The bytes of a file of one image besides the image's payload, without a step."""
    return len(write(Header(INTEGERS, bytes(DIGEST_BYTES), 1, height, width, None), [b""]))


def _number(value):
    """Encodes a number as unsigned LEB128."""
    groups = []
    while value >= 128:
        groups.append(value % 128 + 128)
        value //= 128
    return bytes(groups + [value])


def read(content):
    """Parses the bytes of a file into its `Header` and payloads.

    Raises:
      InputError: the file has another format or version, or is damaged.
    """
    if not content:
        raise InputError("the file is empty")
    if not is_container(content):
        raise InputError("not a compressed file" + what_it_is(content))
    if len(content) < len(MAGIC) + 1 or content[len(MAGIC)] // 16 != VERSION:
        found = " {}".format(content[len(MAGIC)] // 16) if len(content) > len(MAGIC) else ""
        raise InputError("format version{}, but this program reads {}".format(found, VERSION))
    body, checksum = content[:-4], content[-4:]
    if len(content) < 16 or struct.pack("<I", zlib.crc32(body)) != checksum:
        raise InputError("the file is damaged or cut short: its checksum is wrong")
    return _parse(_Reader(body))


def is_packed(content):
    """Whether a file begins as the authors' format does, with the first field of a message."""
    return content[:1] == b"\n"


def is_container(content):
    """Whether bytes start like a file of this format."""
    return content[: len(MAGIC)] == MAGIC


def what_it_is(content):
    """Words that name the format of a file that is not ours; '' if it is unknown."""
    for magic, name in ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"\x93NUMPY", ".npy")):
        if content.startswith(magic):
            return " but a {} file".format(name)
    return ""


def _parse(reader):
    """The fields of a file with a correct checksum, which may still have invalid values."""
    reader.take(len(MAGIC))
    has_step, kind = divmod(reader.take(1)[0] % 16, _HAS_STEP)
    reader.check(kind < len(KINDS), "of an unknown kind")
    kind, digest = KINDS[kind], reader.take(DIGEST_BYTES)
    images, height, width = (reader.number() for _ in range(3))
    check_size(images, height, width)
    bits_back, step = None, 0
    if has_step:
        step = reader.take(1)[0] - 128
        known = 0 < abs(step) <= MAX_STEP and kind != BITS_BACK
        reader.check(known, "with an impossible step of y's grid")
    if kind == BITS_BACK:
        z_bits, preset = divmod(reader.take(1)[0], 16)
        reader.check(z_bits <= MAX_Z_BITS, "with a grid of z of 2^-{}".format(z_bits))
        its = reader.number() if preset else 0
        if preset == _NO_PRESET:
            settings = Settings(its, *struct.unpack("<4d", reader.take(32)))
        else:
            reader.check(preset < len(PRESETS), "with unknown settings of q(z|y)")
            settings = Settings(its, *PRESETS[preset])
        reader.check(not preset or are_settings(settings), "with impossible settings of q(z|y)")
        seed, side_info = reader.number(), reader.number()
        bits_back = BitsBack(z_bits, settings, seed, side_info - 1 if side_info else None)
    number = images if bits_back is None else 1
    reader.check(number - 1 <= reader.left(), "with fewer payloads than images")
    lengths = [reader.number() for _ in range(number - 1)]
    lengths.append(reader.left() - sum(lengths))
    reader.check(lengths[-1] >= 0, "whose payloads are shorter than it states")
    reader.check(not any(length % 4 for length in lengths), "whose payloads are not whole words")
    payloads = [reader.take(length) for length in lengths]
    return Header(kind, digest, images, height, width, bits_back, step), payloads


def check_size(images, height, width):
    """Raises `InputError` unless a file can hold this number of images of this size."""
    if not (
        0 < images <= MAX_IMAGES
        and 0 < height <= MAX_SIDE
        and 0 < width <= MAX_SIDE
        and height * width <= MAX_PIXELS
    ):
        raise InputError(
            "{} images of {} x {} pixels, but files hold at most {} of {} pixels, {} to a "
            "side".format(images, width, height, MAX_IMAGES, MAX_PIXELS, MAX_SIDE)
        )


def are_settings(settings):
    """Whether `Settings` are valid for fitting q(z|y)."""
    its, lr, beta1, beta2, epsilon = settings
    return (
        0 < its <= MAX_ITS
        and 0 < lr < float("inf")
        and all(0 <= beta < 1 for beta in (beta1, beta2))
        and 0 < epsilon < float("inf")
    )


class _Reader:
    """Reads fields from bytes, from front to back."""

    def __init__(self, content):
        self._content, self._place = content, 0

    def left(self):
        """Number of bytes that have not been read."""
        return len(self._content) - self._place

    def take(self, size):
        self.check(size <= self.left(), "that ends too early")
        self._place += size
        return self._content[self._place - size : self._place]

    def number(self):
        value = 0
        for place in range(10):
            byte = self.take(1)[0]
            value += (byte % 128) << (7 * place)
            if byte < 128:
                self.check(byte or not place, "with a number that is not in its shortest form")
                return value
        raise InputError("not written by this program: a file with a number that is too large")

    @staticmethod
    def check(holds, what):
        if not holds:
            raise InputError("not written by this program: a file " + what)
