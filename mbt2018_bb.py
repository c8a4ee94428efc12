"""Bits-back model."""

import entropy_models
import nn_models
import tf_boilerplate
from hyperprior import Mbt2018BB
from quiet_tf import tf


def training_graph(x, num_filters, lmbda):
    entropy_models.make_range_coder_tables()
    model = Mbt2018BB(
        nn_models.transforms(num_filters, Mbt2018BB.hyper_channels(num_filters)),
        entropy_models.density(num_filters),
        sigma_min=entropy_models.SIGMA_MIN,
        q_sigma_max=10**0.5,
    )
    y = model.analysis(x)
    y_tilde = y + tf.random.uniform(tf.shape(y), -0.5, 0.5)
    q = model.hyper_analysis(y)
    latents = model.sample(normal=tf.random.normal(tf.shape(q["z_mean"])), **q)
    return model.rate_distortion(x, lmbda, y_tilde, **latents) + (None,)


if __name__ == "__main__":
    tf_boilerplate.main(None, training_graph)
