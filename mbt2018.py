"""The mean-scale hyperprior of Minnen, Ballé and Toderici 2018 (arXiv 1809.02736).

Trains the model and codes with it: entry M3 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).
The latents are the inference network's predictions, rounded around mu (y) and the medians (z).
"""

import tf_boilerplate
from coding import container, tfci, writers
from inference import methods, targets
from model import entropy_models, transforms
from model.hyperprior import Mbt2018
from runtime.quiet_tf import tf
from training import cores


class BaseHyperprior(methods.Method):
    """Nothing is optimised."""

    row = "M3"
    model_class = Mbt2018
    sigma_min = entropy_models.SIGMA_MIN
    reports_batches = True
    objective_flags = targets.FLAGS  # which choose among models
    coding_flags = {
        "container": methods.Flag(False, "write the same file format as the other scripts")
    }

    @classmethod
    def result_name(cls, runname, aim, basename):
        """The reference's name, which has no λ, with the target if there is one."""
        return "rd-{}{}-file={}".format(runname, "" if "lmbda" in aim else aim, basename)

    def build(self):
        return [], self.predicted()

    @classmethod
    def coder(cls, run, weights, args):
        if args.container:
            return writers.GridWriter(run, container.CENTRED_BOUNDED)
        return writers.PackedWriter(run, weights)


def training_graph(x, num_filters, lmbda):
    """Creates the variables, loss and metrics for patches x (N, H, W, 3) in [0, 1].

    Returns:
      loss, metrics: from `hyperprior.Mbt2018.rate_distortion`, for y and z with U(-½, ½) noise.
      bottleneck: `tfc.EntropyBottleneck`, whose auxiliary loss fits the quantiles of p(z) and
        whose updates maintain the range coder's tables.
      model: the model to validate.
    """
    bottleneck, variables = entropy_models.bottleneck(num_filters)
    tfci.make_range_coder_tables()
    model = Mbt2018(
        transforms.transforms(num_filters, Mbt2018.hyper_channels(num_filters)),
        entropy_models.density(num_filters, lambda name, *_: variables[name]),
        sigma_min=entropy_models.SIGMA_MIN,
    )

    def loss(x):
        y = model.analysis(x)
        latents = {"y": y, **model.hyper_analysis(y)}
        noisy = {
            name: value + tf.random.uniform(tf.shape(value), -0.5, 0.5)
            for name, value in latents.items()
        }
        return model.rate_distortion(x, lmbda, **noisy)

    loss, metrics = cores.by_cores(loss, x)
    model.medians = variables["quantiles"][:, 0, 1]
    return loss, metrics, bottleneck, model


if __name__ == "__main__":
    tf_boilerplate.main(BaseHyperprior, training_graph)
