"""Runs the scripts as a user would, with the demo models."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKPOINTS = os.path.join(ROOT, "checkpoints")


def compress(script, runname, image, results_dir, *flags):
    """Runs `<script>.py compress`; ends this process as it did, if it failed.

    Returns:
      Path of the result file that it wrote.
    """
    command = [sys.executable, os.path.join(ROOT, script + ".py"), "--checkpoint_dir", CHECKPOINTS]
    command += ["compress", runname, image, "--results_dir", results_dir, "--overwrite", *flags]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(process.returncode)  # it has said why
    line, *_ = (line for line in process.stdout.splitlines() if line.startswith("wrote "))
    return line[len("wrote ") :]
