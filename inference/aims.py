"""What a result is to have: a target, distortion that counts in a region, a step of y's grid."""

import collections

from inference import regions, steps, targets
from model import checkpoints
from runtime.errors import InputError

METRICS = ("lmbda_found", "psnr_inside", "psnr_outside")  # of a result, to be printed

Aim = collections.namedtuple("Aim", "target region", defaults=(None, None))
Aim.__doc__ = """What results are to have, besides a low loss.

target: a `targets.Target`, or None; region: a `regions.Region`, or None.
"""
NO_AIM = Aim()


def prepare(method_class, args, images):
    """The `checkpoints.Run` and the `Aim` of a command line, in which it sets λ and the step.

    Args:
      method_class, args: the method and its parsed command line.
      images: `utils.Images`.

    Raises:
      InputError: the run does not exist, or nothing can have what is asked for.
    """
    target = targets.read(args, images)
    run = targets.find_run(method_class, args, images, target)
    args.lmbda = checkpoints.lambda_of(run, args.lmbda)
    by_lambda = target and method_class.flags or getattr(args, "step", None) == "auto"
    if by_lambda and not args.lmbda:
        raise InputError("--lambda: 0 leaves nothing to start from; a target or a step needs more")
    region = None
    if getattr(args, "weight_map", ""):
        region = regions.read(args.weight_map, images.shape[1:3], args.keep_weights)
    elif getattr(args, "keep_weights", False):
        raise InputError("--keep_weights: there is no --weight_map")
    if getattr(args, "step", None) == "auto":
        args.step = steps.choose(method_class, run, args, images, target)
    elif "step" in method_class.objective_flags:
        args.step = steps.nearest(args.step)
    return run, Aim(target, region)
