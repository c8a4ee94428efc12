"""The base codec's files: the reference's decode, and ours go there and back."""

import os

import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, GOLDEN, ROOT, needs_golden, run_script
from PIL import Image

from quiet_tf import tf

GOLDEN_RUN = "mbt2018-num_filters=8-lmbda=0.02"
GOLDEN_DIR = os.path.join(GOLDEN, "checkpoints")


def read(path):
    return np.asarray(Image.open(str(path)), np.int64)


def unpacked(path):
    """Bytes and integers of a file, by protobuf alone."""
    example = tf.train.Example()
    with open(str(path), "rb") as file:
        example.ParseFromString(file.read())
    return {
        key: (list(feature.bytes_list.value), list(feature.int64_list.value))
        for key, feature in example.features.feature.items()
    }


@needs_golden
@pytest.mark.parametrize("name", ["parrot_256x192", "bikes_243x181"])
def test_files_of_the_reference_in_both_directions(name, tmp_path):
    theirs = os.path.join(GOLDEN, "tfci", name + ".tfci")
    png = tmp_path / "out.png"
    top = ["--checkpoint_dir", GOLDEN_DIR]
    process = run_script("mbt2018", *top, "decompress", GOLDEN_RUN, theirs, png)
    assert process.returncode == 0, process.stderr
    difference = read(png) - read(os.path.join(GOLDEN, "tfci", name + ".decoded.png"))
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) <= 1e-4

    ours = tmp_path / "ours.tfci"
    image = os.path.join(GOLDEN, "images", name + ".png")
    flags = ["--results_dir", ""]
    process = run_script("mbt2018", *top, "compress", GOLDEN_RUN, image, ours, *flags)
    assert process.returncode == 0, process.stderr
    assert unpacked(ours) == unpacked(theirs)


def test_round_trip_in_a_fresh_process(tmp_path):
    """The file gives the reconstruction that was measured."""
    image = os.path.join(ROOT, "samples", "chelsea.png")
    top = ["--checkpoint_dir", DEMO_DIR]
    stream, png = tmp_path / "a.tfci", tmp_path / "a.png"
    flags = ["--results_dir", tmp_path, "--save_reconstruction"]
    process = run_script("mbt2018", *top, "compress", DEMO["mbt2018"], image, stream, *flags)
    assert process.returncode == 0, process.stderr
    process = run_script("mbt2018", *top, "decompress", DEMO["mbt2018"], stream, png)
    assert process.returncode == 0 and process.stderr == ""
    assert process.stdout == "wrote {}\n".format(png)
    name = "rd-{}-file=chelsea.png".format(DEMO["mbt2018"])
    difference = read(png) - read(tmp_path / (name + ".png"))
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) <= 1e-4
    with np.load(str(tmp_path / (name + ".npz"))) as result:
        bits = 8 * stream.stat().st_size
        assert result["batch_actual_bpp"][0] == pytest.approx(bits / (451 * 300))
        assert result["batch_actual_bpp"][0] < 1.002 * result["est_bpp"][0] + 8 * 120 / (451 * 300)


def test_a_batch_goes_into_one_file(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (2, 40, 50, 3)).astype(np.uint8)
    np.save(str(tmp_path / "two.npy"), pixels)
    top = ["--checkpoint_dir", DEMO_DIR]
    flags = ["--results_dir", tmp_path, "--save_reconstruction"]
    command = [*top, "compress", DEMO["mbt2018"], tmp_path / "two.npy", tmp_path / "two.tfci"]
    process = run_script("mbt2018", *command, *flags)
    assert process.returncode == 2 and "--eval_batch_size 2" in process.stderr
    process = run_script("mbt2018", *command, *flags, "--eval_batch_size", 2)
    assert process.returncode == 0, process.stderr
    process = run_script("mbt2018", *top, "decompress", DEMO["mbt2018"], tmp_path / "two.tfci")
    assert process.returncode == 0, process.stderr
    decoded = np.load(str(tmp_path / "two.tfci.npy")).astype(np.int64)
    for index in range(2):
        name = "rd-{}-file=two.npy-{}.png".format(DEMO["mbt2018"], index)
        assert np.abs(decoded[index] - read(tmp_path / name)).max() <= 1


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_files_that_are_none(content, tmp_path):
    path = tmp_path / "file.tfci"
    if content is None:
        Image.new("RGB", (9, 9)).save(str(path), format="png")
    else:
        path.write_bytes(content)
    argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO["mbt2018"], path]
    process = run_script("mbt2018", *argv)
    assert process.returncode == 2 and len(process.stderr.splitlines()) == 1
    assert "file.tfci: not a .tfci file" in process.stderr
    assert os.listdir(str(tmp_path)) == ["file.tfci"]
