"""Digests of the latents in a compressed file, which are equal wherever it is decoded.

    python -m coding.digests <checkpoint_dir> <runname> <file> [<checkpoint>]

prints a line per image, the SHA-256 of its y and z. The name of a checkpoint, such as
model.ckpt-1000, selects another than the newest of the run.
"""

import os
import subprocess
import sys

from coding import readers
from coding.decoding import digest
from model import checkpoints, device
from runtime import files, signals
from runtime.errors import Unfinished


def digests(run, path):
    """A list of the digests of a file's images, decoded with the model of a `checkpoints.Run`."""
    reader = readers.read(files.read_bytes(path))
    weights = checkpoints.load(reader.model_class, run)
    found = {number: digest(latents) for number, latents in reader.latents(run, weights)}
    return [found[number] for number in range(reader.images)]


def check_elsewhere(run, path, expected, verbose=False):
    """Checks that a fresh process decodes a file to the expected latents.

    Args:
      run: `checkpoints.Run` of its model.
      path: path of the file.
      expected: digests of its images, in order.
      verbose: whether to announce the check.

    Raises:
      Unfinished: the process fails, or decodes other latents.
    """
    if verbose:
        print("----Decoding in a fresh process----")
    if digests_elsewhere(run, path) != list(expected):
        raise Unfinished("a fresh process decodes other latents than were coded")


def digests_elsewhere(run, path):
    """Digests of a file's images, a list, computed by a fresh process from the same checkpoint.

    Raises:
      Unfinished: the process failed.
    """
    folder, checkpoint = os.path.split(os.path.abspath(run.checkpoint))
    arguments = (*os.path.split(folder), os.path.abspath(path), checkpoint)
    process = subprocess.run(
        [sys.executable, "-m", "coding.digests", *arguments],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        env=device.without_gpus(),  # this process may hold all memory of the GPU
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        line = "the fresh process that was to decode it: {}"
        raise Unfinished(line.format(signals.reason(process.returncode, process.stderr)))
    return process.stdout.split()


def main():
    """Runs the command line described above."""
    if not 4 <= len(sys.argv) <= 5:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint_dir, runname, path, *checkpoint = sys.argv[1:]
    with signals.command(path):
        run = checkpoints.find_run(checkpoint_dir, runname, checkpoint=next(iter(checkpoint), None))
        print("\n".join(digests(run, path)))


if __name__ == "__main__":
    main()
