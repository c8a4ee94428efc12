"""The step D of y's grid: y is rounded to D · integers, its likelihood is that of intervals of D.

λ alone moves a model's rate only so far from the one it was trained for. A coarser grid goes below
it at less loss, a finer one above it (Gao et al. 2022, arXiv 2209.09244, section 3.2). D lies on a
logarithmic grid, 2^(k / 8), which the coder's tables follow exactly; a file holds k.
"""

import numpy as np

from coding import container
from coding.grid_codec import spacing
from runtime.errors import InputError
from runtime.flags import Flag

FLAGS = {
    "step": Flag(
        1.0,
        "spacing of y's grid, the nearest of 2^(k / 8) from 1/8 to 8; auto: finer for larger λ",
        word="auto",
    )
}
# Change of log D per unit of the logarithm of λ, relative to the model's, and of bits or 1 / MSE:
# what was best on a crop of kodim07 with a model of N = 64, at 0.25 to 1.6 times its own rate. At
# high rates, theory says -1/2 per λ.
PER_LAMBDA, PER_RESULT = -0.6, -0.85


def number(step):
    """k of the step that is closest to `step`, D.

    Raises:
      InputError: there is none.
    """
    k = int(np.round(container.STEPS_PER_OCTAVE * np.log2(step)))
    if abs(k) > container.MAX_STEP:
        largest = 2 ** (container.MAX_STEP // container.STEPS_PER_OCTAVE)
        line = "--step: {:g} is not between 1/{} and {}"
        raise InputError(line.format(step, largest, largest))
    return k


def nearest(step):
    """The step on the grid that is closest to a `step`; `InputError` if there is none."""
    k = number(step)
    return spacing(k)


def lambda_for(lmbda, step):
    """The λ to begin with for a `step`: what a plain run's `lmbda` becomes by the rule of auto."""
    return lmbda * step ** (1 / PER_LAMBDA)


def for_lambda(lmbda, own):
    """The step for --step auto at a λ: coarser below the λ that the model was trained with."""
    return _within_limits(PER_LAMBDA * np.log(lmbda / own))


def for_target(log, own):
    """The step for --step auto with a target: coarser below the model's own result.

    Args:
      log: the logarithm that is aimed at (`targets.Target.aim`).
      own: the same of the result without optimisation.
    """
    return _within_limits(PER_RESULT * (log - own))


def _within_limits(log):
    largest = 2.0 ** (container.MAX_STEP // container.STEPS_PER_OCTAVE)
    return float(np.clip(np.exp(log), 1 / largest, largest))
