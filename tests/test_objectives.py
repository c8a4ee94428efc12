"""What counts in the loss: the region of a map, and the step of y's grid."""

import os
import shutil
import zlib

import conftest
import numpy as np
import pytest
import scipy.stats
from conftest import ROOT, run_script, runs
from PIL import Image

from coding import container, grid_codec, integer_model, readers
from inference import regions, steps
from model import checkpoints, hyperprior, tiling
from runtime.errors import InputError
from runtime.quiet_tf import tf

RUNS = runs("-num_filters=8-lmbda=0.02")
COFFEE = np.asarray(Image.open(os.path.join(ROOT, "samples", "coffee.png")).convert("RGB"))
SHORT = ("--preset", "fast", "--sga_its", 40, "--lr", 0.1)


@pytest.fixture
def photo(tmp_path):
    """The path of a crop of 80 × 64 pixels."""
    path = str(tmp_path / "photo.png")
    Image.fromarray(COFFEE[150:214, 250:330]).save(path)
    return path


def grey(path, values, mode="L"):
    Image.fromarray(np.asarray(values, np.uint8), mode).save(str(path))
    return path


def half_bright():
    values = np.full((64, 80), 10)
    values[:, 40:] = 250
    return values


def compress(script, folder, image, models, *flags, **kwargs):
    argv = (script, RUNS[script], image, folder, *flags, "--overwrite")
    return conftest.compress(*argv, checkpoint_dir=models, **kwargs)


# --- Regions ---------------------------------------------------------------------------------


def test_distortion_counts_in_the_region(photo, shipped, tmp_path):
    """Against sums over the decoded image; in the region PSNR rises, and outside it falls."""
    plain = compress("sga", tmp_path, photo, shipped, *SHORT, "--save_reconstruction")
    flags = (*SHORT, "--weight_map", grey(tmp_path / "map.png", half_bright()))
    result = compress("sga", tmp_path, photo, shipped, *flags, "--save_reconstruction")
    name = result["result_file"].replace(".npz", ".png")
    x = np.asarray(Image.open(photo), float)
    squares = (np.asarray(Image.open(str(tmp_path / name)), float) - x) ** 2
    for key, part in (("inside", squares[:, 40:]), ("outside", squares[:, :40])):
        psnr = 10 * np.log10(255**2 / np.mean(part))
        assert result["psnr_" + key][0] == pytest.approx(psnr, abs=1e-3)
    weighted = (250 * squares[:, 40:].mean() + 10 * squares[:, :40].mean()) / 260
    assert result["weighted_mse"][0] == pytest.approx(weighted, rel=1e-5)
    loss = 0.02 * weighted + result["est_bpp"][0]
    assert result["est_rd_loss"][0] == pytest.approx(loss, rel=1e-5)
    assert result["psnr_inside"][0] > result["psnr_outside"][0]
    assert result["mse"][0] == pytest.approx(squares.mean(), rel=1e-5)
    assert result["mse"] > plain["mse"]


def test_a_result_of_another_map_is_not_replaced(photo, shipped, tmp_path, capsys):
    """The map is another if its file says something else, though its path is the same."""
    flags = ("--sga_its", 1, "--weight_map", grey(tmp_path / "map.png", half_bright()))
    argv = ("sga", RUNS["sga"], photo, tmp_path, *flags)
    conftest.compress(*argv, checkpoint_dir=shipped)
    same = (*argv[:-1], grey(tmp_path / "same.png", half_bright()))
    assert conftest.compress(*same, checkpoint_dir=shipped)["weight_map"].item() == str(same[-1])
    grey(tmp_path / "map.png", half_bright()[:, ::-1])
    with pytest.raises(SystemExit) as exit:
        conftest.compress(*argv, checkpoint_dir=shipped)
    message = capsys.readouterr().err
    assert (
        exit.value.code == 2
        and "--weight_map with the digest" in message
        and "--overwrite" in message
    )


def test_a_map_as_it_is(photo, shipped, tmp_path):
    """--keep_weights multiplies λ: a map of half white and black is a smaller λ on average."""
    path = str(grey(tmp_path / "map.png", half_bright()))
    scaled, kept = (regions.read(path, (64, 80), keep).weights for keep in (False, True))
    assert scaled.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(kept[0, :, :, 1], half_bright() / 255, rtol=1e-6)


@pytest.mark.parametrize("size", [(64, 48), (300, 260)])
def test_weighted_distortion_in_pieces(size, monkeypatch):
    """The error and its gradient, against loops in NumPy; whole, and in pieces."""
    monkeypatch.setattr(tiling, "largest", lambda channels: 12 * 12)
    rng = np.random.RandomState(0)
    x = rng.rand(1, *size, 3).astype(np.float32)
    weights = rng.rand(1, *size, 3).astype(np.float32)
    y = rng.rand(1, -(-size[0] // 16), -(-size[1] // 16), 3).astype(np.float32)

    def transform(y, size):  # each latent is the colour of its pixels
        return tf.keras.backend.resize_images(y, 16, 16, "channels_last")[:, : size[0], : size[1]]

    with tf.Graph().as_default(), tf.Session() as session:
        latents = tf.constant(y)
        error, _ = tiling.distortion(transform, latents, tf.constant(x), tf.constant(weights))
        found = session.run([error, *tf.gradients(error, latents)])
    difference = y.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]] - x
    assert found[0][0] == pytest.approx(np.mean(weights * difference**2), rel=1e-5)
    gradient = np.zeros_like(y)
    for row, column in np.ndindex(*y.shape[1:3]):
        area = (0, slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
        gradient[0, row, column] = (2 * weights * difference)[area].sum(axis=(0, 1)) / x.size
    np.testing.assert_allclose(found[1], gradient, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    "values, mode, message",
    [
        (np.zeros((64, 80)), "L", "is black"),
        (np.full((64, 80), 9), "L", "is of one grey"),
        (
            np.arange(80 * 80).reshape(80, 80) % 256,
            "L",
            "80 x 80 pixels, but the image has 80 x 64",
        ),
        (np.arange(64 * 80 * 3).reshape(64, 80, 3) % 256, "RGB", "has colours"),
    ],
)
def test_maps_that_mark_no_region(values, mode, message, tmp_path):
    path = str(grey(tmp_path / "map.png", values, mode))
    with pytest.raises(InputError, match=message):
        regions.read(path, (64, 80), False)


def test_refused_maps(photo, shipped, tmp_path, capsys):
    for flags, message in (
        (("--keep_weights",), "--keep_weights: has no effect without --weight_map"),
        (("--weight_map", tmp_path / "none.png"), "none.png: no such"),
        (("--step", 20), "--step: 20 is not between 1/8 and 8"),
        (("--step", "wide"), "'wide' is not a number"),
    ):
        with pytest.raises(SystemExit) as exit:
            compress("sga", tmp_path, photo, shipped, "--sga_its", 1, *flags)
        assert exit.value.code == 2 and message in capsys.readouterr().err


# --- Steps -----------------------------------------------------------------------------------


def test_spacings():
    """Bit for bit the powers of two, and close to the roots between them."""
    for k in range(-container.MAX_STEP, container.MAX_STEP + 1):
        assert grid_codec.spacing(k) == pytest.approx(2 ** (k / 8), rel=1e-14)
        assert steps.number(1.04 * grid_codec.spacing(k) if k < 24 else 8) == k
    assert [grid_codec.spacing(k) for k in (-24, -8, 0, 16)] == [1 / 8, 1 / 2, 1, 4]


def test_likelihoods_of_intervals(shipped):
    """p(y|z) with a step, against SciPy: the mass of an interval of that width."""
    run = checkpoints.find_run(str(shipped), RUNS["sga"])
    weights = checkpoints.load(hyperprior.Mbt2018, run)
    rng = np.random.RandomState(0)
    step = grid_codec.spacing(5)
    y, z = rng.randint(-4, 5, (1, 8, 8, 8)), rng.randint(-3, 4, (1, 2, 2, 8))
    with tf.Graph().as_default(), tf.Session() as session:
        y, z = tf.constant(y, tf.float32), tf.constant(z, tf.float32)
        plain, coarse = (hyperprior.build(hyperprior.Mbt2018, weights, step=d) for d in (1, step))
        values = [y, coarse.p_y(y, z), *plain.hyper_synthesis(z, y)]
        images = coarse.synthesis(y, (128, 128)), plain.synthesis(y * step, (128, 128))
        (y, p, mu, sigma), images = session.run([values, images])
    distance = np.abs(y.astype(float) * step - mu)
    mass = scipy.stats.norm.cdf((step / 2 - distance) / sigma)
    mass -= scipy.stats.norm.cdf((-step / 2 - distance) / sigma)
    np.testing.assert_allclose(p, np.maximum(mass, 1e-9), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(*images, atol=1e-4)


@pytest.mark.parametrize("kind", container.KINDS[:3])
@pytest.mark.parametrize("step", [-9, 13])
def test_the_codec_follows_the_step(kind, step, shipped):
    """Its tables are those of mu / D and log2 sigma - log2 D, and what it codes comes back."""
    run = checkpoints.find_run(str(shipped), RUNS["sga"])
    decoder = integer_model.load(run, bits_back=False)
    codec = grid_codec.GridCodec(decoder, kind, step)
    plain = grid_codec.GridCodec(decoder, kind)
    rng = np.random.RandomState(1)
    y, z = rng.normal(0, 3, (5, 6, 8)), np.round(rng.normal(0, 3, (2, 2, 8)))
    words, sent = codec.encode(y, z)
    back = codec.decode(words, 75, 90)
    for name in "yz":
        np.testing.assert_array_equal(back[name], sent[name])
    (mu, codes, _), (plain_mu, plain_codes, _) = (one._p_y(z, (5, 6)) for one in (codec, plain))
    np.testing.assert_allclose(mu * 2 ** (step / 8), plain_mu, rtol=1e-13)
    # One step of the grid of log2 D is four of that of log2 sigma, where no bound cuts it off.
    levels, plain_levels = codes // 129, plain_codes // 129
    free = (levels > 0) & (plain_levels > 0)
    assert free.mean() > 0.9
    np.testing.assert_array_equal((plain_levels - levels)[free], 4 * step)


def test_files_with_a_step(photo, shipped, tmp_path, capsys):
    """They decode in a fresh process; damaged ones are refused; the step costs one byte."""
    path = tmp_path / "out.tfci"
    flags = (*SHORT, "--step", 1.5)
    result = compress("sga", tmp_path, photo, shipped, *flags, output=(path,))
    assert result["step"] == pytest.approx(2 ** (5 / 8))
    process = run_script("map", "--checkpoint_dir", shipped, "decompress", RUNS["map"], path)
    assert process.returncode == 0, process.stderr
    mse = np.mean((np.asarray(Image.open(str(path) + ".png"), float) - Image.open(photo)) ** 2)
    assert 10 * np.log10(255**2 / mse) == pytest.approx(result["psnr"][0], abs=0.01)
    # The rate is that of the coarser intervals.
    assert result["actual_bpp"][0] <= 1.002 * result["est_bpp"][0] + 40 * 8 / (64 * 80)
    content = path.read_bytes()
    header, payloads = container.read(content)
    assert header.step == 5 and container.write(header, payloads) == content
    assert len(container.write(header._replace(step=0), payloads)) == len(content) - 1
    for damaged in (content[:-1], content[:12] + b"\0" + content[13:]):
        with pytest.raises(InputError, match="damaged"):
            readers.read(damaged)
    for step in (128, 128 + 25, 0):  # none, and beyond the grid
        forged = content[:12] + bytes([step]) + content[13:-4]
        forged += zlib.crc32(forged).to_bytes(4, "little")
        with pytest.raises(InputError, match="impossible step"):
            readers.read(forged)


@pytest.mark.parametrize("part", [0.5, 1, 2])
def test_a_step_for_a_target(part):
    """It is coarser for less than the model's own result, finer for more."""
    step = steps.for_target(np.log(part), 0.0)
    assert np.sign(np.log(step)) == -np.sign(np.log(part))


def test_an_automatic_step(photo, shipped, tmp_path):
    """Coarser below the model's own λ, finer above it, 1 at it."""
    found = []
    for lmbda in (0.002, 0.02, 0.2):
        flags = ("--sga_its", 2, "--lambda", lmbda, "--step", "auto")
        found.append(float(compress("sga", tmp_path, photo, shipped, *flags)["step"]))
    assert found[0] > found[1] == 1 > found[2]


def test_an_automatic_step_needs_a_lambda_to_compare_with(photo, shipped, tmp_path, capsys):
    shutil.copytree(os.path.join(str(shipped), RUNS["sga"]), str(tmp_path / "mine"))
    argv = ("sga", "mine", photo, tmp_path, "--lambda", 0.01, "--step", "auto")
    with pytest.raises(SystemExit) as exit:
        conftest.compress(*argv, checkpoint_dir=tmp_path)
    assert exit.value.code == 2 and "--step auto: mine has no λ" in capsys.readouterr().err
