"""The choice of what is evaluated: the model, and what its result is to have.

With a target, a run's name may be a pattern. Each model that it matches then codes the image
without optimisation, and the one whose result is closest to the target is taken.
"""

import argparse
import collections
import os

from inference import evaluation, regions, scripts, steps, targets
from inference.methods import find_method
from model import checkpoints
from runtime import console
from runtime.errors import InputError


def prepare(method_class, args, images):
    """The `checkpoints.Run` and the `evaluation.Aim` of a command line; sets its λ and step.

    Args:
      method_class, args: the method and its parsed command line.
      images: `utils.Images`.

    Raises:
      InputError: the run does not exist, or nothing can have what is asked for.
    """
    region = None
    if getattr(args, "weight_map", ""):
        region = regions.read(args.weight_map, images.shape[1:3], args.keep_weights)
    target = targets.read(method_class, args, images)
    automatic = getattr(args, "step", None) == "auto"
    is_pattern = checkpoints.is_pattern(args.runname)
    if is_pattern and not target:
        line = "{}: a pattern of run names needs a target, such as --target_bpp, to choose by"
        raise InputError(line.format(args.runname))
    if target and (is_pattern or automatic):
        own = chosen(method_class, args, images, target)
        run = own.run
    else:
        run = checkpoints.find_run(args.checkpoint_dir, args.runname, args.num_filters)
    args.lmbda = checkpoints.lambda_of(run, args.lmbda)
    if (target and method_class.flags or automatic) and not args.lmbda:
        raise InputError("--lambda: 0; a target and --step auto need a λ above 0 to start from")
    if automatic and target:
        args.step = steps.for_target(target.aim()[1], target_log(target, own))
    elif automatic:
        if not run.lmbda:
            line = "--step auto: {} has no λ in its name to compare --lambda with; give a number"
            raise InputError(line.format(run.name))
        args.step = steps.for_lambda(args.lmbda, run.lmbda)
    if "step" in method_class.objective_flags:
        args.step = steps.nearest(args.step)
    return run, evaluation.Aim(target, region)


def chosen(method_class, args, images, target):
    """`Own` of the run that a pattern, `args.runname`, matches and that suits a target best.

    Raises:
      InputError: there is no such run, or none makes the file small enough.
    """
    found = own_results(method_class, args, images, args.runname)
    best = closest(target, found)
    if not method_class.flags and target.flag == "max_bytes":
        fitting = [own for own in found if own.bits <= 8 * target.value]
        if not fitting:
            smallest = min(found, key=lambda own: own.bits)
            line = "{}: the smallest file is one of {:.0f} bytes, with {}"
            raise InputError(line.format(target, smallest.bits / 8, smallest.run.name))
        best = max(fitting, key=lambda own: own.bits)
    own = target.text(target_log(target, best))
    if found[1:]:
        line = "of {} models, {} is taken: its own prediction has {}"
        console.note(line.format(len(found), best.run.name, own))
    elif not method_class.flags:
        console.note("{}: {} alone matches, and has {}".format(target, best.run.name, own))
    return best


def explain(result, target, run, method_class, args, images):
    """Says what a model can reach and which other model of the folder is closer to the target.

    Args:
      result: of `evaluation.Evaluator.missed`.
      target: the `targets.Target`; run: the `checkpoints.Run` of the model.
      method_class, args, images: as for `prepare`.

    Raises:
      InputError: always, except for a file that is smaller than it might be.
    """
    line = "{}: with {}, λ leads to {}".format(target, run.name, target.text(result))
    beside = os.path.join(os.path.dirname(os.path.normpath(args.runname)), "*")
    try:
        found = own_results(method_class, args, images, beside, tell=lambda line: None)
        best = closest(target, found)
        if best.run.name == run.name:
            line += "; no other model in {} is closer".format(args.checkpoint_dir)
        else:
            own = target.text(target_log(target, best))
            line += "; {} is closer, whose own prediction has {}".format(best.run.name, own)
    except InputError:  # the models beside it cannot be told apart, or read
        pass
    if getattr(args, "step", None) == 1:
        line += "; --step auto may lead further"
    if target.flag != "max_bytes" or target.side(result) > 0:
        raise InputError(line)
    console.note(line)


# --- What models do by themselves ------------------------------------------------------------

Own = collections.namedtuple("Own", "run bits psnr")
Own.__doc__ = """What a model does with an image by itself, without optimisation.

run: `checkpoints.Run`; bits: of the file, or the estimated net rate of bits-back; psnr: in dB.
"""


def closest(target, found):
    """That of a list of `Own` whose rate or PSNR is closest to the target; of equals, the better.

    The closer λ stays to the one that a model was trained with, the less its result loses.
    """

    def order(own):
        return round(abs(target_log(target, own) - target.aim()[1]), 2), -own.psnr

    return min(found, key=order)


def target_log(target, own):
    """The logarithm of what an `Own` has of the target's kind."""
    return target.log(own.bits, own.psnr)


def own_results(method_class, args, images, pattern, **kwargs):
    """A list of `Own` for the runs that match a pattern; see `checkpoints.find_runs`."""
    where = args.checkpoint_dir, pattern, method_class.model_class, args.num_filters
    runs = checkpoints.find_runs(*where, **kwargs)
    return [own_result(method_class, run, args, images) for run in runs]


def own_result(method_class, run, args, images):
    """`Own` of a run for one image: what mbt2018.py or bb_plain.py makes of it."""
    plain = find_method(scripts.MODELS[method_class.model_class.name][0])
    own = argparse.Namespace(**{**vars(args), **plain.defaults()})
    own.lmbda, own.step, own.estimate_only, own.pad = 0.0, 1.0, True, args.pad
    own.container = getattr(args, "container", True)
    weights = checkpoints.load(plain.model_class, run)
    writer = plain.coder(run, weights, own)
    evaluator = evaluation.Evaluator(plain, weights, own)
    results, _, content = evaluator.evaluate(writer, images.path, images.batches(1))
    height, width = images.shape[1:3]
    bits = 8 * len(content) if content else height * width * results["est_bpp"][0]
    return Own(run, max(float(bits), 1.0), float(results["psnr"][0]))
