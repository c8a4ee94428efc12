"""Helpers of all tests: golden data, and the scripts run in this process or in a fresh one."""

import glob
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared")
GOLDEN = os.path.join(SHARED, "golden")
sys.path[:0] = [ROOT, os.path.join(ROOT, "tools")]

import inference  # noqa: E402
import tf_boilerplate  # noqa: E402
from quiet_tf import tf  # noqa: E402

BASE = ["mbt2018", "sga", "map", "ste", "unoise", "danneal"]
BITS_BACK = ["bb_sga", "bb_no_sga", "bb_plain"]

DEMO_DIR = os.path.join(ROOT, "checkpoints")
DEMO = {
    **{script: "mbt2018-num_filters=32-lmbda=0.01" for script in BASE},
    **{script: "mbt2018_bb-num_filters=32-lmbda=0.01" for script in BITS_BACK},
}
UNTRAINED = {
    **{script: "mbt2018-num_filters=4-lmbda=0.01" for script in BASE},
    **{script: "mbt2018_bb-num_filters=4-lmbda=0.01" for script in BITS_BACK},
}

needs_golden = pytest.mark.skipif(
    not os.path.isdir(GOLDEN), reason="the reference's numbers are not at {}".format(GOLDEN)
)


method_class = inference.find_method


def compress(script, run, image, results_dir, *flags, checkpoint_dir, top=(), output=()):
    """Results of `<script> <top> compress <run> <image> <output> <flags>`, run in this process.

    `script` is the name of one, or a method class; None is returned where no result is written.
    """
    method = inference.find_method(script) if isinstance(script, str) else script
    argv = ["--checkpoint_dir", checkpoint_dir, *top, "compress", run, image, *output]
    argv += ["--results_dir", results_dir, *flags]
    tf_boilerplate.main(method, argv=[str(arg) for arg in argv])
    paths = glob.glob(os.path.join(str(results_dir), "*.npz"))
    if not paths:
        return None
    path = max(paths, key=lambda path: os.stat(path).st_mtime_ns)
    with np.load(path, allow_pickle=False) as result:
        return {**result, "result_file": os.path.basename(path)}


def run_script(name, *argv, cwd=ROOT, timeout=600):
    """Runs a script in a fresh process: `subprocess.CompletedProcess` with text output."""
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, name + ".py")] + [str(arg) for arg in argv],
        cwd=str(cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train_untrained(folder, num_filters, models=("mbt2018", "mbt2018_bb")):
    """Leaves runs of step 0 in `folder`: random weights, λ = 0.01."""
    image = os.path.join(str(folder), "train.png")
    Image.new("RGB", (64, 64)).save(image)
    for model in models:
        with tf.Graph().as_default():
            argv = ["--checkpoint_dir", str(folder), "--num_filters", str(num_filters)]
            argv += ["train", "--train_glob", image, "--patchsize", "64", "--last_step", "0"]
            graph = importlib.import_module(model).training_graph
            tf_boilerplate.main(None, graph, argv=[*argv, "--logdir", ""])


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A checkpoint folder with the `UNTRAINED` run of each model, N = 4."""
    folder = tmp_path_factory.mktemp("untrained")
    train_untrained(folder, 4)
    return folder
