"""Writes a model's integers for `coding.decoding`, which decodes latents without TensorFlow.

python -m tools.export_integers <checkpoint_dir> <runname> <file to write, .npz>
"""

import sys

from coding import decoding, integer_model
from model import checkpoints
from model.hyperprior import Mbt2018BB
from runtime import files, signals


def main():
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint_dir, runname, path = sys.argv[1:]
    with signals.command("export_integers"):
        run = checkpoints.find_run(checkpoint_dir, runname)
        decoder = integer_model.load(run, checkpoints.is_of(Mbt2018BB, run))
        with files.atomic_write(path) as file:
            decoding.write(decoder, file)
        print("wrote {}".format(path))


if __name__ == "__main__":
    main()
