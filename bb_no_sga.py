"""Bits-back coding without SGA, entry A5 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

y = round(g_a(x)); the mean and log-variance of q(z|y), from h_a(y), are optimised on the net rate

    bpp = -log2 p(y|z) - log2 p(z) + log2 q(z|y)   (per pixel, z sampled by reparametrisation)

in which y is fixed, so that a decoder can repeat it (section 3.3).
"""

import tf_boilerplate
from inference import methods


class BBNoSGA(methods.BitsBackMethod):
    """Optimises q(z|y) alone."""

    row = "A5"
    flags = methods.adam_flags(sga_its=1000, lr=5e-3)
    name_has_lambda = False
    rate_flags = ("sga_its", "lr")


if __name__ == "__main__":
    tf_boilerplate.main(BBNoSGA)
