"""What holds for the methods beyond the reference's numbers."""

import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import DEMO, DEMO_DIR, ROOT, compress
from PIL import Image

from inference import methods, optimise, sga_plus

PIXELS = np.random.RandomState(0).randint(0, 256, (3, 48, 40, 3)).astype(np.uint8)


def results(script, pixels, tmp_path, *flags):
    """Results of a few iterations on an array of images, with the demo models."""
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
    assert set(beyond) <= set(sga_plus.FLAGS)
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
    """The same seed gives the same result, another one another."""
    first, again, other = (
        results(script, PIXELS[:1], tmp_path, "--seed", seed) for seed in (3, 3, 4)
    )
    for key in ("est_bpp", "mse"):
        np.testing.assert_array_equal(first[key], again[key])
    assert first["est_bpp"] != other["est_bpp"]


@pytest.mark.parametrize("script", ["sga", "unoise", "danneal", "bb_sga", "bb_plain"])
def test_an_image_does_not_depend_on_its_company(script, tmp_path):
    """Nor on its place in the array; optimised together, all but for Adam's epsilon."""
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
    """Sixty images more do not take the memory of thirty: none is kept, not even in 8 bits."""
    command = (
        "import resource, sys; sys.path.insert(0, {!r}); import mbt2018, tf_boilerplate;"
        "tf_boilerplate.main(mbt2018.BaseHyperprior, argv=sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    ).format(ROOT)
    # Large blocks are given back when freed: what the peak measures is then no fragmentation.
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


def test_records_of_batches_that_stop_at_different_iterations(tmp_path, monkeypatch):
    """Each value stands at its iteration."""
    monkeypatch.setattr(optimise, "RECORD_EVERY", 10)
    flags = ("--lr", 0.05, "--check_every", 5, "--sga_its", 100)
    both = results("map", PIXELS[:2], tmp_path, *flags)
    for index in range(2):
        alone = results("map", PIXELS[index : index + 1], tmp_path, *flags)
        for key in ("rd_loss", "rd_loss_after_rounding", "its_psnr", "its_bpp_after_rounding"):
            row = dict(zip(both["its"], both[key][index]))
            assert {t: v for t, v in row.items() if np.isfinite(v)} == dict(
                zip(alone["its"], alone[key])
            )


@pytest.mark.parametrize("script", ["sga", "map", "bb_sga"])
def test_record_agrees_with_itself_and_with_the_result(script, tmp_path, monkeypatch):
    monkeypatch.setattr(optimise, "RECORD_EVERY", 10)
    flags = ("--lambda", 0.02, "--sga_its", 31, "--save_reconstruction")
    flags += ("--r_its", 2) if script == "bb_sga" else ()
    result = results(script, PIXELS[:1], tmp_path, *flags)
    for suffix in ("", "_after_rounding"):
        mse = (result["rd_loss" + suffix] - result["its_bpp" + suffix]) / 0.02
        # That of the loss is not in 8 bits.
        psnr = 10 * np.log10(255**2 / mse)
        np.testing.assert_allclose(result["its_psnr" + suffix], psnr, atol=0.05)
    changed = result["its_y_changed_after_rounding"]
    assert changed[0] < 0.05 < changed[-1] < 0.9 and (np.diff(changed) > 0).all()
    start = results(script, PIXELS[:1], tmp_path, *flags[:2], "--sga_its", 1)
    assert start["its_bpp"][0] == result["its_bpp"][0]


def test_map_goes_back_to_the_best_check(tmp_path, monkeypatch):
    """With a learning rate that makes things worse before long."""
    monkeypatch.setattr(optimise, "RECORD_EVERY", 5)
    flags = ("--lr", 0.1, "--check_every", 5, "--sga_its", 200, "--lambda", 0.001)
    result = results("map", PIXELS[:1], tmp_path, *flags)
    *good, bad = result["rd_loss_after_rounding"]
    assert result["its"][-1] < 199 and bad > good[-1] == min(good)
    # The record has the loss before clipping and rounding to 8 bits.
    assert result["est_rd_loss"][0] == pytest.approx(good[-1], rel=5e-3)
    assert result["est_bpp"][0] < result["est_rd_loss"][0] < bad


def test_the_method_of_contributing_works(tmp_path):
    """The example is taken from the document, saved beside the others and run."""
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
