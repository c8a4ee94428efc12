"""The registry of methods and models, and functions that run a script as a user does.

Needs no TensorFlow, so that processes that only run scripts stay small.
"""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKPOINTS = os.path.join(ROOT, "checkpoints")

# Each model's methods, in the order of tables and figures. The first does not optimise.
MODELS = {
    "mbt2018": ("mbt2018", "ste", "unoise", "map", "danneal", "sga"),
    "mbt2018_bb": ("bb_plain", "bb_no_sga", "bb_sga"),
}
METHODS = tuple(script for scripts in MODELS.values() for script in scripts)


def demo_run(model):
    """The name of the run folder of the shipped model with the highest rate."""
    return model + "-num_filters=64-lmbda=0.0025"


def name_of(module):
    """The name of a script from its module, which is called `__main__` when the script runs."""
    return os.path.splitext(os.path.basename(module.__file__))[0]


def compress(script, runname, image, results_dir, *flags, checkpoint_dir=CHECKPOINTS, quiet=False):
    """Runs `<script>.py compress`; if that fails, exits with its exit code.

    `quiet` hides its notes and its progress.

    Returns:
      The path of the result file that it wrote.
    """
    flags = ("--results_dir", results_dir, "--overwrite", *flags)
    output = run(
        script, "--checkpoint_dir", checkpoint_dir, "compress", runname, image, *flags, quiet=quiet
    )
    line, *_ = (line for line in output.splitlines() if line.startswith("wrote "))
    return line[len("wrote ") :]


def run(script, *argv, quiet=False):
    """Runs `<script>.py <argv>`; if that fails, exits with its exit code.

    What it says on stderr is shown; if `quiet`, only when it fails.

    Returns:
      Its standard output.
    """
    command = [sys.executable, os.path.join(ROOT, script + ".py"), *(str(arg) for arg in argv)]
    stderr = subprocess.PIPE if quiet else None
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    if process.returncode:
        print(process.stderr or "", end="", file=sys.stderr)
        sys.exit(process.returncode)  # the script has printed the reason
    return process.stdout
