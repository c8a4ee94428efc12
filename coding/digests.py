"""Digests of the latents in a compressed file: the same wherever it is decoded.

    python -m coding.digests <checkpoint_dir> <runname> <file> [<checkpoint>]

prints the SHA-256 of y and z of each image, a line each. Without the name of a checkpoint, such as
model.ckpt-1000, it takes the run's newest.
"""

import hashlib
import os
import subprocess
import sys

from coding import readers
from model import checkpoints, device
from runtime import files, signals
from runtime.errors import Unfinished


def digest(latents):
    """SHA-256 of the y and z of an image, dict of arrays, in hexadecimal."""
    result = hashlib.sha256()
    for name in ("y", "z"):
        result.update(repr(latents[name].shape).encode())
        result.update((latents[name] + 0.0).astype("<f8").tobytes())  # there is no -0 then
    return result.hexdigest()


def digests(run, path):
    """The digests of a file's images, decoded with the model of a `checkpoints.Run`, as a list."""
    reader = readers.read(files.read_bytes(path))
    weights = checkpoints.load(reader.model_class, run)
    found = {number: digest(latents) for number, latents in reader.latents(run, weights)}
    return [found[number] for number in range(reader.images)]


def check_elsewhere(run, path, expected, verbose=False):
    """Has a fresh process decode a file.

    Args:
      run: `checkpoints.Run` of its model.
      path: of the file.
      expected: digests of its images, in order.
      verbose: whether to say so.

    Raises:
      Unfinished: that fails, or it decodes other latents.
    """
    if verbose:
        print("----Decoding in a fresh process----")
    if digests_elsewhere(run, path) != list(expected):
        raise Unfinished("a fresh process decodes other latents than were coded")


def digests_elsewhere(run, path):
    """The digests of a file's images, found by a fresh process with the run's very checkpoint.

    Raises:
      Unfinished: it failed.
    """
    folder, checkpoint = os.path.split(os.path.abspath(run.checkpoint))
    arguments = (*os.path.split(folder), os.path.abspath(path), checkpoint)
    process = subprocess.run(
        [sys.executable, "-m", "coding.digests", *arguments],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        env=device.without_gpus(),  # this process may hold all of its memory
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        line = "the fresh process that was to decode it {}"
        raise Unfinished(line.format(signals.reason(process.returncode, process.stderr)))
    return process.stdout.split()


def main():
    """The command line above."""
    if not 4 <= len(sys.argv) <= 5:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint_dir, runname, path, *checkpoint = sys.argv[1:]
    with signals.command(path):
        run = checkpoints.find_run(checkpoint_dir, runname, checkpoint=next(iter(checkpoint), None))
        print("\n".join(digests(run, path)))


if __name__ == "__main__":
    main()
