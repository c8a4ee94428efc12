"""Files: a fresh process decodes what every method writes; anything else is refused."""

import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import conftest
import numpy as np
import oracle
import pytest
from conftest import (
    BASE,
    BITS_BACK,
    DEMO,
    DEMO_DIR,
    GOLDEN,
    KODAK,
    ROOT,
    needs_golden,
    needs_kodak,
    run_script,
    runs,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import utils
from coding import container, digests, grid_codec, integer_model, readers, stack, writers
from coding.stack import Stack
from inference import methods
from model import checkpoints, hyperprior
from runtime.errors import InputError
from runtime.quiet_tf import tf

GOLDEN_DIR = os.path.join(GOLDEN, "checkpoints")
SMALL_RUNS = runs("-num_filters=8-lmbda=0.02")  # of the reference, and of data/
GOLDEN_MODELS = (GOLDEN_DIR, SMALL_RUNS)
CHELSEA = os.path.join(ROOT, "samples", "chelsea.png")


def read(path):
    return np.asarray(Image.open(str(path)), np.int64)


def compress(script, image, folder, *flags, models=(DEMO_DIR, DEMO), output="file.tfci"):
    """Compresses with a few iterations and writes the file to `folder`; returns the results.

    `models`: a checkpoint folder, and the run folders in it by script.
    """
    if script not in ("mbt2018", "bb_plain"):
        flags = ("--sga_its", 30, *flags)
    if script == "bb_sga":
        flags += ("--r_its", 30)
    return conftest.compress(
        script,
        models[1][script],
        image,
        folder,
        *flags,
        "--overwrite",
        checkpoint_dir=models[0],
        output=(folder / output,),
    )


def fresh_digests(path, run, prefix=(), **environment):
    """Digests of a file's latents, computed by a fresh process in another environment."""
    command = [*prefix, sys.executable, "-m", "coding.digests", DEMO_DIR, run, str(path)]
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "2", **environment}
    return subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout.split()


def check_round_trip(script, image, folder, *flags, models=(DEMO_DIR, DEMO)):
    """Checks that a file has exactly the latents, the PSNR and the size that were reported.

    A fresh process decodes the pixels.
    """
    result = compress(script, image, folder, *flags, models=models)
    path = folder / "file.tfci"
    run = models[1][script]
    top = ["--checkpoint_dir", str(models[0])]
    if script != "mbt2018" or flags:  # the reference's format has float parameters
        ours = digests.digests(checkpoints.find_run(top[1], run), str(path))
        assert ours == list(result["latents_sha256"])
    process = run_script(script, *top, "decompress", run, path)
    assert process.returncode == 0 and process.stderr == ""
    images = utils.Images(str(image))
    (originals,) = images.batches(images.shape[0])
    if len(originals) == 1:
        decoded = read(str(path) + ".png")[None]
    else:
        decoded = np.load(str(path) + ".npy").astype(np.int64)
    mse = np.mean((decoded - originals) ** 2.0, axis=(1, 2, 3))
    np.testing.assert_allclose(10 * np.log10(255**2 / mse), result["psnr"], atol=1e-3)
    pixels = originals[0].size // 3
    bits = 8 * os.stat(str(path)).st_size
    np.testing.assert_allclose(result["actual_bpp"].sum() * pixels, bits)
    if script in BITS_BACK:
        net, estimate = (result[key] * pixels / 8 for key in ("net_bpp", "est_bpp_coded"))
        assert np.all(net <= 1.005 * estimate + 8)
        samples = np.mean(result["est_bpp"]), np.mean(result["est_bpp_coded"])
        assert samples[0] == pytest.approx(samples[1], rel=0.02)
    else:
        extra = 40 if script != "mbt2018" or flags else 120
        assert np.all(result["actual_bpp"] <= 1.002 * result["est_bpp"] + extra * 8 / pixels)
    assert np.all(result["encode_seconds"] > 0) and np.all(result["decode_seconds"] > 0)
    return result


ALL = [(script, ()) for script in BASE + BITS_BACK] + [("mbt2018", ("--container",))]


@pytest.mark.parametrize("script, flags", [*ALL, ("sga", ("--centred",))])
def test_round_trip_with_the_demo_models(script, flags, tmp_path):
    check_round_trip(script, CHELSEA, tmp_path, *flags)


# Each kind of file; the second bits-back case is large enough for one sample of z.
BIKES, BATCH = "bikes_243x181.png", "batch_2x192x192.npy"
GOLDEN_CASES = [("mbt2018", (), BIKES), ("sga", (), BIKES), ("bb_no_sga", (), BIKES)]
GOLDEN_CASES += [("bb_sga", (), BATCH)]
GOLDEN_CASES += [
    pytest.param(script, flags, BIKES, marks=pytest.mark.parity)
    for script, flags in ALL
    if (script, flags, BIKES) not in GOLDEN_CASES
]


@needs_golden
@pytest.mark.parametrize("script, flags, name", GOLDEN_CASES)
def test_round_trip_with_the_models_of_the_reference(script, flags, name, tmp_path):
    check_round_trip(
        script, os.path.join(GOLDEN, "images", name), tmp_path, *flags, models=GOLDEN_MODELS
    )


@pytest.mark.parametrize("script", ["mbt2018", "map"])
def test_round_trip_of_an_array(script, shipped, tmp_path):
    two = os.path.join(oracle.DATA, "two.npy")
    result = check_round_trip(script, two, tmp_path, models=(shipped, SMALL_RUNS))
    assert result["psnr"].shape == (2,)


@pytest.mark.parity
@needs_kodak
@pytest.mark.parametrize("name", ["kodim01.png", "kodim04.png", "kodim07.png"])
@pytest.mark.parametrize("script, flags", ALL)
def test_round_trip_of_kodak(script, flags, name, tmp_path):
    check_round_trip(script, os.path.join(KODAK, name), tmp_path, *flags)


def test_sigma_below_the_bound_of_training(shipped, tmp_path):
    """The tables cover sigma far below that bound."""
    image = os.path.join(oracle.DATA, "odd.png")
    for script in ("ste", "map"):
        run = SMALL_RUNS[script] + "-sharp"
        flags = ("--sga_its", 30, "--overwrite")
        result = conftest.compress(script, run, image, tmp_path, *flags, checkpoint_dir=shipped)
        bits = 163 * 177 * result["actual_bpp"]
        assert bits <= 163 * 177 * 1.002 * result["est_bpp"] + 40 * 8


# --- The reference's format ------------------------------------------------------------------


def unpacked(path):
    """The bytes and integers of a file, read with protobuf alone."""
    example = tf.train.Example()
    with open(str(path), "rb") as file:
        example.ParseFromString(file.read())
    return {
        key: (list(feature.bytes_list.value), list(feature.int64_list.value))
        for key, feature in example.features.feature.items()
    }


@needs_golden
@pytest.mark.parametrize("name, script", [("parrot_256x192", "mbt2018"), ("bikes_243x181", "sga")])
def test_files_of_the_reference_in_both_directions(name, script, tmp_path):
    theirs = os.path.join(GOLDEN, "tfci", name + ".tfci")
    png = tmp_path / "out.png"
    top, run = ["--checkpoint_dir", GOLDEN_DIR], SMALL_RUNS["mbt2018"]
    process = run_script(script, *top, "decompress", run, theirs, png)
    assert process.returncode == 0, process.stderr
    difference = read(png) - read(os.path.join(GOLDEN, "tfci", name + ".decoded.png"))
    assert np.abs(difference).max() <= 1 and np.mean(difference != 0) <= 1e-4
    image = os.path.join(GOLDEN, "images", name + ".png")
    compress("mbt2018", image, tmp_path, models=GOLDEN_MODELS)
    assert unpacked(tmp_path / "file.tfci") == unpacked(theirs)


# --- Which machine decodes -------------------------------------------------------------------

OTHERS = {
    "one core and thread": {
        "OPENBLAS_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "prefix": ("taskset", "-c", str(min(os.sched_getaffinity(0)))),
    },
    "an old processor, two threads": {
        "OPENBLAS_NUM_THREADS": "2",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2_Usable,-FMA_Usable,-FMA,-AVX2,-FMA4",
    },
}


@pytest.mark.parametrize("script", ["map", "bb_sga"])
def test_any_machine_decodes_the_same_latents(script, tmp_path):
    """With other instructions in BLAS and NumPy, and sums in other orders."""
    pixels = np.stack([read(CHELSEA)[:96, i * 60 : i * 60 + 112] for i in range(3)])
    np.save(str(tmp_path / "three.npy"), pixels.astype(np.uint8))
    result = compress(script, tmp_path / "three.npy", tmp_path)
    for environment in OTHERS.values():
        ours = fresh_digests(tmp_path / "file.tfci", DEMO[script], **environment)
        assert ours == list(result["latents_sha256"])


def test_images_alone_and_together_have_the_same_latents(tmp_path):
    pixels = np.stack([read(CHELSEA)[:96, i * 60 : i * 60 + 112] for i in range(3)])
    np.save(str(tmp_path / "three.npy"), pixels.astype(np.uint8))
    together = compress("map", tmp_path / "three.npy", tmp_path)
    for index in range(3):
        Image.fromarray(pixels[index].astype(np.uint8)).save(str(tmp_path / "one.png"))
        alone = compress("map", tmp_path / "one.png", tmp_path)
        assert alone["latents_sha256"][0] == together["latents_sha256"][index]


def rates_of_integers(run, pixels, kind, monkeypatch):
    """Bits for the predicted latents of an image, by the tables and by the float model."""
    bits = []
    push = Stack.push

    def counting(self, symbols, codes, family):
        for places, table in stack._groups(codes, family):
            entries = np.ravel(symbols)[places].astype(int) - table.first + 1
            inside = (entries > 0) & (entries < len(table.probabilities))
            bits.append(-np.log2(table.probabilities[np.where(inside, entries, 0)]).sum())
            escaped = np.abs(np.ravel(symbols)[places][~inside])
            bits.append(np.sum(10 + 8 * (escaped >= 128)))
        return push(self, symbols, codes, family)

    with tf.Graph().as_default(), tf.Session() as session:
        weights = checkpoints.load(hyperprior.Mbt2018, run)
        model = hyperprior.build(hyperprior.Mbt2018, weights)
        y = model.analysis(tf.constant(pixels[None] / np.float32(255)))
        latents = session.run({"y": y, **model.hyper_analysis(y)})
        codec = grid_codec.GridCodec(integer_model.load(run, bits_back=False), kind)
        monkeypatch.setattr(Stack, "push", counting)
        _, sent = codec.encode(latents["y"][0], latents["z"][0])
        monkeypatch.undo()
        sent = {key: tf.constant(value[None], tf.float32) for key, value in sent.items()}
        return sum(bits), session.run(model.rates(1, **sent)["bpp"])[0]


KODAK_IMAGES = ["kodim{:02d}.png".format(number) for number in (1, 5, 9)]
KINDS = [container.INTEGERS, container.CENTRED]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_integers_with_the_demo_model(kind, monkeypatch):
    """Fixed point and tables cost at most 0.03%, not counting the last words of the files."""
    run = checkpoints.find_run(DEMO_DIR, DEMO["sga"])
    for name in ["samples/chelsea.png", "samples/coffee.png", *KODAK_IMAGES]:
        path = os.path.join(KODAK if name in KODAK_IMAGES else ROOT, name)
        if os.path.exists(path):
            bits, estimate = rates_of_integers(run, utils.read_image(path), kind, monkeypatch)
            assert bits <= 1.0003 * estimate, name


SMALL_INPUTS = [os.path.join(oracle.DATA, "odd.png")]
if os.path.isdir(GOLDEN):
    SMALL_INPUTS += sorted(glob.glob(os.path.join(GOLDEN, "images", "*.png")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", SMALL_INPUTS, ids=os.path.basename)
@pytest.mark.parametrize("sharp", ["", "-sharp"])
def test_the_rate_of_integers_with_small_models(kind, path, sharp, shipped, monkeypatch):
    folder = GOLDEN_DIR if path.startswith(GOLDEN) else str(shipped)
    run = checkpoints.find_run(folder, SMALL_RUNS["sga"] + sharp)
    bits, estimate = rates_of_integers(run, utils.read_image(path), kind, monkeypatch)
    assert bits <= 1.0003 * estimate


# --- Bits-back -------------------------------------------------------------------------------


@pytest.mark.parametrize("script", BITS_BACK)
def test_side_information_comes_back(script, tmp_path):
    side = tmp_path / "side"
    side.write_bytes(b"\0" * 1000 + bytes(range(256)) * 20 + b"text" * 200 + b"\0" * 5)
    result = compress(script, CHELSEA, tmp_path, "--side_info", side)
    path, run = tmp_path / "file.tfci", DEMO[script]
    top = ["--checkpoint_dir", DEMO_DIR, "decompress", run, path]
    process = run_script("bb_plain", *top, "--side_info", tmp_path / "back")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "back").read_bytes() == side.read_bytes()
    handed_back = 8 * len(side.read_bytes()) / (451 * 300)
    net = result["actual_bpp"] - handed_back
    assert net == pytest.approx(result["net_bpp"], rel=0.01)


def test_a_result_of_other_side_information_is_not_replaced(tmp_path, capsys):
    """A file is the same if it says the same, whatever its path."""
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["bb_plain"], CHELSEA]
    argv += ["--results_dir", tmp_path, "--side_info"]
    side, same = tmp_path / "side", tmp_path / "same"
    for path in (side, same):
        path.write_bytes(bytes(range(256)) * 30)
        run_here("bb_plain", *argv, path)
    side.write_bytes(bytes(range(255, -1, -1)) * 30)
    assert "--side_info with the digest" in refused(capsys, "bb_plain", *argv, side)


def run_here(script, *argv):
    """Runs the command line of a script in this process."""
    method = methods.find_method(script)
    conftest.tf_boilerplate.main(method, argv=[str(arg) for arg in argv])


def test_side_information_that_is_left_is_noted(tmp_path, capsys):
    (tmp_path / "side").write_bytes(bytes(range(256)) * 30)
    compress("bb_plain", CHELSEA, tmp_path, "--side_info", tmp_path / "side")
    argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO["bb_plain"]]
    run_here("bb_plain", *argv, tmp_path / "file.tfci")
    assert "--side_info" in capsys.readouterr().err


def refused(capsys, script, *argv):
    """The error line with which a script refuses a command line."""
    with pytest.raises(SystemExit) as exit_info:
        run_here(script, *argv)
    assert exit_info.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if not line.startswith("note:"))
    return line


def test_too_little_side_information(capsys, tmp_path):
    (tmp_path / "side").write_bytes(b"a few bytes")
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["bb_plain"], CHELSEA]
    argv += [tmp_path / "file.tfci", "--results_dir", tmp_path, "--side_info"]
    line = refused(capsys, "bb_plain", *argv, tmp_path / "side")
    assert "side: too few bits" in line and re.search(r"takes about [0-9]{3,4} bytes", line)
    assert "No such file" in refused(capsys, "bb_plain", *argv, tmp_path / "none")
    (tmp_path / "file.tfci").write_bytes(bytes(10000))
    line = refused(capsys, "bb_plain", *argv, tmp_path / "file.tfci")
    assert "file.tfci: named twice on the command line" in line
    (tmp_path / "file.tfci").unlink()
    assert os.listdir(str(tmp_path)) == ["side"]


@pytest.mark.parametrize("spacing", ["0.1", "2", "0.0078125"])
def test_impossible_spacings(capsys, spacing, tmp_path):
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["bb_plain"], CHELSEA]
    assert "--z_spacing: " in refused(capsys, "bb_plain", *argv, "--z_spacing", spacing)


@pytest.mark.parametrize("spacing", [1, 0.125, 0.015625])
def test_the_net_rate_does_not_depend_on_the_spacing(spacing, tmp_path):
    result = compress("bb_plain", CHELSEA, tmp_path, "--z_spacing", spacing)
    error = 0.03 if spacing == 1 else 0.005
    assert result["net_bpp"] == pytest.approx(result["est_bpp_coded"], rel=error)
    header, _ = container.read((tmp_path / "file.tfci").read_bytes())
    assert 2.0**-header.bits_back.z_bits == result["z_spacing"] == spacing


# --- Damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dict from script to a small file."""
    folder = tmp_path_factory.mktemp("small")
    image = folder / "small.png"
    Image.fromarray(read(CHELSEA)[100:124, 150:170].astype(np.uint8)).save(str(image))
    contents = {}
    for script in ("sga", "bb_plain", "bb_no_sga"):
        compress(script, image, folder)
        contents[script] = (folder / "file.tfci").read_bytes()
    return contents


@pytest.mark.parametrize("script", ["sga", "bb_plain", "bb_no_sga"])
def test_damaged_files_in_process(script, small):
    """Files truncated at every length, and with each bit flipped."""
    content = small[script]
    readers.read(content)
    damaged = [content[:length] for length in range(len(content))]
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    damaged.append(content + b"\0")
    for other in damaged:
        with pytest.raises(InputError):
            readers.read(other)


# Runs a command and prints its seconds and peak memory. The process that starts it must be small,
# because its own memory counts as well.
MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(status)
"""


def test_damaged_files_on_the_command_line(small, tmp_path):
    """One line, exit code 2, no output, and neither long nor large."""
    random = np.random.RandomState(0)
    for number in range(4):
        script = ["sga", "bb_no_sga"][number % 2]
        damaged = bytearray(small[script])
        if number < 2:
            damaged = damaged[: random.randint(len(damaged))]
        else:
            place = random.randint(8 * len(damaged))
            damaged[place // 8] ^= 1 << place % 8
        path = tmp_path / "damaged.tfci"
        path.write_bytes(bytes(damaged))
        argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO[script], str(path)]
        command = [sys.executable, os.path.join(ROOT, script + ".py"), *argv]
        process = subprocess.run(
            [sys.executable, "-c", MEASURED, *command], capture_output=True, text=True
        )
        (line,) = process.stderr.splitlines()
        seconds, kilobytes = process.stdout.split()[-2:]
        assert process.returncode == 2 and line.startswith(script + ": error: " + str(path))
        assert float(kilobytes) < 1e6 and float(seconds) < 10
        assert os.listdir(str(tmp_path)) == ["damaged.tfci"]


def checked(body):
    """A file of these bytes with the right checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


SCRIPTS_OF_SMALL = st.sampled_from(["sga", "bb_plain", "bb_no_sga"])


FUZZ = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=3000, **FUZZ)
@given(
    SCRIPTS_OF_SMALL,
    st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=3), st.integers(0, 3)), max_size=3),
    st.booleans(),
)
def test_fuzz_of_the_container(small, script, edits, seal):
    """Cuts and inserts bytes, mostly in the header, with or without correcting the checksum."""
    body = small[script][:-4]
    for place, inserted, removed in edits:
        body = body[:place] + inserted + body[place + removed :]
    try:
        reader = readers.read(checked(body) if seal else body + small[script][-4:])
    except InputError:
        return
    assert 0 < reader.images <= container.MAX_IMAGES
    assert 0 < reader.height * reader.width <= container.MAX_PIXELS


@settings(max_examples=60, **FUZZ)
@given(
    SCRIPTS_OF_SMALL,
    st.lists(st.tuples(st.integers(0, 10000), st.integers(0, 255)), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
)
def test_fuzz_of_payloads(small, script, edits, more):
    """Forged files with valid headers and checksums either decode to something or are refused."""
    header, (payload,) = container.read(small[script])
    forged = bytearray(payload)
    for place, value in edits:
        forged[place % len(forged)] ^= value
    forged = bytes(forged) + np.array(more, "<u4").tobytes()
    if header.bits_back and header.bits_back.posterior.its:
        posterior = header.bits_back.posterior._replace(its=2)
        header = header._replace(bits_back=header.bits_back._replace(posterior=posterior))
    run = checkpoints.find_run(DEMO_DIR, DEMO[script])
    try:
        for _, latents in readers.read(container.write(header, [forged])).latents(run, None):
            assert np.isfinite(latents["y"]).all() and latents["y"].shape == (2, 2, 32)
    except InputError:
        pass


def test_forged_sizes_take_no_memory(small):
    header, payloads = container.read(small["sga"])
    for changed in (
        {"height": 2**17},
        {"height": 2**15, "width": 2**15},
        {"images": 2**40},
        {"images": 1000},
        {"width": 0},
    ):
        with pytest.raises(InputError):
            readers.read(container.write(header._replace(**changed), payloads))


def test_what_is_no_file_of_this_model_or_script(capsys, small, tmp_path):
    top = ["--checkpoint_dir", DEMO_DIR, "decompress"]
    path = tmp_path / "file.tfci"

    def line(script, run, content):
        path.write_bytes(content)
        text = refused(capsys, script, *top, run, path)
        assert os.listdir(str(tmp_path)) == ["file.tfci"] and str(path) in text
        return text

    base, bb = DEMO["sga"], DEMO["bb_sga"]
    assert "empty" in line("sga", base, b"")
    assert "not a compressed file" in line("sga", base, b"nonsense")
    assert "not a compressed file" in line("sga", base, b"\n\x05nonsense")
    with open(CHELSEA, "rb") as file:
        assert "a PNG file" in line("mbt2018", base, file.read())
    version = bytearray(small["sga"])
    version[4] += 16
    assert "format version 2" in line("sga", base, bytes(version))
    assert "bits-back archive" in line("sga", base, small["bb_plain"])
    assert "not a model of mbt2018_bb.py" in line("bb_plain", base, small["bb_plain"])
    assert "not a model of mbt2018.py" in line("bb_plain", bb, small["sga"])
    header, payloads = container.read(small["sga"])
    other = container.write(header._replace(digest=b"abcd"), payloads)
    assert "made with another model" in line("sga", base, other)
    assert "damaged" in line("sga", base, small["sga"][:-1])
    path.unlink()
    assert "No such file" in refused(capsys, "sga", *top, base, path)


def test_a_stream_of_one_method_decodes_with_any_script(small, tmp_path):
    path = tmp_path / "file.tfci"
    path.write_bytes(small["sga"])
    pictures = []
    for script in ("mbt2018", "map", "bb_sga"):
        png = tmp_path / (script + ".png")
        argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO["sga"], path, png]
        run_here(script, *argv)
        pictures.append(read(png))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_a_memory_that_does_not_suffice_to_decode(small, monkeypatch):
    """Width before height, as everywhere."""
    reader = readers.read(small["sga"])
    run = checkpoints.find_run(DEMO_DIR, DEMO["sga"])
    weights = checkpoints.load(reader.model_class, run)
    latents = list(reader.latents(run, weights))

    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(reader, "latents", lambda *_: latents)
    monkeypatch.setattr(tf.Session, "run", exhausted)
    assert (reader.height, reader.width) == (24, 20)
    with pytest.raises(InputError, match="images of 20 x 24 pixels do not fit"):
        list(reader.pictures(run, weights))


def test_headers_are_short(small):
    """At most 24 bytes besides the payload, even for a large image."""
    for script in ("sga", "bb_plain", "bb_no_sga"):
        header, (payload,) = container.read(small[script])
        assert len(small[script]) - len(payload) <= 24
        header = header._replace(height=12000, width=9000)
        if header.bits_back:
            preset = container.Settings(2000, *container.PRESETS[-1])
            header = header._replace(bits_back=header.bits_back._replace(posterior=preset))
        assert len(container.write(header, [payload])) - len(payload) <= 24


def test_images_that_no_file_can_hold(capsys, tmp_path):
    Image.new("RGB", (2**16 + 64, 1)).save(str(tmp_path / "long.png"))
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["mbt2018"], tmp_path / "long.png"]
    line = refused(capsys, "mbt2018", *argv, "--results_dir", tmp_path)
    assert "long.png: 1 images of 65600 x 1 pixels" in line


def test_settings_that_cannot_be(capsys, tmp_path):
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["bb_sga"], CHELSEA, "--results_dir", ""]
    line = refused(capsys, "bb_no_sga", *argv, "--sga_its", 10**7)
    assert "at most 1000000 iterations" in line
    line = refused(capsys, "bb_no_sga", *argv, "--lr", 1e6, "--sga_its", 9)
    assert "chelsea.png: image 0: q(z|y) diverges" in line and "iteration 0;" in line


def test_paths_that_are_the_same(capsys, small, tmp_path):
    path = tmp_path / "file.tfci"
    path.write_bytes(small["bb_plain"])
    argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO["bb_sga"], path]
    assert "ends in .png or .npy" in refused(capsys, "bb_sga", *argv, path)
    os.rename(str(path), str(path) + ".png")
    argv[-1] = str(path) + ".png"
    assert "named twice" in refused(capsys, "bb_sga", *argv, argv[-1])
    assert os.listdir(str(tmp_path)) == ["file.tfci.png"]


def test_outputs_that_cannot_be(capsys, tmp_path):
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["bb_plain"], CHELSEA]
    line = refused(capsys, "bb_plain", *argv, tmp_path / "out.bin", "--results_dir", tmp_path)
    assert "ends in .tfci" in line
    # The output may follow the flags too.
    line = refused(capsys, "bb_plain", *argv, "--results_dir", tmp_path, tmp_path / "out.bin")
    assert "ends in .tfci" in line
    np.save(str(tmp_path / "two.npy"), np.zeros((2, 20, 30, 3), np.uint8))
    compress("mbt2018", tmp_path / "two.npy", tmp_path, "--container")
    argv = ["--checkpoint_dir", DEMO_DIR, "decompress", DEMO["sga"], tmp_path / "file.tfci"]
    assert "2 images go into an .npy" in refused(capsys, "sga", *argv, tmp_path / "out.png")


def test_an_archive_that_does_not_decode_is_not_written(tmp_path, monkeypatch, capsys):
    """Neither as a file nor as a part of one."""
    monkeypatch.setattr(digests, "digests_elsewhere", lambda run, path: ["another"])
    check_not_written(tmp_path, capsys, "other latents")


def check_not_written(folder, capsys, reason):
    """The result is there, the file and parts of it are not, and one line says why."""
    with pytest.raises(SystemExit) as exit_info:
        compress("bb_plain", CHELSEA, folder)
    assert exit_info.value.code == 1
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("bb_plain: error: {}: not written: ".format(folder / "file.tfci"))
    assert reason in line and "Traceback" not in line
    (name,) = os.listdir(str(folder))
    assert name.endswith(".npz") and "wrote {}\n".format(folder / name) in output.out
    assert "Avg psnr: " in output.out


@pytest.mark.parametrize("death", ["kill -9 $$", "echo first >&2; echo why >&2; exit 3"])
def test_the_result_stays_where_the_process_that_checks_dies(death, tmp_path, monkeypatch, capsys):
    """Before, hours of optimisation were lost with it."""
    shell = tmp_path / "python"
    shell.write_text("#!/bin/sh\n" + death)
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    (tmp_path / "out").mkdir()
    reason = "ended by SIGKILL (memory?)" if "kill" in death else "decode it: why"
    check_not_written(tmp_path / "out", capsys, reason)


def test_an_archive_is_checked_with_the_checkpoint_that_wrote_it(tmp_path, monkeypatch):
    """Not with a newer one that training has saved since."""
    folder = tmp_path / DEMO["bb_plain"]
    shutil.copytree(os.path.join(DEMO_DIR, DEMO["bb_plain"]), str(folder))
    state = folder / "checkpoint"
    values = {k: 1.01 * v for k, v in conftest.checkpoint_values(folder).items() if v.ndim}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.Variable(value, name=name) for name, value in values.items()]
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables)
        saver.save(session, str(folder / "model.ckpt-99999"), write_state=False)
    elsewhere = digests.digests_elsewhere

    def after_training(run, path):
        state.write_text('model_checkpoint_path: "model.ckpt-99999"\n')
        return elsewhere(run, path)

    monkeypatch.setattr(digests, "digests_elsewhere", after_training)
    argv = (DEMO["bb_plain"], CHELSEA, tmp_path / "r")
    out = {"checkpoint_dir": tmp_path, "output": (tmp_path / "r" / "file.tfci",)}
    conftest.compress("bb_plain", *argv, **out)
    assert (tmp_path / "r" / "file.tfci").exists()


def test_coding_at_full_size_is_fast(tmp_path):
    """At 768 × 512 and N = 192, each way takes at most 1.5 s of CPU time besides the transforms.

    (The test allows twice that, for other load.) Includes `integer_model.load`, once per run.
    """
    conftest.train_untrained(tmp_path, 192, ["mbt2018"])
    run = checkpoints.find_run(str(tmp_path), "mbt2018-num_filters=192-lmbda=0.01")
    random = np.random.RandomState(0)
    latents = {"y": random.normal(0, 2, (32, 48, 192)), "z": random.normal(0, 2, (8, 12, 192))}
    best = np.inf
    for _ in range(3):
        begun = os.times().elapsed
        writer = writers.GridWriter(run, container.INTEGERS)
        loaded = os.times().elapsed - begun
        coded = writer.add(latents, (512, 768), None)
        best = min(best, loaded + max(coded.encode_seconds, coded.decode_seconds))
    assert best < 3
    assert integer_model.load(run, bits_back=False).digest == writer._decoder.digest


STORED = os.path.join(ROOT, "tests", "files")


@pytest.mark.parametrize("name", ["map", "bb_no_sga"])
def test_files_that_were_written_on_another_machine(name):
    """They hold 96 × 112 pixels of chelsea.png, coded with the demo models and 30 iterations."""
    run = checkpoints.find_run(DEMO_DIR, DEMO[name])
    with open(os.path.join(STORED, name + ".sha256")) as file:
        expected = file.read().split()
    assert digests.digests(run, os.path.join(STORED, name + ".tfci")) == expected
