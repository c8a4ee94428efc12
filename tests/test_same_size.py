"""Classical codecs at the size of another file, and the table that compares with them."""

import io
import os

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from imaging import codecs
from study import inputs, same_size

CHELSEA = os.path.join(ROOT, "samples", "chelsea.png")
PIXELS = np.asarray(Image.open(CHELSEA))[40:200, 100:300]


def all_files(form, **options):
    """(bytes, PSNR) of all files of a list of options, sorted; an implementation of its own."""
    image = Image.fromarray(PIXELS)
    lists = [dict(zip(options, values)) for values in zip(*options.values())]
    for chosen in lists:
        file = io.BytesIO()
        image.save(file, form, **chosen)
        error = np.asarray(Image.open(file).convert("RGB"), float) - np.asarray(image, float)
        yield len(file.getvalue()), 20 * np.log10(255 / np.sqrt((error**2).mean()))


def in_between(points, size):
    """Linear interpolation in the logarithm of the size between the points around it."""
    (low, a), (high, b) = (
        max(p for p in points if p[0] <= size),
        min(p for p in points if p[0] > size),
    )
    return a + (b - a) * np.log(size / low) / np.log(high / low)


@pytest.mark.parametrize("size", [1500, 4000.5])
def test_psnr_at_a_size_lies_between_the_files_around_it(size):
    jpeg = [*all_files("JPEG", quality=range(1, 80), subsampling=[2] * 79, optimize=[True] * 79)]
    webp = [*all_files("WEBP", quality=range(0, 80), method=[6] * 80)]
    assert codecs.psnr_at_size("jpeg", PIXELS, size) == pytest.approx(in_between(jpeg, size))
    assert codecs.psnr_at_size("webp", PIXELS, size) == pytest.approx(in_between(webp, size))
    ratios = np.geomspace(PIXELS.size / size / 1.2, PIXELS.size / size * 1.2, 30)
    several = {"mct": [1] * 30, "irreversible": [True] * 30, "quality_mode": ["rates"] * 30}
    jpeg2000 = all_files("JPEG2000", quality_layers=[[ratio] for ratio in ratios], **several)
    # Not the same ratios, so that the files differ by a few bytes.
    value = codecs.psnr_at_size("jpeg2000", PIXELS, size)
    assert value == pytest.approx(in_between([*jpeg2000], size), abs=0.1)


@pytest.mark.parametrize("codec", codecs.PILLOW)
def test_files_around_a_size(codec):
    below, above = codecs.around_size(codec, PIXELS, 3000)
    assert len(below) <= 3000 < len(above)
    assert np.isnan(codecs.psnr_at_size(codec, PIXELS, 10))
    assert codecs.around_size(codec, PIXELS, 10)[0] is None
    assert codecs.around_size(codec, PIXELS, 10**6)[1] is None


def test_the_largest_files_within_a_size(monkeypatch):
    found = {label: (file, image) for label, file, image in codecs.within_size(PIXELS, 3000)}
    assert list(found) == ["JPEG", "WebP", "JPEG 2000"]
    for name, (file, image) in zip(codecs.PILLOW, found.values()):
        assert file == codecs.around_size(name, PIXELS, 3000)[0]
        np.testing.assert_array_equal(image, Image.open(io.BytesIO(file)).convert("RGB"))
    monkeypatch.setattr(codecs.PILLOW["webp"], "missing", lambda: "not there")
    assert [label for label, *_ in codecs.within_size(PIXELS, 3000)] == ["JPEG", "JPEG 2000"]
    assert list(codecs.within_size(PIXELS, 10)) == []


def test_jpeg_2000_has_the_colour_transform():
    """Without it, it is 2 dB worse: the comparison would flatter us."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(
        file, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[32]
    )
    without = codecs.psnr(PIXELS, codecs.PILLOW["jpeg2000"].decode(file.getvalue()))
    assert codecs.psnr_at_size("jpeg2000", PIXELS, len(file.getvalue())) > without + 1


TABLE = """image,method,model,lambda,est_bpp,actual_bpp,net_bpp,psnr
chelsea,sga,m,0.01,0.5,0.6,,{}
chelsea,bb_sga,m,0.01,0.5,0.7,0.6,{}
chelsea,mbt2018,m,0.01,0.5,,,30
"""


def test_the_table_of_differences(tmp_path, capsys):
    """By hand: files of 0.6 bits per pixel, 1 and 2 dB above JPEG; one row has no file."""
    Image.fromarray(PIXELS).save(str(tmp_path / "chelsea.png"))
    jpeg = codecs.psnr_at_size("jpeg", PIXELS, 0.6 * PIXELS.shape[0] * PIXELS.shape[1] / 8)
    (tmp_path / "images.csv").write_text(TABLE.format(jpeg + 1, jpeg + 2))
    (tmp_path / "m-psnr.csv").write_text("0.3, {}\n1.2, {}\n".format(jpeg, jpeg + 4))
    paths = [str(tmp_path / name) for name in ("images.csv", "chelsea.png")]
    output = tmp_path / "out"
    same_size.main([*paths, "--published", str(tmp_path / "m-psnr.csv"), "--output", str(output)])
    header, sga, bits_back, *_ = capsys.readouterr().out.splitlines()
    assert {path.name for path in output.iterdir()} == {"same_size.csv", "same_size.md"}
    assert "| +1.00 dB |" in (output / "same_size.md").read_text()
    assert "to published" in header
    assert sga.split()[:4] == ["sga", "m", "1", "0.6000"] and "+1.00 dB" in sga
    assert bits_back.split()[0] == "bb_sga" and "+2.00 dB" in bits_back
    assert sga.endswith("-1.00 dB") and bits_back.endswith("+0.00 dB")


@pytest.mark.parametrize(
    "table, message",
    [
        (TABLE.format(30, 30).replace("chelsea", "other"), "other is not among the images chelsea"),
        ("image,method,model,lambda,est_bpp,psnr\nchelsea,sga,m,0.01,0.5,30\n", "size of a file"),
        (
            "image,method,model,lambda,est_bpp,actual_bpp,psnr\nchelsea,sga,m,0.01,0.5,-0.1,30\n",
            "a file cannot have -0.1 bits per pixel",
        ),
    ],
)
def test_tables_that_do_not_fit(table, message, tmp_path):
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(same_size.InputError, match=message):
        same_size.main([str(tmp_path / "images.csv"), CHELSEA, "--output", str(tmp_path)])


def test_a_table_of_several_data_sets(tmp_path, capsys):
    lines = TABLE.format(30, 31).splitlines()
    rows = [lines[0] + ",dataset", lines[1] + ",cats", lines[2].replace("chelsea", "x") + ",rest"]
    (tmp_path / "images.csv").write_text("\n".join(rows))
    argv = [str(tmp_path / "images.csv"), CHELSEA, "--output", str(tmp_path)]
    for flags in ([], ["--dataset", "dogs"]):
        with pytest.raises(same_size.InputError, match="data sets cats, rest; --dataset chooses"):
            same_size.main([*argv, *flags])
    same_size.main([*argv, "--dataset", "cats"])
    out = capsys.readouterr().out
    assert "30.00 dB" in out and "31.00 dB" not in out


def test_files_that_a_codec_cannot_make_are_left_out(tmp_path, capsys):
    """0.02 bits per pixel are 80 bytes, where JPEG's headers alone take more."""
    Image.fromarray(PIXELS).save(str(tmp_path / "chelsea.png"))
    table = TABLE.format(30, 30).replace("0.5,0.7,0.6", "0.5,0.02,").replace("bb_sga", "sga")
    (tmp_path / "images.csv").write_text(table)
    paths = [str(tmp_path / name) for name in ("images.csv", "chelsea.png")]
    same_size.main([*paths, "--output", str(tmp_path)])
    out = capsys.readouterr().out
    jpeg = codecs.psnr_at_size("jpeg", PIXELS, 0.6 * PIXELS.shape[0] * PIXELS.shape[1] / 8)
    assert "{:+.2f} dB (1)".format(30 - jpeg) in out


def test_rates_beyond_a_published_curve_and_several_lambdas(tmp_path, capsys):
    Image.fromarray(PIXELS).save(str(tmp_path / "chelsea.png"))
    table = TABLE.format(30, 31).replace("bb_sga,m,0.01", "sga,m,0.02")
    (tmp_path / "images.csv").write_text(table)
    (tmp_path / "m-psnr.csv").write_text("0.7, 28\n1.2, 30\n")
    argv = [str(tmp_path / "images.csv"), str(tmp_path / "chelsea.png"), "--output", str(tmp_path)]
    same_size.main([*argv, "--published", str(tmp_path / "m-psnr.csv")])
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.split()[:5] == ["sga", "m", "0.01", "1", "0.6000"] and "30.00 dB" in first
    assert second.split()[:5] == ["sga", "m", "0.02", "1", "0.6000"] and "31.00 dB" in second
    assert "published" not in (tmp_path / "same_size.md").read_text()
    with pytest.raises(same_size.InputError, match="chelsea.png"):
        same_size.main([*argv, "--published", str(tmp_path / "chelsea.png")])


def test_other_pixels_than_the_study_had(tmp_path):
    """A crop's size in bits per pixel would be taken for that of the whole image."""
    lines = TABLE.format(30, 30).splitlines()
    digest = inputs.digest(PIXELS)
    table = [lines[0] + ",image_sha256", *(line + "," + digest for line in lines[1:])]
    (tmp_path / "images.csv").write_text("\n".join(table))
    with pytest.raises(same_size.InputError, match="other pixels .*--crop"):
        same_size.main([str(tmp_path / "images.csv"), CHELSEA, "--output", str(tmp_path)])
