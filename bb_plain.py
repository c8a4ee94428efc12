"""Bits-back coding without iterative inference, entry A6 in Table 1 of Yang et al. 2020.

y = round(g_a(x)), and z is a sample of q(z|y) with the mean and variance that h_a(y) predicts
(arXiv 2006.04240, section 3.3).
"""

import tf_boilerplate
from inference import methods


class BBPlain(methods.BitsBackMethod):
    """Nothing is optimised."""

    row = "A6"
    name_has_lambda = False


if __name__ == "__main__":
    tf_boilerplate.main(BBPlain)
