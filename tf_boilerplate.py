"""Command lines, training and evaluation: all that the ten scripts share."""

import argparse
import collections
import contextlib
import functools
import json
import math
import os
import sys
import time

import numpy as np

import hyperprior
import inference
import patches
import utils
import workers
from coding import container, digests, files
from hyperprior import Mbt2018BB
from model import device
from quiet_tf import tf
from training.validation import Validation
from training.validation import line as validation_line
from utils import InputError

# --- Training --------------------------------------------------------------------------------


def train(script, training_graph, args):
    """Trains a model, going on from the newest checkpoint of its run folder where there is one.

    Several `workers` share the images, and average metrics and gradients.

    Args:
      script: name of the model, with which its run name begins.
      training_graph: `training_graph(x, num_filters, lmbda)` makes variables and loss for patches
        x; it returns loss, metrics (as `hyperprior.Mbt2018.rate_distortion`), a Keras layer with
        an auxiliary loss and updates of its own, or None, and what `validation.Validation` takes
        as `transmitted`.
      args: the command line.

    Raises:
      InputError: no usable image; a checkpoint of another shape; the loss is NaN.
    """
    runname = utils.run_name(script, args.num_filters, args.num_hfilters, args.lmbda)
    folder = os.path.join(args.checkpoint_dir, runname)
    paths = patches.find_images(args.train_glob, args.patchsize)
    config = cores_config(batch_parts(args.batchsize))
    checkpoint = utils.newest_checkpoint(folder) if workers.first() else None
    start = utils.read_checkpoint(checkpoint)[1] if checkpoint else 0
    # So that training which goes on sees other patches and noise than it has seen.
    seed = args.seed + workers.of_first(start, config)

    x = patches.batches(
        paths, args.batchsize, args.patchsize, args.preprocess_threads, seed, args.flip
    )
    tf.set_random_seed(workers.own_seed(seed))  # not of the batches: they know what is shared
    loss, metrics, auxiliary, transmitted = training_graph(x, args.num_filters, args.lmbda)
    x_tilde = metrics.pop("x_tilde")
    metrics["psnr"] = utils.psnr(metrics["mse"])
    shown = {
        key: workers.average(tf.reduce_mean(value), "metrics/" + key)
        for key, value in metrics.items()
    }

    step = tf.train.create_global_step()
    # The model's optimiser first, the auxiliary one second: so their variables are numbered.
    optimizer = tf.train.AdamOptimizer(learning_rate(step, args))
    train_op = [workers.minimize(optimizer, loss, step)]
    if auxiliary is not None:
        train_op.append(workers.minimize(tf.train.AdamOptimizer(1e-3), auxiliary.losses[0]))
        train_op.extend(auxiliary.updates)
    with tf.control_dependencies(train_op):
        done_op = tf.identity(step)
    saved = tf.global_variables()
    init_fn = validation = None
    # Before the saver, which would keep the NaN. The average is one for all workers at once.
    hooks = [tf.train.NanTensorHook(shown["rd_loss"])]
    if workers.first():
        if checkpoint:
            check_resumable(checkpoint, saved)
            # The state file may hold the paths of another machine.
            tf.train.update_checkpoint_state(folder, checkpoint)
        init_fn = warm_start(args.init_from, saved)
        if args.val_glob:
            validation = Validation(
                transmitted,
                args.val_glob,
                args.lmbda,
                folder,
                saved,
                args.val_secs,
                args.logdir and os.path.join(args.logdir, runname),
            )
        record_settings(folder, args, start)
        hooks.append(
            tf.train.CheckpointSaverHook(
                folder,
                save_secs=args.save_checkpoint_secs,
                saver=tf.train.Saver(saved, max_to_keep=3, save_relative_paths=True),
            )
        )
        if args.logdir:
            hooks.append(summary_hook(x, x_tilde, shown, runname, args))
    figures = "loss={rd_loss:.4f} bpp={bpp:.4f} psnr={psnr:.2f}"
    try:
        with utils.stop_signals() as stop, tf.train.MonitoredTrainingSession(
            checkpoint_dir=folder if workers.first() else None,
            scaffold=tf.train.Scaffold(init_fn=init_fn),
            hooks=[*hooks, workers.Together(saved, stop)],
            config=config,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
        ) as session:
            start = session.run_step_fn(lambda step_context: step_context.session.run(step))
            line = "{}: steps {} to {}, {} images"
            print(line.format(folder, start, max(start, args.last_step), len(paths)), flush=True)
            done, values = start, None
            with utils.Progress(args.last_step, start) as progress:

                def validate():
                    means = session.run_step_fn(
                        lambda step_context: validation.run(step_context.session, done)
                    )
                    progress.write(validation_line(done, means))

                if validation and start < args.last_step:
                    validate()
                while done < args.last_step and not session.should_stop():
                    # In each step: other workers may wait for these metrics, to show them.
                    done, values = session.run([done_op, shown])
                    if progress.due():
                        progress.show(done, figures.format(**values))
                    else:
                        progress.advance(done)
                    if validation and (validation.due() or done >= args.last_step):
                        validate()
    except tf.train.NanLossDuringTrainingError:
        raise InputError(
            "{}: the loss became NaN, and this step was not saved; try a lower --learning_rate, "
            "from an older checkpoint perhaps".format(folder)
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
    """Half a cosine, from --learning_rate to --lr_final times as much at the last step."""
    if args.lr_final == 1:
        return args.learning_rate
    done = tf.cast(step, tf.float32) / max(args.last_step, 1)
    cosine = 0.5 * (1 + tf.math.cos(np.pi * tf.math.minimum(done, 1)))
    return args.learning_rate * (args.lr_final + (1 - args.lr_final) * cosine)


def summary_hook(x, x_tilde, metrics, runname, args):
    """Writes metrics and the first two patches for TensorBoard."""
    for key, value in metrics.items():
        tf.summary.scalar(key, value)
    tf.summary.image("original", utils.to_uint8(x), max_outputs=2)
    tf.summary.image("reconstruction", utils.to_uint8(x_tilde), max_outputs=2)
    return tf.train.SummarySaverHook(
        save_secs=args.save_summary_secs,
        output_dir=os.path.join(args.logdir, runname),
        summary_op=tf.summary.merge_all(),
    )


def by_cores(loss, x):
    """`loss(x)` from parts of the batch, at which the cores work side by side (`cores_config`).

    That is faster than all cores at each of the many small operations, one after the other.

    Args:
      loss: function of patches (N, H, W, 3) that returns their mean loss and a dict of metrics,
        tensors (N, …).
      x: the batch.
    """
    parts = batch_parts(x.shape.as_list()[0])
    losses, metrics = zip(*map(loss, tf.split(x, parts)))
    joined = {key: tf.concat([values[key] for values in metrics], 0) for key in metrics[0]}
    return tf.add_n(losses) / parts, joined


def cores_config(parts):
    """Configuration of a session in which the cores work at so many parts side by side."""
    return tf.ConfigProto(
        intra_op_parallelism_threads=-(-utils.cores() // parts),
        inter_op_parallelism_threads=utils.cores(),
    )


def batch_parts(batchsize):
    """Into how many parts of equal size a batch is cut in training; a GPU takes all at once."""
    if device.gpus():
        return 1
    return max(n for n in range(1, utils.cores() + 1) if batchsize % n == 0)


def record_settings(folder, args, start):
    """Leaves args.json in the run folder and appends the same to record.txt.

    A new run that starts from another one's weights (`--init_from`) begins with a copy of its
    record, so that a record holds all steps that a model has seen.

    Args:
      start: the step from which training goes on.
    """
    settings = {**vars(args), "workers": workers.size(), "start_step": start}
    path = os.path.join(folder, "record.txt")
    history = ""
    if args.init_from and not os.path.exists(path):
        settings["init_from_step"] = utils.read_checkpoint(utils.newest_checkpoint(args.init_from))[
            1
        ]
        with contextlib.suppress(FileNotFoundError), open(
            os.path.join(args.init_from, "record.txt")
        ) as file:
            history = file.read()
    settings = json.dumps(settings, indent=4, sort_keys=True)
    with utils.atomic_write(os.path.join(folder, "args.json")) as file:
        file.write(settings.encode())
    with open(path, "a") as file:
        file.write("{}{}\n{}\n\n".format(history, time.strftime("%Y-%m-%d %H:%M:%S"), settings))


def check_resumable(checkpoint, variables):
    """Raises `InputError` where a checkpoint is not one of this training."""
    shapes = utils.read_checkpoint(checkpoint)[0]
    for variable in variables:
        name, shape = variable.op.name, variable.shape
        if not shape.is_compatible_with(shapes.get(name, [])) or name not in shapes:
            raise InputError(
                "{}: training cannot go on from here, {} is missing or of another shape; train "
                "into another --checkpoint_dir, with --init_from {} if you like".format(
                    checkpoint, name, os.path.dirname(checkpoint)
                )
            )


def warm_start(source, variables):
    """An initialiser that copies the `variables` that `source`, a run folder, has too."""
    if not source:
        return None
    checkpoint = utils.newest_checkpoint(source)
    if checkpoint is None:
        raise InputError("--init_from: {}: no checkpoint there".format(source))
    shapes = utils.read_checkpoint(checkpoint)[0]
    wanted = [v for v in variables if v.trainable]
    shared = [v for v in wanted if shapes.get(v.op.name) == v.shape.as_list()]
    if not shared:
        raise InputError("--init_from: {}: nothing there fits this model".format(checkpoint))
    saver = tf.train.Saver(shared)

    def initialise(scaffold, session):
        saver.restore(session, checkpoint)
        print("{} of {} weights are from {}".format(len(shared), len(wanted), checkpoint))

    return initialise


# --- Evaluation ------------------------------------------------------------------------------


class Evaluation:
    """The graph of a method for batches of one shape, from pixels to results.

    Args:
      method_class: an `inference.Method`.
      weights: of `hyperprior.load`.
      shape: (N, H, W, 3) of the batches.
      args: the command line.
    """

    def __init__(self, method_class, weights, shape, args):
        self.args, self.shape = args, shape
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.pixels = tf.placeholder(tf.uint8, shape)
            self.keys = tf.placeholder(tf.int64, shape[:1])
            x = tf.get_variable("x", shape, trainable=False, use_resource=True)
            with device.on_host():
                keys = tf.get_variable(
                    "keys", shape[:1], tf.int64, trainable=False, use_resource=True
                )
                image_keys = keys.read_value()
            self.feed = tf.group(
                x.assign(tf.cast(self.pixels, tf.float32) / 255), keys.assign(self.keys)
            )
            x, keys = x.read_value(), image_keys
            model = hyperprior.build(
                method_class.model_class, weights, sigma_min=method_class.sigma_min
            )
            self.method = method_class(model, x, args, inference.Noise(keys))
            self._build_measurement(model, x, keys)
            initialiser = tf.global_variables_initializer()
            self.graph.finalize()
        self.session = tf.Session(graph=self.graph, config=device.session_config())
        self.session.run(initialiser)

    def _build_measurement(self, model, x, keys):
        """What is measured, one image at a time: by the very operations of a decoder."""
        height, width = self.shape[1:3]
        self.index = tf.placeholder(tf.int32, ())
        x, keys = x[self.index, None], keys[self.index, None]
        self.coded = self._latent_placeholders()
        self.x_tilde = model.synthesis(self.coded["y"], (height, width))
        self.decoded = tf.placeholder(tf.float32, (1, height, width, 3))
        self.reconstruction = utils.to_uint8(self.decoded)[0]
        metrics = utils.quality(x, self.decoded)
        rates = self.method.rates(height * width, inference.Noise(keys), self.coded)
        metrics.update({"est_" + key: value for key, value in rates.items()})
        metrics["est_rd_loss"] = self.args.lmbda * metrics["mse"] + metrics["est_bpp"]
        self.metrics = {key: value[0] for key, value in metrics.items()}

    def _latent_placeholders(self):
        """For what the coder returns of an image, by name."""
        y_size, z_size = container.latent_sizes(*self.shape[1:3])
        channels = self.method.latents["y"].shape[3]
        return {
            name: tf.placeholder(
                tf.float32, (1, *(y_size if name == "y" else z_size), channels), name
            )
            for name in self.method.coded
        }

    def begin(self, pixels):
        """Takes a batch, uint8 (N, H, W, 3)."""
        keys = utils.image_keys(pixels, self.args.seed)
        self.session.run(self.feed, {self.pixels: pixels, self.keys: keys})

    def optimise(self, pixels):
        """Optimises a batch, uint8 (N, H, W, 3).

        Returns:
          latents: list of N dicts of arrays (h, w, C), not rounded.
          records: the record of each stage (`inference.Stage.run`).
        """
        self.begin(pixels)
        records = [self._run_stage(stage) for stage in self.method.stages]
        latents = self.session.run(self.method.latents)
        return [dict(zip(latents, values)) for values in zip(*latents.values())], records

    def _run_stage(self, stage):
        with shown_progress(self.args, stage.its, stage.title) as (progress, write):

            def show(t, relaxed, rounded):
                write(progress_line(t, relaxed, rounded))

            return stage.run(self.session, progress, show)

    def code(self, index, latents, writer):
        """Codes an image of the batch and measures what a decoder gets.

        Args:
          index: of the image.
          latents: of `optimise`.
          writer: a `coding.files.Writer`.

        Returns:
          metrics: dict of numbers, and `latents_sha256` (`coding.digests`).
          record: of the coding (`coding.files.Coded`).
          reconstruction: uint8 (H, W, 3).
        """
        with shown_progress(self.args, writer.its, "Rate optimisation") as (progress, write):

            def step(done, loss):
                progress(done)
                if loss is not None:
                    write(progress_line(done - 1, {"bpp": loss}, None))

            coded = writer.add(latents, self.shape[1:3], step)
        feed = {self.coded[name]: value[None] for name, value in coded.latents.items()}
        begun = time.time()
        decoded = self.session.run(self.x_tilde, feed)
        decode_seconds = coded.decode_seconds + time.time() - begun
        feed.update({self.index: index, self.decoded: decoded})
        metrics, reconstruction = self.session.run([self.metrics, self.reconstruction], feed)
        metrics["latents_sha256"] = digests.digest(coded.latents)
        metrics.update(encode_seconds=coded.encode_seconds, decode_seconds=decode_seconds)
        return metrics, coded.record, reconstruction


@contextlib.contextmanager
def shown_progress(args, its, title):
    """Progress of `its` iterations: `step(n)`, and `write(line)`, which writes with --verbose."""
    if not its:
        yield None, None
        return
    if args.verbose:
        print("----{}----".format(title))
    with utils.Progress(its, title=title) as progress:

        def step(done):
            progress.update(done)

        def write(line):
            if args.verbose:
                progress.write(line)

        yield step, write


def progress_line(t, relaxed, rounded):
    """One line of `--verbose`: iteration, temperature, loss, mse, bpp, psnr; after rounding too."""

    def figures(values):
        formats = (
            ("T", ".3f"),
            ("rd_loss", ".4f"),
            ("mse", ".3f"),
            ("bpp", ".4f"),
            ("psnr", ".4f"),
        )
        return " ".join("{}={:{}}".format(k, values[k], f) for k, f in formats if k in values)

    line = "it={}, {}".format(t, figures(relaxed))
    return line + "\t after rounding: " + figures(rounded) if rounded else line


def compress(method_class, args):
    """Runs a method on the images of the command line, and writes and prints its results."""

    def note(text):
        print("note: " + text, file=sys.stderr)

    run = utils.find_run(args.checkpoint_dir, args.runname, args.num_filters)
    args.lmbda = lambda_of(args, run)
    images = utils.Images(args.eval_imgs, note)
    with naming(args.eval_imgs):
        container.check_size(*images.shape[:3])
    path = result_path(method_class, run, args)
    if path:
        utils.check_result(path, images.sha256, args.overwrite)
    elif args.save_reconstruction:
        raise InputError("--save_reconstruction: needs a --results_dir to write to")
    if args.output:
        if not args.output.endswith(".tfci"):
            raise InputError("{}: the name of a compressed file ends in .tfci".format(args.output))
        utils.check_writable(args.output)
    weights = hyperprior.load(method_class.model_class, run)
    writer = method_class.coder(run, weights, args)
    if min(images.shape[1:3]) < utils.MSSSIM_MIN_SIDE:
        note("MS-SSIM is NaN: it needs {} pixels on each side".format(utils.MSSSIM_MIN_SIDE))

    metrics, records, batch_sizes = [], [], []
    for batch in _run_batches(method_class, weights, writer, images, path, args):
        metrics += batch.metrics
        records.append(batch.records)
        batch_sizes.append(len(batch.metrics))
    results = {key: np.array([values[key] for values in metrics]) for key in metrics[0]}
    content, bits = writer.finish()
    for key, values in bits.items():
        results[key + "_bpp"] = values / (images.shape[1] * images.shape[2])
    if method_class.row == "M3":  # the reference's names, which no other script has
        starts = np.cumsum([0] + batch_sizes[:-1])
        results["batch_actual_bpp"] = np.add.reduceat(results["actual_bpp"], starts)
        results["batch_sizes"] = np.array(batch_sizes)
        results["avg_batch_actual_bpp"] = results["actual_bpp"].mean()
    if args.output:
        sha256 = results["latents_sha256"] if writer.verify_elsewhere else None
        write_file(args, content, run, sha256)
    if path:
        provenance = {
            "script": method_class.script(),
            "table_row": method_class.row,
            "runname": run.name,
            "num_filters": run.num_filters,
            "checkpoint_step": run.step,
            "input": os.path.basename(args.eval_imgs),
            "input_sha256": images.sha256,
            "eval_batch_size": args.eval_batch_size,
            "device": device.describe(),
        }
        values = {**provenance, **settings(method_class, args)}
        utils.write_result(path, {**values, **merge_records(records), **results})
    for key in (*METRICS, "avg_batch_actual_bpp"):
        if key in results:
            print("Avg {}: {:.4f}".format(key, np.mean(results[key])))
    for written in filter(None, (path, args.output)):
        print("wrote {}".format(written))


def lambda_of(args, run):
    """λ as --lambda says, or the name of the run."""
    if args.lmbda >= 0:
        return args.lmbda
    if run.lmbda is None:
        raise InputError("{}: this run name has no lmbda=…; give --lambda".format(run.name))
    return run.lmbda


def settings(method_class, args):
    """All numbers of the command line that a result depends on, by name."""
    flags = ("lmbda", "seed", *method_class.flags, *method_class.coding_flags)
    return {flag: getattr(args, flag) for flag in flags}


METRICS = (
    "mse",
    "psnr",
    "msssim",
    "msssim_db",
    "est_bpp",
    "est_y_bpp",
    "est_z_bpp",
    "est_bpp_back",
    "est_bpp_coded",
    "net_bpp",
    "actual_bpp",
)  # of each image

Batch = collections.namedtuple("Batch", "metrics records")
Batch.__doc__ = """Results of a batch.

metrics: list of a dict for each image; records: for each stage a list of records.
"""


def _run_batches(method_class, weights, writer, images, path, args):
    """Yields a `Batch` for each batch of the images, and writes what is asked for beside."""
    evaluation = None
    done = 0
    for pixels in images.batches(args.eval_batch_size):
        if evaluation is None or evaluation.shape != pixels.shape:
            evaluation = Evaluation(method_class, weights, pixels.shape, args)
        begun = time.time()
        latents, stage_records = evaluation.optimise(pixels)
        metrics, coding_records = [], []
        hint = "; try a lower --lr" if method_class.flags else ""
        for index, values in enumerate(latents):
            number = done + index
            check_finite(images, number, values.values(), hint)
            with naming("{}: image {}".format(images.path, number)):
                figures, record, reconstruction = evaluation.code(index, values, writer)
            figures.update(utils.ms_ssim(pixels[index], reconstruction))
            check_finite(images, number, [figures[key] for key in ("mse", "est_bpp")], hint)
            metrics.append(figures)
            coding_records.append(record)
            if args.save_reconstruction:
                suffix = "-{}".format(number) if images.shape[0] > 1 else ""
                utils.write_png("{}{}.png".format(path[: -len(".npz")], suffix), reconstruction)
        for figures in metrics:
            figures["seconds"] = (time.time() - begun) / len(pixels)
        done += len(pixels)
        records = [[record] for record in stage_records]
        if coding_records[0]:
            records.append(coding_records)
        yield Batch(metrics, records)


LARGEST_LATENT = 1e6  # float32 holds the fraction of mu up to here, and the coder's integers more


def check_finite(images, number, values, hint):
    """Raises `InputError` unless arrays hold numbers that can be coded."""
    if not all(np.all(np.abs(value) < LARGEST_LATENT) for value in values):
        raise InputError(
            "{}: image {} gives NaN, infinity or latents beyond {:.0e}{}".format(
                images.path, number, LARGEST_LATENT, hint
            )
        )


def write_file(args, content, run, sha256):
    """Writes a compressed file.

    Args:
      args: the command line.
      content: of the file.
      run: `utils.Run` of its model.
      sha256: digests of the latents, which a fresh process has to find before the file has its
        name; or None.
    """
    with utils.atomic_write(args.output) as file:
        file.write(content)
        if sha256 is not None:
            file.flush()
            if args.verbose:
                print("----Decoding in a fresh process----")
            if digests.digests_elsewhere(run, file.name) != list(sha256):
                raise AssertionError(
                    "{}: a fresh process decodes other latents".format(args.output)
                )


def merge_records(batches):
    """The records of the stages of all batches as arrays.

    Those of a second stage have `rate_` before their keys. `its` and `T` are (iterations,), as all
    are of a single record; the others of several are (records, iterations), NaN where one has no
    such iteration because it stopped early.

    Args:
      batches: for each batch for each stage a list of records: one, or one for each image.
    """
    merged = {}
    for index, stage in enumerate(zip(*batches)):
        records = [record for batch in stage for record in batch]
        prefix = "rate_" if index else ""
        its = sorted({t for record in records for t in record["its"]})
        merged[prefix + "its"] = np.array(its)
        for key in set(records[0]) - {"its"}:
            values = np.full((len(records), len(its)), np.nan)
            for row, record in zip(values, records):
                row[np.searchsorted(its, record["its"])] = record[key]
            if key == "T":
                values = np.nanmax(values, axis=0)  # the same in all that have it
            merged[prefix + key] = values[0] if len(records) == 1 and key != "T" else values
    return merged


def decompress(method_class, args):
    """Decodes a file to an image, or to a uint8 .npy where it holds several."""
    content = utils.read_bytes(args.file)
    with naming(args.file):
        reader = files.read(content)
        if reader.model_class is Mbt2018BB and method_class.model_class is not Mbt2018BB:
            raise InputError("a bits-back archive, which the scripts bb_….py decode")
        side_info = getattr(args, "side_info", "")
        if side_info and not reader.has_side_info:
            raise InputError("holds no side information, for --side_info")
    output = args.output or args.file + (".png" if reader.images == 1 else ".npy")
    if not output.endswith((".png", ".npy")):
        raise InputError("{}: the name of a decoded file ends in .png or .npy".format(output))
    if reader.images > 1 and not output.endswith(".npy"):
        raise InputError("{}: {} images go into an .npy".format(output, reader.images))
    paths = list(filter(None, (args.file, output, side_info)))
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise InputError("{}: named twice on the command line".format(output))
    for path in paths[1:]:
        utils.check_writable(path)
    run = utils.find_run(args.checkpoint_dir, args.runname, args.num_filters)
    with naming(args.file):
        weights = hyperprior.load(reader.model_class, run)
    size = (reader.height, reader.width)
    with utils.images_to(output, (reader.images, *size, 3)) as write, tf.Graph().as_default():
        model = hyperprior.build(reader.model_class, weights)
        y = tf.placeholder(tf.float32, (1, *container.latent_sizes(*size)[0], run.num_filters))
        images = utils.to_uint8(model.synthesis(y, size))
        with tf.Session() as session, naming(args.file):
            for number, latents in reader.latents(run, weights):
                try:
                    write(number, session.run(images, {y: latents["y"][None]})[0])
                except tf.errors.ResourceExhaustedError:
                    raise InputError("images of {} x {} pixels do not fit the memory".format(*size))
    if side_info:
        utils.write_bytes(side_info, reader.side_info)
    elif reader.has_side_info:
        print("note: --side_info FILE writes the side information that it holds", file=sys.stderr)
    for written in filter(None, (output, side_info)):
        print("wrote {}".format(written))


@contextlib.contextmanager
def naming(path):
    """Puts a file's name before the text of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError("{}: {}".format(path, error))


def result_path(method_class, run, args):
    """Where the result goes, under the reference's names; '' with an empty --results_dir."""
    if not args.results_dir:
        return ""
    basename = os.path.basename(args.eval_imgs)
    name = method_class.result_name(run.name, args.lmbda, basename)
    return os.path.join(args.results_dir, name + ".npz")


# --- Command lines ---------------------------------------------------------------------------


def main(method_class, training_graph=None, argv=None):
    """Runs the command line of a script; ends the process with exit code 2 on wrong input.

    Args:
      method_class: an `inference.Method`; None: there are no commands but `train`.
      training_graph: of `train`; None: there is no such command.
      argv: arguments; default: those of the process.
    """
    module = sys.modules[(method_class or training_graph).__module__]
    script = utils.script_name(module)
    args = parse(script, module.__doc__, method_class, training_graph, argv)
    with utils.command(script):
        if args.command == "train":
            args.num_filters = args.num_filters or 192
            with workers.joined():
                say_device(args)
                train(script, training_graph, args)
        elif args.command == "compress":
            say_device(args)
            compress(method_class, args)
        else:
            say_device(args)
            decompress(method_class, args)


def say_device(args):
    """Says on stderr where the run takes place with --verbose, and always why no GPU is used."""
    why = device.why_unused()
    if why:
        print("note: " + why, file=sys.stderr)
    if args.verbose:
        print("device: " + device.describe(), file=sys.stderr)


def parse(script, doc, method_class, training_graph, argv=None):
    """The arguments of a script; `--help` of a script shows the flags of all its commands."""
    parser = argparse.ArgumentParser(
        prog=script + ".py",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--checkpoint_dir",
        type=os.path.expanduser,
        default="./checkpoints",
        metavar="DIR",
        help="folder of run folders (./checkpoints)",
    )
    add(
        "--num_filters",
        type=functools.partial(_number, int, []),
        metavar="N",
        help="channels of the model (192 in train, else those of the run)",
    )
    add(
        "--num_hfilters",
        type=int,
        default=-1,
        metavar="M",
        help="enters the name of a trained run, if positive, and nothing else (-1)",
    )
    add("--verbose", "-V", action="store_true", help="the device, and a line every 100 iterations")
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
    args, unknown = parser.parse_known_args(argv)
    if getattr(args, "preset", ""):
        commands.choices[args.command].set_defaults(**method_class.presets[args.preset])
        args, unknown = parser.parse_known_args(argv)
    takes_output = getattr(args, "output", "") is None
    if takes_output and len(unknown) == 1 and not unknown[0].startswith("-"):
        args.output = os.path.expanduser(unknown.pop())  # argparse wants it before the flags
    if unknown:
        places = " (which stands before it)" if unknown[0] in parser._option_string_actions else ""
        commands.choices[args.command].error(
            "not known to this command: {}{}".format(" ".join(unknown), places)
        )
    return args


def _add_flags(parser, flags):
    """Adds flags of numbers and paths: name to (default, help) or (default, help, lowest).

    Numbers without a lowest value have to be positive. Those with the default False take no value,
    and those with a tuple for the lowest one of its values.
    """
    for name, (default, text, *lowest) in flags.items():
        if default is False:
            parser.add_argument("--" + name, action="store_true", help=text)
            continue
        if lowest and isinstance(lowest[0], tuple):
            parser.add_argument(
                "--" + name,
                type=type(default),
                choices=lowest[0],
                default=default,
                help="{} ({})".format(text.format(", ".join(map(str, lowest[0]))), default),
            )
            continue
        is_number = not isinstance(default, str)
        parser.add_argument(
            "--" + name,
            dest="lmbda" if name == "lambda" else name,
            type=functools.partial(_number, type(default), lowest)
            if is_number
            else os.path.expanduser,
            default=default,
            metavar=name.rsplit("_", 1)[-1].upper(),
            help="{} ({})".format(text, default).replace("%", "%%"),
        )


def _number(kind, lowest, text):
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "{!r} is not {} number".format(text, "a whole" if kind is int else "a")
        )
    low = lowest[0] if lowest else 0
    if not (math.isfinite(value) and (value >= low if lowest else value > low)):
        raise argparse.ArgumentTypeError(
            "{} is not {} {}".format(text, "at least" if lowest else "above", low)
        )
    return value


def _add_train(commands):
    parser = commands.add_parser("train", help="train a model", allow_abbrev=False)
    parser.add_argument(
        "--train_glob",
        required=True,
        type=os.path.expanduser,
        metavar="GLOB",
        help="PNG, JPEG or float32 .npy images",
    )
    _add_flags(
        parser,
        {
            "lambda": (0.01, "weight of the distortion, 255² MSE, against bits per pixel"),
            "batchsize": (8, "patches of a step, of each worker under horovodrun"),
            "patchsize": (256, "pixels of a patch's side"),
            "last_step": (1000000, "number of steps", 0),
            "learning_rate": (1e-4, "of Adam"),
            "lr_final": (1.0, "fraction of it at the last step, after a cosine decay; 1: none"),
            "flip": (False, "mirror half of the patches left to right"),
            "init_from": ("", "run folder whose weights a new run starts from, where they fit"),
            "seed": (0, "of the patches, the noise and the initial weights", 0),
            "val_glob": ("", "images to validate on, whole, with latents rounded; '' for none"),
            "val_secs": (300, "seconds between validations", 0),
            "preprocess_threads": (16, "threads that read images"),
            "logdir": ("./tensorboard", "folder for TensorBoard; '' for none"),
            "save_summary_secs": (60, "seconds between TensorBoard summaries", 0),
            "save_checkpoint_secs": (300, "seconds between checkpoints", 0),
        },
    )


def _add_compress(commands, method_class):
    parser = commands.add_parser(
        "compress", help="compress images and measure the result", allow_abbrev=False
    )
    parser.add_argument("runname", help="run folder in --checkpoint_dir")
    parser.add_argument(
        "eval_imgs", type=os.path.expanduser, help="an image, or a uint8 .npy of shape (n, H, W, 3)"
    )
    parser.add_argument("output", nargs="?", type=os.path.expanduser, help="file to write, .tfci")
    _add_flags(
        parser,
        {
            "results_dir": ("./results", "folder for the .npz of the result; '' for none"),
            "lambda": (-1.0, "weight of the distortion; -1: as in the run's name", -1),
            "seed": (0, "of the random numbers, where the method draws any", 0),
            "eval_batch_size": (1, "images of a .npy that are optimised together"),
            **method_class.flags,
            **method_class.coding_flags,
        },
    )
    if method_class.presets:
        lines = (
            "{}: {}".format(name, " ".join("--{} {}".format(*item) for item in flags.items()))
            for name, flags in method_class.presets.items()
        )
        parser.add_argument(
            "--preset",
            choices=list(method_class.presets),
            default="",
            help="other defaults; " + "; ".join(lines),
        )
    parser.add_argument("--save_reconstruction", action="store_true", help="a PNG by the result")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the result of another input"
    )


def _add_decompress(commands, method_class):
    parser = commands.add_parser("decompress", help="decode a file of compress", allow_abbrev=False)
    parser.add_argument("runname", help="run folder in --checkpoint_dir")
    parser.add_argument("file", type=os.path.expanduser, help="a .tfci file")
    parser.add_argument(
        "output",
        nargs="?",
        type=os.path.expanduser,
        help="image or .npy to write; default: the file's name + .png, of several images + .npy",
    )
    if issubclass(method_class.model_class, Mbt2018BB):
        text = "file to write the side information of the archive to"
        _add_flags(parser, {"side_info": ("", text)})
