"""Values of all methods, against an implementation that shares no code with them (`oracle.py`).

The small models and images in data/ are this project's, the numbers in data/expected.json are the
oracle's; `test_parity.py` holds both to the reference, where its numbers are at hand.
"""

import json
import os

import numpy as np
import oracle
import pytest
from conftest import compress, runs

from inference import methods

RUNS = runs("-num_filters=8-lmbda=0.02")

with open(os.path.join(oracle.DATA, "expected.json")) as file:
    EXPECTED = json.load(file)

# Relative tolerance of est_bpp. Rounding errors of two programs move a latent or two over a half;
# q(z|y) lies on a grid here, and a y that moves gives bb_sga other random numbers.
RATE = {"mbt2018": 1e-4, "ste": 1e-4, "map": 1e-3, "bb_plain": 1e-3, "bb_no_sga": 1e-3}
RATE.update(sga=3e-3, danneal=3e-3, unoise=3e-3, bb_sga=1e-2)


@pytest.mark.parametrize("script, image, sharp", oracle.CASES)
def test_the_numbers_of_the_oracle(script, image, sharp, shipped, tmp_path):
    flags = ["--lambda", oracle.LMBDA]
    if "record_every" in methods.find_method(script).flags:
        flags += ["--record_every", oracle.RECORD_EVERY]
    for name, value in oracle.SETTINGS[script].items():
        flags += ["--" + name, value]
    if image.endswith(".npy"):
        flags += ["--eval_batch_size", 2]
    run = RUNS[script] + "-sharp" * sharp
    path = os.path.join(oracle.DATA, image)
    result = compress(script, run, path, tmp_path, *flags, checkpoint_dir=shipped)
    expected = dict(EXPECTED[oracle.key(script, image, sharp)])
    losses, stopped = expected.pop("rd_loss", None), expected.pop("stopped", None)
    assert set(expected) == {"est_y_bpp", "est_z_bpp", "est_bpp", "mse", "psnr"} | (
        ({"msssim"} if image == "odd.png" else set())
        | ({"est_bpp_back"} if script in oracle.BITS_BACK else set())
    )
    # The parts of a rate may each move further than their sum.
    scale = np.array(expected["est_bpp"])
    tolerances = {"mse": 2e-3 * np.array(expected["mse"]), "psnr": 0.01, "msssim": 1e-3}
    for name, values in expected.items():
        error = np.abs(result[name] - values)
        assert np.all(error <= tolerances.get(name, RATE[script] * scale)), name
    if losses is None:
        return
    assert list(result["its"]) == sorted({int(t) for t in losses} | {result["its"][-1]})
    for t, loss in zip(result["its"], result["rd_loss"]):
        # A difference grows with the iterations.
        if str(t) in losses:
            assert loss == pytest.approx(losses[str(t)], rel=1e-4 if t < 20 else 2e-3)
    if stopped is not None:
        assert result["its"][-1] == stopped
