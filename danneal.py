"""Deterministic annealing, entry A4 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

SGA (`sga.py`) with its random sample replaced by the expectation:

    v_tilde = w ⌊v⌋ + (1 - w) ⌈v⌉,   (w, 1 - w) = softmax(l)
    l = -atanh(distance of v to ⌊v⌋ and to ⌈v⌉) / τ
    τ(t) = clip(exp(-annealing_rate t), T_min, T_max)
"""

import tf_boilerplate
from inference import methods, rounding
from runtime.quiet_tf import tf


class DAnneal(methods.BaseMethod):
    """Relaxes rounding to an expectation, at a falling temperature."""

    row = "A4"
    landing = 0.25  # later, its latents are frozen
    flags = {
        **methods.adam_flags(sga_its=2000, lr=5e-3),
        "annealing_rate": methods.Flag(4e-3, "rate at which the temperature falls, per iteration"),
        "t_max": methods.Flag(0.2, "highest temperature"),
        "t_min": methods.Flag(1e-8, "lowest temperature", at_most="t_max"),
        **methods.ATANH_FLAG,
    }

    def temperature(self, t):
        return rounding.temperature(t, self.args.annealing_rate, self.args.t_max, self.args.t_min)

    def relax(self, v, t, noise):
        logit = rounding.floor_logit(v, self.temperature(t), self.args.atanh_eps)
        return rounding.between(v, tf.math.sigmoid(logit))


if __name__ == "__main__":
    tf_boilerplate.main(DAnneal)
