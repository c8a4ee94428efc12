"""Base classes of the methods.

A method is a class that builds the graph for a batch of images: a list of `Stage`s, each an Adam
run over some latents, and the latents that are transmitted in the end. With `BaseMethod` and
`BitsBackMethod`, a script defines little more than its relaxation of rounding and its
hyper-parameters; a method of your own subclasses one of them.
"""

import hashlib
import importlib
import os
import re
import sys

import numpy as np

import utils
from coding import container, writers
from inference import regions, scripts, steps, targets
from inference.optimise import RECORD_EVERY, Stage
from model import checkpoints, device, hyperprior
from runtime.errors import InputError
from runtime.files import read_bytes
from runtime.flags import Flag, check_together
from runtime.quiet_tf import tf

ADAM_FLAGS = {
    "adam_beta1": Flag(0.9, "decay rate of Adam's mean of the gradients", minimum=0, below=1),
    "adam_beta2": Flag(
        0.999, "decay rate of Adam's mean of the squared gradients", minimum=0, below=1
    ),
    "adam_epsilon": Flag(1e-8, "added to the square root in the denominator of Adam's update"),
}
ATANH_FLAG = {
    "atanh_eps": Flag(1e-5, "distances are clipped to 1 minus this, to keep atanh finite", below=1)
}


def adam_flags(sga_its, lr, record_every=RECORD_EVERY):
    """The flags of an Adam run, with a method's defaults; without --record_every if that is 0."""
    text = (
        "iterations between figures of the optimisation, shown by --verbose and saved (of the "
        "second stage of bb_sga only with --estimate_only)"
    )
    return {
        "sga_its": Flag(sga_its, "iterations"),
        "lr": Flag(lr, "learning rate of Adam"),
        **ADAM_FLAGS,
        **({"record_every": Flag(record_every, text)} if record_every else {}),
    }


class Method:
    """The common base class of the nine methods.

    A subclass sets the class attributes and returns its stages and latents from `build`.

    Attributes:
      row: entry in Table 1 of the paper.
      model_class: `hyperprior.Mbt2018` or `Mbt2018BB`.
      sigma_min: lower bound on sigma in p(y|z); None: no bound.
      name_has_lambda: whether the names of result files contain λ in addition to the run's name.
      reports_batches: whether results include bits per pixel and size of batches, as the
        reference's do, under its names.
      flags: dict of the method's own `Flag`s by name, saved with every result.
      objective_flags: like `flags`, for what is minimised and what the result is to have.
      landing: a point of the schedule at which latents still move, as a fraction of its length.
        Additional iterations, which meet a target, repeat the schedule from there.
      presets: for each value of --preset, a dict of the defaults that it gives to flags.
      image_flags: like `flags`, for how all methods see the images.
      coding_flags: like `flags`, for how files are written.
      stages: list of `Stage`s, in the order in which they run.
      latents: dict of tensors (N, …) that the coder rounds (`coder`) after the stages have run.
      coded: names of the latents that the coder returns; without a coder, those in `latents`.
    """

    row = ""
    model_class = None
    sigma_min = None
    image_flags = {
        "pad": Flag(
            "none",
            "how g_a and h_a see the image continued to multiples of 64: {}",
            choices=("none", "edge"),
        )
    }
    flags = {}
    objective_flags = {}
    landing = 0.7
    presets = {}
    coding_flags = {}
    coded = ("y", "z")
    name_has_lambda = True
    reports_batches = False

    @classmethod
    def script(cls):
        """Name of the method's script, as used in result files."""
        return scripts.name_of(sys.modules[cls.__module__])

    @classmethod
    def result_name(cls, runname, aim, basename):
        """Name of the result file, without its extension; `aim` says λ or the target."""
        return "rd-{}{}+{}-input={}".format(cls.script(), aim, runname, basename)

    @classmethod
    def result_path(cls, run, args):
        """Path of the result file for a command line; '' with an empty --results_dir."""
        if not args.results_dir:
            return ""
        aim = "-lmbda={:g}".format(args.lmbda) if cls.name_has_lambda else ""
        for flag in filter(cls.objective_flags.get, targets.FLAGS):
            value = getattr(args, flag)
            aim = "-{}={:.10g}".format(flag, value) if value else aim
        name = cls.result_name(run.name, aim, os.path.basename(args.eval_imgs))
        return os.path.join(args.results_dir, name + ".npz")

    @classmethod
    def settings(cls, args):
        """All settings on the command line that a result depends on, by name."""
        return {name: getattr(args, name) for name in ("lmbda", "seed", *cls.defaults())}

    @classmethod
    def defaults(cls):
        """The values of the method's own `settings` where no flag changes them."""
        own = cls._kinds_of_flags()
        return {name: flag.default for flags in own for name, flag in flags.items()}

    @classmethod
    def _kinds_of_flags(cls):
        return cls.image_flags, cls.flags, cls.objective_flags, cls.coding_flags

    @classmethod
    def check(cls, args):
        """Raises `InputError` if values on the command line do not go together."""
        for own in cls._kinds_of_flags():
            check_together(args, own)
        targets.check(cls, args)

    @classmethod
    def provenance(cls, run, images, args):
        """The model and input of a result, to be saved with it besides `settings`, as a dict.

        Args:
          run: `checkpoints.Run`.
          images: `utils.Images`.
          args: the parsed command line.
        """
        return {
            "script": cls.script(),
            "table_row": cls.row,
            "runname": run.name,
            "num_filters": run.num_filters,
            "checkpoint_step": run.step,
            "checkpoint_sha256": checkpoints.checkpoint_sha256(run.checkpoint),
            "input": os.path.basename(images.path),
            "input_sha256": images.sha256,
            "eval_batch_size": args.eval_batch_size,
            "device": device.describe(),
        }

    def __init__(self, model, x, args, noise, lmbda=None, weights=None):
        """
        Args:
          model: an instance of `model_class`.
          x: images, float32 (N, H, W, 3) in [0, 1].
          args: has the values of `flags`, and `lmbda`.
          noise: a `Noise`.
          lmbda: λ, if it changes during a run: a tensor.
          weights: of the distortion, as for `hyperprior.Mbt2018.rate_distortion`.
        """
        self.model, self.x, self.args, self.noise = model, x, args, noise
        self.lmbda = args.lmbda if lmbda is None else lmbda
        self.weights = weights
        self.stages, self.latents = self.build()

    def predicted(self):
        """What the inference networks predict for the images, a dict of tensors: y and z's.

        With --pad edge they see each image continued by its last row and column to sides that are
        multiples of 64. At a border inside of a latent's 16 × 16 pixels, they would meet zeros that
        they never saw in training.
        """
        y = self.model.analysis(self.x if self.args.pad == "none" else _continued(self.x))
        rows, columns = container.latent_sizes(*self.x.shape.as_list()[1:3])[0]
        # z of the continued image has the size that z of the image has.
        return {"y": y[:, :rows, :columns], **self.model.hyper_analysis(y)}

    def build(self):
        """Returns the stages and the latents that are coded."""
        raise NotImplementedError

    @classmethod
    def coder(cls, run, weights, args):
        """The `writers.Writer` that rounds and codes the latents; None to code nothing.

        Args:
          run, weights: the `checkpoints.Run`, and its weights from `checkpoints.load`.
          args: the parsed command line.
        """
        raise NotImplementedError

    def rates(self, num_pixels, noise, latents):
        """Bits per pixel of the decoded latents (see `hyperprior.Mbt2018.rates`).

        Args:
          num_pixels: H·W of the images.
          noise: `Noise` of the images.
          latents: dict of tensors, those in `coded`.
        """
        return self.model.rates(num_pixels, **latents)

    def loss(self, **latents):
        """λ · 255² · MSE + bpp of the latents, and the metrics for a line of progress."""
        loss, metrics = self.model.rate_distortion(
            self.x, self.lmbda, weights=self.weights, **latents
        )
        psnr = utils.quality(self.x, metrics["x_tilde"])["psnr"]
        return loss, {"mse": metrics["mse"], "bpp": metrics["bpp"], "psnr": psnr}


def find_method(script):
    """The method that `<script>.py` defines.

    Raises:
      InputError: this project has no such script, or it defines no method.
    """
    path = os.path.join(scripts.ROOT, script + ".py")
    if script.isidentifier() and os.path.isfile(path):
        for value in vars(importlib.import_module(script)).values():
            is_method = isinstance(value, type) and issubclass(value, Method)
            if is_method and value.__module__ == script:
                return value
    name = re.sub(r"\W", "_", script)
    if os.sep not in script and name != script and os.path.isfile(path):
        line = "{}: not a name that Python can import; call the script {}.py"
        raise InputError(line.format(script, name))
    raise InputError("{}: no script of that name is a method, as sga is".format(script))


def _continued(x):
    """Images (N, H, W, 3), their last row and column repeated up to multiples of 64."""
    for axis in (1, 2):
        size = x.shape.as_list()[axis]
        places = np.minimum(np.arange(size + -size % 64), size - 1)
        x = tf.gather(x, places, axis=axis)
    return x


class BaseMethod(Method):
    """Optimises y and z of the base model, starting from the inference network's prediction.

    A subclass defines `relax` and, if needed, `centred`, `temperature`, `learning_rate` or
    `early_stop`.

    Attributes:
      centred: True to round latents as the base codec does, z to the grid through the medians of
        p(z) and y to the grid through mu(z); False for the nearest integers (half to even).
    """

    model_class = hyperprior.Mbt2018
    objective_flags = {**targets.FLAGS, **regions.FLAGS, **steps.FLAGS}
    centred = False
    temperature = None  # or a method that maps t to a tensor

    def learning_rate(self, t):
        """Adam's learning rate at iteration t."""
        return self.args.lr

    def relax(self, v, t, noise):
        """Replaces rounding of a latent v in the loss; `noise` is specific to this v and t."""
        raise NotImplementedError

    def early_stop(self):
        """Returns an `EarlyStop`, or None to run all iterations."""

    @classmethod
    def check(cls, args):
        super().check(args)
        if args.step != "auto":
            steps.number(args.step)

    @classmethod
    def is_centred(cls, args):
        """The value of `centred`; overridden where it depends on a flag."""
        return cls.centred

    def relaxed(self, t, y, z):
        """The relaxed latents at iteration t, as a dict."""
        return {
            "y": self.relax(y, t, self.noise.at(t, "y")),
            "z": self.relax(z, t, self.noise.at(t, "z")),
        }

    def rounded(self, y, z):
        """The latents as they are transmitted, except for the last bits of mu."""
        if self.is_centred(self.args):
            return self.model.round_centred(y, z)
        return {"y": tf.math.round(y), "z": tf.math.round(z)}

    @classmethod
    def coder(cls, run, weights, args):
        kind = container.CENTRED if cls.is_centred(args) else container.INTEGERS
        return writers.GridWriter(run, kind, steps.number(args.step))

    def build(self):
        stage = Stage(
            self.predicted(),
            self.loss,
            self.relaxed,
            self.rounded,
            self.args.sga_its,
            self.learning_rate,
            self.args,
            temperature=self.temperature,
            early_stop=self.early_stop(),
        )
        return [stage], stage.latents


class BitsBackMethod(Method):
    """Lossy bits-back coding: y is rounded, z is one continuous sample of q(z|y).

    Attributes:
      rate_flags: names of the flags for the iterations and learning rate of fitting q(z|y) to the
        rate at fixed y (by `exact_posterior.fit`, because a decoder has to repeat it); None: the
        parameters of q(z|y) are h_a(y).
    """

    model_class = hyperprior.Mbt2018BB
    coding_flags = {
        "side_info": Flag(
            "",
            "file whose bits the first z is decoded from; decompress recovers it",
            needs=("estimate_only", False),
        ),
        "z_spacing": Flag(
            0.125,
            "spacing of the grid on which z is coded: a power of 2, up to 1",
            needs=("estimate_only", False),
        ),
        "estimate_only": Flag(
            False, "code nothing: estimate rates only, with q(z|y) fitted by TensorFlow"
        ),
    }
    coded = ("y", "z", "z_mean", "z_logvar")
    rate_flags = None

    @classmethod
    def check(cls, args):
        super().check(args)
        writers.z_bits(args.z_spacing)

    @classmethod
    def settings(cls, args):
        digest = args.side_info and hashlib.sha256(read_bytes(args.side_info)).hexdigest()
        return {**super().settings(args), "side_info_sha256": digest}

    def build(self):
        return self.given_y([], self.predicted()["y"])

    def given_y(self, stages, y):
        """What `build` returns, from the stages that find `y` and from the latter, not rounded.

        With --estimate_only, this adds q(z|y) to the latents, and the stage that fits it, which
        otherwise are the coder's.
        """
        if not self.args.estimate_only:
            return stages, {"y": y}
        self.coded = ("y", "z_mean", "z_logvar")
        y = tf.math.round(y)
        q = self.model.hyper_analysis(y)
        if self.rate_flags:
            stage = self._fit(y, q)
            stages, q = [*stages, stage], stage.latents
        return stages, {"y": y, **q}

    def _fit(self, y, start):
        """The stage that minimises the rate given `y`, over the mean and log-variance of q(z|y)."""
        its, lr = (getattr(self.args, flag) for flag in self.rate_flags)
        height, width = self.x.shape.as_list()[1:3]

        def loss(**latents):
            bpp = self.model.rates(height * width, **latents)["bpp"]
            return tf.reduce_mean(bpp), {"bpp": bpp}

        def sampled(t, **q):
            normal = self.noise.at(t, "z given y").normal(q["z_mean"])
            return {"y": y, **self.model.sample(normal=normal, **q)}

        def sent(**q):
            return self.sent(self.noise, y, **q)

        stage = Stage(start, loss, sampled, sent, its, lambda t: lr, self.args)
        stage.title = "Rate optimisation"
        return stage

    @classmethod
    def coder(cls, run, weights, args):
        if args.estimate_only:
            return None
        settings = container.Settings()
        if cls.rate_flags:
            its, lr = (getattr(args, flag) for flag in cls.rate_flags)
            adam = (args.adam_beta1, args.adam_beta2, args.adam_epsilon)
            settings = container.Settings(its, lr, *adam)
        return writers.BitsBackWriter(run, args.z_spacing, settings, args.seed, args.side_info)

    def sent(self, noise, y, z_mean, z_logvar):
        """The latents with one sample of z, whose noise depends only on the image and the seed."""
        normal = noise.at(0, "z sent").normal(z_mean)
        return {"y": y, **self.model.sample(z_mean, z_logvar, normal)}

    def rates(self, num_pixels, noise, latents):
        """Bits per pixel with a sample of z drawn from `noise`; if z is coded, also `bpp_coded`.

        The coded z depends on the bits of the images before it, this sample does not; `bpp_coded`
        is the rate with the coded z.
        """
        sampled = {key: value for key, value in latents.items() if key != "z"}
        rates = self.model.rates(num_pixels, **self.sent(noise, **sampled))
        if "z" in latents:
            rates["bpp_coded"] = self.model.rates(num_pixels, **latents)["bpp"]
        return rates
