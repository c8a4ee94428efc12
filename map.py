"""MAP, entry A1 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

Minimises λ·255²·MSE + bpp over y and z as if they were transmitted without rounding, and rounds at
the end as the base codec does: z to the grid through the medians of p(z), then y to the grid
through mu(z). Stops when the loss after rounding increases.
"""

import tf_boilerplate
from inference import methods, optimise


class MAP(methods.BaseMethod):
    """Leaves the latents unrelaxed, ignoring the gap between them and the rounded latents."""

    row = "A1"
    centred = True
    flags = {
        **methods.adam_flags(sga_its=2000, lr=5e-3),
        "check_every": methods.Flag(10, "iterations between checks of the loss after rounding"),
    }

    def relax(self, v, t, noise):
        return v

    def early_stop(self):
        return optimise.EarlyStop(self.args.check_every, rounded=True, tie_is_worse=False)


if __name__ == "__main__":
    tf_boilerplate.main(MAP)
