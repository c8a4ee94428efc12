"""Relaxations of rounding, which replace it while latents are optimised, and the temperature.

Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020 (arXiv
2006.04240), section 3.2. All functions work elementwise on tensors of any shape.
"""

import numpy as np

from model import device
from runtime.quiet_tf import tf


def temperature(t, annealing_rate, t_max, t_min, scale=1.0, t0=0):
    """τ(t) = clip(scale · exp(-annealing_rate · (t - t0)), t_min, t_max), t = 0, 1, 2, …"""
    with device.on_host():
        t = tf.cast(t, tf.float32)
        return tf.clip_by_value(scale * tf.exp(-annealing_rate * (t - t0)), t_min, t_max)


def floor_logit(v, tau, atanh_eps):
    """The logit of rounding v down rather than up, (atanh(⌈v⌉ - v) - atanh(v - ⌊v⌋)) / τ.

    The paper's eq. 9 gives each of the two an unnormalised log-probability of -atanh(distance)/τ;
    distances are clipped to 1 - `atanh_eps`, where atanh is still finite.
    """

    down, up = v - tf.math.floor(v), tf.math.ceil(v) - v
    return (_atanh(up, atanh_eps) - _atanh(down, atanh_eps)) / tau


def _atanh(distance, eps):
    return tf.math.atanh(tf.clip_by_value(distance, -1 + eps, 1 - eps))


def between(v, floor_weight):
    """The average of ⌊v⌋ and ⌈v⌉ with weights `floor_weight` in [0, 1] and 1 - `floor_weight`."""
    return floor_weight * tf.math.floor(v) + (1 - floor_weight) * tf.math.ceil(v)


def gumbel_softmax_floor_weight(logit, tau, uniform):
    """The weight of ⌊v⌋ in a relaxed one-hot sample of two classes, at temperature τ (eq. 10).

    The softmax of two logits with Gumbel noise is the sigmoid of their difference with logistic
    noise, which is computed from one `uniform` sample in [0, 1).
    """
    uniform = tf.clip_by_value(uniform, 1e-30, 1 - 2.0**-24)
    logistic = tf.math.log(uniform) - tf.math.log1p(-uniform)
    return tf.math.sigmoid((logit + logistic) / tau)


def straight_through(v):
    """Rounds v, with the gradient of the identity (Bengio et al. 2013, arXiv 1308.3432)."""
    return v + tf.stop_gradient(tf.math.round(v) - v)


# --- SGA+ ------------------------------------------------------------------------------------

# Perugachi-Diaz et al. 2024, "Robustly overfitting latents for flexible neural image compression"
# (arXiv 2401.17789): other functions from distance to rounding probability, and a third candidate.
# As in eq. 9 of the paper above, the logarithm of the probability is divided by τ.

PROBABILITIES = ("atanh", "linear", "cosine", "ssl")
DISTANCE_EPS = 1e-6


def log_probability(name, distance, args):
    """The log of the unnormalised probability of rounding by a `distance` d ≥ 0.

    atanh: exp(-atanh(d)), as in the paper above; linear: 1 - d; cosine: cos²(π d / 2); ssl, the
    sigmoid-scaled logit: sigmoid(-a logit(d)), which equals linear for a = 1.

    Args:
      name: one of `PROBABILITIES`.
      args: has `atanh_eps` and `ssl_a`.
    """
    if name == "atanh":
        return -_atanh(distance, args.atanh_eps)
    distance = tf.clip_by_value(distance, DISTANCE_EPS, 1 - DISTANCE_EPS)
    if name == "cosine":
        return 2 * tf.math.log(tf.math.cos(0.5 * np.pi * distance))
    a = {"linear": 1.0, "ssl": args.ssl_a}[name]
    return tf.math.log_sigmoid(a * (tf.math.log1p(-distance) - tf.math.log(distance)))


def candidates(v, classes):
    """The integers that v may be rounded to: the 2 that it lies between, or the 3 nearest."""
    if classes == 2:
        return [tf.math.floor(v), tf.math.floor(v) + 1]
    nearest = tf.math.round(v)
    return [nearest - 1, nearest, nearest + 1]


def gumbel_softmax(log_probabilities, candidates, tau, uniform):
    """The average of `candidates`, weighted by a relaxed one-hot sample, at temperature τ.

    Args:
      log_probabilities, candidates: lists of K tensors of the same shape.
      uniform: samples in [0, 1) of that shape, plus a last axis of length K.
    """
    gumbel = -tf.math.log(-tf.math.log(tf.clip_by_value(uniform, 1e-30, 1 - 2.0**-24)))
    weights = tf.nn.softmax((tf.stack(log_probabilities, axis=-1) + gumbel) / tau)
    return tf.reduce_sum(weights * tf.stack(candidates, axis=-1), axis=-1)
