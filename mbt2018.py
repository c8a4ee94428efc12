"""The mean-scale hyperprior of Minnen, Ballé and Toderici 2018 (arXiv 1809.02736).

Trains the model and codes with it: entry M3 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).
The latents are what the inference network predicts, rounded around mu (y) and the medians (z).
"""

import entropy_models
import inference
import nn_models
import tf_boilerplate
from coding import container, files, packed
from hyperprior import Mbt2018
from quiet_tf import tf


class BaseHyperprior(inference.Method):
    """Nothing is optimised."""

    row = "M3"
    model_class = Mbt2018
    sigma_min = entropy_models.SIGMA_MIN
    coding_flags = {"container": (False, "write the file format that the other scripts write")}

    @classmethod
    def result_name(cls, runname, lmbda, basename):
        """As the reference names it: unlike the others'."""
        return "rd-{}-file={}".format(runname, basename)

    def build(self):
        y = self.model.analysis(self.x)
        return [], {"y": y, **self.model.hyper_analysis(y)}

    @classmethod
    def coder(cls, run, weights, args):
        if args.container:
            return files.GridWriter(run, container.CENTRED_BOUNDED)
        return files.PackedWriter(weights)


def training_graph(x, num_filters, lmbda):
    """Variables, loss and metrics for patches x (N, H, W, 3) in [0, 1].

    Returns:
      loss, metrics: as `hyperprior.Mbt2018.rate_distortion`, of y and z with U(-½, ½) noise.
      bottleneck: `tfc.EntropyBottleneck`, whose auxiliary loss fits the quantiles of p(z) and
        whose updates keep the range coder's tables.
      transmitted: function of images x that returns the model and its latents for x, rounded.
    """
    from quiet_tf import tfc

    bottleneck = tfc.EntropyBottleneck()
    bottleneck(tf.zeros((1, 1, 1, num_filters)), training=True)  # makes its variables
    variables = {variable.op.name: variable for variable in bottleneck.variables}
    packed.make_range_coder_tables()

    weights = (
        nn_models.transforms(num_filters, Mbt2018.hyper_channels(num_filters)),
        entropy_models.density(num_filters, lambda name, *_: variables[Mbt2018.prior_scope + name]),
    )
    model = Mbt2018(*weights, sigma_min=entropy_models.SIGMA_MIN)

    def transmitted(x):
        medians = variables[Mbt2018.prior_scope + "quantiles"][:, 0, 1]
        model = Mbt2018(*weights, medians, sigma_min=entropy_models.SIGMA_MIN)
        y = model.analysis(x)
        return model, model.round_centred(y, **model.hyper_analysis(y))

    def loss(x):
        y = model.analysis(x)
        latents = {"y": y, **model.hyper_analysis(y)}
        noisy = {
            name: value + tf.random.uniform(tf.shape(value), -0.5, 0.5)
            for name, value in latents.items()
        }
        return model.rate_distortion(x, lmbda, **noisy)

    return tf_boilerplate.by_cores(loss, x) + (bottleneck, transmitted)


if __name__ == "__main__":
    tf_boilerplate.main(BaseHyperprior, training_graph)
