"""Base model."""
import entropy_models
import nn_models
import tf_boilerplate
from hyperprior import Mbt2018
from quiet_tf import tf, tfc


def training_graph(x, num_filters, lmbda):
    """Variables, loss and metrics for patches x (N, H, W, 3) in [0, 1].

    Returns:
      loss, metrics: as `hyperprior.Mbt2018.rate_distortion`, for y and z with U(-½, ½) noise.
      bottleneck: `tfc.EntropyBottleneck`, whose auxiliary loss fits the quantiles of p(z) and
        whose updates keep the range coder's tables.
    """
    bottleneck = tfc.EntropyBottleneck()
    bottleneck(tf.zeros((1, 1, 1, num_filters)), training=True)  # makes its variables
    variables = {variable.op.name: variable for variable in bottleneck.variables}
    entropy_models.make_range_coder_tables()

    model = Mbt2018(
        nn_models.transforms(num_filters, Mbt2018.hyper_channels(num_filters)),
        entropy_models.density(num_filters, lambda name, *_: variables[Mbt2018.prior_scope + name]),
        sigma_min=entropy_models.SIGMA_MIN,
    )
    y = model.analysis(x)
    latents = {"y": y, **model.hyper_analysis(y)}
    noisy = {
        name: value + tf.random.uniform(tf.shape(value), -0.5, 0.5)
        for name, value in latents.items()
    }
    return model.rate_distortion(x, lmbda, **noisy) + (bottleneck,)


if __name__ == "__main__":
    tf_boilerplate.main(__doc__, training_graph=training_graph)
