"""Command lines, training and evaluation: everything that the ten scripts share."""

import argparse
import contextlib
import functools
import os
import sys

import numpy as np

import utils
from coding import container, readers
from inference import choice, evaluation, optimise, scripts
from model import checkpoints, device
from model.hyperprior import Mbt2018BB
from runtime import console, files, flags, signals
from runtime.errors import InputError, naming
from runtime.flags import Flag
from runtime.quiet_tf import enough_memory, tf
from training import cores, data, hooks, horovod, run_folder, validation

# --- Training --------------------------------------------------------------------------------


def train(script, training_graph, args):
    """Trains a model, resuming from the newest checkpoint in its run folder, if there is one.

    Under Horovod (`training.horovod`), workers share the images and average metrics and gradients.

    Args:
      script: name of the model, with which its run name begins.
      training_graph: `training_graph(x, num_filters, lmbda)` builds the model on patches x and
        returns loss, metrics (as `hyperprior.Mbt2018.rate_distortion` does), a Keras layer with
        an auxiliary loss and updates of its own, or None, and the model to validate.
      args: the parsed command line.

    Raises:
      InputError: no image is usable, the checkpoint's shapes differ, the loss is NaN, or another
        process trains in the run folder.
    """
    runname = checkpoints.run_name(script, args.num_filters, args.num_hfilters, args.lmbda)
    folder = os.path.join(args.checkpoint_dir, runname)
    logdir = args.logdir and os.path.join(args.logdir, runname)
    for written in filter(None, (folder, logdir) if horovod.first() else ()):
        files.check_folder(written)
    paths = data.find_images(args.train_glob, args.patchsize)
    config = cores.config(cores.parts(args.batchsize))
    kept = checkpoints.kept_checkpoints(folder) if horovod.first() else []
    checkpoint = kept[-1] if kept else None
    start = checkpoints.read_checkpoint(checkpoint)[1] if checkpoint else 0
    # So that resumed training does not repeat the patches and noise it has already seen.
    seed = args.seed + horovod.of_first(start, config)

    x = data.batches(
        paths, args.batchsize, args.patchsize, args.preprocess_threads, seed, args.flip
    )
    tf.set_random_seed(horovod.own_seed(seed))  # the batches set their own seeds
    loss, metrics, auxiliary, model = training_graph(x, args.num_filters, args.lmbda)
    x_tilde = metrics.pop("x_tilde")
    metrics["psnr"] = utils.psnr(metrics["mse"])
    shown = {
        key: horovod.average(tf.reduce_mean(value), "metrics/" + key)
        for key, value in metrics.items()
    }

    step = tf.train.create_global_step()
    # The order of the optimisers fixes the numbering of their variables in checkpoints.
    optimizer = tf.train.AdamOptimizer(learning_rate(step, args))
    train_op = [horovod.minimize(optimizer, loss, step)]
    if auxiliary is not None:
        train_op.append(horovod.minimize(tf.train.AdamOptimizer(1e-3), auxiliary.losses[0]))
        train_op.extend(auxiliary.updates)
    with tf.control_dependencies(train_op):
        done_op = tf.identity(step)
    saved = tf.global_variables()
    init_fn = measured = None
    claim = contextlib.nullcontext()
    # All workers see the same average. It is of the loss before the update, so the saver checks the
    # weights itself (`hooks.Sound`).
    during = [tf.train.NanTensorHook(shown["rd_loss"])]
    if horovod.first():
        if checkpoint:
            run_folder.check_resumable(checkpoint, saved)
            init_fn = run_folder.restore(checkpoint, saved)
        else:
            init_fn = run_folder.warm_start(args.init_from, saved, model, x)
        sound = hooks.Sound(model, args.lmbda, saved)
        if args.val_glob:
            measured = validation.Validation(
                model,
                args.val_glob,
                args.lmbda,
                folder,
                saved,
                args.val_secs,
                logdir,
                sound,
            )
        claim = run_folder.claimed(folder, args, start, kept)
        saver = tf.train.Saver(saved, max_to_keep=3, save_relative_paths=True)
        saver.recover_last_checkpoints(kept)  # so that those of earlier starts are deleted too
        during.append(hooks.Checkpoints(folder, args.save_checkpoint_secs, saver, sound))
        if logdir:
            during.append(hooks.summaries(x, x_tilde, shown, logdir, args.save_summary_secs))
    figures = "loss={rd_loss:.4f} bpp={bpp:.4f} psnr={psnr:.2f}"
    done, values = start, None
    remedy = "a smaller --batchsize or --patchsize needs less"
    try:
        with signals.stop_signals() as stop, enough_memory(
            folder, remedy
        ), claim, tf.train.MonitoredTrainingSession(
            scaffold=tf.train.Scaffold(init_fn=init_fn),
            hooks=[*during, horovod.Together(saved, stop)],
            config=config,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
        ) as session:
            start = session.run_step_fn(lambda step_context: step_context.session.run(step))
            line = "{}: steps {} to {}, {} images"
            print(line.format(folder, start, max(start, args.last_step), len(paths)), flush=True)
            done = start
            with console.Progress(args.last_step, start) as progress:

                def validate():
                    means = session.run_step_fn(
                        lambda step_context: measured.run(step_context.session, done)
                    )
                    progress.write(validation.line(done, means))

                if measured and start < args.last_step:
                    validate()
                while done < args.last_step and not session.should_stop():
                    # Fetched at every step, because the average needs all workers.
                    done, values = session.run([done_op, shown])
                    if progress.due():
                        progress.show(done, figures.format(**values))
                    else:
                        progress.advance(done)
                    if args.verbose and done % 100 == 0:
                        progress.write("step {}: {}".format(done, figures.format(**values)))
                    if measured and not stop and (measured.due() or done >= args.last_step):
                        validate()
    except tf.train.NanLossDuringTrainingError:
        raise InputError(
            "{}: the training diverged, to NaN or infinity near step {}, and this was not saved; "
            "try a lower --learning_rate, from an older checkpoint perhaps".format(folder, done)
        )
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        if "no image can be read" in str(error):
            raise InputError("--train_glob: none of the images can be decoded")
        raise
    last = ", " + figures.format(**values) if values else ""
    print("{}: saved at step {}{}".format(folder, done, last))
    if stop or done < args.last_step:
        raise KeyboardInterrupt


def learning_rate(step, args):
    """The cosine schedule from --learning_rate to --lr_final · --learning_rate at --last_step."""
    last = max(args.last_step, 1)
    step = tf.math.minimum(tf.cast(step, tf.float32), last)
    return optimise.cosine_decay(args.learning_rate, args.lr_final, step, last)


# --- Evaluation ------------------------------------------------------------------------------


def compress(method_class, args):
    """Runs a method on the images named on the command line; writes and prints its results."""
    images = utils.Images(args.eval_imgs, console.note)
    with naming(images.path):
        container.check_size(*images.shape[:3])
    if min(images.shape[1:3]) < utils.MSSSIM_MIN_SIDE:
        line = "MS-SSIM is NaN: it needs {} pixels on each side"
        console.note(line.format(utils.MSSSIM_MIN_SIDE))
    remedy = "smaller images than {1} x {0} pixels need less".format(*images.shape[1:3])
    if args.eval_batch_size > 1:
        remedy = "a smaller --eval_batch_size or " + remedy
    with enough_memory(images.path, remedy), contextlib.ExitStack() as claims:
        if args.output:
            claims.enter_context(files.claimed(args.output))
        run, aim = choice.prepare(method_class, args, images)
        path = method_class.result_path(run, args)
        if path:
            claims.enter_context(files.claimed(path))
            settings = {**method_class.settings(args), **aim.digests()}
            values = {**method_class.provenance(run, images, args), **settings}
            settings.update({name: values[name] for name in utils.OF_RESULT})
            defaults = method_class.defaults()
            utils.check_result(path, images.sha256, settings, defaults, args.overwrite)
        weights = checkpoints.load(method_class.model_class, run)
        writer = method_class.coder(run, weights, args)
        evaluator = evaluation.Evaluator(method_class, weights, args, aim)
        batches = images.batches(args.eval_batch_size)
        pictures = {}  # which are written after the result
        save = pictures.__setitem__ if args.save_reconstruction else None
        results, records, content = evaluator.evaluate(writer, images.path, batches, save)
        if evaluator.missed is not None:
            choice.explain(evaluator.missed, aim.target, run, method_class, args, images)
        # The result comes first, which may have taken hours; what is printed comes last.
        written, failure = [], None
        if path:
            utils.write_result(path, {**values, **records, **results})
            written.append(path)
        try:
            for number, pixels in pictures.items():
                utils.write_reconstruction(path, images.shape[0], number, pixels)
            if args.output:
                with naming("{}: not written".format(args.output)):
                    writer.check(content, results["latents_sha256"], args.verbose)
                files.write_bytes(args.output, content)
                written.append(args.output)
        except InputError as error:
            failure = error
        batch_means = (key for key in results if key.startswith("avg_"))
        for key in (*evaluation.METRICS, "seconds", *batch_means):
            if key in results:
                print("Avg {}: {:.4f}".format(key, np.mean(results[key])))
        for name in written:
            print("wrote {}".format(name))
        if failure:
            raise failure


def check_output(args):
    """Refuses what `compress` could not write in the end."""
    if args.output:
        if getattr(args, "estimate_only", False):
            raise InputError("{}: --estimate_only writes no file".format(args.output))
        if not args.output.endswith(".tfci"):
            raise InputError("{}: the name of a compressed file ends in .tfci".format(args.output))
        side_info = getattr(args, "side_info", "")
        if side_info and os.path.realpath(side_info) == os.path.realpath(args.output):
            raise InputError("{}: named twice on the command line".format(args.output))
        files.check_writable(args.output)
    if args.save_reconstruction and not args.results_dir:
        raise InputError("--save_reconstruction: needs a --results_dir to write to")


def decompress(method_class, args):
    """Decodes a file to an image, or to a uint8 .npy if it holds several images."""
    content = files.read_bytes(args.file)
    with naming(args.file):
        reader = readers.read(content)
        if reader.model_class is Mbt2018BB and method_class.model_class is not Mbt2018BB:
            raise InputError("a bits-back archive, which the scripts bb_….py decode")
        side_info = getattr(args, "side_info", "")
        if side_info and not reader.has_side_info:
            raise InputError("holds no side information to write to --side_info")
    output = args.output or args.file + (".png" if reader.images == 1 else ".npy")
    if not output.lower().endswith((".png", ".npy")):
        raise InputError("{}: the name of a decoded file ends in .png or .npy".format(output))
    if reader.images > 1 and not utils.is_array(output):
        raise InputError("{}: {} images go into an .npy".format(output, reader.images))
    paths = list(filter(None, (args.file, output, side_info)))
    for number, path in enumerate(paths[1:], 1):
        if os.path.realpath(path) in map(os.path.realpath, paths[:number]):
            raise InputError("{}: named twice on the command line".format(path))
    for path in paths[1:]:
        files.check_writable(path)
    run = checkpoints.find_run(args.checkpoint_dir, args.runname, args.num_filters)
    with naming(args.file):
        weights = checkpoints.load(reader.model_class, run)
    shape = (reader.images, reader.height, reader.width, 3)
    with utils.images_to(output, shape) as write, naming(args.file):
        for number, pixels in reader.pictures(run, weights):
            write(number, pixels)
    if side_info:
        files.write_bytes(side_info, reader.side_info)
    elif reader.has_side_info:
        console.note("the file holds side information; --side_info FILE writes it")
    for written in filter(None, (output, side_info)):
        print("wrote {}".format(written))


# --- Command lines ---------------------------------------------------------------------------

TRAINING_FLAGS = {
    "lambda": Flag(0.01, "weight of the distortion, 255² MSE, relative to bits per pixel"),
    "batchsize": Flag(8, "patches per step; under horovodrun, per worker"),
    "patchsize": Flag(256, "height and width of a patch in pixels"),
    "last_step": Flag(1000000, "number of steps", minimum=0),
    "learning_rate": Flag(1e-4, "learning rate of Adam"),
    "lr_final": Flag(
        1.0, "fraction of --learning_rate left after a cosine decay; 1: none", at_most=1
    ),
    "flip": Flag(False, "mirror half of the patches left to right"),
    "init_from": Flag("", "run folder of a model of this N whose weights a new run starts from"),
    "seed": Flag(0, "seed of the patches, the noise and the initial weights", minimum=0),
    "val_glob": Flag("", "whole images to validate on with rounded latents; '' for none"),
    "val_secs": Flag(300, "seconds between validations", minimum=0, needs=("val_glob", True)),
    "preprocess_threads": Flag(16, "threads that read images"),
    "logdir": Flag("./tensorboard", "folder for TensorBoard; '' for none"),
    "save_summary_secs": Flag(
        60, "seconds between TensorBoard summaries", minimum=0, needs=("logdir", True)
    ),
    "save_checkpoint_secs": Flag(300, "seconds between checkpoints", minimum=0),
}


def main(method_class, training_graph=None, argv=None):
    """Runs the command line of a script; exits with code 2 on invalid input.

    Args:
      method_class: a subclass of `methods.Method`; None for a script whose only command is `train`.
      training_graph: as in `train`; None for a script without that command.
      argv: the arguments, by default those of the process.
    """
    module = sys.modules[(method_class or training_graph).__module__]
    script = scripts.name_of(module)
    console.show_all()
    args = parse(script, module.__doc__, method_class, training_graph, argv)
    with signals.command(script):
        if args.command == "train":
            flags.check_together(args, TRAINING_FLAGS)
            args.num_filters = args.num_filters or 192
            with horovod.joined():
                say_device(args)
                train(script, training_graph, args)
        elif args.command == "compress":
            say_device(args)
            method_class.check(args)
            check_output(args)
            compress(method_class, args)
        else:
            say_device(args)
            decompress(method_class, args)


def say_device(args):
    """Prints to stderr why a GPU goes unused, if one does, and with --verbose the device."""
    why = device.why_unused()
    if why:
        console.note(why)
    if args.verbose:
        print("device: " + device.describe(), file=sys.stderr)


def parse(script, doc, method_class, training_graph, argv=None):
    """Parses the arguments of a script, whose `--help` shows the flags of all its commands."""
    parser = argparse.ArgumentParser(
        prog=script + ".py",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--num_filters",
        type=functools.partial(flags.number, int, None),
        metavar="N",
        help="channels of the model (192 for train, otherwise as in the run's checkpoint)",
    )
    text = "if positive, becomes part of a trained run's name; has no other effect"
    flags.add_flags(
        parser,
        {
            "checkpoint_dir": Flag("./checkpoints", "folder that contains the run folders"),
            "num_hfilters": Flag(-1, text, minimum=-1),
        },
    )
    text = "print the device, and a line every 100 iterations"
    parser.add_argument("--verbose", "-V", action="store_true", help=text)
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.required = True
    if training_graph:
        _add_train(commands)
    if method_class:
        _add_compress(commands, method_class)
        _add_decompress(commands, method_class)
    parser.epilog = "\n".join(
        "{}:\n{}".format(name, command.format_help()) for name, command in commands.choices.items()
    )
    flags.refuse_dashed_paths(parser, sys.argv[1:] if argv is None else argv)
    args, unknown = parser.parse_known_args(argv)
    if getattr(args, "preset", ""):
        commands.choices[args.command].set_defaults(**method_class.presets[args.preset])
        args, unknown = parser.parse_known_args(argv)
    if getattr(args, "output", "") is None and len(unknown) == 1 and not unknown[0].startswith("-"):
        args.output = os.path.expanduser(unknown.pop())  # argparse accepts it only before the flags
    if unknown:
        places = " (which goes before it)" if unknown[0] in parser._option_string_actions else ""
        commands.choices[args.command].error(
            "not known to this command: {}{}".format(" ".join(unknown), places)
        )
    return args


def _add_train(commands):
    parser = commands.add_parser("train", help="train a model", allow_abbrev=False)
    parser.add_argument(
        "--train_glob",
        required=True,
        type=os.path.expanduser,
        metavar="GLOB",
        help="PNG, JPEG or float32 .npy images",
    )
    flags.add_flags(parser, TRAINING_FLAGS)


def _add_compress(commands, method_class):
    parser = commands.add_parser(
        "compress", help="compress images and measure the result", allow_abbrev=False
    )
    parser.add_argument("runname", help="run folder in --checkpoint_dir")
    parser.add_argument(
        "eval_imgs", type=os.path.expanduser, help="an image, or a uint8 .npy of shape (n, H, W, 3)"
    )
    parser.add_argument("output", nargs="?", type=os.path.expanduser, help="file to write, .tfci")
    flags.add_flags(
        parser,
        {
            "results_dir": Flag("./results", "folder for the .npz of the result; '' for none"),
            "lambda": Flag(-1.0, "weight of the distortion; -1: as in the run's name", minimum=-1),
            "seed": Flag(0, "seed of the random numbers, if the method draws any", minimum=0),
            "eval_batch_size": Flag(1, "images of a .npy that are optimised together"),
            **method_class.image_flags,
            "save_reconstruction": Flag(False, "write a PNG next to the result"),
            "overwrite": Flag(False, "replace a result of another input or settings"),
            **method_class.flags,
            **method_class.objective_flags,
            **method_class.coding_flags,
        },
    )
    if method_class.presets:
        lines = (
            "{}: {}".format(name, " ".join(flags.words(preset)))
            for name, preset in method_class.presets.items()
        )
        parser.add_argument(
            "--preset",
            choices=list(method_class.presets),
            default="",
            help="a set of other defaults; " + "; ".join(lines),
        )


def _add_decompress(commands, method_class):
    parser = commands.add_parser("decompress", help="decode a compressed file", allow_abbrev=False)
    parser.add_argument("runname", help="run folder in --checkpoint_dir")
    parser.add_argument("file", type=os.path.expanduser, help="a .tfci file")
    parser.add_argument(
        "output",
        nargs="?",
        type=os.path.expanduser,
        help="image or .npy to write (the file's name + .png; + .npy for several images)",
    )
    if issubclass(method_class.model_class, Mbt2018BB):
        flag = Flag("", "file to write the archive's side information to")
        flags.add_flags(parser, {"side_info": flag})
