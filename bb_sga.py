"""SGA with bits-back coding, entry M2 in Table 1 of Yang et al. 2020 (arXiv 2006.04240).

1. Minimise λ·255²·MSE + bpp over y and the mean and log-variance of q(z|y): y is relaxed as in SGA
   (`sga.py`), z is sampled by reparametrisation.
2. Round y, restart the mean and log-variance from h_a(y), and minimise only the rate
   bpp = -log2 p(y|z) - log2 p(z) + log2 q(z|y) over them. A decoder, which knows y by then, can
   repeat this stage (section 3.3, algorithm 1).
"""

import tf_boilerplate
from inference import methods, optimise, regions, sga_plus, targets
from runtime.quiet_tf import tf
from sga import SGA


class BBSGA(methods.BitsBackMethod):
    """SGA for y, then the best q(z|y) for it."""

    row = "M2"
    flags = {
        **{name: flag for name, flag in SGA.flags.items() if name != "centred"},
        "sga_its": methods.Flag(2000, "iterations of the first stage"),
        "r_its": methods.Flag(2000, "iterations of the second stage"),
        "r_lr": methods.Flag(3e-3, "learning rate of the second stage"),
    }
    rate_flags = ("r_its", "r_lr")
    objective_flags = {**targets.FLAGS, **regions.FLAGS}
    presets = sga_plus.BITS_BACK_PRESETS
    temperature = SGA.temperature
    learning_rate = SGA.learning_rate
    relax = SGA.relax

    def build(self):
        def relaxed(t, y, z_mean, z_logvar):
            y_tilde = self.relax(y, t, self.noise.at(t, "y"))
            normal = self.noise.at(t, "z").normal(z_mean)
            return {"y": y_tilde, **self.model.sample(z_mean, z_logvar, normal)}

        def rounded(y, z_mean, z_logvar):
            return self.sent(self.noise, tf.math.round(y), z_mean, z_logvar)

        stage = optimise.Stage(
            self.predicted(),
            self.loss,
            relaxed,
            rounded,
            self.args.sga_its,
            self.learning_rate,
            self.args,
            temperature=self.temperature,
        )
        return self.given_y([stage], stage.latents["y"])


if __name__ == "__main__":
    tf_boilerplate.main(BBSGA)
