"""Properties of the methods besides the reference's numbers."""

import argparse
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, ROOT, compress
from PIL import Image

import tf_boilerplate
from inference import methods, optimise, sga_plus
from inference.evaluation import Evaluation
from model import checkpoints
from runtime.quiet_tf import tf

PIXELS = np.random.RandomState(0).randint(0, 256, (3, 48, 40, 3)).astype(np.uint8)


def results(script, pixels, tmp_path, *flags):
    """Runs a few iterations on an array of images with the demo models; returns the results."""
    path = tmp_path / "images.npy"
    np.save(str(path), pixels)
    if methods.find_method(script).flags:
        flags = ("--sga_its", 25, *flags)
    if script == "bb_sga":
        flags += ("--r_its", 25)
    return compress(
        script, DEMO[script], path, tmp_path, *flags, "--overwrite", checkpoint_dir=DEMO_DIR
    )


# By script what Table 1 of the paper, section 4 and the reference's code have.
ADAM = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
OF_SGA = {"annealing_rate": 1e-3, "t0": 700, "t_max": 0.5, "t_min": 1e-8, "atanh_eps": 1e-5}
DEFAULTS = {
    "mbt2018": {},
    "sga": {"sga_its": 2000, "lr": 5e-3, **ADAM, **OF_SGA},
    "map": {"sga_its": 2000, "lr": 5e-3, **ADAM, "check_every": 10},
    "ste": {"sga_its": 2000, "lr": 1e-4, **ADAM, "check_every": 10},
    "unoise": {"sga_its": 2000, "lr": 5e-3, **ADAM},
    "danneal": {
        **{"sga_its": 2000, "lr": 5e-3, **ADAM, "annealing_rate": 4e-3},
        **{"t_max": 0.2, "t_min": 1e-8, "atanh_eps": 1e-5},
    },
    "bb_sga": {"sga_its": 2000, "lr": 5e-3, "r_its": 2000, "r_lr": 3e-3, **ADAM, **OF_SGA},
    "bb_no_sga": {"sga_its": 1000, "lr": 5e-3, **ADAM},
    "bb_plain": {},
}


@pytest.mark.parametrize("script", list(DEFAULTS))
def test_defaults_are_those_of_the_paper(script):
    """Whatever flag is not listed is an option beyond the paper, which is off."""
    flags = {name: flag.default for name, flag in methods.find_method(script).flags.items()}
    assert DEFAULTS[script].items() <= flags.items()
    off = {"probability": "atanh", "classes": 2, "centred": False}
    off.update(lr_final=1.0, fit_schedule=False)
    beyond = {name: value for name, value in flags.items() if name not in DEFAULTS[script]}
    assert set(beyond) <= {*sga_plus.FLAGS, "record_every"}
    assert all(value == off[name] for name, value in beyond.items() if name in off)


@pytest.mark.parametrize("script, tie_is_worse", [("map", False), ("ste", True)])
def test_an_early_stop_at_a_tie(script, tie_is_worse):
    method = object.__new__(methods.find_method(script))
    method.args = types.SimpleNamespace(check_every=10)
    stop = method.early_stop()
    assert stop.worse(2.0, 1.0) and not stop.worse(1.0, 2.0)
    assert stop.worse(1.0, 1.0) == tie_is_worse
    assert stop.rounded == (script == "map") and stop.every == 10


@pytest.mark.parametrize("script", ["sga", "unoise", "bb_sga", "bb_plain"])
def test_seeds(script, tmp_path):
    """The same seed gives the same result, and another seed a different one."""
    first, again, other = (
        results(script, PIXELS[:1], tmp_path, "--seed", seed) for seed in (3, 3, 4)
    )
    for key in ("est_bpp", "mse"):
        np.testing.assert_array_equal(first[key], again[key])
    assert first["est_bpp"] != other["est_bpp"]


@pytest.mark.parametrize("script", ["sga", "unoise", "danneal", "bb_sga", "bb_plain"])
def test_an_image_does_not_depend_on_its_company(script, tmp_path):
    """Nor on its index in the array; optimised together, results agree up to Adam's epsilon."""
    alone = results(script, PIXELS[:1], tmp_path)
    one_by_one = results(script, PIXELS[::-1], tmp_path)
    np.testing.assert_array_equal(alone["est_bpp"][0], one_by_one["est_bpp"][2])
    together = results(script, PIXELS, tmp_path, "--eval_batch_size", 3)
    assert together["est_bpp"][0] == pytest.approx(alone["est_bpp"][0], rel=2e-3)
    beside = results(script, PIXELS[[2, 0, 1]], tmp_path, "--eval_batch_size", 3)
    np.testing.assert_allclose(together["est_bpp"], beside["est_bpp"][[1, 2, 0]], rtol=1e-6)


def test_a_last_batch_that_is_smaller(tmp_path):
    result = results("sga", PIXELS, tmp_path, "--eval_batch_size", 2)
    assert result["est_bpp"].shape == (3,) and np.isfinite(result["est_bpp"]).all()
    assert result["rd_loss"].shape == (2, 2) and list(result["its"]) == [0, 24]
    result = results("mbt2018", PIXELS, tmp_path, "--eval_batch_size", 2)
    assert list(result["batch_sizes"]) == [2, 1]
    total = result["batch_actual_bpp"].sum() / 3
    assert result["avg_batch_actual_bpp"] == pytest.approx(total)


@pytest.mark.parametrize("script", ["mbt2018", "sga", "map", "bb_sga"])
def test_saved_reconstruction_has_the_reported_quality(script, tmp_path):
    result = results(script, PIXELS, tmp_path, "--save_reconstruction")
    for index, original in enumerate(PIXELS):
        name = result["result_file"].replace(".npz", "-{}.png".format(index))
        decoded = np.asarray(Image.open(str(tmp_path / name)), np.float64)
        mse = np.mean((decoded - original) ** 2)
        assert result["mse"][index] == pytest.approx(mse, rel=1e-4)
        assert result["psnr"][index] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-3)


def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Sixty more images need less additional memory than thirty would in 8 bits: none is kept."""
    command = (
        "import resource, sys; sys.path.insert(0, {!r}); import mbt2018, tf_boilerplate;"
        "tf_boilerplate.main(mbt2018.BaseHyperprior, argv=sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    ).format(ROOT)
    # Large blocks are returned when freed, so that the peak does not include fragmentation.
    exact = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    rng, peaks = np.random.RandomState(0), []
    for number in (20, 80):
        path = tmp_path / "{}.npy".format(number)
        np.save(str(path), rng.randint(0, 256, (number, 160, 1600, 3)).astype(np.uint8))
        argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["sga"], str(path)]
        output = subprocess.run(
            [sys.executable, "-c", command, *argv, "--results_dir", ""],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **exact},
        ).stdout
        peaks.append(int(re.search(r"peak (\d+)", output).group(1)))
    assert peaks[1] - peaks[0] < 30 * 160 * 1600 * 3 / 1024


def test_records_of_batches_that_stop_at_different_iterations(tmp_path):
    """Each value is recorded at its iteration."""
    flags = ("--record_every", 10, "--lr", 0.05, "--check_every", 5, "--sga_its", 100)
    both = results("map", PIXELS[:2], tmp_path, *flags)
    for index in range(2):
        alone = results("map", PIXELS[index : index + 1], tmp_path, *flags)
        for key in ("rd_loss", "rd_loss_after_rounding", "its_psnr", "its_bpp_after_rounding"):
            row = dict(zip(both["its"], both[key][index]))
            assert {t: v for t, v in row.items() if np.isfinite(v)} == dict(
                zip(alone["its"], alone[key])
            )


@pytest.mark.parametrize("script", ["sga", "map", "bb_sga"])
def test_record_agrees_with_itself_and_with_the_result(script, tmp_path):
    flags = ("--lambda", 0.02, "--sga_its", 31, "--save_reconstruction", "--record_every", 10)
    flags += ("--r_its", 2) if script == "bb_sga" else ()
    result = results(script, PIXELS[:1], tmp_path, *flags)
    for suffix in ("", "_after_rounding"):
        mse = (result["rd_loss" + suffix] - result["its_bpp" + suffix]) / 0.02
        # The MSE of the loss is not rounded to 8 bits.
        psnr = 10 * np.log10(255**2 / mse)
        np.testing.assert_allclose(result["its_psnr" + suffix], psnr, atol=0.05)
    changed = result["its_y_changed_after_rounding"]
    assert changed[0] < 0.05 < changed[-1] < 0.9 and (np.diff(changed) > 0).all()
    start = results(script, PIXELS[:1], tmp_path, *flags[:2], "--sga_its", 1)
    assert start["its_bpp"][0] == result["its_bpp"][0]


def test_map_goes_back_to_the_best_check(tmp_path):
    """With a learning rate so high that the loss soon rises."""
    flags = (
        "--record_every",
        5,
        "--lr",
        0.1,
        "--check_every",
        5,
        "--sga_its",
        200,
        "--lambda",
        0.001,
    )
    result = results("map", PIXELS[:1], tmp_path, *flags)
    *good, bad = result["rd_loss_after_rounding"]
    assert result["its"][-1] < 199 and bad > good[-1] == min(good)
    # The record holds the loss before clipping and rounding to 8 bits.
    assert result["est_rd_loss"][0] == pytest.approx(good[-1], rel=5e-3)
    assert result["est_bpp"][0] < result["est_rd_loss"][0] < bad


class Course:
    """A stage of one latent v that Adam moves from 5.2 along given slopes, in this process."""

    def __init__(self, slopes, early_stop, losses=None):
        slopes = tf.constant(slopes, tf.float32)
        losses = slopes if losses is None else tf.constant(losses, tf.float32)

        def loss(v, t):
            # Of a value that is given, and a gradient that is another.
            straight = v * tf.gather(slopes, t)
            return straight - tf.stop_gradient(straight) + tf.gather(losses, t), {"mse": v}

        self.stage = optimise.Stage(
            {"v": tf.constant(5.2)},
            lambda v, t=None: loss(v, t) if t is not None else (v, {"mse": v}),
            lambda t, v: {"v": v, "t": t},
            lambda v: {"v": tf.math.round(v)},
            slopes.shape.as_list()[0],
            lambda t: 0.5,
            argparse.Namespace(**ADAM, record_every=100),
            early_stop=early_stop,
        )

    def run(self):
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            record = self.stage.run(session, lambda n: None, lambda *_: None)
            return session.run(self.stage.latents["v"]), record["its"][-1]


def adam(slopes, start=5.2, lr=0.5):
    """The values after each update, in NumPy."""
    m = v = 0
    values = []
    for t, slope in enumerate(np.float64(slopes), 1):
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        start -= rate * m / (np.sqrt(v) + 1e-8)
        values.append(start)
    return values


@pytest.mark.parametrize("tie_is_worse", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
def test_an_early_stop_returns_the_latents_of_the_last_good_check(rounded, tie_is_worse):
    """Not those of a later iteration, to the last bit."""
    slopes = [3.0, 1.0, 2.0, -6.0, -3.0, -3.0, -3.0, -9.0, -9.0, -9.0, -9.0, -9.0]
    losses = [9, 0, 8, 0, 8, 0, 9, 0, 1, 0, 0, 0]
    values = adam(slopes)
    every, checked = 2, range(0, 12, 2)
    watched = np.round(values) if rounded else losses
    stop = next(
        t
        for t in checked
        if t and (watched[t] > watched[t - 2] or (tie_is_worse and watched[t] == watched[t - 2]))
    )
    assert 2 < stop < 10
    with tf.Graph().as_default():
        early_stop = optimise.EarlyStop(every, rounded, tie_is_worse)
        value, last = Course(slopes, early_stop, losses).run()
    assert last == stop
    assert value == pytest.approx(values[stop - every], abs=1e-5)
    assert abs(values[stop] - values[stop - every]) > 0.01
    with tf.Graph().as_default():  # in one piece, up to that check
        unstopped, _ = Course(slopes[: stop - every + 1], None, losses[: stop - every + 1]).run()
    assert value == unstopped


SCHEDULES = {
    # script: T_max · the exponential before clipping, its rate, t0, clipping
    "sga": (0.5, 1e-3, 700, 0.5),
    "bb_sga": (0.5, 1e-3, 700, 0.5),
    "danneal": (1.0, 4e-3, 0, 0.2),
}


FLAGS_OF_ALL = [{}, {"annealing_rate": 0.02}, {"t_max": 0.1}]
CASES = [(script, flags) for script in SCHEDULES for flags in FLAGS_OF_ALL]
CASES += [("sga", {"t0": 30}), ("bb_sga", {"t0": 30})]


@pytest.mark.parametrize("script, flags", CASES)
def test_temperatures(script, flags):
    """τ(t) of the paper, at its defaults and at others, against NumPy."""
    method = methods.find_method(script)
    scale, rate, t0, t_max = SCHEDULES[script]
    settings = {name: flag.default for name, flag in method.flags.items()}
    args = argparse.Namespace(**{**settings, **flags})
    t = np.arange(0, 30000, 10)
    t0, rate = flags.get("t0", t0), flags.get("annealing_rate", rate)
    t_max = flags.get("t_max", t_max)
    scale = scale if script == "danneal" else t_max
    expected = np.clip(scale * np.exp(-rate * (t - np.float64(t0))), 1e-8, t_max)
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(method.temperature(argparse.Namespace(args=args), tf.constant(t)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_temperature_reaches_the_relaxation(tmp_path):
    """The record shows the one of t0, and another t0 gives other latents."""
    flags = ("--record_every", 10, "--annealing_rate", 0.1)
    late, early = (results("sga", PIXELS[:1], tmp_path, *flags, "--t0", t0) for t0 in (20, 5))
    np.testing.assert_allclose(late["T"], 0.5 * np.exp(-0.1 * np.maximum(late["its"] - 20, 0)))
    np.testing.assert_allclose(early["T"], 0.5 * np.exp(-0.1 * np.maximum(early["its"] - 5, 0)))
    assert late["rd_loss"][0] == early["rd_loss"][0] and late["rd_loss"][1] != early["rd_loss"][1]


def test_the_method_of_contributing_works(tmp_path):
    """The document's example is saved next to the scripts and run."""
    with open(os.path.join(ROOT, "CONTRIBUTING.md")) as file:
        example = re.search(r"```python\n(.*?)```", file.read(), re.DOTALL).group(1)
    assert example.count("\n") <= 40
    script = os.path.join(ROOT, "test_own_method.py")
    image = str(tmp_path / "image.png")
    Image.fromarray(PIXELS[0]).save(image)
    argv = ["--checkpoint_dir", DEMO_DIR, "compress", DEMO["sga"], image]
    try:
        with open(script, "w") as file:
            file.write(example)
        subprocess.run(
            [sys.executable, script, *argv, "--results_dir", str(tmp_path), "--sga_its", "5"],
            check=True,
        )
    finally:
        os.unlink(script)
    name = "rd-test_own_method-lmbda=0.01+{}-input=image.png.npz".format(DEMO["sga"])
    with np.load(str(tmp_path / name)) as result:
        assert np.isfinite(result["est_bpp"]).all() and result["sga_its"] == 5


@pytest.mark.parametrize(
    "script, size",
    [("mbt2018", (64, 128)), ("mbt2018", (129, 64)), ("sga", (75, 53)), ("bb_sga", (75, 53))],
)
def test_analysis_of_a_continued_image(script, size):
    """As if the image had been continued by NumPy, and latents cropped to the format's sizes."""
    pixels = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
    beyond = [(0, -side % 64) for side in size]
    padded = np.pad(pixels, [*beyond, (0, 0)], "edge")

    def predicted(pixels, pad):
        method = methods.find_method(script)
        run = checkpoints.find_run(DEMO_DIR, DEMO[script])
        argv = ["compress", run.name, "image", "--pad", pad]
        args = tf_boilerplate.parse(script, "", method, None, argv)
        args.lmbda = run.lmbda
        weights = checkpoints.load(method.model_class, run)
        made = Evaluation(method, weights, (1, *pixels.shape), args)
        made.begin(pixels[None])
        for stage in made.method.stages:
            made.session.run(stage.start)
        return made.session.run(made.method.latents)

    ours, whole = predicted(pixels, "edge"), predicted(padded, "none")
    assert ours["y"].shape[1:3] == (-(-size[0] // 16), -(-size[1] // 16))
    for name, value in ours.items():
        rows, columns = value.shape[1:3]
        np.testing.assert_allclose(value, whole[name][:, :rows, :columns], atol=1e-4)
    without = predicted(pixels, "none")
    is_continued = any(side % 64 for side in size)
    assert np.allclose(ours["y"], without["y"], atol=1e-4) != is_continued
