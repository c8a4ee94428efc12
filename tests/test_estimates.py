"""--estimate_only: rates of bits-back coding with q(z|y) fitted by TensorFlow, and no file."""

import os

import numpy as np
import oracle
import pytest
from conftest import BITS_BACK, compress, needs_golden, runs
from test_files import refused

RUNS = runs("-num_filters=8-lmbda=0.02")
ODD = os.path.join(oracle.DATA, "odd.png")
OF_FILES = {"actual_bpp", "net_bpp", "est_bpp_coded", "latents_sha256"}
OF_FILES |= {"encode_seconds", "decode_seconds"}
FLAGS = {
    "bb_plain": (),
    "bb_no_sga": ("--sga_its", 300),
    "bb_sga": ("--sga_its", 20, "--r_its", 300),
}


@pytest.mark.parametrize("script", BITS_BACK)
def test_estimates_agree_with_those_of_coded_latents(script, shipped, tmp_path):
    """With the same y, and q(z|y) that is fitted with other noise and in floating point."""
    both = [
        compress(script, RUNS[script], ODD, tmp_path, *more, *FLAGS[script], checkpoint_dir=shipped)
        for more in ((), ("--estimate_only", "--overwrite"))
    ]
    coded, estimated = both
    assert set(coded) - set(estimated) == OF_FILES
    for key in ("psnr", "mse", "msssim"):
        assert estimated[key] == pytest.approx(coded[key], rel=1e-6)
    # Where nothing is fitted, both have the same sample of z but for the grid of q.
    rate = 1e-3 if script == "bb_plain" else 5e-3
    for key in ("est_bpp", "est_rd_loss"):
        assert estimated[key] == pytest.approx(coded[key], rel=rate)
    if script == "bb_plain":
        assert "rate_its" not in estimated and "its" not in estimated
    else:
        stage = "rate_" if script == "bb_sga" else ""
        assert list(estimated[stage + "its"]) == [0, 100, 200, 299]
        losses = estimated[stage + "rd_loss"], coded["rate_rd_loss" if stage else "rd_loss"]
        np.testing.assert_allclose(*losses, rtol=0.15)  # each is of a single sample


def test_what_has_no_effect_is_refused(capsys, shipped, tmp_path):
    argv = ["--checkpoint_dir", shipped, "compress", RUNS["bb_plain"], ODD, "--estimate_only"]
    argv += ["--results_dir", tmp_path]
    line = refused(capsys, "bb_plain", *argv, tmp_path / "file.tfci")
    assert "file.tfci: --estimate_only writes no file" in line
    for flag in (("--side_info", ODD), ("--z_spacing", 1)):
        line = refused(capsys, "bb_plain", *argv, *flag)
        assert flag[0] + ": has no effect with --estimate_only" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parity
@needs_golden
@pytest.mark.parametrize("image", ["parrot_256x192.png", "bikes_243x181.png"])
@pytest.mark.parametrize("script", BITS_BACK)
def test_estimates_are_those_of_the_reference(script, image, tmp_path):
    from test_parity import check, expected, mean_of_seeds, run

    results = [run(script, image, tmp_path, seed, flags=["--estimate_only"]) for seed in range(3)]
    reference, spread = expected(script, image)
    quality = (0.02, 2e-3) if script == "bb_sga" else (0.01, 1e-3)
    check(mean_of_seeds(results), reference, 3e-3 + 3 * spread, *quality)
