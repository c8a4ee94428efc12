"""Evaluation: runs images through a method, the coder and the metrics of the decoded result."""

import collections
import time

import numpy as np

import utils
from coding import container, digests
from inference import steps
from inference.noise import Noise, image_keys
from inference.optimise import LARGEST_LATENT, merge_records, within
from inference.steering import Lambda, Steering
from model import device, hyperprior
from model.stored import release, store
from runtime import console
from runtime.errors import InputError, naming
from runtime.quiet_tf import no_collection, tf

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
    "est_rd_loss",
    "net_bpp",
    "actual_bpp",
    "lmbda_found",
    "psnr_inside",
    "psnr_outside",
    "weighted_mse",
)  # computed per image


class Aim(collections.namedtuple("Aim", "target region", defaults=(None, None))):
    """What results are to have, besides a low loss.

    target: a `targets.Target`, or None; region: a `regions.Region`, or None.
    """

    def digests(self):
        """Digests of the files that it is made of, by the name that a result gives them."""
        return {"weight_map_sha256": self.region.sha256} if self.region else {}


NO_AIM = Aim()

Evaluated = collections.namedtuple("Evaluated", "results records content")
Evaluated.__doc__ = """The outcome of evaluating a method on images.

results: dict of arrays (n,), the metrics of each image; records: dict of arrays, the course of the
optimisation (`optimise.merge_records`); content: the bytes of the compressed file, or None.
"""


class Evaluator:
    """Evaluates a method on images; the graph is built again only if their shape changes.

    Args:
      method_class: a `methods.Method`.
      weights: as returned by `checkpoints.load`.
      args: the parsed command line.
      aim: `Aim`.
    """

    def __init__(self, method_class, weights, args, aim=NO_AIM):
        self._method_class, self._weights, self._args = method_class, weights, args
        self._aim, self._evaluation = aim, None

    def evaluate(self, writer, path, batches, save=None):
        """Optimises, codes and measures images, a batch at a time; returns `Evaluated`.

        Args:
          writer: the `writers.Writer` from the method's `coder`, or None.
          path: path of the images, for messages.
          batches: iterable of uint8 (N, H, W, 3).
          save: `save(number, reconstruction)`, called with the uint8 (H, W, 3) of each image; or
            None.

        Raises:
          InputError: the latents of an image diverge or cannot be coded.
        """
        metrics, records, batch_sizes = [], [], []
        for pixels in batches:
            numbers = range(len(metrics), len(metrics) + len(pixels))
            evaluation = None  # so that `_built` can free one of another shape
            evaluation = self._built(pixels.shape)
            figures, record = _evaluate_batch(evaluation, pixels, writer, path, numbers, save)
            metrics += figures
            records.append(record)
            batch_sizes.append(len(pixels))
        results = {key: np.array([figures[key] for figures in metrics]) for key in metrics[0]}
        content, bits = writer.finish() if writer else (None, {})
        for key, values in bits.items():
            results[key + "_bpp"] = values / (pixels.shape[1] * pixels.shape[2])
        if self._method_class.reports_batches:
            results.update(_batch_results(results["actual_bpp"], batch_sizes))
        records = merge_records(records)
        if evaluation.steering:
            records.update(evaluation.steering.record())
        records.update(self._aim.digests())
        return Evaluated(results, records, content)

    @property
    def missed(self):
        """What the last image has instead of the target, as a logarithm; None if it meets it."""
        steering = self._evaluation.steering
        if steering and steering.target.side(steering.result):
            return steering.result
        return None

    def _built(self, shape):
        """The `Evaluation` for batches of a shape."""
        if self._evaluation is None or self._evaluation.shape != shape:
            self._evaluation = None  # so that its memory is free
            self._evaluation = Evaluation(
                self._method_class, self._weights, shape, self._args, self._aim
            )
        return self._evaluation


def _batch_results(actual_bpp, batch_sizes):
    """The bits per pixel of batches, as the reference reports them.

    Args:
      actual_bpp: array (n,), of each image.
      batch_sizes: list of the number of images in each batch.
    """
    starts = np.cumsum([0] + batch_sizes[:-1])
    return {
        "batch_actual_bpp": np.add.reduceat(actual_bpp, starts),
        "batch_sizes": np.array(batch_sizes),
        "avg_batch_actual_bpp": actual_bpp.mean(),
    }


def _evaluate_batch(evaluation, pixels, writer, path, numbers, save):
    """The metrics of each image of a batch (list of dicts), and a list of records for each stage.

    Args:
      evaluation: `Evaluation` for batches of this shape.
      pixels: uint8 (N, H, W, 3).
      writer, path, save: as in `Evaluator.evaluate`.
      numbers: the numbers of the images, from 0.
    """
    begun = time.time()
    images = "image {}" if len(numbers) == 1 else "images {} to {}"
    with naming("{}: {}".format(path, images.format(numbers[0], numbers[-1]))):
        latents, stage_records = evaluation.optimise(pixels)
    metrics, coding_records = [], []
    hint = "; try a lower --lr" if evaluation.method.flags else ""
    for index, (number, values) in enumerate(zip(numbers, latents)):
        name = "{}: image {}".format(path, number)
        check_finite(values.values(), name, hint)
        with naming(name):
            figures, record, reconstruction = evaluation.finish(index, values, writer)
            tried = [(values, stage_records[1:])]
            while evaluation.needs_another_attempt(figures, writer):
                tried.append(evaluation.improve())
                figures, record, reconstruction = evaluation.once_more(index, tried[-1][0], writer)
            best = evaluation.best_attempt()
            values, stage_records[1:] = tried[best]
            if best < len(tried) - 1:
                figures, record, reconstruction = evaluation.once_more(index, values, writer)
        figures.update(utils.ms_ssim(pixels[index], reconstruction))
        check_finite([figures["mse"], figures["est_bpp"]], name, hint)
        metrics.append(figures)
        coding_records.append(record)
        if save:
            save(number, reconstruction)
    for figures in metrics:
        figures["seconds"] = (time.time() - begun) / len(pixels)
    records = [[record] for record in stage_records]
    return metrics, records + ([coding_records] if coding_records[0] else [])


def check_finite(values, name, hint):
    """Raises `InputError` unless all values of an image's arrays are finite and can be coded."""
    if not within(values, LARGEST_LATENT):
        line = "{} gives NaN, infinity or latents beyond {:.0e}{}"
        raise InputError(line.format(name, LARGEST_LATENT, hint))


class Evaluation:
    """The graph of a method for batches of one shape, from pixels to results.

    Args:
      method_class: a `methods.Method`.
      weights: as returned by `checkpoints.load`.
      shape: (N, H, W, 3) of the batches.
      args: the parsed command line.
      aim: `Aim`.
    """

    def __init__(self, method_class, weights, shape, args, aim=NO_AIM):
        self.args, self.shape, self.aim = args, shape, aim
        self.graph = tf.Graph()
        with self.graph.as_default(), no_collection():
            self.pixels = tf.placeholder(tf.uint8, shape)
            self.keys = tf.placeholder(tf.int64, shape[:1])
            x = tf.get_variable("x", shape, trainable=False, use_resource=True)
            with device.on_host():
                keys = tf.get_variable(
                    "keys", shape[:1], tf.int64, trainable=False, use_resource=True
                )
                keys_value = keys.read_value()
            self.feed = tf.group(
                x.assign(tf.cast(self.pixels, tf.float32) / 255), keys.assign(self.keys)
            )
            x, keys = x.read_value(), keys_value
            step = getattr(args, "step", 1.0)
            model = hyperprior.build(
                method_class.model_class,
                weights,
                store,
                sigma_min=method_class.sigma_min,
                step=step,
            )
            # With a method that does not optimise, a target only chooses the model.
            steered = aim.target and method_class.flags
            lmbda = Lambda(steps.lambda_for(args.lmbda, step)) if steered else None
            weights = None if aim.region is None else store(aim.region.weights)
            self.method = method_class(model, x, args, Noise(keys), lmbda and lmbda.tensor, weights)
            self.steering = None
            if steered:
                self.steering = Steering(aim.target, self.method, lmbda)
            self._build_measurement(model, x, keys)
            initialiser = tf.global_variables_initializer()
            self.graph.finalize()
        self.session = tf.Session(graph=self.graph, config=device.session_config())
        self.session.run(initialiser)
        with self.graph.as_default():
            release()

    def _build_measurement(self, model, x, keys):
        """Builds the measurement of one image at a time, with the same operations as a decoder."""
        height, width = self.shape[1:3]
        self.index = tf.placeholder(tf.int32, ())
        x, keys = x[self.index, None], keys[self.index, None]
        self.coded = self._latent_placeholders()
        self.decoded = tf.placeholder(tf.float32, (1, height, width, 3))
        self.reconstruction = utils.to_uint8(self.decoded)[0]
        metrics = utils.quality(x, self.decoded)
        self.x_tilde = model.synthesis(self.coded["y"], (height, width))
        rates = self.method.rates(height * width, Noise(keys), self.coded)
        metrics.update({"est_" + key: value for key, value in rates.items()})
        metrics["est_rd_loss"] = self.method.lmbda * metrics["mse"] + metrics["est_bpp"]
        self.metrics = {key: value[0] for key, value in metrics.items()}

    def _latent_placeholders(self):
        """Placeholders for the latents of one image as the coder returns them, by name."""
        y_size, z_size = container.latent_sizes(*self.shape[1:3])
        channels = self.method.latents["y"].shape[3]
        return {
            name: tf.placeholder(
                tf.float32, (1, *(y_size if name == "y" else z_size), channels), name
            )
            for name in self.method.coded
        }

    def begin(self, pixels):
        """Feeds a batch, uint8 (N, H, W, 3), to the graph."""
        self.images = pixels
        keys = image_keys(pixels, self.args.seed)
        self.session.run(self.feed, {self.pixels: pixels, self.keys: keys})

    def optimise(self, pixels):
        """Optimises a batch, uint8 (N, H, W, 3).

        Returns:
          latents: list of N dicts of arrays (h, w, C), not rounded.
          records: list of the record of each stage (`optimise.Stage.run`).
        """
        self.begin(pixels)
        records = [self._run_stage(stage) for stage in self.method.stages[:1]]
        if self.steering:
            self.steering.land(self.session)
        records += self._run_rest()
        return self._latents(), records

    def _run_rest(self):
        """Runs the stages that start from the latents of the first; returns their records."""
        return [self._run_stage(stage) for stage in self.method.stages[1:]]

    def _latents(self):
        latents = self.session.run(self.method.latents)
        return [dict(zip(latents, values)) for values in zip(*latents.values())]

    def needs_another_attempt(self, figures, writer):
        """Whether an image's result misses the target, and there is a better one to try."""
        if not self.steering:
            return False
        if writer:
            content, bits = writer.finish()
            size = bits["net"][0] if "net" in bits else 8 * len(content)
        else:
            size = figures["est_bpp"] * self.shape[1] * self.shape[2]
        return self.steering.misses(size, figures["psnr"]) and not self.steering.exhausted

    def improve(self):
        """Moves the latents of the image closer to the target.

        Returns:
          the latents, a dict of arrays, and the records of the stages after the first.
        """
        self.steering.land(self.session)
        records = self._run_rest()
        return self._latents()[0], records

    def best_attempt(self):
        """The number of the attempt to keep, of which the last is there; sets its λ."""
        if not self.steering:
            return 0
        best = self.steering.best()
        self.steering.return_to(self.session, best)
        return best

    def once_more(self, index, latents, writer):
        """Codes an image anew, with other latents; returns what `finish` does."""
        if writer:
            writer.take_back()
        return self.finish(index, latents, writer)

    def _run_stage(self, stage):
        with console.shown(self.args.verbose, stage.its, stage.title) as (progress, write):

            def show(t, relaxed, rounded):
                write(progress_line(t, relaxed, rounded))

            steering = self.steering if stage is self.method.stages[0] else None
            return stage.run(self.session, progress, show, steering)

    def finish(self, index, latents, writer):
        """Codes an image of the batch, if there is a writer, and measures the decoded result.

        Args:
          index: index of the image in the batch.
          latents: its dict from `optimise`.
          writer: a `writers.Writer`, or None.

        Returns:
          metrics: dict of numbers; with a writer, also `latents_sha256` (`digests.digest`) and the
            seconds of coding.
          record: the record of the coding (`writers.Coded`); empty without a writer.
          reconstruction: uint8 (H, W, 3).
        """
        figures, record = {}, {}
        if writer:
            coded = self._code(latents, writer)
            latents, record = coded.latents, coded.record
            figures["latents_sha256"] = digests.digest(latents)
        feed = {self.coded[name]: value[None] for name, value in latents.items()}
        begun = time.time()
        decoded = self.session.run(self.x_tilde, feed)
        if writer:
            figures["encode_seconds"] = coded.encode_seconds
            figures["decode_seconds"] = coded.decode_seconds + time.time() - begun
        feed.update({self.index: index, self.decoded: decoded})
        metrics, reconstruction = self.session.run([self.metrics, self.reconstruction], feed)
        if self.steering:
            figures["lmbda_found"] = self.steering.lmbda
        if self.aim.region:
            figures.update(self.aim.region.figures(self.images[index], reconstruction))
            lmbda = figures.get("lmbda_found", self.args.lmbda)
            figures["est_rd_loss"] = lmbda * figures["weighted_mse"] + metrics["est_bpp"]
        return {**metrics, **figures}, record, reconstruction

    def _code(self, latents, writer):
        """Codes the latents of an image; returns `writers.Coded`."""
        with console.shown(self.args.verbose, writer.its, "Rate optimisation") as (progress, write):

            def step(done, loss):
                progress(done)
                if loss is not None:
                    write(progress_line(done - 1, {"bpp": loss}, None))

            return writer.add(latents, self.shape[1:3], step)


def progress_line(t, relaxed, rounded):
    """A line for `--verbose`: iteration, temperature, loss, mse, bpp, psnr, also after rounding."""

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
