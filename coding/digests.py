"""Digests of the latents in a compressed file: the same wherever it is decoded.

    python -m coding.digests <checkpoint_dir> <runname> <file>

prints the SHA-256 of y and z of each image, a line each.
"""

import hashlib
import os
import subprocess
import sys

import hyperprior
import utils
from coding import files
from model import device


def digest(latents):
    """SHA-256 of the y and z of an image, dict of arrays, in hexadecimal."""
    result = hashlib.sha256()
    for name in ("y", "z"):
        result.update(repr(latents[name].shape).encode())
        result.update((latents[name] + 0.0).astype("<f8").tobytes())  # there is no -0 then
    return result.hexdigest()


def digests(run, path):
    """The digests of a file's images, decoded with the model of a `utils.Run`, as a list."""
    reader = files.read(utils.read_bytes(path))
    weights = hyperprior.load(reader.model_class, run)
    found = {number: digest(latents) for number, latents in reader.latents(run, weights)}
    return [found[number] for number in range(reader.images)]


def digests_elsewhere(run, path):
    """The same, found by a fresh process.

    Raises:
      subprocess.CalledProcessError: it failed.
    """
    folder = os.path.dirname(os.path.abspath(run.checkpoint))
    process = subprocess.run(
        [sys.executable, "-m", "coding.digests", *os.path.split(folder), os.path.abspath(path)],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        env=device.without_gpus(),  # this process may hold all of its memory
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process.stdout.split()


def main():
    """The command line above."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint_dir, runname, path = sys.argv[1:]
    try:
        print("\n".join(digests(utils.find_run(checkpoint_dir, runname), path)))
    except utils.InputError as error:
        print("{}: error: {}".format(path, error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
