"""Helpers of all tests: golden data, and the scripts run in this process or in a fresh one."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared")
GOLDEN = os.path.join(SHARED, "golden")
sys.path.insert(0, ROOT)

import inference  # noqa: E402
import tf_boilerplate  # noqa: E402

BASE = ["mbt2018", "sga", "map", "ste", "unoise", "danneal"]
BITS_BACK = ["bb_sga", "bb_no_sga", "bb_plain"]

needs_golden = pytest.mark.skipif(
    not os.path.isdir(GOLDEN), reason="the reference's numbers are not at {}".format(GOLDEN)
)


def method_class(script):
    """The method that a script defines."""
    module = importlib.import_module(script)
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, inference.Method)
        and value.__module__ == script
    )


def compress(method, runname, image, results_dir, *flags, checkpoint_dir=None):
    """Results of a method (class) on an image, by its command line in this process."""
    argv = ["--checkpoint_dir", checkpoint_dir or os.path.join(GOLDEN, "checkpoints"), "--verbose"]
    argv += ["compress", runname, str(image), "--results_dir", str(results_dir)]
    tf_boilerplate.main(method, argv=argv + [str(flag) for flag in flags])
    (path,) = (p for p in os.listdir(str(results_dir)) if p.endswith(".npz"))
    path = os.path.join(str(results_dir), path)
    with np.load(path, allow_pickle=False) as result:
        values = dict(result)
    os.unlink(path)
    values["result_file"] = os.path.basename(path)
    return values


def run_script(name, *argv, cwd=ROOT, timeout=600):
    """Runs a script in a fresh process: `subprocess.CompletedProcess` with text output."""
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, name + ".py")] + [str(arg) for arg in argv],
        cwd=str(cwd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
