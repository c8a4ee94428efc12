"""The scripts: which methods and models there are, and running one as a user does.

Needs no TensorFlow: whoever starts scripts and measures them stays small.
"""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKPOINTS = os.path.join(ROOT, "checkpoints")

# The methods for each model, in the order of tables and figures. The first only predicts.
MODELS = {
    "mbt2018": ("mbt2018", "ste", "unoise", "map", "danneal", "sga"),
    "mbt2018_bb": ("bb_plain", "bb_no_sga", "bb_sga"),
}
METHODS = tuple(script for scripts in MODELS.values() for script in scripts)


def demo_run(model):
    """Name of the run folder of a demo model."""
    return model + "-num_filters=32-lmbda=0.01"


def name_of(module):
    """Name of a script's module, which is `__main__` where it runs."""
    return os.path.splitext(os.path.basename(module.__file__))[0]


def compress(script, runname, image, results_dir, *flags, checkpoint_dir=CHECKPOINTS, quiet=False):
    """Runs `<script>.py compress`; ends this process as it did, if it failed.

    `quiet` hides its notes and its progress.

    Returns:
      Path of the result file that it wrote.
    """
    flags = ("--results_dir", results_dir, "--overwrite", *flags)
    output = run(
        script, "--checkpoint_dir", checkpoint_dir, "compress", runname, image, *flags, quiet=quiet
    )
    line, *_ = (line for line in output.splitlines() if line.startswith("wrote "))
    return line[len("wrote ") :]


def run(script, *argv, quiet=False):
    """Runs `<script>.py <argv>`; ends this process as it did, if it failed.

    What it says on stderr is shown; if `quiet`, only when it fails.

    Returns:
      What it printed.
    """
    command = [sys.executable, os.path.join(ROOT, script + ".py"), *(str(arg) for arg in argv)]
    stderr = subprocess.PIPE if quiet else None
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    if process.returncode:
        print(process.stderr or "", end="", file=sys.stderr)
        sys.exit(process.returncode)  # it has said why
    return process.stdout
