"""The two probability models: Gaussian p(y|z) and the learned factorised p(z).

    p(y|z) = N(mu(z), sigma(z)²) * U(-½, ½)     Minnen et al. 2018 (arXiv 1809.02736), eq. 3
    p(z)   = d/dz sigmoid(f(z)) per channel     Ballé et al. 2018 (arXiv 1802.01436), app. 6.1

For latents on a unit grid the model's mass is that of the surrounding unit interval; bits-back
coding, whose z is continuous, uses the density of p(z) itself.
"""

import collections

import numpy as np

from model.bounds import lower_bound
from runtime.quiet_tf import tf

LIKELIHOOD_BOUND = 1e-9  # no symbol costs more than 29.9 bits
SCALE_TABLE = np.exp(np.linspace(np.log(0.11), np.log(256), 64))  # sigmas of the range coder
SIGMA_MIN = SCALE_TABLE[0]


def bound_likelihood(likelihood):
    """max(likelihood, 1e-9), with a gradient that can still raise bounded likelihoods."""
    return lower_bound(likelihood, LIKELIHOOD_BOUND)


def gaussian_mass(v, mu, sigma):
    """Mass, in [0, 1], of N(mu, sigma²) in the unit interval around `v`; all of one shape."""
    distance = tf.math.abs(v - mu)
    # Both ends are in the left tail, where the difference of two cdfs keeps its precision.
    return _standard_cdf((0.5 - distance) / sigma) - _standard_cdf((-0.5 - distance) / sigma)


def _standard_cdf(v):
    return 0.5 * tf.math.erfc(-(2**-0.5) * v)


Density = collections.namedtuple("Density", "matrices biases factors")
Density.__doc__ = """Weights of the learned density p(z), as lists with an entry per layer.

matrices: (C, d_out, d_in), positive; biases: (C, d_out, 1); factors: (C, d_out, 1) in (-1, 1),
for all layers except the last. C is the number of channels of z.
"""

FILTERS = (1, 3, 3, 3, 1)
INIT_SCALE = 10


def density(channels, getter=tf.get_variable):
    """Creates the weights of p(z), parametrised and initialised as in `tfc.EntropyBottleneck`.

    `getter` is called like `tf.get_variable`, in the caller's variable scope.
    """
    matrices, biases, factors = [], [], []
    scale = INIT_SCALE ** (1 / (len(FILTERS) - 1))
    for i, (d_in, d_out) in enumerate(zip(FILTERS[:-1], FILTERS[1:])):

        def weight(name, shape, initializer, i=i):
            return getter("{}_{}".format(name, i), shape, tf.float32, initializer)

        start = tf.initializers.constant(np.log(np.expm1(1 / scale / d_out)))
        matrices.append(tf.nn.softplus(weight("matrix", (channels, d_out, d_in), start)))
        biases.append(
            weight("bias", (channels, d_out, 1), tf.initializers.random_uniform(-0.5, 0.5))
        )
        if d_out > 1:
            factors.append(
                tf.math.tanh(weight("factor", (channels, d_out, 1), tf.initializers.zeros()))
            )
    return Density(matrices, biases, factors)


def bottleneck(channels):
    """TFC's layer for p(z), for training: it fits the medians and maintains the coder's tables.

    Returns:
      `tfc.EntropyBottleneck`, and a dict of its variables by name without scope.
    """
    from runtime.quiet_tf import tfc

    layer = tfc.EntropyBottleneck()
    layer(tf.zeros((1, 1, 1, channels)), training=True)  # creates its variables
    return layer, {v.op.name.split("/")[-1]: v for v in layer.variables}


def density_mass(z, weights):
    """Mass of p(z) in the unit interval around `z` (N, h, w, C); same shape, in [0, 1]."""
    v = _channels_first(z)
    lower, _ = cdf_logits(v - 0.5, weights)
    upper, _ = cdf_logits(v + 0.5, weights)
    # The difference of two sigmoids keeps its precision if both are in the left tail.
    sign = tf.stop_gradient(-tf.math.sign(lower + upper))
    mass = tf.math.abs(tf.math.sigmoid(sign * upper) - tf.math.sigmoid(sign * lower))
    return _channels_last(mass, z)


def density_pdf(z, weights):
    """Density p(z) at `z` (N, h, w, C); same shape, ≥ 0."""
    logits, slope = cdf_logits(_channels_first(z), weights)
    return _channels_last(tf.math.sigmoid(logits) * tf.math.sigmoid(-logits) * slope, z)


def cdf_logits(v, weights):
    """logit of the cdf at `v` (C, 1, n), and its derivative with respect to `v`; same shapes."""
    logits, slope = v, tf.ones_like(v)
    for i, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases)):
        logits = tf.matmul(matrix, logits) + bias
        slope = tf.matmul(matrix, slope)
        if i < len(weights.factors):
            squashed = tf.math.tanh(logits)
            logits += weights.factors[i] * squashed
            slope *= 1 + weights.factors[i] * (1 - tf.math.square(squashed))
    return logits, slope


def _channels_first(z):
    return tf.reshape(tf.transpose(z, (3, 0, 1, 2)), (tf.shape(z)[3], 1, -1))


def _channels_last(v, like):
    n, h, w, c = tf.unstack(tf.shape(like))
    return tf.ensure_shape(tf.transpose(tf.reshape(v, (c, n, h, w)), (1, 2, 3, 0)), like.shape)
