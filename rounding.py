"""Roundings and their relaxations: how latents are transmitted, and what stands in for that.

Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020 (arXiv
2006.04240), section 3.2. All functions work element by element on tensors of any shape.
"""

from quiet_tf import tf


def temperature(t, annealing_rate, t_max, t_min, scale=1.0, t0=0):
    """τ(t) = clip(scale · exp(-annealing_rate · (t - t0)), t_min, t_max), t = 0, 1, 2, …"""
    t = tf.cast(t, tf.float32)
    return tf.clip_by_value(scale * tf.exp(-annealing_rate * (t - t0)), t_min, t_max)


def floor_logit(v, tau, atanh_eps):
    """logit of rounding v down rather than up, (atanh(⌈v⌉ - v) - atanh(v - ⌊v⌋)) / τ.

    The paper's eq. 9 gives each of the two an unnormalised log-probability of -atanh(distance)/τ;
    distances are clipped to 1 - `atanh_eps`, where atanh is still finite.
    """

    def atanh(distance):  # by a logarithm, which TensorFlow has vectorised, unlike tf.math.atanh
        distance = tf.clip_by_value(distance, -1 + atanh_eps, 1 - atanh_eps)
        return 0.5 * tf.math.log((1 + distance) / (1 - distance))

    return (atanh(tf.math.ceil(v) - v) - atanh(v - tf.math.floor(v))) / tau


def between(v, floor_weight):
    """⌊v⌋ and ⌈v⌉, averaged with weights `floor_weight` and 1 - `floor_weight` in [0, 1]."""
    return floor_weight * tf.math.floor(v) + (1 - floor_weight) * tf.math.ceil(v)


def gumbel_softmax_floor_weight(logit, tau, uniform):
    """First weight of a relaxed one-hot vector of two classes, at temperature τ (eq. 10).

    The softmax of two logits with Gumbel noise is the sigmoid of their difference with logistic
    noise, which one `uniform` sample in [0, 1) gives.
    """
    uniform = tf.clip_by_value(uniform, 1e-30, 1 - 2.0**-24)
    logistic = tf.math.log(uniform) - tf.math.log1p(-uniform)
    return tf.math.sigmoid((logit + logistic) / tau)


def straight_through(v):
    """Rounded forward, identity backward (Bengio et al. 2013, arXiv 1308.3432)."""
    return v + tf.stop_gradient(tf.math.round(v) - v)


def centred(v, centre):
    """The nearest point to v of the grid of spacing 1 through `centre`."""
    return tf.math.floor(v - centre + 0.5) + centre
