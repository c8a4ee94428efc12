"""Bits-back coding without SGA, entry A5 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

y = round(g_a(x)). The mean and log-variance of q(z|y), initialised from h_a(y), minimise the rate

    bpp = -log2 p(y|z) - log2 p(z) + log2 q(z|y)   (per pixel, z sampled by reparametrisation)

with y fixed, so that a decoder can repeat the optimisation (section 3.3).
"""

import tf_boilerplate
from inference import methods


class BBNoSGA(methods.BitsBackMethod):
    """Optimises only q(z|y)."""

    row = "A5"
    flags = methods.adam_flags(sga_its=1000, lr=5e-3, record_every=0)
    name_has_lambda = False
    rate_flags = ("sga_its", "lr")


if __name__ == "__main__":
    tf_boilerplate.main(BBNoSGA)
