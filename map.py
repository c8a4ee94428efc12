"""MAP, entry A1 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

Optimises y and z on λ·255²·MSE + bpp as if they were transmitted without rounding, and rounds at
the end: z to the grid through the medians of p(z), then y to the one through mu(z), as the base
codec does. Stops when the loss after rounding gets worse.
"""

import tf_boilerplate
from inference import methods, optimise


class MAP(methods.BaseMethod):
    """No relaxation: the gap to the rounded latents is left open."""

    row = "A1"
    centred = True
    flags = {
        **methods.adam_flags(sga_its=2000, lr=5e-3),
        "check_every": methods.Flag(10, "iterations between looks at the loss after rounding"),
    }

    def relax(self, v, t, noise):
        return v

    def early_stop(self):
        return optimise.EarlyStop(self.args.check_every, rounded=True, tie_is_worse=False)


if __name__ == "__main__":
    tf_boilerplate.main(MAP)
