"""The page of a report, opened in a browser."""

import csv
import io
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import UNTRAINED
from PIL import Image
from test_study import made_rows, write_rows

from model import checkpoints
from runtime.errors import InputError
from study import inputs, page, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# Clicks, as a user does, and writes what is then shown to the end of the page.
CLICKS = """
<pre id="seen"></pre>
<script>
  const seen = (text) => document.querySelector("#seen").append(text + "\\n");
  const shown = (side) => first.querySelector("img." + side)?.alt;
  const first = document.querySelector(".comparison");
  seen("start " + shown("left") + " | " + shown("right"));
  first.querySelector("[data-side=left] button").click();
  seen("click " + shown("left") + " | " + shown("right"));
  const slider = first.querySelector("input");
  slider.value = 25;
  slider.dispatchEvent(new Event("input"));
  seen("slide " + first.querySelector("img.right").style.clipPath);
  const images = [...document.images];
  seen("sizes " + images.map((image) => image.naturalWidth).join(" "));
  seen("names " + images.map((image) => image.alt).join(", "));
  seen("order " + [...document.querySelectorAll(".comparison")].map((c) => c.dataset.image));
</script>
"""


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images and their results; scripts that are stand-ins for the decoders."""
    rng = np.random.RandomState(0)
    (tmp_path / "images").mkdir()
    rows = []
    for name in "ab":
        pixels = rng.randint(0, 256, (24, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(str(tmp_path / "images" / (name + ".png")))
    images = {image.name: image for image in inputs.find([str(tmp_path / "images")])}
    for row in made_rows(seed="0", task="") + made_rows("sga --lr 1", seed="0", task=""):
        part = 1.0 if row["method"] == "mbt2018" else {"a": 0.95, "b": 0.8}[row["image"]]
        digest = images[row["image"]].sha256
        rows.append({**row, "image_sha256": digest, "est_rd_loss": 2 * part, "model": "m"})
    at_lambda = [row for row in rows if row["lambda"] == 0.01]
    path = write_rows(tmp_path / "images.csv", at_lambda)
    runs = []

    def compress(script, runname, image, folder, *flags, **place):
        runs.append((script, runname, *flags))
        pixels = np.load(image)[0]
        Image.fromarray(np.full_like(pixels, pixels.mean())).save(folder + "/rd.png")
        name = os.path.splitext(os.path.basename(image))[0]
        (row,) = (r for r in at_lambda if (r["image"], r["method"].split()[0]) == (name, script))
        values = {key: [float(row[key])] for key in ("est_bpp", "psnr")}
        np.savez(folder + "/rd.npz", **values)
        return folder + "/rd.npz"

    monkeypatch.setattr(page.scripts, "compress", compress)
    return [path, "--output", str(tmp_path / "out"), "--pictures", str(tmp_path / "images")], runs


def test_pictures_are_decoded_once_with_the_settings_of_their_rows(pictures, tmp_path):
    argv, runs = pictures
    report.main(argv)
    flags = ("--lambda", "0.01", "--save_reconstruction")
    assert sorted(set(runs)) == [("mbt2018", "m", *flags), ("sga", "m", "--lr", "1", *flags)]
    assert len(runs) == 4
    report.main(argv)
    assert len(runs) == 4
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)  # nothing from elsewhere


def test_pictures_are_of_the_checkpoint_of_the_results(pictures, untrained, tmp_path):
    argv, runs = pictures
    with open(argv[0], newline="") as file:
        rows = [{**row, "model": UNTRAINED["sga"]} for row in csv.DictReader(file)]
    run = checkpoints.find_run(str(untrained), UNTRAINED["sga"])
    argv += ["--checkpoint_dir", str(untrained)]
    for digest in (checkpoints.checkpoint_sha256(run.checkpoint), "another"):
        for row in rows:
            row["checkpoint_sha256"] = digest
        argv[0] = write_rows(tmp_path / (digest[:9] + ".csv"), rows)
        if digest != "another":
            report.main(argv)
    shutil.rmtree(str(tmp_path / "out"))
    with pytest.raises(InputError, match="not the checkpoint of the results"):
        report.main(argv)


def test_pictures_are_of_the_settings_of_the_results(pictures, tmp_path):
    """A row of a result that was made with other flags than its name tells has no picture."""
    argv, _ = pictures
    with open(argv[0], newline="") as file:
        rows = list(csv.DictReader(file))
    for key, factor in (("est_bpp", 0.99), ("psnr", 1.002)):
        changed = [{**row, key: factor * float(row[key])} for row in rows]
        argv[0] = write_rows(tmp_path / "changed.csv", changed)
        with pytest.raises(InputError, match="other flags may have made"):
            report.main(argv)
        assert not os.path.exists(str(tmp_path / "out" / page.CACHE / "a.png"))


def test_pictures_of_a_codec_have_about_the_same_rate(pictures, tmp_path):
    argv, runs = pictures
    with open(argv[0], newline="") as file:
        rows = [{**row, "quality": ""} for row in csv.DictReader(file)]
    rate = float(next(row["est_bpp"] for row in rows if row["method"] != "mbt2018"))
    for row in [row for row in rows if row["method"] == "mbt2018"]:
        for quality, factor in ((10, 0.5), (50, 1.1), (90, 4)):
            lacking = {"lambda": "", "model": "", "est_rd_loss": ""}
            known = {"method": "jpeg", "quality": quality, "est_bpp": factor * rate}
            rows.append({**row, **lacking, **known})
    report.main([write_rows(tmp_path / "codecs.csv", rows), *argv[1:], "--show", "jpeg"])
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    labels = re.findall('<button[^>]*title="([^"]*)">([^<]*)</button>', text)[:4]
    assert [label for _, label in labels] == [
        "original",
        "mbt2018",
        "sga --lr 1",
        "jpeg, quality 50",
    ]
    pixels = np.asarray(Image.open(str(tmp_path / "images" / "b.png")))
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=50, subsampling="4:2:0", optimize=True)
    decoded = np.asarray(Image.open(content)).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean((pixels - decoded) ** 2))
    assert labels[3][0] == "{:.4f} bpp, {:.2f} dB".format(1.1 * rate, psnr)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")
def test_a_browser_shows_figures_and_switches_pictures(pictures, tmp_path):
    argv, _ = pictures
    report.main(argv)
    path = tmp_path / "out" / "report.html"
    path.write_text(path.read_text(encoding="utf-8") + CLICKS, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    flags += ["--user-data-dir=" + str(tmp_path / "profile"), "--dump-dom", path.as_uri()]
    process = subprocess.run([BROWSER, *flags], capture_output=True, text=True, timeout=120)
    found = re.search('<pre id="seen">(.*?)</pre>', process.stdout, re.S)
    seen = dict(line.split(" ", 1) for line in found[1].strip().splitlines())
    assert seen["start"] == "b, mbt2018 | b, sga --lr 1"
    assert seen["click"] == "b, original | b, sga --lr 1"
    assert seen["slide"] == "inset(0px 0px 0px 25%)"
    assert seen["order"] == "b,a"  # by gain
    names, sizes = seen["names"].split(", "), seen["sizes"].split()
    assert names[:2] == ["made-psnr.svg", "made-gain.svg"]
    assert len(sizes) == 8 and all(int(size) > 200 for size in sizes[:2])
    assert sizes[2:] == ["40"] * 6


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--show", "map"], "--show: no gains of map over mbt2018, but of sga --lr 1"),
        (["--crop", "20x20"], "a.png: no row has these pixels"),
    ],
)
def test_pictures_that_there_are_not(flags, message, pictures, tmp_path):
    argv, _ = pictures
    with pytest.raises(InputError) as error:
        report.main([*argv, *flags])
    assert message in str(error.value) and not [*(tmp_path / "out").glob("*")]


@pytest.mark.parametrize("flags", [["--show", "map"], ["--crop", "20x20"]])
def test_flags_of_pictures_without_any(flags, pictures, tmp_path):
    (table, *_), _ = pictures
    with pytest.raises(InputError, match=flags[0] + ": has no effect without --pictures"):
        report.main([table, "--output", str(tmp_path / "out"), *flags])
