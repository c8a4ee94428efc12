"""JPEG files that lack their last two bytes, the end marker, and nothing else."""

import io
import re

import numpy as np
from PIL import Image

END = b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # start-of-frame markers of what Pillow decodes
_SCAN = 0xDA
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that ends entropy-coded data


def with_end_marker(content):
    """The file with its end marker; None if more than that is missing.

    A decoder makes up what is missing before an end marker, without a word. So other data stand
    in for it: if they change the picture, some of it was missing.
    """
    content = content[:-1] if content.endswith(b"\xff") else content
    if not _has_all_scans(content):
        return None
    picture = None
    for others in np.random.RandomState(0).randint(0, 255, (8, 64), np.uint8):  # no markers
        try:
            with Image.open(io.BytesIO(content + others.tobytes() + END)) as image:
                other = np.array(image)
        except Exception:  # Pillow raises a dozen types
            return None
        if picture is not None and not np.array_equal(picture, other):
            return None
        picture = other
    return content + END


def _has_all_scans(content):
    """Whether scans of all bits of all coefficients of each component have begun."""
    components, whole = None, set()
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return False
        marker = content[position + 1]
        if marker == 0xFF:  # fill
            position += 1
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        if len(segment) != length - 2:
            return False
        position += 2 + length
        if marker in _FRAMES:
            components = {segment[6 + 3 * i] for i in range(segment[5])}
        elif marker == _SCAN:
            number = segment[0]
            first, last, bits = segment[1 + 2 * number : 4 + 2 * number]
            if bits & 15 == 0:  # down to the last bit
                for i in range(number):
                    whole |= {(segment[1 + 2 * i], k) for k in range(first, last + 1)}
            following = _AFTER_SCAN.search(content, position)
            position = following.start() if following else len(content)
    return bool(components) and all((c, k) in whole for c in components for k in range(64))
