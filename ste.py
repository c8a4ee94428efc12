"""The straight-through estimator, entry A2 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

Minimises λ·255²·MSE + bpp of the rounded latents over y and z, with gradients as if rounding were
the identity (Bengio et al. 2013, arXiv 1308.3432). Stops when the loss no longer decreases.
"""

import tf_boilerplate
from inference import methods, optimise, rounding


class STE(methods.BaseMethod):
    """Rounds in the forward pass and passes gradients through unchanged."""

    row = "A2"
    flags = {
        **methods.adam_flags(sga_its=2000, lr=1e-4),
        "check_every": methods.Flag(10, "iterations between checks of the loss"),
    }

    def relax(self, v, t, noise):
        return rounding.straight_through(v)

    def early_stop(self):
        return optimise.EarlyStop(self.args.check_every, rounded=False, tie_is_worse=True)


if __name__ == "__main__":
    tf_boilerplate.main(STE)
