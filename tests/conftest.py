"""Helpers of the tests: golden data, and the scripts run in this process or in a fresh one."""

import glob
import importlib
import os
import subprocess
import sys

import numpy as np
import oracle
import pytest
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared")
GOLDEN = os.path.join(SHARED, "golden")
sys.path.insert(0, ROOT)

import tf_boilerplate  # noqa: E402
from inference import methods, scripts  # noqa: E402
from runtime import machine  # noqa: E402
from runtime.quiet_tf import tf  # noqa: E402

BASE, BITS_BACK = (list(scripts.MODELS[model]) for model in ("mbt2018", "mbt2018_bb"))


def runs(name):
    """A dict from script to the run folder of its model, the model's name followed by `name`."""
    return {s: model + name for model, found in scripts.MODELS.items() for s in found}


DEMO_DIR = os.path.join(ROOT, "tests", "data")
DEMO = runs("-num_filters=32-lmbda=0.01")
UNTRAINED = runs("-num_filters=4-lmbda=0.01")

needs_golden = pytest.mark.skipif(
    not os.path.isdir(GOLDEN), reason="the reference's numbers are not at {}".format(GOLDEN)
)

KODAK = os.path.join(SHARED, "kodak")
needs_kodak = pytest.mark.skipif(
    not os.path.isdir(KODAK), reason="no Kodak images at {}".format(KODAK)
)


def compress(script, run, image, results_dir, *flags, checkpoint_dir, top=(), output=()):
    """Runs `<script> <top> compress <run> <image> <output> <flags>` here; returns the results.

    `script` is the name of a script, or a method class. Returns None if no result is written.
    """
    method = methods.find_method(script) if isinstance(script, str) else script
    argv = ["--checkpoint_dir", checkpoint_dir, *top, "compress", run, image, *output]
    argv += ["--results_dir", results_dir, *flags]
    before = _identities(results_dir)
    tf_boilerplate.main(method, argv=[str(arg) for arg in argv])
    written = [item[0] for item in _identities(results_dir) - before]
    if not written:
        return None
    (path,) = written
    with np.load(path, allow_pickle=False) as result:
        return {**result, "result_file": os.path.basename(path)}


def _identities(folder):
    """The results in a folder, as a set of (path, what tells a file from the one it replaces)."""
    paths = glob.glob(os.path.join(glob.escape(str(folder)), "*.npz"))
    stats = [(path, os.stat(path)) for path in paths]
    return {(path, stat.st_ino, stat.st_mtime_ns) for path, stat in stats}


def run_script(name, *argv, cwd=ROOT, timeout=600):
    """Runs a script in a fresh process; returns `subprocess.CompletedProcess` with text output."""
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, name + ".py")] + [str(arg) for arg in argv],
        cwd=str(cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train_untrained(folder, num_filters, models=("mbt2018", "mbt2018_bb")):
    """Writes runs of step 0 to `folder`, with random weights and λ = 0.01."""
    image = os.path.join(str(folder), "train.png")
    Image.new("RGB", (64, 64)).save(image)
    for model in models:
        with tf.Graph().as_default():
            argv = ["--checkpoint_dir", str(folder), "--num_filters", str(num_filters)]
            argv += ["train", "--train_glob", image, "--patchsize", "64", "--last_step", "0"]
            graph = importlib.import_module(model).training_graph
            tf_boilerplate.main(None, graph, argv=[*argv, "--logdir", ""])


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of images in all three formats, smooth enough to learn from."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    for index in range(6):
        coarse = rng.randint(0, 256, (4, 5, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((90, 70), Image.BICUBIC)
        if index < 2:
            image.save(str(folder / "{}.png".format(index)))
        elif index < 4:
            image.save(str(folder / "{}.jpg".format(index)), quality=95)
        else:
            np.save(str(folder / "{}.npy".format(index)), np.asarray(image, np.float32) / 255)
    return folder


def train_argv(photos, tmp_path, *flags, n=4, patchsize=64, pattern="*", lmbda=0.01):
    """Arguments that train a small model on `photos` in `tmp_path`."""
    return [
        *("--checkpoint_dir", str(tmp_path), "--num_filters", str(n)),
        *("train", "--train_glob", str(photos / pattern), "--patchsize", str(patchsize)),
        *("--batchsize", "2", "--preprocess_threads", "2", "--lambda", str(lmbda)),
        *("--logdir", "", *(str(flag) for flag in flags)),
    ]


def pretend_cores(monkeypatch, number):
    """Lets this machine have another number of cores."""
    monkeypatch.setattr(machine, "affinity", lambda: number)
    monkeypatch.setattr(machine, "quota", lambda: None)


def checkpoint_values(folder):
    """A dict from name to value of all variables in a folder's newest checkpoint."""
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A checkpoint folder with an `UNTRAINED` run of each model, N = 4."""
    folder = tmp_path_factory.mktemp("untrained")
    train_untrained(folder, 4)
    return folder


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """A checkpoint folder with the small models in data/ (see `oracle.py`)."""
    folder = tmp_path_factory.mktemp("shipped")
    oracle.write_models(str(folder))
    return folder
