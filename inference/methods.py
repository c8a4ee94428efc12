"""Per-image inference: the optimisation loop, and what a method has to say of itself.

A method is a class that makes the graph for a batch of images: a list of `Stage`s, each an Adam
run over some latents, and the latents that are transmitted in the end. `BaseMethod` and
`BitsBackMethod` leave to a script little more than its relaxation of the rounding and its
hyper-parameters; a method of your own subclasses either.
"""

import collections
import importlib
import os
import sys
import zlib

import hyperprior
import utils
from coding import container, files
from quiet_tf import tf

RECORD_EVERY = 100  # iterations between lines of progress, which are saved with the result


class Noise:
    """Random numbers that depend on the seed, the image, the step and a name, and nothing else.

    Args:
      image_keys: (N,) int64, one for each image, with the seed in it (`utils.image_keys`).
      t: step, int64 scalar.
      name: tells the latents and stages apart.
    """

    def __init__(self, image_keys, t=0, name=""):
        self.image_keys, self.t, self.name = image_keys, t, name

    def at(self, t, name):
        """The noise of one latent at one step."""
        return Noise(self.image_keys, t, name)

    def uniform(self, like):
        """U[0, 1) of the shape of `like` (N, …)."""
        return self._draw(tf.random.stateless_uniform, like)

    def normal(self, like):
        """N(0, 1) of the shape of `like` (N, …)."""
        return self._draw(tf.random.stateless_normal, like)

    def _draw(self, sampler, like):
        step = tf.cast(self.t, tf.int64) * 2**32 + zlib.crc32(self.name.encode())
        keys = tf.unstack(self.image_keys)
        return tf.stack([sampler(like.shape[1:], seed=tf.stack([key, step])) for key in keys])


class EarlyStop(collections.namedtuple("EarlyStop", "every rounded tie_is_worse")):
    """Stop when a loss gets worse, and go back to the latents of the last check that was good.

    Checks come at t = 0, `every`, 2 `every`, … and at the last t; a good one remembers the latents
    after the update of that t.

    every: iterations.
    rounded: whether to watch the loss of the updated latents as they are transmitted, rather than
      the loss whose gradient the update took.
    tie_is_worse: whether a loss equal to that of the last check counts as worse.
    """

    def worse(self, loss, last):
        """Whether to stop at `loss`, after `last` at the check before."""
        return loss > last or (self.tie_is_worse and loss == last)


class Stage:
    """An Adam run over some latents, in the graph.

    Args:
      start: dict of tensors, the values that the latents start from.
      loss: `loss(**latents)`, a loss and its metrics.
      relaxed: `relaxed(t, **latents)`, the latents whose loss is minimised.
      rounded: `rounded(**latents)`, the latents as they are transmitted.
      its: iterations.
      learning_rate: tensor function of t, or one of a number.
      adam: has `adam_beta1`, `adam_beta2` and `adam_epsilon`.
      temperature: tensor function of t that is shown and recorded, or None.
      early_stop: an `EarlyStop`, or None.

    Attributes:
      latents: dict of tensors, the present values.
      start, update: operations that begin the run, and that make one iteration.
    """

    title = "R-D optimisation"

    def __init__(
        self,
        start,
        loss,
        relaxed,
        rounded,
        its,
        learning_rate,
        adam,
        temperature=None,
        early_stop=None,
    ):
        self.its, self.early_stop = its, early_stop
        step = _variable(tf.zeros((), tf.int64))
        variables = _variables(start)
        remembered = _variables(start)
        start_hat = _integers(start, rounded)
        first = _variables(start_hat)

        # One read for the gradient and all that is shown with it, so that they cannot disagree.
        t, before = step.read_value(), _values(variables)
        objective, metrics = loss(**relaxed(t, **before))
        optimizer = tf.train.AdamOptimizer(
            learning_rate(t), adam.adam_beta1, adam.adam_beta2, adam.adam_epsilon
        )
        gradients = tf.gradients(objective, list(before.values()))
        self.update = optimizer.apply_gradients(
            list(zip(gradients, variables.values())), global_step=step
        )
        self._relaxed = _shown(objective, metrics)
        if temperature is not None:
            self._relaxed["T"] = temperature(t)
        self.latents = _values(variables)
        transmitted = rounded(**self.latents)
        self._rounded = _shown(*loss(**transmitted))
        for name, before in _values(first).items():
            # By more than half a step: around mu, the grid itself moves a little.
            moved = tf.math.abs(transmitted[name] - before) > 0.5
            self._rounded[name + "_changed"] = tf.reduce_mean(tf.cast(moved, tf.float32))
        self.start = tf.group(
            tf.variables_initializer(optimizer.variables() + [step]),
            _assign(variables, start),
            _assign(first, start_hat),
        )
        self._remember = _assign(remembered, self.latents)
        self._go_back = _assign(variables, _values(remembered))

    def run(self, session, step, show):
        """Runs the stage from its start.

        Args:
          session: `tf.Session` in which all variables have been initialised.
          step: `step(n)` is called when n iterations are done.
          show: `show(t, relaxed, rounded)` is called every `RECORD_EVERY` iterations and at the
            last, with dicts of the figures that the update of t saw, and of those after it.

        Returns:
          dict of lists, one value for every `RECORD_EVERY` iterations and the last: `its`, `T`
          where there is one, `rd_loss`, `its_bpp` and `its_psnr`, the same three with
          `_after_rounding`, and `its_y_changed_after_rounding`, the fraction of y that is
          transmitted as another value than at the start; likewise of z, if it is rounded.
        """
        session.run(self.start)
        update = session.make_callable(self.update)
        record = collections.defaultdict(list)
        last = None
        for t in range(self.its):
            final = t == self.its - 1
            checks = self.early_stop and (t % self.early_stop.every == 0 or final)
            if not (checks or final or t % RECORD_EVERY == 0):
                update()
                step(t + 1)
                continue
            _, relaxed = session.run([self.update, self._relaxed])
            rounded = session.run(self._rounded)
            stops = False
            if checks:
                loss = (rounded if self.early_stop.rounded else relaxed)["rd_loss"]
                stops = last is not None and self.early_stop.worse(loss, last)
                session.run(self._go_back if stops else self._remember)
                last = loss
            step(t + 1)
            if stops or final or t % RECORD_EVERY == 0:
                show(t, relaxed, rounded)
                for key, value in _recorded(t, relaxed, rounded).items():
                    record[key].append(value)
            if stops:
                break
        return dict(record)


RECORDED = {
    "T": "T",
    "rd_loss": "rd_loss",
    "bpp": "its_bpp",  # "psnr" is a metric of the result
    "psnr": "its_psnr",
    "y_changed": "its_y_changed",
    "z_changed": "its_z_changed",
}


def _integers(latents, rounded):
    """Of `latents` those that are rounded, after that."""
    transmitted = rounded(**latents)
    return {name: transmitted[name] for name in ("y", "z") if name in latents}


def _recorded(t, relaxed, rounded):
    """What a result keeps of iteration t (see `Stage.run`)."""
    return {
        "its": t,
        **{name: relaxed[key] for key, name in RECORDED.items() if key in relaxed},
        **{n + "_after_rounding": rounded[key] for key, n in RECORDED.items() if key in rounded},
    }


def _variable(value):
    return tf.get_variable(
        "latent_{}".format(len(tf.global_variables())),
        initializer=tf.zeros(value.shape, value.dtype),
        trainable=False,
        use_resource=True,
    )


def _variables(values):
    return {name: _variable(value) for name, value in values.items()}


def _values(variables):
    return {name: variable.read_value() for name, variable in variables.items()}


def _assign(variables, values):
    return tf.group(*[variables[name].assign(value) for name, value in values.items()])


def _shown(loss, metrics):
    """Scalars for a line of progress: the loss, and means over the images."""
    return {"rd_loss": loss, **{key: tf.reduce_mean(metrics[key]) for key in metrics}}


# --- Methods ---------------------------------------------------------------------------------

ADAM_FLAGS = {
    "adam_beta1": (0.9, "decay of Adam's mean of the gradients", 0),
    "adam_beta2": (0.999, "decay of Adam's mean of the squared gradients", 0),
    "adam_epsilon": (1e-8, "added to the root in the denominator of Adam's update"),
}
ATANH_FLAG = {"atanh_eps": (1e-5, "distances are clipped to 1 less this, where atanh is finite")}


def adam_flags(sga_its, lr):
    """The flags of Adam, with a method's defaults."""
    return {"sga_its": (sga_its, "iterations"), "lr": (lr, "learning rate of Adam"), **ADAM_FLAGS}


class Method:
    """What the nine methods have in common.

    A subclass sets the class attributes, and in `build` the stages and what is transmitted.

    Attributes:
      row: entry in Table 1 of the paper.
      model_class: `hyperprior.Mbt2018` or `Mbt2018BB`.
      sigma_min: lower bound of sigma in p(y|z); None: no bound.
      name_has_lambda: whether result files are named by λ too, which the run's name has already.
      flags: dict of command-line flag name to (default, help) or (default, help, lowest value);
        numbers without a lowest value have to be positive. A tuple in its place lists all values.
      presets: dict of names to dicts of flags, defaults that --preset puts in place of the flags'.
      coding_flags: likewise, of how files are written.
      stages: list of `Stage`s, to be run in this order.
      latents: dict of tensors (N, …), what the coder rounds (`coder`) after the stages have run.
      coded: names of the latents that the coder returns.
    """

    row = ""
    model_class = None
    sigma_min = None
    flags = {}
    presets = {}
    coding_flags = {}
    coded = ("y", "z")
    name_has_lambda = True

    @classmethod
    def script(cls):
        """Name of the script, as in result files."""
        return utils.script_name(sys.modules[cls.__module__])

    @classmethod
    def result_name(cls, runname, lmbda, basename):
        """Name of the result file, less its ending."""
        lmbda = "-lmbda={:g}".format(lmbda) if cls.name_has_lambda else ""
        return "rd-{}{}+{}-input={}".format(cls.script(), lmbda, runname, basename)

    def __init__(self, model, x, args, noise):
        """
        Args:
          model: a `model_class`.
          x: images, float32 (N, H, W, 3) in [0, 1].
          args: values of `flags`, and `lmbda`.
          noise: a `Noise`.
        """
        self.model, self.x, self.args, self.noise = model, x, args, noise
        self.stages, self.latents = self.build()

    def build(self):
        """Returns the stages and the latents that are coded."""
        raise NotImplementedError

    @classmethod
    def coder(cls, run, weights, args):
        """The `coding.files.Writer` that rounds and codes the latents.

        Args:
          run, weights: the `utils.Run` and what `hyperprior.load` made of it.
          args: as above.
        """
        raise NotImplementedError

    def rates(self, num_pixels, noise, latents):
        """Bits per pixel (see `hyperprior.Mbt2018.rates`) of what a decoder gets.

        Args:
          num_pixels: H·W of the images.
          noise: of the images.
          latents: dict of tensors, as the coder returns them.
        """
        return self.model.rates(num_pixels, **latents)

    def loss(self, **latents):
        """λ · 255² · MSE + bpp of the latents, and the metrics for a line of progress."""
        loss, metrics = self.model.rate_distortion(self.x, self.args.lmbda, **latents)
        psnr = utils.quality(self.x, metrics["x_tilde"])["psnr"]
        return loss, {"mse": metrics["mse"], "bpp": metrics["bpp"], "psnr": psnr}


def find_method(script):
    """The method that `<script>.py` defines.

    Raises:
      utils.InputError: no such script of this project, or it defines none.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script + ".py")
    if script.isidentifier() and script != __name__ and os.path.isfile(path):
        for value in vars(importlib.import_module(script)).values():
            is_method = isinstance(value, type) and issubclass(value, Method)
            if is_method and value.__module__ == script:
                return value
    raise utils.InputError("{}: no script of that name is a method, as sga is".format(script))


class BaseMethod(Method):
    """Optimises y and z of the base model from the inference network's prediction.

    A subclass defines `relax`, and where it needs to `centred`, `temperature`, `learning_rate` or
    `early_stop`.

    Attributes:
      centred: whether latents are rounded as the base codec does: z to the grid through the medians
        of p(z), y to the one through mu(z); else to the nearest integers (half to even).
    """

    model_class = hyperprior.Mbt2018
    centred = False
    temperature = None  # or a method: tensor function of t

    def learning_rate(self, t):
        """Of Adam, at iteration t."""
        return self.args.lr

    def relax(self, v, t, noise):
        """Stand-in for the rounding of a latent in the loss; `noise` is for this v and t alone."""
        raise NotImplementedError

    def early_stop(self):
        """An `EarlyStop`, or None to run all iterations."""

    @classmethod
    def is_centred(cls, args):
        """`centred`, unless it depends on the command line."""
        return cls.centred

    def relaxed(self, t, y, z):
        """The latents, relaxed."""
        return {
            "y": self.relax(y, t, self.noise.at(t, "y")),
            "z": self.relax(z, t, self.noise.at(t, "z")),
        }

    def rounded(self, y, z):
        """The latents as they are transmitted, but for the last bits of mu."""
        if self.is_centred(self.args):
            return self.model.round_centred(y, z)
        return {"y": tf.math.round(y), "z": tf.math.round(z)}

    @classmethod
    def coder(cls, run, weights, args):
        kind = container.CENTRED if cls.is_centred(args) else container.INTEGERS
        return files.GridWriter(run, kind)

    def build(self):
        y = self.model.analysis(self.x)
        stage = Stage(
            {"y": y, **self.model.hyper_analysis(y)},
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
      rate_flags: names of the flags of iterations and learning rate with which q(z|y) is fitted to
        the rate at fixed y (by `coding.posterior`, since a decoder has to repeat it); None: q(z|y)
        is what h_a(y) says.
    """

    model_class = hyperprior.Mbt2018BB
    coding_flags = {
        "side_info": (
            "",
            "file that gives the first bits for z, and that decompress gives back",
        ),
        "z_spacing": (0.125, "of the grid on which z is coded: a power of 2, up to 1"),
    }
    coded = ("y", "z", "z_mean", "z_logvar")
    rate_flags = None

    def build(self):
        return [], {"y": self.model.analysis(self.x)}

    @classmethod
    def coder(cls, run, weights, args):
        settings = container.Settings()
        if cls.rate_flags:
            its, lr = (getattr(args, flag) for flag in cls.rate_flags)
            adam = (args.adam_beta1, args.adam_beta2, args.adam_epsilon)
            settings = container.Settings(its, lr, *adam)
        return files.BitsBackWriter(run, args.z_spacing, settings, args.seed, args.side_info)

    def sent(self, noise, y, z_mean, z_logvar):
        """The latents with one sample of z, whose `noise` is the image's alone."""
        normal = noise.at(0, "z sent").normal(z_mean)
        return {"y": y, **self.model.sample(z_mean, z_logvar, normal)}

    def rates(self, num_pixels, noise, latents):
        """Those of a sample that does not depend on other images, as the coded one does.

        `bpp_coded` is that of the coded one.
        """
        sampled = {key: value for key, value in latents.items() if key != "z"}
        rates = self.model.rates(num_pixels, **self.sent(noise, **sampled))
        return {**rates, "bpp_coded": self.model.rates(num_pixels, **latents)["bpp"]}
