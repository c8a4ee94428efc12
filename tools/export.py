"""Copies a trained run without the state of its optimisers, which makes it a third of the size.

    python tools/export.py <run folder> <folder to write> [--best]

The copy compresses and decompresses as the original does. Training cannot resume from it, but a new
run can start from its weights (`--init_from`).
"""

import argparse
import os
import re
import shutil
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from model import checkpoints  # noqa: E402
from runtime import files, signals  # noqa: E402
from runtime.errors import InputError  # noqa: E402
from runtime.quiet_tf import enough_memory, tf  # noqa: E402
from training import validation  # noqa: E402


def main(source, target, best=False, replace=False):
    """Writes a checkpoint of `source`, its settings and records to `target`.

    best: whether to take the checkpoint that validation found best, rather than the newest.
    replace: whether to replace `target` if it is there.

    Raises:
      InputError: no such checkpoint, or `target` is there or cannot be written.
    """
    target = os.path.realpath(target)
    if os.path.exists(target) and not (replace and os.path.isdir(target)):
        raise InputError("{}: is there already; name a new folder".format(target))
    parent, name = os.path.split(target)
    files.check_folder(parent)
    find = validation.best_checkpoint if best else checkpoints.newest_checkpoint
    checkpoint = find(source)
    if checkpoint is None:
        what = "best checkpoint (--val_glob keeps it)" if best else "checkpoint"
        raise InputError("{}: no {} there".format(source, what))
    with checkpoints.reading(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        values = {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if not re.search(r"/Adam(_1)?$|^beta[12]_power", name)
        }
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=parent) as folder, enough_memory(
        target, "other programs may have to be closed"
    ):
        part = os.path.join(folder, name)
        os.mkdir(part)
        with tf.Graph().as_default(), tf.Session() as session:
            variables = [tf.Variable(value, name=name) for name, value in values.items()]
            session.run(tf.global_variables_initializer())
            tf.train.Saver(variables, save_relative_paths=True).save(
                session,
                os.path.join(part, os.path.basename(checkpoint).replace("best", "model")),
                write_meta_graph=False,
            )
        for file in ("args.json", "record.txt", "validation.csv"):
            if os.path.exists(os.path.join(source, file)):
                shutil.copy(os.path.join(source, file), part)
        if os.path.exists(target):
            os.rename(target, os.path.join(folder, "old"))
        os.rename(part, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="run folder")
    parser.add_argument("target", help="folder to write")
    parser.add_argument(
        "--best", action="store_true", help="the checkpoint with the lowest validation loss"
    )
    arguments = parser.parse_args()
    with signals.command("export"):
        main(**vars(arguments))
