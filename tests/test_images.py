"""How image files are read: orientation, colours, transparency, depth, frames, damage.

Expected pixels are computed here, by NumPy from the definitions of EXIF, ICC, PNG and TIFF.
"""

import io
import os
import struct
import subprocess
import sys
import zlib

import conftest
import numpy as np
import pytest
from conftest import ROOT, UNTRAINED
from PIL import Image, ImageCms

import utils
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import inputs
from training import data


def random_pixels(height=20, width=30, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def smooth_pixels():
    coarse = Image.fromarray(random_pixels(4, 5))
    return np.asarray(coarse.resize((70, 53), Image.BICUBIC))


def read(path):
    """Pixels of a file, and the notes on it without its name."""
    notes = []
    pixels = utils.read_image(str(path), notes.append)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert all(note.startswith("{}: ".format(path)) for note in notes)
    return pixels, [note[len(str(path)) + 2 :] for note in notes]


def refusal(path):
    with pytest.raises(InputError) as error:
        utils.read_image(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def png(depth, colour_type, rows, width, before=(), after=()):
    """A PNG of rows of bytes, with (name, content) of chunks before and after the samples."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    samples = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", samples), *after, (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, chunk in chunks:
        content += struct.pack(">I", len(chunk)) + name + chunk
        content += struct.pack(">I", zlib.crc32(name + chunk))
    return content


def rgb_png(pixels, before=(), after=()):
    return png(8, 2, [row.tobytes() for row in pixels], pixels.shape[1], before, after)


def tiff(samples, height, width, bits, photometric, channels=1, sample_format=1):
    """A little-endian TIFF of one strip."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (262, 3, 1, photometric)]
    tags += [(273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height)]
    tags += [(279, 4, 1, len(samples)), (339, 3, 1, sample_format)]
    content = samples + b"\0" * (len(samples) % 2)
    if channels == 1:
        tags.append((258, 3, 1, bits))
    else:
        tags.append((258, 3, channels, 8 + len(content)))
        content += struct.pack("<{}H".format(channels), *[bits] * channels)
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    directory = struct.pack("<H", len(tags)) + directory + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


# --- Orientation -----------------------------------------------------------------------------

UPRIGHT = {  # from how the file stores it, by the EXIF standard
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


def exif(orientation):
    values = Image.Exif()
    values[0x0112] = orientation
    return values.tobytes()


def save_turned(folder, kind, orientation):
    """A file with an EXIF orientation, and its pixels as they are stored."""
    pixels, path = smooth_pixels(), folder / "turned.{}".format(kind.split("-")[0])
    image, stored = Image.fromarray(pixels), io.BytesIO()
    if kind == "png-late":
        content = exif(orientation)[len(b"Exif\0\0") :]
        path.write_bytes(rgb_png(pixels, after=[(b"eXIf", content)]))
    elif kind.startswith("tif"):
        tags = {0x0112: orientation}
        image.save(str(path), compression=kind.split("-")[1], tiffinfo=tags)
    elif kind == "jpg":
        image.save(str(path), quality=90, exif=exif(orientation))
        image.save(stored, "JPEG", quality=90)
        pixels = np.asarray(Image.open(stored))
    else:
        flags = {"lossless": True} if kind == "webp" else {}
        image.save(str(path), exif=exif(orientation), **flags)
    return path, pixels


@pytest.mark.parametrize("kind", ["jpg", "png", "png-late", "webp", "tif-raw", "tif-tiff_lzw"])
def test_images_are_turned_as_exif_says(kind, tmp_path):
    for orientation in UPRIGHT:
        path, stored = save_turned(tmp_path, kind, orientation)
        pixels, notes = read(path)
        np.testing.assert_array_equal(pixels, UPRIGHT[orientation](stored))
        assert not notes


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_orientations_that_do_not_exist_turn_nothing(orientation, tmp_path):
    path, stored = save_turned(tmp_path, "png", orientation)
    np.testing.assert_array_equal(read(path)[0], stored)


def test_damaged_exif_data_are_noted(tmp_path):
    path = tmp_path / "a.png"
    pixels = random_pixels()
    path.write_bytes(rgb_png(pixels, [(b"eXIf", b"MM\0*" + b"\xff" * 8)]))
    result, notes = read(path)
    np.testing.assert_array_equal(result, pixels)
    assert len(notes) <= 1  # Pillow makes do with it, as a rule
    path.write_bytes(rgb_png(pixels, [(b"eXIf", b"nothing of the kind")]))
    result, (note,) = read(path)
    np.testing.assert_array_equal(result, pixels)
    assert "EXIF" in note


def test_training_validation_and_studies_turn_images_too(tmp_path, capsys):
    path, stored = save_turned(tmp_path, "jpg", 6)
    upright = np.rot90(stored, -1)
    np.testing.assert_array_equal(data.read_whole(str(path)), upright / np.float32(255))
    (image,) = inputs.find([str(path)])
    assert (image.height, image.width) == upright.shape[:2] == (70, 53)
    np.testing.assert_array_equal(inputs.read(image), upright)
    patch = batch([path], 53)[0]
    places = [upright[top : top + 53] for top in range(18)]
    assert any(np.array_equal(patch, place / np.float32(255)) for place in places)
    with pytest.raises(InputError):
        data.find_images(str(path), 64)
    assert "53x70 is smaller than the 64x64" in capsys.readouterr().err  # as viewers show it


def batch(paths, patchsize, batchsize=1):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(data.batches([str(p) for p in paths], batchsize, patchsize, 1, seed=0))


# --- Colours ---------------------------------------------------------------------------------

D50 = (0.9642, 1.0, 0.8249)
# Columns: XYZ of red, green and blue, seen in D50.
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
WIDE = np.array(  # Display P3
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def fixed(*values):
    return struct.pack(">{}i".format(len(values)), *(int(round(v * 65536)) for v in values))


def profile(space, tags, pcs=b"XYZ "):
    """An ICC profile, version 2, of a display (a printer for CMYK)."""
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(content), len(tag))
        content += tag + b"\0" * (-len(tag) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI", start + len(content), b"lcms", 0x02400000) + kind + space + pcs
    header += struct.pack(">6H", 2025, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + fixed(*D50)
    return header.ljust(128, b"\0") + table + content


def common_tags():
    text = b"text\0\0\0\0x\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + b"\0" * 78
    return {b"desc": description, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)}


def curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, int(gamma * 256))


def rgb_profile(matrix, gamma):
    tags = common_tags()
    for i, colour in enumerate((b"r", b"g", b"b")):
        tags[colour + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*matrix[:, i])
        tags[colour + b"TRC"] = curve(gamma)
    return profile(b"RGB ", tags)


def grey_profile(gamma):
    return profile(b"GRAY", {**common_tags(), b"kTRC": curve(gamma)})


def cmyk_profile(lab_of_corner):
    """Lab between the 16 corners of CMYK, which vary with K fastest."""
    corners = np.array([lab_of_corner(*map(int, "{:04b}".format(i))) for i in range(16)], float)
    samples = np.round(corners * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8)
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(*np.eye(3).ravel())
    lut += 4 * ramp + samples.tobytes() + 3 * ramp
    return profile(b"CMYK", {**common_tags(), b"A2B0": lut, b"A2B1": lut}, b"Lab ")


def srgb_of(xyz):
    linear = np.clip(np.linalg.inv(SRGB) @ np.asarray(xyz, float), 0, 1)
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
    return 255 * encoded


def srgb_of_lab(lightness, a, b):
    middle = (lightness + 16) / 116
    values = np.array([middle + a / 500, middle, middle - b / 200])
    return srgb_of(np.where(values > 6 / 29, values**3, (values - 4 / 29) * 108 / 841) * D50)


def in_srgb(pixels, matrix, gamma):
    """By the definition of a profile of a matrix and a curve."""
    linear = (pixels.reshape(-1, 3) / 255.0) ** gamma
    return srgb_of(matrix @ linear.T).T.reshape(pixels.shape)


def save(folder, image, kind, **flags):
    path = folder / "image.{}".format(kind)
    image.save(str(path), **flags)
    return path


@pytest.mark.parametrize("kind", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("gamma", [1.8, 2.25])
def test_wide_colours_become_srgb(kind, gamma, tmp_path):
    image = Image.fromarray(smooth_pixels())
    flags = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(kind, {})
    path = save(tmp_path, image, kind, icc_profile=rgb_profile(WIDE, gamma), **flags)
    stored = np.asarray(Image.open(str(path)).convert("RGB"))
    pixels, notes = read(path)
    assert np.abs(pixels - in_srgb(stored, WIDE, gamma)).max() < 2 and not notes
    assert np.abs(pixels.astype(int) - stored).max() > 20


def test_conversion_is_that_of_littlecms(tmp_path):
    image, icc = Image.fromarray(random_pixels()), rgb_profile(WIDE, 2.25)
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    target = ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(image, source, target), int)
    pixels, _ = read(save(tmp_path, image, "png", icc_profile=icc))
    assert np.abs(pixels - expected).max() <= 1


def test_srgb_stays_as_it_is(tmp_path):
    pixels = random_pixels(300, 300)
    for icc in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        None,
    ):
        result, notes = read(save(tmp_path, Image.fromarray(pixels), "png", icc_profile=icc))
        np.testing.assert_array_equal(result, pixels)
        assert not notes


def test_a_known_colour(tmp_path):
    """Full red of sRGB is (234, 51, 35) in Display P3 with sRGB's curve (CSS Color 4)."""
    # An sRGB curve as a table of 1024 points.
    x = np.linspace(0, 1, 1024)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    table = np.round(linear * 65535).astype(">u2").tobytes()
    icc = rgb_profile(WIDE, 1)
    tags = common_tags()
    for i, colour in enumerate((b"r", b"g", b"b")):
        tags[colour + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*WIDE[:, i])
        tags[colour + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">I", 1024) + table
    icc = profile(b"RGB ", tags)
    image = Image.new("RGB", (3, 2), (234, 51, 35))
    pixels, _ = read(save(tmp_path, image, "png", icc_profile=icc))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


def test_grey_profiles(tmp_path):
    grey = smooth_pixels()[..., 0]
    expected = in_srgb(np.dstack([grey] * 3), SRGB, 1.75)
    icc = grey_profile(1.75)
    pixels, notes = read(save(tmp_path, Image.fromarray(grey), "png", icc_profile=icc))
    assert np.abs(pixels - expected).max() < 2 and not notes
    alpha = np.full_like(grey, 255)
    alpha[:9] = 0
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    pixels, (note,) = read(save(tmp_path, image, "png", icc_profile=icc))
    assert (pixels[:9] == 255).all() and "alpha" in note
    assert np.abs(pixels[9:] - expected[9:]).max() < 2


def test_palettes_and_alpha_have_profiles_too(tmp_path):
    icc = rgb_profile(WIDE, 1.8)
    image = Image.fromarray(smooth_pixels()).quantize(16)
    expected = in_srgb(np.asarray(image.convert("RGB")), WIDE, 1.8)
    pixels, notes = read(save(tmp_path, image, "png", icc_profile=icc))
    assert np.abs(pixels - expected).max() < 2 and not notes
    index = int(np.asarray(image)[0, 0])
    path = save(tmp_path, image, "png", icc_profile=icc, transparency=index)
    pixels, (note,) = read(path)
    expected[np.asarray(image) == index] = 255
    assert np.abs(pixels - expected).max() < 2 and "alpha" in note
    rgba = Image.fromarray(smooth_pixels()).convert("RGBA")
    rgba.putalpha(128)
    pixels, (note,) = read(save(tmp_path, rgba, "png", icc_profile=icc))
    expected = in_srgb(smooth_pixels(), WIDE, 1.8) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels - expected).max() < 2.5 and "alpha" in note


@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_cmyk_by_its_profile(kind, tmp_path):
    def lab(c, m, y, k):
        return (0, 0, 0) if k else (100 - 15 * (c + m + y), 40 * (m - c), 60 * y - 30 * c)

    corners = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (0, 0, 0, 1)]
    for corner in corners:
        image = Image.new("CMYK", (16, 16), tuple(255 * c for c in corner))
        flags = {"quality": 100} if kind == "jpg" else {}
        path = save(tmp_path, image, kind, icc_profile=cmyk_profile(lab), **flags)
        stored = np.asarray(Image.open(str(path)))
        assert stored.shape == (16, 16, 4)
        pixels, notes = read(path)
        assert np.abs(pixels - srgb_of_lab(*lab(*corner))).max() < 4
        assert not notes


def test_lab(tmp_path):
    image = Image.new("LAB", (4, 4), (128, 148, 108))
    pixels, notes = read(save(tmp_path, image, "tif"))
    assert np.abs(pixels - srgb_of_lab(128 / 2.55, 20, -20)).max() < 2 and not notes


def test_profiles_that_cannot_be_used_are_noted(tmp_path):
    pixels = random_pixels()
    for icc in (b"no profile", grey_profile(1.0), cmyk_profile(lambda *ink: (0, 0, 0))):
        result, (note,) = read(save(tmp_path, Image.fromarray(pixels), "png", icc_profile=icc))
        np.testing.assert_array_equal(result, pixels)
        assert "ICC profile" in note
    path = tmp_path / "damaged.png"
    path.write_bytes(rgb_png(pixels, [(b"iCCP", b"x\0\0not compressed")]))
    result, (note,) = read(path)
    np.testing.assert_array_equal(result, pixels)
    assert "ICC profile" in note


def test_colours_known_from_other_metadata_are_noted(tmp_path):
    pixels, path = random_pixels(), tmp_path / "a.png"
    linear = (b"gAMA", struct.pack(">I", 100000))
    usual = (b"gAMA", struct.pack(">I", 45455))
    places = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)  # Adobe RGB
    adobe = (b"cHRM", struct.pack(">8I", *places))
    srgb = (b"sRGB", b"\0")
    p3, same = (b"cICP", bytes([12, 13, 0, 1])), (b"cICP", bytes([1, 13, 0, 1]))
    for chunks, noted in (
        ([linear], 1),
        ([usual], 0),
        ([adobe], 1),
        ([srgb, usual], 0),
        ([srgb, p3], 1),
        ([usual, same], 0),
        ([linear, same], 0),
    ):
        path.write_bytes(rgb_png(pixels, chunks))
        result, notes = read(path)
        np.testing.assert_array_equal(result, pixels)
        assert len(notes) == noted and all("not in sRGB" in note for note in notes)
    # What cameras write for Adobe RGB: an interoperability index in place of a profile.
    tags = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + b"\0" * 4
    tags += struct.pack("<HHHII", 1, 0xA005, 4, 1, 44) + b"\0" * 4
    tags += struct.pack("<HHHI4s", 1, 1, 2, 4, b"R03\0") + b"\0" * 4
    content = b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags
    _, (note,) = read(save(tmp_path, Image.fromarray(pixels), "jpg", exif=content))
    assert "not in sRGB" in note


def jp2(path, pixels, colours=None, depth=8):
    """A JPEG 2000 file, lossless for 8 bits, with another box of colours or depth in its header."""
    Image.fromarray(pixels).save(str(path), "JPEG2000")
    content = path.read_bytes()
    old = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, 16)
    header = struct.pack(">I4s", 45, b"jp2h")
    assert content.count(old) == content.count(header) == 1
    if colours is not None:
        content = content.replace(old, struct.pack(">I4s", 8 + len(colours), b"colr") + colours)
        content = content.replace(header, struct.pack(">I4s", 38 + len(colours), b"jp2h"))
    components, others = struct.pack(">H", 3), bytes([depth - 1, 1, 1])
    assert content.count(components + bytes([7, 1, 1]) * 3) == 1
    content = content.replace(components + bytes([7, 1, 1]) * 3, components + others * 3)
    path.write_bytes(content)
    return path


def test_colours_of_jpeg_2000(tmp_path):
    pixels, path = smooth_pixels(), tmp_path / "a.jp2"
    icc = rgb_profile(WIDE, 1.8)
    for method in (2, 3):
        result, notes = read(jp2(path, pixels, bytes([method, 0, 0]) + icc))
        assert np.abs(result - in_srgb(pixels, WIDE, 1.8)).max() < 2 and not notes
    vendor, e_srgb = bytes([4, 0, 0]) + bytes(20), struct.pack(">BBBI", 1, 0, 0, 20)
    for colours, noted in ((None, 0), (e_srgb, 1), (vendor, 1)):
        result, notes = read(jp2(path, pixels, colours))
        np.testing.assert_array_equal(result, pixels)
        assert len(notes) == noted and all("not in sRGB" in note for note in notes)


@pytest.mark.parametrize("depth, noted", [(8, 0), (12, 1), (16, 1)])
def test_depth_of_jpeg_2000(depth, noted, tmp_path):
    path = jp2(tmp_path / "a.jp2", random_pixels(), depth=depth)
    content = path.read_bytes()
    at = content.index(b"jp2c") - 4
    far = struct.pack(">I4s", 70008, b"free") + bytes(70000)
    for changed in (
        content,
        content[:at] + far + content[at:],
        content[:at] + bytes(4) + content[at + 4 :],  # a box until the end of the file
        content[at + 8 :],  # the codestream alone
    ):
        path.write_bytes(changed)
        _, notes = read(path)
        assert len(notes) == noted
        assert all("{} bits per sample".format(depth) in note for note in notes)


def test_deep_grey_jpeg_2000(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    path = tmp_path / "a.jp2"
    Image.fromarray(values).save(str(path), "JPEG2000")
    content = path.read_bytes()
    old, new = (struct.pack(">H", 1) + bytes([depth - 1, 1, 1]) for depth in (16, 12))
    assert content.count(old) == 1
    pixels, (note,) = read(path)
    assert np.abs(pixels[..., 0] - values / 257).max() < 1 and "16 bits" in note
    path.write_bytes(content.replace(old, new))
    pixels, (note,) = read(path)
    assert "12 bits" in note and pixels.max() > 250


def test_cmyk_without_a_profile_is_noted(tmp_path):
    image = Image.fromarray(random_pixels()).convert("CMYK")
    result, (note,) = read(save(tmp_path, image, "tif"))
    np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))
    assert "CMYK without an ICC profile" in note


# --- Frames, depth, transparency -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_several_frames_are_noted(kind, tmp_path):
    frames = [Image.fromarray(random_pixels(seed=seed)).quantize(8) for seed in range(3)]
    if kind != "gif":
        frames = [frame.convert("RGB") for frame in frames]
    flags = {"lossless": True} if kind == "webp" else {}
    path = save(tmp_path, frames[0], kind, save_all=True, append_images=frames[1:], **flags)
    pixels, (note,) = read(path)
    np.testing.assert_array_equal(pixels, np.asarray(frames[0].convert("RGB")))
    assert note.startswith("3 frames")
    assert not read(save(tmp_path, frames[0], kind, save_all=True, **flags))[1]


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_colour_of_grey_pngs(depth, tmp_path):
    path, largest = tmp_path / "a.png", 2**depth - 1
    values = np.random.RandomState(0).randint(0, largest + 1, (9, 16))
    values[0, :2] = 0, largest
    if depth == 16:
        values[1, :3] = 0x1234, 0x1233, 0x1235  # which are one colour in 8 bits
    for key in {values[1, 0], 0, largest}:
        bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
        rows = [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
        path.write_bytes(png(depth, 0, rows, 16, [(b"tRNS", struct.pack(">H", key))]))
        expected = np.where(values == key, 255, np.round(values / largest * 255))
        pixels, notes = read(path)
        np.testing.assert_array_equal(pixels, np.dstack([expected] * 3))
        assert sum("alpha" in note for note in notes) == 1
        assert sum("16 bits" in note for note in notes) == (depth == 16)


def test_the_transparent_colour_of_16_bit_rgb_pngs(tmp_path):
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0x3412, 0x7856, 0xBC9A], [1, 2, 3]]])
    key = (b"tRNS", struct.pack(">3H", *values[0, 0]))
    (tmp_path / "a.png").write_bytes(png(16, 2, [values[0].astype(">u2").tobytes()], 3, [key]))
    pixels, notes = read(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, [[[255] * 3, [0x34, 0x78, 0xBC], [0, 0, 0]]])
    assert len(notes) == 2


def test_bitmaps_in_ascii(tmp_path):
    (tmp_path / "a.pbm").write_text("P1\n3 2\n0 1 0\n1 0 1\n")
    pixels, _ = read(tmp_path / "a.pbm")  # 1 is black
    np.testing.assert_array_equal(pixels[..., 0], [[255, 0, 255], [0, 255, 0]])


def test_tiffs_of_more_than_8_bits(tmp_path):
    path = tmp_path / "a.tif"
    values = np.random.RandomState(0).randint(0, 65536, (5, 8, 3))
    path.write_bytes(tiff(values.astype("<u2").tobytes(), 5, 8, 16, 2, channels=3))
    pixels, (note,) = read(path)
    np.testing.assert_array_equal(pixels, values >> 8)  # as Pillow, which does it
    assert "16 bits per sample" in note
    grey = values[..., 0]
    for photometric, shown in ((1, grey), (0, 65535 - grey)):  # black is zero; white is
        path.write_bytes(tiff(grey.astype("<u2").tobytes(), 5, 8, 16, photometric))
        pixels, (note,) = read(path)
        expected = np.round(shown / 65535 * 255)
        np.testing.assert_array_equal(pixels, np.dstack([expected] * 3))
        assert "16 bits per sample" in note
    grey = grey >> 4
    bits = (grey[..., None] >> np.arange(12)[::-1]) & 1
    path.write_bytes(tiff(np.packbits(bits.astype(np.uint8)).tobytes(), 5, 8, 12, 1))
    pixels, (note,) = read(path)
    np.testing.assert_array_equal(pixels, np.dstack([np.round(grey / 4095 * 255)] * 3))
    assert "12 bits per sample" in note
    path.write_bytes(tiff(bytes(range(40)), 5, 8, 8, 1))
    assert not read(path)[1]


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("i2", "signed samples"),
        ("u4", "32 bits per sample"),
        ("i4", "32 bits per sample"),
        ("f4", "floating-point samples"),
    ],
)
def test_grey_tiffs_whose_white_is_unknown(kind, reason, tmp_path):
    """Taken for unsigned samples of 16 bits, they would be darkened."""
    samples, bits = np.full((20, 16), 30000, "<" + kind).tobytes(), 8 * int(kind[1])
    sample_format = {"u": 1, "i": 2, "f": 3}[kind[0]]
    (tmp_path / "a.tif").write_bytes(tiff(samples, 20, 16, bits, 1, sample_format=sample_format))
    assert reason + "; convert it to 8-bit RGB" in refusal(tmp_path / "a.tif")


def test_a_ppm_of_16_bits_is_noted(tmp_path):
    values = np.array([65535, 0, 0, 257 * 9, 257 * 99, 257 * 199], ">u2")
    (tmp_path / "a.ppm").write_bytes(b"P6 2 1 65535\n" + values.tobytes())
    pixels, (note,) = read(tmp_path / "a.ppm")
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [9, 99, 199]]])
    assert "16 bits" in note


# --- Damage and size -------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_jpegs_without_their_end_marker(flags, tmp_path):
    path, content = tmp_path / "a.jpg", io.BytesIO()
    Image.fromarray(smooth_pixels()).save(content, "JPEG", **flags)
    content = content.getvalue()
    path.write_bytes(content)
    whole, notes = read(path)
    assert not notes and content.endswith(b"\xff\xd9")
    for cut in (1, 2):
        path.write_bytes(content[:-cut])
        pixels, (note,) = read(path)
        np.testing.assert_array_equal(pixels, whole)
        assert "end marker" in note
    scans = [i for i in range(len(content)) if content[i : i + 2] == b"\xff\xda"]
    for length in (*range(len(content) - 40, len(content) - 2), len(content) // 2, *scans):
        path.write_bytes(content[:length])
        assert "not a readable image" in refusal(path)


LIMITED = """
import sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = int(sys.argv[1])
from imaging.reading import header_size, read_image
from runtime.errors import InputError
for read in (header_size, read_image):
    try:
        read(sys.argv[2])
    except InputError as error:
        print(error)
"""


def test_large_images(tmp_path):
    """Pillow warns from a number of pixels on, and refuses twice as many."""
    path = save(tmp_path, Image.fromarray(random_pixels()), "png")
    for limit, lines in ((600, 0), (400, 0), (200, 2)):
        process = subprocess.run(
            [sys.executable, "-W", "default", "-c", LIMITED, str(limit), str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0 and "Decompression" not in process.stderr
        found = process.stdout.splitlines()
        assert len(found) == lines
        assert all(str(path) in line and "megapixels" in line for line in found)


# --- Notes and names reach the user ----------------------------------------------------------


def test_notes_are_printed_once(untrained, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    paths = []
    for name in ("a", "b"):
        frames = [Image.fromarray(random_pixels(64, 64, seed)) for seed in range(2)]
        paths.append(str(tmp_path / "images" / (name + ".tif")))
        frames[0].save(paths[-1], save_all=True, append_images=frames[1:])

    def noted():
        return [line for line in capsys.readouterr().err.splitlines() if "2 frames" in line]

    conftest.compress(
        "mbt2018", UNTRAINED["mbt2018"], paths[0], tmp_path / "r", checkpoint_dir=str(untrained)
    )
    (line,) = noted()
    assert line.startswith("note: ") and paths[0] in line
    images = inputs.find([str(tmp_path / "images")])
    lines = noted()
    assert len(lines) == 2 and all(path in line for path, line in zip(paths, lines))
    inputs.read(images[0])  # as each task does
    data.read_whole(paths[1])
    (line,) = noted()
    assert paths[1] in line
    batch(paths, 64, batchsize=8)  # thousands of images: each kind of note once
    (line,) = noted()
    assert line.startswith("note: ") and "first" in line


def test_arrays_by_an_upper_case_name(untrained, tmp_path, capsys):
    pixels = random_pixels(64, 64)
    np.save(str(tmp_path / "a.npy"), np.array([pixels, pixels[::-1]]))
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    images = utils.Images(str(tmp_path / "A.NPY"))
    assert images.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(next(images.batches(1))[0], pixels)
    found = inputs.find([str(tmp_path)])
    assert [image.name for image in found] == ["A-0", "A-1"]
    np.testing.assert_array_equal(inputs.read(found[1]), pixels[::-1])
    np.save(str(tmp_path / "b.npy"), pixels / np.float32(255))
    (tmp_path / "b.npy").rename(tmp_path / "b.NPY")
    assert data.find_images(str(tmp_path / "b.*"), 64) == [str(tmp_path / "b.NPY")]
    np.testing.assert_array_equal(
        data.read_whole(str(tmp_path / "b.NPY")), pixels / np.float32(255)
    )


def test_training_images_whose_names_are_not_utf8(tmp_path):
    pixels, name = random_pixels(64, 64), os.fsdecode(b"caf\xe9.png")
    os.rename(str(save(tmp_path, Image.fromarray(pixels), "png")), str(tmp_path / name))
    paths = data.find_images(str(tmp_path / "*"), 64)
    np.testing.assert_array_equal(batch(paths, 64)[0], pixels / np.float32(255))


def test_pictures_of_phones(tmp_path):
    """JPEG files that hold a second picture, such as a gain map: Pillow's format MPO."""
    frames = [Image.fromarray(smooth_pixels()), Image.fromarray(random_pixels())]
    path = tmp_path / "phone.jpg"
    frames[0].save(str(path), "MPO", save_all=True, append_images=frames[1:], exif=exif(6))
    with Image.open(str(path)) as image:
        assert image.format == "MPO"
        stored = np.asarray(image)
    pixels, (note,) = read(path)
    np.testing.assert_array_equal(pixels, np.rot90(stored, -1))
    assert note.startswith("2 frames")


@pytest.mark.parametrize("flag", ["--train_glob", "--val_glob", "study"])
def test_brackets_in_a_pattern_get_a_hint(flag, tmp_path):
    from training import validation

    folder = tmp_path / "run[1]"
    folder.mkdir()
    save(folder, Image.fromarray(random_pixels(64, 64)), "png")
    find = {
        "--train_glob": lambda pattern: data.find_images(pattern, 64),
        "--val_glob": lambda pattern: validation.Validation(None, pattern, 0, "", [], 0, "", None),
        "study": lambda pattern: inputs.find([pattern]),
    }[flag]
    with pytest.raises(InputError) as error:
        find(str(folder / "*.png"))
    hint = os.path.join(str(tmp_path), "run[[]1]", "*.png")
    assert "a pattern" in str(error.value) and hint in str(error.value)
    if flag != "--val_glob":
        assert len(find(hint)) == 1
    with pytest.raises(InputError) as error:
        find(str(tmp_path / "nothing" / "*.png"))
    assert "a pattern" not in str(error.value)
