"""The reference's numbers (golden/), within the tolerances of their README.

`pytest -m parity` runs all of them; the others run in every test run.
"""
import json
import os
import re

import numpy as np
import pytest
from conftest import BASE, BITS_BACK, GOLDEN, compress, method_class, needs_golden

import rounding

pytestmark = needs_golden

RUNS = {
    **{name: "mbt2018-num_filters=8-lmbda=0.02" for name in BASE},
    **{name: "mbt2018_bb-num_filters=8-lmbda=0.02" for name in BITS_BACK},
}
PARROT, BIKES, BATCH = "parrot_256x192.png", "bikes_243x181.png", "batch_2x192x192.npy"
INPUTS = [PARROT, BIKES, BATCH]

# est_bpp (relative), psnr (dB), msssim
DETERMINISTIC = {"mbt2018": (2e-3, 0.01, 1e-3), "ste": (2e-3, 0.01, 1e-3), "danneal": (5e-3, 0.03, 2e-3)}
CENTRED = (0.02, 0.05, 2e-3)  # map and unoise, whose grid a decoder can rebuild here


def expected(script, image, sharp=False):
    """Means over seeds of the reference, and the standard deviation of est_bpp over seeds."""
    name = "expected_sharp.json" if sharp else "expected.json"
    with open(os.path.join(GOLDEN, name)) as file:
        numbers = json.load(file)
    spread = numbers.get("_std_over_seeds", {}).get(script, {}).get("est_bpp_relative", 0)
    return numbers[image][script], spread


def run(script, image, tmp_path, seed=0, sharp=False, method=None):
    flags = ["--seed", seed] + (["--eval_batch_size", 2] if image == BATCH else [])
    runname = RUNS[script] + ("-sharp" if sharp else "")
    path = os.path.join(GOLDEN, "images", image)
    return compress(method or method_class(script), runname, path, tmp_path, *flags)


def check(result, reference, bpp, psnr, msssim):
    mean = reference["mean"]
    np.testing.assert_allclose(result["est_bpp"], mean["est_bpp"], rtol=bpp)
    np.testing.assert_allclose(result["psnr"], mean["psnr"], atol=psnr)
    np.testing.assert_allclose(result["msssim"], mean["msssim"], atol=msssim)


def mean_of_seeds(results):
    keys = ("est_bpp", "psnr", "msssim")
    return {key: np.mean([result[key] for result in results], axis=0) for key in keys}


def logged(script, image, sharp=False):
    """{iteration: rd_loss} of the reference's log."""
    folder = "logs_sharp" if sharp else "logs"
    path = os.path.join(GOLDEN, folder, "{}-seed0-{}.log".format(script, image))
    with open(path) as file:
        lines = re.findall(r"^it=(\d+),.*?rd_loss=([0-9.]+)", file.read(), re.MULTILINE)
    return {int(t): float(loss) for t, loss in lines}


DETERMINISTIC_CASES = [
    (script, image, sharp)
    for script in DETERMINISTIC
    for image, sharp in [(i, False) for i in INPUTS] + [(PARROT, True)]
]


@pytest.mark.parametrize("script, image, sharp", DETERMINISTIC_CASES)
def test_deterministic(script, image, sharp, tmp_path):
    reference, _ = expected(script, image, sharp)
    result = run(script, image, tmp_path, sharp=sharp)
    check(result, reference, *DETERMINISTIC[script])
    assert result["result_file"] == reference["result_file"]
    if script == "mbt2018":
        # The file's size, and how a batch is counted.
        for key in ("batch_actual_bpp", "batch_sizes", "avg_batch_actual_bpp"):
            np.testing.assert_allclose(result[key], reference["mean"][key], rtol=1e-3)
