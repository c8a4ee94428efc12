"""How the scripts handle wrong input and unusual images, through their command lines.

The models are small and have random weights, so that these tests need no external data.
"""

import glob
import importlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import conftest
import numpy as np
import pytest
from conftest import BASE, BITS_BACK, ROOT, UNTRAINED, run_script
from PIL import Image

import tf_boilerplate
import utils
from inference import methods, optimise, sga_plus
from model import device
from runtime import files
from runtime.quiet_tf import tf
from sga import SGA


@pytest.fixture
def photo(tmp_path):
    """The path of a 40x35 RGB PNG, and its pixels."""
    pixels = np.random.RandomState(0).randint(0, 256, (35, 40, 3)).astype(np.uint8)
    path = str(tmp_path / "photo.png")
    Image.fromarray(pixels).save(path)
    return path, pixels


def compress(script, runs, image, results, *flags, run=None, **kwargs):
    run = run or UNTRAINED[script]
    return conftest.compress(script, run, image, results, *flags, checkpoint_dir=runs, **kwargs)


def refused(capsys, *args, **kwargs):
    """Checks for exit code 2 with an error of one line; returns the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        compress(*args, **kwargs)
    assert exit.value.code == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.err and output.out == ""
    lines = [
        line
        for line in output.err.splitlines()
        if not line.startswith(("usage", " ", "note: MS-SSIM"))
    ]
    assert len(lines) == 1, output.err
    return lines[0]


SHORT = ("--sga_its", 3)


@pytest.mark.parametrize("script", BASE + BITS_BACK)
def test_smoke(script, untrained, photo, tmp_path):
    """Every script runs through its command line in a fresh process, and is quiet."""
    flags = () if script in ("mbt2018", "bb_plain") else SHORT
    flags += ("--r_its", 3) if script == "bb_sga" else ()
    run = UNTRAINED[script]
    command = ["--num_filters", 4, "--verbose", "--checkpoint_dir", untrained]
    command += ["compress", run, photo[0], "--results_dir", tmp_path / "results", *flags]
    process = run_script(script, *command)
    assert process.returncode == 0, process.stderr
    where = "device: " + device.describe()
    small = "note: MS-SSIM is NaN: it needs 161 pixels on each side"
    assert process.stderr.splitlines() == [where, small]
    averages = [line for line in process.stdout.splitlines() if line.startswith("Avg ")]
    keys = ["mse", "psnr", "msssim", "msssim_db", "est_bpp", "est_y_bpp", "est_z_bpp"]
    keys += ["est_bpp_back", "est_bpp_coded"] if script in BITS_BACK else []
    keys += ["est_rd_loss"]
    keys += ["net_bpp"] if script in BITS_BACK else []  # before the whole of a short archive
    keys += ["actual_bpp", "seconds"]
    keys += ["avg_batch_actual_bpp"] if script == "mbt2018" else []
    assert [line.split()[1].rstrip(":") for line in averages] == keys
    (path,) = glob.glob(str(tmp_path / "results" / "*.npz"))
    with np.load(path, allow_pickle=False) as result:
        assert result["psnr"].shape == (1,)
        assert str(result["script"]) == script and str(result["device"]) == device.describe()
        method = methods.find_method(script)
        for flag, (default, *_) in {**method.flags, **method.coding_flags}.items():
            assert result[flag] == default or flag in ("sga_its", "r_its")
        if flags:
            assert list(result["its"]) == [0, 2] or script == "ste"
            assert result["rd_loss"].shape == result["its"].shape
        assert "{:.4f}".format(result["psnr"][0]) in averages[1]


def test_missing_run(capsys, untrained, photo, tmp_path):
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", run="mbt2018-num_filters=9")
    assert "mbt2018-num_filters=9: no such run" in line and UNTRAINED["sga"] in line
    line = refused(capsys, "sga", tmp_path / "nowhere", photo[0], tmp_path / "r")
    assert "nowhere: no such folder of runs" in line
    (tmp_path / "empty-lmbda=1").mkdir()
    line = refused(capsys, "sga", tmp_path, photo[0], tmp_path / "r", run="empty-lmbda=1")
    assert "no checkpoint" in line


def test_another_number_of_filters(capsys, untrained, photo, tmp_path):
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", top=("--num_filters", "192"))
    assert "--num_filters 4, not 192" in line


def test_the_model_of_another_script(capsys, untrained, photo, tmp_path):
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", run=UNTRAINED["bb_sga"])
    assert "not a model of mbt2018.py, which this script needs" in line
    line = refused(capsys, "bb_plain", untrained, photo[0], tmp_path / "r", run=UNTRAINED["sga"])
    assert "not a model of mbt2018_bb.py" in line


@pytest.mark.parametrize("part", ["index", "data", "cut data"])
def test_corrupted_checkpoint(part, capsys, untrained, photo, tmp_path):
    shutil.copytree(str(untrained / UNTRAINED["sga"]), str(tmp_path / UNTRAINED["sga"]))
    name = "*.index" if part == "index" else "*.data*"
    (path,) = glob.glob(str(tmp_path / UNTRAINED["sga"] / name))
    with open(path, "r+b") as file:
        if part == "cut data":
            file.truncate(os.path.getsize(path) // 2)
        else:
            # Within the weights, which a run reads, not the coder's tables, most of the file.
            file.seek(0 if part == "data" else os.path.getsize(path) // 3)
            file.write(b"\xff" * 64)
    line = refused(capsys, "sga", tmp_path, photo[0], tmp_path / "r")
    assert "checkpoint" in line


def test_no_such_image(capsys, untrained, tmp_path):
    for name in ("none.png", "none.npy"):
        line = refused(capsys, "sga", untrained, tmp_path / name, tmp_path / "r")
        assert name + ": no such" in line
    assert "a folder, not an image" in refused(capsys, "sga", untrained, tmp_path, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_images(capsys, untrained, photo, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("this is text")
    truncated = tmp_path / "truncated.png"
    with open(photo[0], "rb") as file:
        truncated.write_bytes(file.read()[:2000])
    for path in (text, truncated):
        line = refused(capsys, "sga", untrained, path, tmp_path / "r")
        assert str(path) in line and "not a readable image" in line


ARRAYS = {
    "rank": np.zeros((8, 8, 3), np.uint8),
    "channels": np.zeros((1, 8, 8, 4), np.uint8),
    "dtype": np.zeros((1, 8, 8, 3), np.float64),
    "nan": np.full((1, 8, 8, 3), np.nan, np.float32),
    "empty": np.zeros((0, 8, 8, 3), np.uint8),
    "object": np.array([None]),
}


@pytest.mark.parametrize("kind", list(ARRAYS))
def test_arrays_that_are_no_images(kind, capsys, untrained, tmp_path):
    path = tmp_path / (kind + ".npy")
    np.save(str(path), ARRAYS[kind])
    line = refused(capsys, "sga", untrained, path, tmp_path / "r")
    assert str(path) in line
    assert "uint8 (n, H, W, 3)" in line or "not a readable .npy" in line


def test_files_that_are_no_arrays(capsys, untrained, tmp_path):
    path = tmp_path / "file.npy"
    with open(str(path), "wb") as file:
        np.savez(file, np.zeros(3))
    assert "an .npz" in refused(capsys, "sga", untrained, path, tmp_path / "r")
    for content in (
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 nonsense",
        b"\x93NUMPY\x01\x00\x08\x00{'a': ((",
    ):
        path.write_bytes(content)
        line = refused(capsys, "sga", untrained, path, tmp_path / "r")
        assert "not a readable .npy" in line


def save_as(kind, pixels, folder):
    """Writes pixels as an image of a kind; returns its path, the pixels to expect, and the note."""
    image, path = Image.fromarray(pixels), str(folder / (kind + ".png"))
    gray = np.asarray(image.convert("L"))
    note = None
    if kind == "gray":
        image, pixels = Image.fromarray(gray), np.dstack([gray] * 3)
    elif kind == "gray16":
        pixels = np.dstack([gray] * 3)
        image, note = Image.fromarray(gray.astype(np.uint16) * 257), "16 bits"
    elif kind == "rgb16":
        chunks = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
        rows = [b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels]
        png = b"\x89PNG\r\n\x1a\n"
        for name, data in (
            (b"IHDR", chunks),
            (b"IDAT", zlib.compress(b"".join(rows))),
            (b"IEND", b""),
        ):
            png += struct.pack(">I", len(data)) + name + data
            png += struct.pack(">I", zlib.crc32(name + data))
        with open(path, "wb") as file:
            file.write(png)
        return path, pixels, "16 bits"
    elif kind == "palette":
        image = image.quantize(16)
        pixels = np.asarray(image.convert("RGB"))
    elif kind == "bilevel":
        image = Image.fromarray(gray > 127)
        pixels = np.dstack([255 * (gray > 127).astype(np.uint8)] * 3)
    elif kind == "alpha":
        alpha = np.full(gray.shape, 255, np.uint8)
        alpha[:9] = 0
        image, note = Image.fromarray(np.dstack([pixels, alpha])), "alpha"
        pixels = np.where(alpha[..., None] == 0, 255, pixels).astype(np.uint8)
    elif kind == "opaque":
        image = Image.fromarray(np.dstack([pixels, np.full(gray.shape, 255, np.uint8)]))
    elif kind == "cmyk":
        path = path.replace(".png", ".tif")
        image, note = image.convert("CMYK"), "CMYK without"
        pixels = np.asarray(image.convert("RGB"))
    image.save(path)
    return path, pixels, note


KINDS = ["rgb", "gray", "gray16", "rgb16", "palette", "bilevel", "alpha", "opaque", "cmyk"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_all_kinds(kind, photo, tmp_path):
    path, pixels, note = save_as(kind, photo[1], tmp_path)
    notes = []
    (batch,) = utils.Images(path, notes.append).batches(1)
    np.testing.assert_array_equal(batch, pixels[None])
    assert (note is None and not notes) or (note in notes[0] and path in notes[0])


@pytest.mark.parametrize("script, num_filters", [("sga", 192), ("bb_sga", 256)])
def test_models_of_the_size_of_the_released_ones(script, num_filters, photo, tmp_path):
    model = UNTRAINED[script].split("-")[0]
    conftest.train_untrained(tmp_path, num_filters, [model])
    flags = SHORT + (("--r_its", 3) if script == "bb_sga" else ())
    run = "{}-num_filters={}-lmbda=0.01".format(model, num_filters)
    result = compress(script, tmp_path, photo[0], tmp_path / "r", *flags, run=run)
    assert np.isfinite(result["est_bpp"]).all() and result["num_filters"] == num_filters


@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_sga"])
def test_one_pixel(script, untrained, tmp_path):
    path = str(tmp_path / "dot.png")
    Image.new("RGB", (1, 1), (9, 99, 199)).save(path)
    flags = {"sga": SHORT, "bb_sga": SHORT + ("--r_its", 3)}.get(script, ())
    result = compress(script, untrained, path, tmp_path / "r", *flags)
    assert np.isfinite(result["est_bpp"]).all() and np.isfinite(result["psnr"]).all()
    assert np.isnan(result["msssim"]).all()


def test_msssim_from_161_pixels_on(untrained, tmp_path):
    for side, finite in ((160, False), (161, True)):
        pixels = np.random.RandomState(0).randint(0, 256, (side, 200, 3)).astype(np.uint8)
        path = str(tmp_path / "{}.png".format(side))
        Image.fromarray(pixels).save(path)
        result = compress("mbt2018", untrained, path, tmp_path / "r")
        assert np.isfinite(result["msssim"]).all() == finite


def test_results_that_cannot_be_written(capsys, untrained, photo, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "file" / "r", *SHORT)
    assert "cannot be written" in line
    if os.getuid() != 0:
        (tmp_path / "readonly").mkdir(mode=0o555)
        line = refused(capsys, "sga", untrained, photo[0], tmp_path / "readonly", *SHORT)
        assert "cannot be written" in line


def test_the_result_of_another_input_is_kept(capsys, untrained, photo, tmp_path):
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)
    (path,) = glob.glob(str(tmp_path / "r" / "*"))
    with open(path, "rb") as file:
        old = file.read()
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)  # the same input is replaced
    Image.fromarray(photo[1][::-1]).save(photo[0])
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert path in line and "--overwrite" in line
    with np.load(path) as result:
        assert len(str(result["input_sha256"])) == 64
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT, "--overwrite")
    with open(path, "rb") as file:
        assert file.read() != old
    (tmp_path / "r" / os.path.basename(path)).write_text("something else")
    assert "--overwrite" in refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT)


def test_the_result_of_another_model_of_the_name_is_kept(
    capsys, untrained, photo, tmp_path, monkeypatch
):
    """Unless it is of an earlier step, as training goes on."""
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)
    (path,) = glob.glob(str(tmp_path / "r" / "*"))
    with np.load(path) as saved:
        result = dict(saved)
    np.savez(path, **{**result, "checkpoint_sha256": "another"})
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert "a model with the digest another, now {}".format(result["checkpoint_sha256"]) in line
    np.savez(path, **{**result, "checkpoint_sha256": "another", "checkpoint_step": 7})
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert "a model of step 7, now 0" in line
    np.savez(path, **{**result, "checkpoint_sha256": "another", "checkpoint_step": -7})
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT, "--lr", 1)
    assert "--lr" in line and "step -7" not in line
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert "a result of the model at step -7 will be replaced" in capsys.readouterr().err
    with np.load(path) as saved:
        assert saved["checkpoint_sha256"] == result["checkpoint_sha256"]


@pytest.mark.parametrize("of_result", [True, False])
def test_what_another_process_is_about_to_write(capsys, untrained, photo, tmp_path, of_result):
    """The second run ends before it computes anything, and a killed run is not in its way."""
    argv, output = ["sga", untrained, photo[0], tmp_path / "r", *SHORT], [tmp_path / "x.tfci"]
    compress(*argv)
    (result,) = glob.glob(str(tmp_path / "r" / "*"))
    path = result if of_result else str(tmp_path / "x.tfci")
    code = "from runtime import files\nwith files.claimed({!r}): print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(path)],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT},
    )
    assert process.stdout.readline() == b"1\n"
    line = refused(capsys, *argv, output=output)
    assert line == "sga: error: {}: another process is about to write it".format(path)
    process.kill()
    process.communicate()
    (lock,) = tmp_path.rglob(".*.lock")  # which the killed process has left
    compress(*argv, output=output)
    assert (tmp_path / "x.tfci").exists() and not list(tmp_path.rglob(".*"))


def test_a_result_of_other_settings_is_kept(capsys, untrained, photo, tmp_path):
    """Under the name of one, which is the reference's and has no settings but λ."""
    compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)
    (path,) = glob.glob(str(tmp_path / "r" / "*"))
    with open(path, "rb") as file:
        old = file.read()
    for flags, differing in (
        (("--sga_its", 4), "(--sga_its 3, now 4)"),
        ((*SHORT, "--seed", 7), "(--seed 0, now 7)"),
        ((*SHORT, "--eval_batch_size", 2), "(--eval_batch_size 1, now 2)"),
        ((*SHORT, "--preset", "fast"), "--lr 0.005, now 0.05; "),
        ((*SHORT, "--centred"), "(--centred False, now True)"),
    ):
        line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *flags)
        assert line.startswith("sga: error: {}: exists with other settings".format(path))
        assert differing in line and "--overwrite" in line and "--results_dir" in line
    with open(path, "rb") as file:
        assert file.read() == old
    result = compress("sga", untrained, photo[0], tmp_path / "r", "--sga_its", 4, "--overwrite")
    assert result["sga_its"] == 4
    # One from before a flag was there had its default.
    with np.load(path) as saved:
        rest = {key: saved[key] for key in saved if key not in ("three_n", "centred")}
    np.savez(path, **rest)
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", "--sga_its", 4, "--centred")
    assert "(--centred False, now True)" in line
    compress("sga", untrained, photo[0], tmp_path / "r", "--sga_its", 4)
    compress("mbt2018", untrained, photo[0], tmp_path / "m")
    line = refused(capsys, "mbt2018", untrained, photo[0], tmp_path / "m", "--container")
    assert "(--container False, now True)" in line


@pytest.mark.parametrize(
    "script, flags",
    [
        ("ste", ["--t0", "700"]),
        ("map", ["--annealing_rate", "1"]),
        ("mbt2018", ["--sga_its", "5"]),
        ("bb_plain", ["--lr", "1"]),
        ("sga", ["--r_its", "5"]),
        ("danneal", ["--t0", "5"]),
        ("sga", ["--sga_it", "5"]),
        ("sga", ["--checkpoint_dir", "checkpoints"]),
        ("sga", ["--sga_its", "many"]),
        ("sga", ["--sga_its", "-1"]),
        ("sga", ["--sga_its", "0"]),
        ("sga", ["--lr", "nan"]),
        ("sga", ["--eval_batch_size", "0"]),
        ("sga", ["--t_max", "-0.5"]),
        ("sga", ["--adam_beta1", "1.5"]),
        ("bb_no_sga", ["--adam_beta2", "1"]),
        ("sga", ["--sga_its", str(2**64)]),
        ("danneal", ["--t_min", "0.3"]),
        ("bb_sga", ["--t_min", "0.6"]),
        ("sga", ["--t_min", "1e-3", "--t_max", "1e-4"]),
        ("sga", ["--three_n", "2"]),
        ("bb_sga", ["--three_r", "1", "--classes", "2"]),
        ("sga", ["--ssl_a", "2", "--probability", "linear"]),
        ("sga", ["--atanh_eps", "1e-3", "--preset", "fast"]),
        *((script, ["--seed", str(2**64)]) for script in BASE + BITS_BACK),
    ],
)
def test_flags_that_a_method_does_not_take_or_use(
    script, flags, capsys, untrained, photo, tmp_path
):
    line = refused(capsys, script, untrained, photo[0], tmp_path / "r", *flags)
    assert flags[0] in line and "functools" not in line
    assert not (tmp_path / "r").exists()


def test_lambda(capsys, untrained, photo, tmp_path):
    """λ comes from the flag or else the run's name; without either, the run is refused."""
    result = compress("sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert result["lmbda"] == 0.01
    (tmp_path / "named").mkdir()
    shutil.copytree(str(untrained / UNTRAINED["sga"]), str(tmp_path / "named" / "my-model"))
    run = {"run": "my-model"}
    line = refused(capsys, "sga", tmp_path / "named", photo[0], tmp_path / "s", *SHORT, **run)
    assert "--lambda" in line and "my-model" in line
    flags = (*SHORT, "--lambda", 1e-5)
    result = compress("sga", tmp_path / "named", photo[0], tmp_path / "s", *flags, **run)
    assert result["lmbda"] == 1e-5
    assert glob.glob(str(tmp_path / "s" / "rd-sga-lmbda=1e-05+my-model-input=photo.png.npz"))
    shutil.copytree(str(untrained / UNTRAINED["sga"]), str(tmp_path / "named" / "x-lmbda=1e-05"))
    flags, run = (*SHORT, "--overwrite"), {"run": "x-lmbda=1e-05"}
    result = compress("sga", tmp_path / "named", photo[0], tmp_path / "s", *flags, **run)
    assert result["lmbda"] == 1e-5
    shutil.copytree(str(untrained / UNTRAINED["sga"]), str(tmp_path / "named" / "x-lmbda=0.5.old"))
    run = {"run": str(tmp_path / "named") + "/./x-lmbda=0.5.old/"}
    result = compress("sga", tmp_path / "named", photo[0], tmp_path / "s", *flags, **run)
    assert result["lmbda"] == 0.5 and result["runname"] == "x-lmbda=0.5.old"


def test_paths_that_cannot_be_written(capsys, untrained, photo, tmp_path):
    """They are detected before anything is computed, and no existing file is replaced."""
    other = str(tmp_path / "other.png")
    shutil.copy(photo[0], other)
    line = refused(capsys, "mbt2018", untrained, photo[0], tmp_path / "r", output=[other])
    assert other in line and ".tfci" in line
    (tmp_path / "folder.tfci").mkdir()
    path = tmp_path / "folder.tfci"
    line = refused(capsys, "mbt2018", untrained, photo[0], tmp_path / "r", output=[path])
    assert "folder.tfci: cannot be written" in line
    long = str(tmp_path / ("x" * 240 + ".png"))
    shutil.copy(photo[0], long)
    line = refused(capsys, "sga", untrained, long, tmp_path / "r", *SHORT)
    assert "cannot be written: file name too long" in line
    np.testing.assert_array_equal(np.asarray(Image.open(other)), photo[1])


def test_pictures_come_after_the_result(untrained, tmp_path, monkeypatch):
    """Also those of several images, so that none stands beside the result of another run."""
    np.save(str(tmp_path / "two.npy"), np.full((2, 20, 24, 3), 7, np.uint8))
    write = utils.write_result

    def checked(path, values):
        assert not glob.glob(str(tmp_path / "r" / "*.png"))
        write(path, values)

    monkeypatch.setattr(utils, "write_result", checked)
    compress("mbt2018", untrained, tmp_path / "two.npy", tmp_path / "r", "--save_reconstruction")
    assert len(glob.glob(str(tmp_path / "r" / "*-[01].png"))) == 2


def test_what_is_no_file_is_written_to(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.check_writable(path)
        files.write_bytes(path, b"bytes")
        assert os.read(descriptor, 99) == b"bytes" and os.listdir(str(tmp_path)) == ["pipe"]
    finally:
        os.close(descriptor)


def test_an_empty_results_dir_writes_nothing(capsys, untrained, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compress("sga", untrained, photo[0], "", *SHORT)
    assert os.listdir(str(tmp_path)) == ["photo.png"]
    line = refused(capsys, "sga", untrained, photo[0], "", *SHORT, "--save_reconstruction")
    assert "--save_reconstruction" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing_behind(number, untrained, photo, tmp_path):
    command = [sys.executable, os.path.join(ROOT, "sga.py"), "--verbose"]
    command += ["--checkpoint_dir", str(untrained), "compress", UNTRAINED["sga"], photo[0]]
    command += ["--results_dir", str(tmp_path / "r"), "--sga_its", "1000000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not process.stdout.readline().startswith("it=0"):
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "sga: interrupted" and "Traceback" not in errors
    assert os.listdir(str(tmp_path / "r")) == []


def test_interrupted_while_writing(tmp_path):
    path = tmp_path / "r" / "file"
    files.write_bytes(str(path), b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_write(str(path)) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(str(tmp_path / "r")) == ["file"]


@pytest.mark.parametrize("script", BASE + BITS_BACK)
def test_help_shows_all_flags(script, capsys):
    method = methods.find_method(script)
    with pytest.raises(SystemExit) as exit_info:
        tf_boilerplate.main(method, argv=["--help"])
    output = capsys.readouterr()
    assert exit_info.value.code == 0 and output.err == ""
    for flag, (default, *_) in {**method.flags, **method.coding_flags}.items():
        assert "--" + flag in output.out
        assert default in ("", False) or "({})".format(default) in output.out


def test_help_of_the_script_that_only_trains():
    process = run_script("mbt2018_bb", "--help")
    assert process.returncode == 0 and process.stderr == ""
    assert "--train_glob" in process.stdout and "compress" not in process.stdout


def test_a_second_image_to_train_on_is_refused(capsys, photo):
    """A shell expands a pattern without quotes to several arguments."""
    argv = ["train", "--train_glob", photo[0], photo[0], "--last_step", "0"]
    module = importlib.import_module("mbt2018")
    with pytest.raises(SystemExit) as exit_info:
        tf_boilerplate.main(module.BaseHyperprior, module.training_graph, argv=argv)
    assert exit_info.value.code == 2 and "not known to this command" in capsys.readouterr().err


def test_diverging_is_an_error(capsys, untrained, photo, tmp_path):
    line = refused(capsys, "map", untrained, photo[0], tmp_path / "r", "--lr", 1e30, *SHORT)
    assert "image 0: y has NaN" in line and "at iteration 0; try a lower --lr" in line
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", "--lambda", 1e38, *SHORT)
    assert "rd_loss is NaN or infinite, first at iteration 0, temperature 0.5; " in line
    assert "lower --lambda" in line
    assert glob.glob(str(tmp_path / "r" / "*")) == []


@pytest.mark.parametrize("bad", [0, 7, 23])
def test_the_first_value_that_is_not_finite_is_named(bad, capsys, untrained, photo, tmp_path):
    """Whichever iteration it is between those that are looked at."""

    class Breaks(SGA):
        def relax(self, v, t, noise):
            nan = tf.constant(np.nan)
            return v + tf.where(tf.equal(t, bad), nan, 0.0)

    Breaks.script = classmethod(lambda cls: "sga")
    argv = (untrained, photo[0], tmp_path / "r", "--sga_its", 30, "--t0", 5, "--record_every", 10)
    line = refused(capsys, Breaks, *argv, "--annealing_rate", 0.1, run=UNTRAINED["sga"])
    temperature = min(0.5, 0.5 * np.exp(-0.1 * (bad - 5)))
    assert "photo.png: image 0: mse is NaN" in line
    assert "first at iteration {}, temperature {:.3g};".format(bad, temperature) in line
    assert ("before any update" in line) == (bad == 0)


def test_a_memory_that_does_not_suffice(capsys, untrained, photo, tmp_path, monkeypatch):
    """Width before height, as everywhere."""

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(optimise.Stage, "run", exhausted)
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", *SHORT)
    assert "photo.png: the memory is exhausted" in line and "40 x 35 pixels" in line
    assert os.listdir(str(tmp_path / "r")) == []


def test_a_name_that_begins_with_a_dash(capsys, untrained, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rename(photo[0], "-lead.png")
    line = refused(capsys, "sga", untrained, "-lead.png", tmp_path / "r")
    assert "-lead.png: begins with a dash" in line and "./-lead.png" in line
    compress("mbt2018", untrained, "./-lead.png", tmp_path / "r")


def test_an_output_that_is_a_link_stays_one(untrained, photo, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file.tfci", tmp_path / "link.tfci"
    link.symlink_to(os.path.join("there", "file.tfci"))
    for old in (None, b"old"):  # a dangling link too
        if old:
            target.write_bytes(old)
        compress("sga", untrained, photo[0], tmp_path / "r", *SHORT, output=[link])
        assert link.is_symlink() and not target.is_symlink()
        assert target.read_bytes()[:4] != b"old" and target.stat().st_size > 20
    assert os.listdir(str(tmp_path / "there")) == ["file.tfci"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_cannot_be_encoded(encoding, untrained, photo, tmp_path):
    """λ of the help, and a name that no terminal shows."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    script = [sys.executable, os.path.join(ROOT, "mbt2018.py")]
    odd = os.path.join(os.fsencode(str(tmp_path)), "Ž\u65e5".encode() + b"\xff.png")
    os.rename(photo[0], odd)
    for argv in (
        ["--help"],
        ["--checkpoint_dir", str(untrained), "compress", UNTRAINED["mbt2018"], odd]
        + ["--results_dir", str(tmp_path / "r")],
    ):
        process = subprocess.run([*script, *argv], env=environment, capture_output=True)
        assert process.returncode == 0, process.stderr
        assert b"Traceback" not in process.stderr
    (name,) = os.listdir(os.fsencode(str(tmp_path / "r")))
    assert b"\xff.png.npz" in name and b"wrote " in process.stdout


def test_presets(untrained, photo, tmp_path, capsys):
    """Presets change defaults, flags override them, and results record the values."""
    preset = sga_plus.PRESETS["fast"]
    flags = ("--preset", "fast", *SHORT)
    result = compress("sga", untrained, photo[0], tmp_path / "r", *flags)
    assert result["sga_its"] == SHORT[1] != preset["sga_its"]
    for name in set(preset) - {"sga_its"}:
        assert result[name] == preset[name]
    assert {"ssl_a", "classes", "centred"} <= set(result)
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", "--preset", "faster")
    assert "--preset" in line and "fast" in line and "best" in line
    line = refused(capsys, "sga", untrained, photo[0], tmp_path / "r", "--classes", "4")
    assert "--classes" in line and "2, 3" in line
    line = refused(capsys, "map", untrained, photo[0], tmp_path / "r", "--preset", "fast")
    assert "--preset" in line


def test_the_demo_of_an_image_that_is_not_there():
    command = [sys.executable, "-m", "tools.demo", "--image", "none.png"]
    process = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE)
    assert process.returncode == 2
    assert process.stderr.decode().splitlines() == ["demo: error: none.png: no such image"]
