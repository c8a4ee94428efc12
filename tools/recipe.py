"""Trains the models of `checkpoints/`, or resumes their training.

    python -m tools.recipe --train_glob 'photos/*' --output mine

One model is trained at a constant learning rate (the trunk), on small patches first, then on
larger ones. Every shipped model, base and bits-back alike, continues from its weights for the same
number of steps at its own λ, while the learning rate decays. All are thus trained for equally many
steps, and differ in λ and kind alone.
Run folders with optimiser states are kept in --checkpoint_dir; the finished models are
copied to --output without these states. After any interruption, the same command resumes.
"""

import argparse
import collections
import functools
import importlib
import os

import tf_boilerplate
from model import checkpoints
from runtime import console, files, flags, signals
from runtime.errors import InputError
from runtime.quiet_tf import tf
from tools import export
from training.run_folder import recorded

Stage = collections.namedtuple(
    "Stage", "name script lmbda steps batchsize patchsize learning_rate lr_final source"
)
Stage.__doc__ = """One start of a training script.

name: name of its folder in --checkpoint_dir, which holds the run folder. A stage whose name an
    earlier stage has goes on where that ended.
steps: step at which it ends, at --scale 1, counted from the first stage of the same name.
batchsize, patchsize: patches per step, and their side in pixels.
learning_rate, lr_final: values of the flags of the same names.
source: name of the stage whose weights it starts from, or None.
"""

LAMBDAS = (0.0005, 0.001, 0.0015, 0.0025)

STAGES = (
    Stage("trunk", "mbt2018", 0.0025, 44289, 8, 128, 1e-3, 1.0, None),
    Stage("trunk", "mbt2018", 0.0025, 127390, 2, 256, 1e-3, 1.0, None),
    *(
        Stage("{}-{:g}".format(script, lmbda), script, lmbda, 3500, 2, 256, 1e-3, 0.01, "trunk")
        for lmbda in reversed(LAMBDAS)
        for script in ("mbt2018", "mbt2018_bb")
    ),
)


def run_folder(args, stage):
    """The run folder in which a stage trains."""
    name = checkpoints.run_name(stage.script, args.num_filters, -1, stage.lmbda)
    return os.path.join(args.checkpoint_dir, stage.name, name)


def source_of(stage):
    """The last stage of the run that a stage starts from, or None."""
    return next((other for other in reversed(STAGES) if other.name == stage.source), None)


def steps(args, stage):
    """The last step of a stage."""
    return max(1, round(args.scale * stage.steps))


def steps_done(args, stage):
    """The step of a stage's newest checkpoint, or 0."""
    checkpoint = checkpoints.newest_checkpoint(run_folder(args, stage))
    return checkpoints.read_checkpoint(checkpoint)[1] if checkpoint else 0


def check_source(args, stage):
    """Raises `InputError` unless the stage that a stage starts from is at its end."""
    source = source_of(stage)
    if source and steps_done(args, source) != steps(args, source):
        line = "{}: starts from {}, which is at step {}, not {}; --only {} trains it to its end"
        figures = stage.source, steps_done(args, source), steps(args, source)
        raise InputError(line.format(stage.name, *figures, stage.source))


def check_folders(args, stages):
    """Raises `InputError` if what is in the folders belongs to stages with other settings.

    These are stages that began at another step than their source ends at now, and copies in
    --output that are not of these runs.
    """
    begun, copies = [], []
    for stage in filter(lambda stage: stage.source, stages):
        folder, source = run_folder(args, stage), source_of(stage)
        start = recorded(run_folder(args, source), "init_from_step") or 0
        right = recorded(folder, "init_from_step") == start + steps(args, source)
        if steps_done(args, stage) and not right:
            begun.append(folder)
        copy = os.path.join(args.output, os.path.basename(folder))
        if args.output and os.path.exists(copy) and not is_of(folder, copy):
            copies.append(copy)
    if begun:
        line = "{}: began at another step of their source than it ends at; remove them, or choose "
        raise InputError((line + "another --checkpoint_dir").format(", ".join(begun)))
    if copies:
        line = "--output: {}: not of the runs in {}; choose another folder"
        raise InputError(line.format(", ".join(copies), args.checkpoint_dir))


def is_of(folder, copy):
    """Whether a copy of a run is of this run, now or before it went on."""
    try:
        with open(os.path.join(folder, "record.txt")) as new, open(
            os.path.join(copy, "record.txt")
        ) as old:
            is_begin = new.read().startswith(old.read())
    except OSError:
        return False
    return is_begin and recorded(folder, "init_from_step") == recorded(copy, "init_from_step")


def train(args, stage):
    """Runs a stage, or resumes it."""
    settings = {
        "train_glob": args.train_glob,
        "batchsize": args.batchsize or stage.batchsize,
        "patchsize": args.patchsize or stage.patchsize,
        "lambda": stage.lmbda,
        "last_step": steps(args, stage),
        "learning_rate": stage.learning_rate,
        "lr_final": stage.lr_final,
        "save_checkpoint_secs": args.save_checkpoint_secs,
        "logdir": args.logdir,
    }
    if stage.source:
        settings["init_from"] = run_folder(args, source_of(stage))
    if args.val_glob:
        settings.update(val_glob=args.val_glob, val_secs=args.val_secs)
    argv = [
        *("--num_filters", str(args.num_filters)),
        *("--checkpoint_dir", os.path.join(args.checkpoint_dir, stage.name)),
        *("train", "--flip"),
        *(text for name, value in settings.items() for text in ("--" + name, str(value))),
    ]
    # In this process, so that killing the recipe also ends the training.
    with tf.Graph().as_default():
        graph = importlib.import_module(stage.script).training_graph
        tf_boilerplate.main(None, graph, argv)


def main(argv=None):
    """Runs the stages in order."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    path, above_0 = os.path.expanduser, functools.partial(flags.number, int, None)
    secs = functools.partial(flags.number, int, 0)
    text = "folder for copies of the finished models; default: none"
    scale = functools.partial(flags.number, float, None)
    add("--train_glob", required=True, help="training images, as for the training scripts")
    add("--output", type=path, default="", help=text)
    add("--checkpoint_dir", type=path, default="runs", help="folder for the stages' runs (runs)")
    add("--scale", type=scale, default=1.0, help="multiplies the number of steps of each stage (1)")
    names = list(dict.fromkeys(stage.name for stage in STAGES))
    add(
        "--only",
        nargs="+",
        default=names,
        choices=names,
        metavar="STAGE",
        help="stages to run; default: all",
    )
    add("--num_filters", type=above_0, default=64, help="channels of the models (64)")
    add("--batchsize", type=above_0, help="patches per step; default: as each stage says")
    add("--patchsize", type=above_0, help="side of the patches, in pixels; default: the same")
    add("--val_glob", default="", help="validation images, as for the training scripts")
    add("--val_secs", type=secs, default=300, help="seconds between validations (300)")
    add("--save_checkpoint_secs", type=secs, default=300, help="seconds between checkpoints (300)")
    add("--logdir", default="", help="folder for TensorBoard; default: none")
    add("--dry_run", action="store_true", help="say what there is to do, and stop")
    console.show_all()
    args = parser.parse_args(argv)
    with signals.command("recipe"):
        if args.output:
            files.check_folder(args.output)
        stages = [stage for stage in STAGES if stage.name in args.only]
        for stage in stages:
            figures = stage.name, steps_done(args, stage), steps(args, stage)
            print("{}: {} of {} steps".format(*figures), flush=True)
        check_folders(args, stages)
        if args.dry_run:
            return
        for stage in stages:
            if steps_done(args, stage) < steps(args, stage):
                check_source(args, stage)
                train(args, stage)
            if args.output and stage.source:
                finished = run_folder(args, stage)
                copy = os.path.join(args.output, os.path.basename(finished))
                export.main(finished, copy, replace=True)


if __name__ == "__main__":
    main()
