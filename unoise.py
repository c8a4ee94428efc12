"""Uniform noise, entry A3 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

Minimises λ·255²·MSE + bpp over y and z with fresh U(-½, ½) noise added to both in every iteration,
as in training (Ballé et al. 2017, arXiv 1611.01704), and rounds at the end as the base codec
does: z to the grid through the medians of p(z), then y to the grid through mu(z).
"""

import tf_boilerplate
from inference import methods


class UNoise(methods.BaseMethod):
    """Relaxes rounding to additive uniform noise."""

    row = "A3"
    centred = True
    flags = methods.adam_flags(sga_its=2000, lr=5e-3)

    def relax(self, v, t, noise):
        return v + noise.uniform(v) - 0.5


if __name__ == "__main__":
    tf_boilerplate.main(UNoise)
