"""The mean-scale hyperprior for lossy bits-back coding: trains the model of `bb_*.py`.

Yang, Bamler and Mandt 2020 (arXiv 2006.04240), section 3.3. Against Minnen et al. 2018
(`mbt2018.py`), z is continuous: a sample of q(z|y) = N(z_mean, exp(z_logvar)), which h_a predicts,
under a density p(z). The loss has the net rate,

    λ 255² MSE - (log2 p(y|z) + log2 p(z) - log2 q(z|y)) / pixels
"""

import entropy_models
import nn_models
import tf_boilerplate
from coding import packed
from hyperprior import Mbt2018BB
from quiet_tf import tf


def training_graph(x, num_filters, lmbda):
    """Variables, loss and metrics for patches x (N, H, W, 3) in [0, 1].

    Returns:
      loss, metrics: as `hyperprior.Mbt2018.rate_distortion`, of y with U(-½, ½) noise and a sample
        of z, with q's standard deviation bounded by √10.
      None: p(z) has no auxiliary loss here.
      transmitted: function of images x that returns the model without training's bounds and its
        latents for x, y rounded and z a sample.
    """
    packed.make_range_coder_tables()
    weights = (
        nn_models.transforms(num_filters, Mbt2018BB.hyper_channels(num_filters)),
        entropy_models.density(num_filters),
    )
    model = Mbt2018BB(*weights, sigma_min=entropy_models.SIGMA_MIN, q_sigma_max=10**0.5)

    def transmitted(x):
        unbounded = Mbt2018BB(*weights)
        y = tf.math.round(unbounded.analysis(x))
        q = unbounded.hyper_analysis(y)
        normal = tf.random.stateless_normal(q["z_mean"].shape, seed=(0, 0))
        return unbounded, {"y": y, **unbounded.sample(normal=normal, **q)}

    def loss(x):
        y = model.analysis(x)
        y_tilde = y + tf.random.uniform(tf.shape(y), -0.5, 0.5)
        q = model.hyper_analysis(y)
        latents = model.sample(normal=tf.random.normal(tf.shape(q["z_mean"])), **q)
        return model.rate_distortion(x, lmbda, y_tilde, **latents)

    return tf_boilerplate.by_cores(loss, x) + (None, transmitted)


if __name__ == "__main__":
    tf_boilerplate.main(None, training_graph)
