"""Options of SGA for the same result in fewer iterations, or a better one in the same number.

Their default values leave SGA unchanged. The probabilities of rounding are those of SGA+
(`rounding.py`). docs/speed.md tells how the presets were chosen.
"""

from inference import methods, optimise, rounding
from model import device
from runtime.flags import Flag
from runtime.quiet_tf import tf

PAPER_ITS = 2000  # iterations that the paper's schedule is designed for

FLAGS = {
    "probability": Flag(
        "atanh",
        "how the probability of rounding depends on the distance: {}; ssl: sigmoid-scaled logit",
        choices=rounding.PROBABILITIES,
    ),
    "atanh_eps": methods.ATANH_FLAG["atanh_eps"]._replace(needs=("probability", "atanh")),
    "ssl_a": Flag(1.4, "a of ssl: sigmoid(-a logit(distance))", needs=("probability", "ssl")),
    "classes": Flag(2, "number of integers that a latent may be rounded to: {}", choices=(2, 3)),
    "three_r": Flag(0.98, "with 3 classes, distances are multiplied by this", needs=("classes", 3)),
    "three_n": Flag(
        1.5, "with 3 classes, probabilities are raised to this power", needs=("classes", 3)
    ),
    "centred": Flag(False, "round around mu and the medians of p(z), as the base codec does"),
    "lr_final": Flag(1.0, "fraction of --lr left after a cosine decay; 1: no decay", at_most=1),
    "fit_schedule": Flag(
        False,
        "stretch t0 and the annealing rate from {} iterations to --sga_its".format(PAPER_ITS),
    ),
}

PRESETS = {
    "fast": {
        "sga_its": 150,
        "lr": 0.05,
        "lr_final": 0.1,
        "t_max": 1.0,
        "probability": "ssl",
        "fit_schedule": True,
    },
    "best": {
        "sga_its": 2000,
        "lr": 0.02,
        "lr_final": 0.1,
        "classes": 3,
        "fit_schedule": True,
    },
}

# Presets of bb_sga.py, whose second stage needs fewer iterations as well.
BITS_BACK_PRESETS = {
    "fast": {**PRESETS["fast"], "r_its": 100, "r_lr": 0.03},
    "best": {**PRESETS["best"], "r_its": 500, "r_lr": 0.01},
}


def schedule_time(t, args):
    """The iteration `t` on the scale of the paper's schedule, float32."""
    with device.on_host():
        t = tf.cast(t, tf.float32)
        return t * (PAPER_ITS / args.sga_its) if args.fit_schedule else t


def learning_rate(t, args):
    """Adam's learning rate at iteration `t`."""
    with device.on_host():
        return optimise.cosine_decay(args.lr, args.lr_final, tf.cast(t, tf.float32), args.sga_its)


def relax(v, tau, noise, args):
    """Relaxes the rounding of v: a Gumbel-softmax average of its candidates at temperature τ."""
    candidates = rounding.candidates(v, args.classes)
    r, n = (args.three_r, args.three_n) if args.classes == 3 else (1.0, 1.0)
    logits = [
        n / tau * rounding.log_probability(args.probability, r * tf.math.abs(v - c), args)
        for c in candidates
    ]
    uniform = noise.uniform(tf.stack(candidates, axis=-1))
    return rounding.gumbel_softmax(logits, candidates, tau, uniform)
