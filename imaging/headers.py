"""What Pillow does not read of the headers of PNG and JPEG 2000 files: colours, and bit depth."""

import struct

PNG, JP2 = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SIZE = b"\xff\x4f\xff\x51"  # how a JPEG 2000 codestream begins: with its size
SRGB = (1, 13)  # primaries and transfer function of sRGB in ITU-T H.273
_ENUMERATED, _PROFILES = 1, (2, 3)  # ways in which a JP2 file says what its colours are
_SRGB_AND_GREY = (16, 17, 18)  # enumerated; 18 is sYCC, which is decoded


def coding_points(path):
    """Primaries and transfer function (ITU-T H.273) in the cICP chunk of a PNG file.

    Returns:
      a pair of ints; None without the chunk.
    """
    with open(path, "rb") as file:
        if file.read(8) != PNG:
            return None
        while True:
            header = file.read(8)
            if len(header) < 8:
                return None
            length, kind = struct.unpack(">I4s", header)
            if kind == b"cICP":
                found = tuple(file.read(2))
                return found if len(found) == 2 else None
            if kind in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)


def jpeg2000_depth(path):
    """Bits of the deepest component of a JPEG 2000 file (8 if unclear), with or without JP2 header.

    (ISO/IEC 15444-1, A.5.1.)
    """
    with open(path, "rb") as file:
        if file.read(12) != JP2 or not any(kind == b"jp2c" for kind, _ in _boxes(file, None)):
            file.seek(0)
        head = file.read(42)
        if len(head) < 42 or not head.startswith(_SIZE):
            return 8
        depths = file.read(3 * _number(head[40:]))[::3]
    return max(((depth & 127) + 1 for depth in depths), default=8)


def jp2_colours(path):
    """The ICC profile of a JP2 file, and whether its colours are named in another way than sRGB.

    Returns:
      profile: bytes; None if there is none.
      others: bool; False if there is a profile.
    """
    with open(path, "rb") as file:
        if file.read(12) != JP2:
            return None, False
        for kind, size in _boxes(file, None):
            if kind != b"jp2h":
                continue
            for inner, length in _boxes(file, file.tell() + size):
                if inner == b"colr" and length >= 3:  # the first counts
                    content = file.read(length)
                    if content[0] in _PROFILES:
                        return content[3:], False
                    named = content[0] == _ENUMERATED and len(content) >= 7
                    others = not named or _number(content[3:7]) not in _SRGB_AND_GREY
                    return None, others
    return None, False


def _number(content):
    return int.from_bytes(content, "big")


def _boxes(file, end):
    """Yields kind and size of the content of each box until `end`; the file is at the content."""
    while end is None or file.tell() < end:
        header = file.read(8)
        if len(header) < 8:
            return
        size, kind = struct.unpack(">I4s", header)
        size -= 8
        if size == 1 - 8:  # a size of 64 bits follows
            size = _number(file.read(8)) - 16
        start = file.tell()
        if size == -8:  # until the end of the file
            size = file.seek(0, 2) - start
            file.seek(start)
        if size < 0:  # damaged
            return
        yield kind, size
        file.seek(start + size)
