"""Figures of study/ show what the scripts computed, and wrong input is refused."""

import os
import subprocess
import sys

import conftest
import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, ROOT, UNTRAINED
from PIL import Image
from scipy import stats

import sga
import tf_boilerplate
from coding import readers
from inference import methods
from inference.evaluation import Evaluation
from model import checkpoints, hyperprior
from runtime import signals
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import look, sga_landscape

RUN = DEMO["sga"]


def photograph(folder, width, height, mode="RGB"):
    """The path of a crop of coffee.png."""
    path = str(folder / "photo.png")
    image = Image.open(os.path.join(ROOT, "samples", "coffee.png"))
    image.convert(mode).crop((250, 150, 250 + width, 150 + height)).save(path)
    return path


def command(module, *argv):
    """Runs `python -m study.<module>` in a fresh process."""
    argv = [sys.executable, "-m", "study." + module, *(str(arg) for arg in argv)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600)


def refused(capsys, main, *argv):
    """Checks for exit code 2; returns the error line, which argparse's usage may precede."""
    with pytest.raises(SystemExit) as exit, signals.command("study"):
        main([str(arg) for arg in argv])
    assert exit.value.code == 2
    *usage, line = capsys.readouterr().err.splitlines()
    assert not usage or usage[0].startswith("usage: ")
    return line


def settings(*flags):
    args = tf_boilerplate.parse("sga", "", sga.SGA, None, ["compress", RUN, "photo.png", *flags])
    args.lmbda = 0.01
    return args


@pytest.fixture(scope="module")
def crop():
    """Pixels, weights, and the `Way` of a few iterations of SGA."""
    image = np.array(Image.open(os.path.join(ROOT, "samples", "coffee.png")))
    pixels = image[150:190, 250:300]
    weights = checkpoints.load(sga.SGA.model_class, checkpoints.find_run(DEMO_DIR, RUN))
    return pixels, weights, sga_landscape.watch(pixels, weights, settings("--sga_its", "5"))


# --- The landscape ---------------------------------------------------------------------------


def test_watching_sees_every_iteration_and_changes_nothing(crop):
    pixels, weights, way = crop
    args = settings("--sga_its", "5")
    plain = Evaluation(sga.SGA, weights, (1, *pixels.shape), args)
    (latents,), _ = plain.optimise(pixels[None])
    np.testing.assert_array_equal(way.y[-1], latents["y"])
    np.testing.assert_array_equal(way.y_hat, np.rint(latents["y"]))
    np.testing.assert_array_equal(way.z_hat, np.rint(latents["z"]))
    np.testing.assert_array_equal(way.its, range(6))
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(sga.SGA.model_class, weights)
        y = session.run(model.analysis(tf.constant(pixels[None] / np.float32(255))))
    np.testing.assert_allclose(way.y[0], y[0], atol=1e-4)
    assert np.all(way.y_tilde >= np.floor(way.y)) and np.all(way.y_tilde <= np.ceil(way.y))
    steps = np.abs(np.diff(way.y, axis=0)).max(axis=(1, 2, 3))
    assert steps.min() > 0 and steps.max() < 0.02  # Adam's steps, of lr 5e-3


def test_losses_are_those_of_the_model_one_by_one(crop):
    pixels, weights, way = crop
    pair = ((0, 1, 15), (1, 1, 15))
    axes = [np.linspace(-3, 2.5, 5), np.linspace(1, 4, 4)]
    values = sga_landscape.grid(sga_landscape.losses(weights, pixels, 0.01, way), pair, axes)
    assert values.shape == (4, 5)
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(sga.SGA.model_class, weights)
        y = tf.placeholder(tf.float32, (1, *way.y_hat.shape))
        x = tf.constant(pixels[None] / np.float32(255))
        loss, _ = model.rate_distortion(x, 0.01, y, z=tf.constant(way.z_hat[None]))
        for row, column in ((0, 0), (1, 4), (3, 2)):
            changed = way.y_hat.copy()
            changed[pair[0]], changed[pair[1]] = axes[0][column], axes[1][row]
            expected = session.run(loss, {y: changed[None]}) * pixels.shape[0] * pixels.shape[1]
            np.testing.assert_allclose(values[row, column], expected, rtol=1e-5)


def quadratic(optimum, weights, interaction):
    """A function from changes of `optimum` to losses; `interaction`: (latent, latent, weight)."""

    def bits(changes):
        losses = []
        for changed in changes:
            away = np.zeros_like(optimum)
            for latent, value in changed.items():
                away[latent] = value - optimum[latent]
            a, b, weight = interaction
            losses.append(100 + np.sum(weights * away**2) + weight * away[a] * away[b])
        return np.array(losses)

    return bits


def test_the_pair_is_the_one_that_costs_most_to_take_back():
    y_hat = np.random.RandomState(0).randint(-3, 4, (4, 5, 3)).astype(float)
    moved = np.zeros_like(y_hat)
    pair = ((1, 2, 1), (2, 1, 1))  # diagonal neighbours
    for latent in (*pair, (1, 1, 1), (3, 4, 1), (0, 0, 0), (2, 1, 2)):
        moved[latent] = 1
    weights = np.ones_like(y_hat)
    weights[pair[0]] = weights[pair[1]] = 5
    weights[3, 4, 1] = weights[2, 1, 2] = 9  # without a neighbour in its channel that moved
    bits = quadratic(y_hat, weights, (*pair, 1.5))
    assert sga_landscape.choose_pair(bits, y_hat - moved + 0.3, y_hat) == pair

    # SGA's final point is not the best of the first pair: the second is chosen.
    best = y_hat.copy()
    best[pair[0]] += 1
    weights[1, 1, 1] = 3
    bits = quadratic(best, weights, (*pair, 0))
    assert sga_landscape.choose_pair(bits, y_hat - moved, y_hat) == ((1, 1, 1), pair[1])


def test_no_pair_is_an_error_in_one_line():
    with pytest.raises(InputError, match="no two neighbouring latents"):
        sga_landscape.choose_pair(None, np.zeros((2, 2, 1)), np.zeros((2, 2, 1)))


def test_smoke_of_the_landscape(tmp_path):
    flags = ("--crop", "48x48", "--sga_its", 80, "--seed", 1)
    outputs = [tmp_path / "one.svg", tmp_path / "two.svg"]
    texts = []
    for output in outputs:
        process = command("sga_landscape", *flags, "--output", output)
        assert process.returncode == 0, process.stderr
        texts.append(process.stdout.splitlines())
    assert texts[0][0].startswith("latents (row, column, channel) of y: (")
    rounded, best = (float(line.split()[-2]) for line in texts[0][1:3])
    assert best < rounded
    assert texts[0][:3] == texts[1][:3]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    "flags, text",
    [
        (("--image", "none.png"), "none.png: no such image"),
        (("--crop", "9999x10"), "600 x 400 pixels, less than 9999 x 10"),
        (("--output", "picture.jpg"), "ends in .png or .svg"),
        (("--runname", "none"), "no such run folder"),
        (("--runname", DEMO["bb_sga"]), "not a model of mbt2018.py"),
    ],
)
def test_the_landscape_refuses(flags, text, capsys, tmp_path):
    image = os.path.join(ROOT, "samples", "coffee.png")
    there = ("--image", image, "--checkpoint_dir", DEMO_DIR, "--runname", DEMO["sga"])
    there += ("--output", tmp_path / "l.png")
    assert text in refused(capsys, sga_landscape.main, *there, *flags)


# --- A look at an image ----------------------------------------------------------------------


def test_the_window_is_where_images_differ_most():
    a = np.random.RandomState(0).randint(0, 256, (50, 61, 3)).astype(np.uint8)
    b = a.copy()
    b[30:40, 17:27] ^= 128
    b[3, 50] ^= 255
    everywhere = np.ones(a.shape[:2], bool)
    assert look.most_different(a, b, 10, everywhere) == (30, 17)
    at_the_right = everywhere & (np.arange(61) >= 45)
    assert look.most_different(a, b, 10, at_the_right) == (0, 41)
    b[:] = a
    b[49, 60] ^= 1
    assert look.most_different(a, b, 7, everywhere) == (43, 54)
    assert look.most_different(a, b, 50, everywhere) == (0, 11)


@pytest.mark.parametrize("script", ["mbt2018", "sga", "bb_plain"])
def test_maps_and_pixels_are_those_of_the_result(script, tmp_path):
    image = photograph(tmp_path, 53, 37)
    flags = ("--sga_its", 3) if script == "sga" else ()
    output, method = tmp_path / "photo.tfci", methods.find_method(script)
    place = {"checkpoint_dir": DEMO_DIR, "output": [output]}
    result = conftest.compress(script, DEMO[script], image, tmp_path / "r", *flags, **place)
    run = checkpoints.find_run(DEMO_DIR, DEMO[script])
    pixels, bits = look.decode(output.read_bytes(), run, method)
    original = np.asarray(Image.open(image), dtype=float)
    np.testing.assert_allclose(np.mean((pixels - original) ** 2), result["mse"][0], rtol=1e-5)
    assert bits.shape == (3, 4) and np.all(bits > 0)
    if script != "bb_plain":  # whose est_y_bpp is that of another sample of z
        np.testing.assert_allclose(bits.sum(), result["est_y_bpp"][0] * 53 * 37, rtol=1e-5)

    weights = checkpoints.load(method.model_class, run)
    ((_, latents),) = readers.read(output.read_bytes()).latents(run, weights)
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(method.model_class, weights, sigma_min=method.sigma_min)
        y, z = (tf.constant(latents[name][None], tf.float32) for name in "yz")
        y, mu, sigma = (
            v.astype(np.float64) for v in session.run([y, *model.hyper_synthesis(z, y)])
        )
    # Of the absolute distance, because floats resolve only the lower tail.
    away = np.abs(y - mu)
    p = stats.norm.cdf((0.5 - away) / sigma) - stats.norm.cdf((-0.5 - away) / sigma)
    expected = -np.log2(np.maximum(p, 1e-9)).sum(axis=3)[0]
    np.testing.assert_allclose(bits, expected, rtol=1e-3, atol=0.02)


@pytest.mark.parametrize(
    "method, size, mode",
    [("sga --sga_its 3", (53, 37), "RGB"), ("bb_sga --sga_its 3 --r_its 2", (35, 70), "L")],
)
def test_smoke_of_the_look(method, size, mode, untrained, tmp_path):
    """Odd sizes, landscape and portrait, colour and grey."""
    image, script = photograph(tmp_path, *size, mode), method.split()[0]
    flags = ("--method", method, "--window", 32, "--output", tmp_path / "out")
    run = ("--checkpoint_dir", untrained, "--runname", UNTRAINED[script])
    process = command("look", image, *flags, *run)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("note: MS-SSIM") == (min(size) < 161)  # once, of two runs
    names = sorted(os.listdir(str(tmp_path / "out")))
    stem = "photo-" + method.replace(" --", "-").replace(" ", "-")
    assert stem + ".png" in names and stem + ".tfci" in names
    with np.load(str(tmp_path / "out" / (stem + ".npz"))) as result:
        bpp = result["est_bpp_coded" if script == "bb_sga" else "est_bpp"][0]
        text = "{}, {:.4f} bpp, {:.2f} dB".format(method, bpp, result["psnr"][0])
    assert text in process.stdout
    with Image.open(str(tmp_path / "out" / (stem + ".png"))) as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(
    "flags, text",
    [
        (("none.png",), "none.png: no such image"),
        (("--window", "60"), "53 × 37 pixels, smaller than --window"),
        (("--method", "sgd"), "sgd: no script of that name"),
        (("--method", "utils"), "utils: no script of that name"),
        (("--method", ""), "'': not the name of a script"),
        (("--method", "sga --lr 0"), "--lr: 0 is not above 0"),
        (("--method", "mbt2018"), "what others are compared with"),
        (("--runname", DEMO["bb_sga"]), "not a model of mbt2018.py"),
        (("--runname", "none"), "no such run folder"),
    ],
)
def test_the_look_refuses(flags, text, capsys, tmp_path):
    image = () if flags[0] == "none.png" else (photograph(tmp_path, 53, 37),)
    there = ("--checkpoint_dir", DEMO_DIR, "--runname", DEMO["sga"], "--window", "32")
    there += ("--output", tmp_path / "out")
    assert text in refused(capsys, look.main, *image, *there, *flags)
    assert not (tmp_path / "out").exists()


def test_the_look_takes_one_image(capsys, tmp_path):
    np.save(str(tmp_path / "two.npy"), np.zeros((2, 40, 40, 3), np.uint8))
    assert "2 images; take one" in refused(capsys, look.main, tmp_path / "two.npy")


def test_wrong_input_is_one_line_of_the_command_line():
    for module in ("look", "sga_landscape"):
        image = ("none.png",) if module == "look" else ("--image", "none.png")
        process = command(module, *image)
        assert process.returncode == 2
        assert process.stderr == "study.{}: error: none.png: no such image\n".format(module)
