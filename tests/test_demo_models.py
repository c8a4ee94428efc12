"""The shipped models: they are small, and rank the methods as the paper does."""

import os

import numpy as np
import pytest
from conftest import BASE, BITS_BACK, DEMO, DEMO_DIR, KODAK, ROOT, compress, needs_kodak
from PIL import Image

from runtime.quiet_tf import tf


@pytest.mark.parametrize("run", sorted(set(DEMO.values())))
def test_run_folders_are_small_and_have_no_optimiser_state(run):
    folder = os.path.join(DEMO_DIR, run)
    files = os.listdir(folder)
    assert sum(os.path.getsize(os.path.join(folder, name)) for name in files) < 4 << 20
    assert {"args.json", "record.txt", "checkpoint"} <= set(files)
    names = [name for name, _ in tf.train.list_variables(folder)]
    assert not any("Adam" in name for name in names)


def mean_losses(crops, tmp_path):
    """λ·MSE + bpp of every script, averaged over the crops."""
    path = str(tmp_path / "crops.npy")
    np.save(path, crops)
    losses = {}
    for script in BASE + BITS_BACK:
        together = ("--eval_batch_size", str(len(crops)))  # faster for small images
        result = compress(script, DEMO[script], path, tmp_path, *together, checkpoint_dir=DEMO_DIR)
        losses[script] = np.mean(result["est_rd_loss"])
        print("{:10} {:.4f}".format(script, losses[script]))
    return losses


def check_order(losses):
    base = losses["mbt2018"]
    assert losses["sga"] == min(losses[script] for script in BASE)
    assert max(losses[script] for script in ("map", "unoise", "danneal")) < base
    assert losses["ste"] <= 1.002 * base
    assert losses["bb_sga"] < losses["bb_no_sga"] < losses["bb_plain"]


@needs_kodak
@pytest.mark.parametrize(
    "height, width", [(96, 128), pytest.param(256, 384, marks=pytest.mark.parity)]
)
def test_order_of_the_methods(height, width, tmp_path):
    """On centre crops of four Kodak images."""
    crops = []
    for number in (1, 5, 7, 11):
        image = np.asarray(Image.open(os.path.join(KODAK, "kodim{:02}.png".format(number))))
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        crops.append(image[top : top + height, left : left + width])
    check_order(mean_losses(np.stack(crops), tmp_path))


def test_samples_are_photographs_that_the_models_compress_well(tmp_path):
    """More than 26 dB at less than 0.3 bits per pixel shows that the models are trained."""
    for name in os.listdir(os.path.join(ROOT, "samples")):
        image = os.path.join(ROOT, "samples", name)
        result = compress("mbt2018", DEMO["mbt2018"], image, tmp_path, checkpoint_dir=DEMO_DIR)
        assert result["psnr"] > 26 and result["est_bpp"] < 0.3
