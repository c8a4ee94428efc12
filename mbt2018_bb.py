"""The mean-scale hyperprior for lossy bits-back coding: trains the model of `bb_*.py`.

Yang, Bamler and Mandt 2020 (arXiv 2006.04240), section 3.3. Unlike in Minnen et al. 2018
(`mbt2018.py`), z is continuous: a sample of q(z|y) = N(z_mean, exp(z_logvar)), whose parameters
h_a predicts, with a density p(z) as its prior. The loss uses the net rate:

    λ 255² MSE - (log2 p(y|z) + log2 p(z) - log2 q(z|y)) / pixels
"""

import tf_boilerplate
from coding import tfci
from model import entropy_models, transforms
from model.hyperprior import Mbt2018BB
from runtime.quiet_tf import tf
from training import cores


def training_graph(x, num_filters, lmbda):
    """Creates the variables, loss and metrics for patches x (N, H, W, 3) in [0, 1].

    Returns:
      loss, metrics: from `hyperprior.Mbt2018.rate_distortion`, for y with U(-½, ½) noise and a
        sample of z whose standard deviation under q is at most √10.
      None: p(z) has no auxiliary loss here.
      model: the model to validate, without the bounds used in training.
    """
    tfci.make_range_coder_tables()
    weights = (
        transforms.transforms(num_filters, Mbt2018BB.hyper_channels(num_filters)),
        entropy_models.density(num_filters),
    )
    model = Mbt2018BB(*weights, sigma_min=entropy_models.SIGMA_MIN, q_sigma_max=10**0.5)

    def loss(x):
        y = model.analysis(x)
        y_tilde = y + tf.random.uniform(tf.shape(y), -0.5, 0.5)
        q = model.hyper_analysis(y)
        latents = model.sample(normal=tf.random.normal(tf.shape(q["z_mean"])), **q)
        return model.rate_distortion(x, lmbda, y_tilde, **latents)

    return (*cores.by_cores(loss, x), None, Mbt2018BB(*weights))


if __name__ == "__main__":
    tf_boilerplate.main(None, training_graph)
