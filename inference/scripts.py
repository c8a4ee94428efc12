"""Runs the scripts as a user would, with the demo models."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKPOINTS = os.path.join(ROOT, "checkpoints")
sys.path.insert(0, ROOT)


def demo_run(model):
    """Name of the run folder of a demo model."""
    return model + "-num_filters=32-lmbda=0.01"


def compress(script, runname, image, results_dir, *flags, checkpoint_dir=CHECKPOINTS):
    """Runs `<script>.py compress`; ends this process as it did, if it failed.

    Returns:
      Path of the result file that it wrote.
    """
    flags = ("--results_dir", results_dir, "--overwrite", *flags)
    output = run(script, "--checkpoint_dir", checkpoint_dir, "compress", runname, image, *flags)
    line, *_ = (line for line in output.splitlines() if line.startswith("wrote "))
    return line[len("wrote ") :]


def run(script, *argv):
    """Runs `<script>.py <argv>`; ends this process as it did, if it failed.

    Returns:
      What it printed.
    """
    command = [sys.executable, os.path.join(ROOT, script + ".py"), *(str(arg) for arg in argv)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(process.returncode)  # it has said why
    return process.stdout
