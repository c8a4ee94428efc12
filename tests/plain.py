"""A baseline implementation of the models with TFC 1.3's own layers.

It is independent of the project's graph, which the tests and the benchmark compare with it.
"""

import re

import numpy as np

from model import entropy_models
from runtime.quiet_tf import tf, tfc

SCALES = np.exp(np.linspace(np.log(0.11), np.log(256), 64))


def _stack(name, layers):
    """A Keras layer with scope `name` that applies `layers` in turn."""

    class Stack(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(name=name)
            self.stack = layers

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    return Stack()


def _conv(index, filters, support, up=1, down=1, **kwargs):
    return tfc.SignalConv2D(
        filters,
        (support, support),
        name="layer_{}".format(index),
        corr=up == 1 and kwargs.pop("corr", True),
        strides_up=up,
        strides_down=down,
        padding="same_zeros",
        **{"use_bias": True, **kwargs},
    )


class Plain:
    """The layers of a model; with `bits_back`, q(z|y) is Gaussian and p(z) is left out."""

    def __init__(self, n, bits_back=False):
        def gdn(i, inverse=False):
            name = "{}gdn_{}".format("i" if inverse else "", i)
            return tfc.GDN(name=name, inverse=inverse)

        self.analysis = _stack(
            "analysis_transform",
            [_conv(i, n, 5, down=2, activation=gdn(i)) for i in range(3)]
            + [_conv(3, n, 5, down=2)],
        )
        self.synthesis = _stack(
            "synthesis_transform",
            [_conv(i, n, 5, up=2, activation=gdn(i, True)) for i in range(3)]
            + [_conv(3, 3, 5, up=2)],
        )
        self.hyper_analysis = _stack(
            "hyper_analysis_transform",
            [
                _conv(0, n, 3, activation=tf.nn.relu),
                _conv(1, n, 5, down=2, activation=tf.nn.relu),
                _conv(2, 2 * n if bits_back else n, 5, down=2, use_bias=False),
            ],
        )
        plain = {"kernel_parameterizer": None}
        self.hyper_synthesis = _stack(
            "mb_t2018hyper_synthesis_transform",
            [
                _conv(0, n, 5, up=2, activation=tf.nn.relu, **plain),
                _conv(1, int(1.5 * n), 5, up=2, activation=tf.nn.relu, **plain),
                _conv(2, 2 * n, 3, corr=False, **plain),
            ],
        )
        self.bottleneck = None if bits_back else tfc.EntropyBottleneck()

    def run(self, x, y, z):
        """Tensors of all parts: y of x, h_a and g_s of `y`, mu, sigma of `z`, likelihoods."""
        height, width = x.shape.as_list()[1:3]
        mu, log_sigma = tf.split(self.hyper_synthesis(z)[:, : y.shape[1], : y.shape[2]], 2, axis=-1)
        sigma = tf.exp(log_sigma)
        conditional = tfc.GaussianConditional(sigma, SCALES, mean=mu)
        # Built by hand in the "free" layer below: its sigma has no lower bound.
        unbounded = tfc.GaussianConditional(sigma, SCALES, mean=mu, dtype=tf.float32)
        parts = {
            "y": self.analysis(x),
            "h_a": self.hyper_analysis(y),
            "mu": mu,
            "sigma": sigma,
            "x_tilde": self.synthesis(y)[:, :height, :width],
            "p_y_unbounded": unbounded._likelihood(y),
        }
        # Called last: building the layer bounds its sigma.
        conditional(y, training=False)
        parts["p_y_bounded"] = tf.maximum(conditional._likelihood(y), 1e-9)
        if self.bottleneck is not None:
            self.bottleneck(z, training=False)
            parts["p_z"] = tf.maximum(self.bottleneck._likelihood(z), 1e-9)
        return parts


class Baseline:
    """A method on one image, with values fed and gradients fetched in each step.

    Args:
      folder: run folder, whose name contains N and λ.
      pixels: uint8 (H, W, 3).

    A subclass sets `rate`, Adam's, and in `build` `latents`, placeholders, and `loss`.
    """

    bits_back = False

    def __init__(self, folder, pixels):
        n, lmbda = re.search("num_filters=([0-9]+).*lmbda=([0-9.e-]+)", folder).groups()
        self.noise = []
        with tf.Graph().as_default():
            x = tf.constant(pixels[None] / 255, tf.float32)
            self.num_filters, self.lmbda = int(n), float(lmbda)
            self.pixels = pixels.shape[0] * pixels.shape[1]
            self.model = Plain(self.num_filters, self.bits_back)
            start = self.build(x)
            self.gradients = tf.gradients(self.loss, self.latents)
            weights = [v for v in tf.global_variables() if "gaussian_conditional" not in v.name]
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())
            tf.train.Saver(weights).restore(self.session, tf.train.latest_checkpoint(folder))
            self.values = self.session.run(start)
        self.moments = [(np.zeros_like(v), np.zeros_like(v)) for v in self.values]
        self.t = 0

    def settings(self):
        """What is fed besides latents and noise."""
        return {}

    def step(self, feed=()):
        """Runs an iteration; returns the loss before it. `feed` may hold the `noise`."""
        feed = {**dict(feed), **dict(zip(self.latents, self.values)), **self.settings()}
        loss, gradients = self.session.run([self.loss, self.gradients], feed)
        self.t += 1
        rate = self.rate * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        for value, gradient, (m, v) in zip(self.values, gradients, self.moments):
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient**2 - v)
            value -= rate * m / (np.sqrt(v) + 1e-8)
        return loss


class SGA(Baseline):
    """Baseline SGA, with Gumbel noise."""

    rate = 5e-3

    def build(self, x):
        start = self.model.analysis(x)
        start = [start, self.model.hyper_analysis(start)]
        self.tau = tf.placeholder(tf.float32, ())
        self.latents = [tf.placeholder(tf.float32, v.shape) for v in start]
        y_tilde, z_tilde = (self._relaxed(v) for v in self.latents)
        parts = self.model.run(x, y_tilde, z_tilde)
        likelihoods = [tf.maximum(parts["p_y_unbounded"], 1e-9), parts["p_z"]]
        bits = sum(tf.reduce_sum(tf.log(v)) / -np.log(2) for v in likelihoods)
        mse = 255**2 * tf.reduce_mean(tf.squared_difference(x, parts["x_tilde"]))
        self.loss = self.lmbda * mse + bits / self.pixels
        return start

    def settings(self):
        return {self.tau: min(0.5 * np.exp(-1e-3 * (self.t - 700)), 0.5)}

    def _relaxed(self, v):
        down, up = tf.floor(v), tf.ceil(v)
        logits = tf.stack([v - down, up - v], axis=-1)
        logits = -tf.atanh(tf.clip_by_value(logits, -1 + 1e-5, 1 - 1e-5)) / self.tau
        uniform = tf.random.uniform(tf.shape(logits), 1e-30)
        gumbel = -tf.log(-tf.log(uniform))
        self.noise.append(gumbel)
        weights = tf.nn.softmax((logits + gumbel) / self.tau)
        return tf.reduce_sum(weights * tf.stack([down, up], axis=-1), axis=-1)


class Fit(Baseline):
    """Baseline of fitting q(z|y) at fixed y, with normal noise. Each step runs g_a on the image."""

    rate = 3e-3
    bits_back = True

    def build(self, x):
        y = tf.round(self.model.analysis(x))
        start = tf.split(self.model.hyper_analysis(y), 2, axis=-1)
        self.latents = [tf.placeholder(tf.float32, v.shape) for v in start]
        mean, logvar = self.latents
        normal = tf.random.normal(mean.shape)
        self.noise.append(normal)
        z = mean + tf.exp(0.5 * logvar) * normal
        parts = self.model.run(x, y, z)
        density = entropy_models.density(self.num_filters)
        prior = tf.maximum(entropy_models.density_pdf(z, density), 1e-9)
        log_q = -0.5 * (tf.square(normal) + logvar + np.log(2 * np.pi))
        nats = tf.reduce_sum(log_q) - tf.reduce_sum(tf.log(prior))
        nats -= tf.reduce_sum(tf.log(tf.maximum(parts["p_y_unbounded"], 1e-9)))
        self.loss = nats / np.log(2) / self.pixels
        return start


def training_graph(x, num_filters, lmbda):
    """Baseline of `mbt2018.training_graph`: loss and entropy bottleneck."""
    height, width = x.shape.as_list()[1:3]
    model = Plain(num_filters)
    y = model.analysis(x)
    z = model.hyper_analysis(y)
    z_tilde, z_likelihoods = model.bottleneck(z, training=True)
    mu, log_sigma = tf.split(model.hyper_synthesis(z_tilde), 2, axis=-1)
    conditional = tfc.GaussianConditional(tf.exp(log_sigma), SCALES, mean=mu)
    y_tilde, y_likelihoods = conditional(y, training=True)
    bits = sum(tf.reduce_sum(tf.log(v)) / -np.log(2) for v in (y_likelihoods, z_likelihoods))
    mse = 255**2 * tf.reduce_mean(tf.squared_difference(x, model.synthesis(y_tilde)))
    pixels = x.shape.as_list()[0] * height * width
    return lmbda * mse + bits / pixels, {}, model.bottleneck


def bits_back_training_graph(x, num_filters, lmbda):
    """Baseline of `mbt2018_bb.training_graph`: loss."""
    height, width = x.shape.as_list()[1:3]
    model = Plain(num_filters, bits_back=True)
    y = model.analysis(x)
    mean, logvar = tf.split(model.hyper_analysis(y), 2, axis=-1)
    normal = tf.random.normal(tf.shape(mean))
    sigma = tfc.upper_bound(tf.exp(0.5 * logvar), np.sqrt(10))
    z = mean + sigma * normal
    mu, log_sigma = tf.split(model.hyper_synthesis(z), 2, axis=-1)
    conditional = tfc.GaussianConditional(tf.exp(log_sigma), SCALES, mean=mu)
    y_tilde, p_y = conditional(y, training=True)
    p_z = tfc.lower_bound(entropy_models.density_pdf(z, entropy_models.density(num_filters)), 1e-9)
    log_q = -0.5 * (tf.square(normal) + np.log(2 * np.pi)) - tf.log(sigma)
    nats = tf.reduce_sum(log_q) - tf.reduce_sum(tf.log(p_z)) - tf.reduce_sum(tf.log(p_y))
    mse = 255**2 * tf.reduce_mean(tf.squared_difference(x, model.synthesis(y_tilde)))
    return lmbda * mse + nats / np.log(2) / (x.shape.as_list()[0] * height * width), {}, None
