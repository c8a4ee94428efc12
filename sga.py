"""Stochastic Gumbel Annealing (SGA), entry M1 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

Minimises λ·255²·MSE + bpp over y and z with an annealed relaxation of rounding: each element v
becomes the average of its two neighbouring integers, weighted by a relaxed one-hot sample,

    v_tilde = w ⌊v⌋ + (1 - w) ⌈v⌉,   (w, 1 - w) = softmax((l + Gumbel noise) / τ)
    l = -atanh(distance of v to ⌊v⌋ and to ⌈v⌉) / τ
    τ(t) = clip(T_max exp(-annealing_rate (t - t0)), T_min, T_max)

(eqs. 9 and 10). The transmitted value is v rounded to the nearest integer. `sga_plus.py` has
options beyond the paper.
"""

import tf_boilerplate
from inference import methods, rounding, sga_plus


class SGA(methods.BaseMethod):
    """Relaxes rounding to a random average, at a falling temperature."""

    row = "M1"
    flags = {
        **methods.adam_flags(sga_its=2000, lr=5e-3),
        "annealing_rate": methods.Flag(1e-3, "rate at which the temperature falls, per iteration"),
        "t0": methods.Flag(700, "iteration at which the temperature starts to fall", minimum=0),
        "t_max": methods.Flag(0.5, "temperature up to t0"),
        "t_min": methods.Flag(1e-8, "lowest temperature", at_most="t_max"),
        **sga_plus.FLAGS,
    }
    presets = sga_plus.PRESETS

    def temperature(self, t):
        return rounding.temperature(
            sga_plus.schedule_time(t, self.args),
            self.args.annealing_rate,
            self.args.t_max,
            self.args.t_min,
            scale=self.args.t_max,
            t0=self.args.t0,
        )

    @classmethod
    def is_centred(cls, args):
        return args.centred

    def relaxed(self, t, y, z):
        if not self.args.centred:
            return super().relaxed(t, y, z)
        medians = self.model.medians
        z_tilde = self.relax(z - medians, t, self.noise.at(t, "z")) + medians
        mu, _ = self.model.hyper_synthesis(z_tilde, y)
        return {"y": self.relax(y - mu, t, self.noise.at(t, "y")) + mu, "z": z_tilde}

    def learning_rate(self, t):
        return sga_plus.learning_rate(t, self.args)

    def relax(self, v, t, noise):
        tau = self.temperature(t)
        if self.args.probability != "atanh" or self.args.classes != 2:
            return sga_plus.relax(v, tau, noise, self.args)
        logit = rounding.floor_logit(v, tau, self.args.atanh_eps)
        return rounding.between(
            v, rounding.gumbel_softmax_floor_weight(logit, tau, noise.uniform(v))
        )


if __name__ == "__main__":
    tf_boilerplate.main(SGA)
