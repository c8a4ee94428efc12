"""Targets: the size, the rate or the quality that a result is to have, instead of a λ.

A target is met by the choice of a model, if there are several, and of λ (`steering.py`).
"""

import collections
import functools
import re

import numpy as np

import utils
from coding import container
from coding.stack import WORD_BYTES
from model import checkpoints, device, hyperprior
from runtime import console
from runtime.errors import InputError, naming
from runtime.flags import Flag
from runtime.quiet_tf import tf

FLAGS = {
    "max_bytes": Flag(
        0, "size that the file must not exceed, which λ is adapted to; by default none"
    ),
    "target_bpp": Flag(0.0, "bits per pixel of the file, which λ is adapted to; by default none"),
    "target_psnr": Flag(0.0, "PSNR in dB, which λ is adapted to; by default none"),
}
UNITS = {"max_bytes": "{:.0f} bytes", "target_bpp": "{:.4f} bpp", "target_psnr": "{:.2f} dB"}

# Below, what is steered: the natural logarithm of the bits, or of 1 / MSE. Both grow with λ.
NATS_PER_DB = np.log(10) / 10


class Target(collections.namedtuple("Target", "flag value pixels")):
    """What a result is to have.

    flag: a key of `FLAGS`; value: what that flag gives; pixels: number of pixels of the image.
    """

    # From the lowest to the highest value that is accepted, and that is aimed at, as factors.
    ACCEPTED = {"max_bytes": (0.98, 1), "target_bpp": (0.99, 1.01)}
    AIMED = {"max_bytes": (0.985, 0.993, 0.998), "target_bpp": (0.996, 1, 1.004)}
    ACCEPTED_DB, AIMED_DB = 0.02, 0.008

    def __str__(self):
        return "--{} {:g}".format(self.flag, self.value)

    @property
    def is_rate(self):
        return self.flag != "target_psnr"

    @property
    def bits(self):
        """The bits of a target that is a rate."""
        return self.value * (8 if self.flag == "max_bytes" else self.pixels)

    def text(self, log):
        """A value, given as a logarithm, in the units of the flag, with their name."""
        return UNITS[self.flag].format(self.in_units(log))

    def in_units(self, log):
        """A value, given as a logarithm, in the units of the flag."""
        if not self.is_rate:
            return log / NATS_PER_DB
        return np.exp(log) / (8 if self.flag == "max_bytes" else self.pixels)

    def log(self, bits, psnr):
        """The logarithm of what is steered, for a number of bits and a PSNR in dB."""
        return float(np.log(bits) if self.is_rate else psnr * NATS_PER_DB)

    def aim(self):
        """The logarithms to stop at: the lowest, the best and the highest."""
        if not self.is_rate:
            return tuple(
                (self.value + offset) * NATS_PER_DB for offset in (-self.AIMED_DB, 0, self.AIMED_DB)
            )
        return tuple(np.log(self.bits * factor) for factor in self.AIMED[self.flag])

    def side(self, log):
        """0 if a value, given as a logarithm, is accepted; -1 if it is too low, 1 if too high."""
        value = self.in_units(log)
        if self.is_rate:
            low, high = (factor * self.value for factor in self.ACCEPTED[self.flag])
            # Files consist of whole words, and a small one may not come closer.
            word = self.in_units(np.log(8 * WORD_BYTES))
            if self.flag == "max_bytes":
                low = min(low, self.value - word)
            else:
                low, high = min(low, self.value - word / 2), max(high, self.value + word / 2)
        else:
            low, high = self.value - self.ACCEPTED_DB, self.value + self.ACCEPTED_DB
        slack = 1e-9 * high  # a logarithm's last bits
        return int(value > high + slack) - int(value < low - slack)


def read(args, images):
    """The `Target` of a command line, or None.

    Args:
      args: the parsed command line.
      images: `utils.Images`.

    Raises:
      InputError: there are several targets or images, or nothing can meet the target.
    """
    given = [flag for flag in FLAGS if getattr(args, flag, 0)]
    if not given:
        return None
    if len(given) > 1:
        raise InputError("--{} and --{}: give one target".format(*given))
    number, height, width, _ = images.shape
    target = Target(given[0], getattr(args, given[0]), height * width)
    name = "{}: ".format(target)
    if number > 1:
        line = "{} holds {} images; a target is for one"
        raise InputError(name + line.format(images.path, number))
    if target.flag == "max_bytes" and not args.output:
        raise InputError(name + "needs a file to write, whose name goes after the image's")
    if target.is_rate:
        least = 8 * container.overhead(height, width)
        if target.bits <= least:
            line = "less than the {} of a file without latents"
            raise InputError(name + line.format(target.text(np.log(least))))
        if target.bits >= 24 * target.pixels:
            line = "not less than the {} of the image's own pixels, which need no codec"
            raise InputError(name + line.format(target.text(np.log(24 * target.pixels))))
    else:
        # One sample of the image is off by one grey level.
        highest = 10 * np.log10(255**2 * 3 * target.pixels)
        if target.value > highest:
            line = "above {:.2f} dB there is only the image itself, which no method here gives"
            raise InputError(name + line.format(highest))
    return target


# --- The choice of a model -------------------------------------------------------------------


Own = collections.namedtuple("Own", "run bits psnr")
Own.__doc__ = """What a model does with an image by itself, without optimisation.

run: `checkpoints.Run`; bits: of the file, estimated (for mbt2018.py: its size); psnr: in dB.
"""


def find_run(method_class, args, images, target):
    """The `checkpoints.Run` of a command line, whose run name may be a pattern with a target.

    Raises:
      InputError: there is no such run, or the method can meet no target with one run.
    """
    find = functools.partial(checkpoints.find_run, args.checkpoint_dir)
    is_pattern = bool(re.search(r"[*?\[]", args.runname))
    if target and not (is_pattern or method_class.flags):
        line = "{}: {}.py can only choose a model; give a pattern of run names, such as '*'"
        raise InputError(line.format(target, method_class.script()))
    if not (target and is_pattern and checkpoints.run_folders(args.checkpoint_dir, args.runname)):
        return find(args.runname, args.num_filters)
    (pixels,) = images.batches(1)
    found = own_figures(method_class, args, pixels, args.runname)
    chosen = closest(target, found)
    if not method_class.flags and target.flag == "max_bytes":
        fitting = [own for own in found if own.bits <= 8 * target.value]
        if not fitting:
            smallest = min(found, key=lambda own: own.bits)
            line = "{}: the smallest file is one of {} bytes, with {}"
            raise InputError(line.format(target, smallest.bits // 8, smallest.run.name))
        chosen = max(fitting, key=lambda own: own.bits)
    line = "of {} models, {} is taken: its own prediction has {}"
    console.note(line.format(len(found), chosen.run.name, target.text(_log(target, chosen))))
    args.runname = chosen.run.name
    return chosen.run


def closest(target, found):
    """That of a list of `Own` whose rate or PSNR is closest to the target; of equals, the better.

    The closer λ stays to the one that a model was trained with, the less its result loses.
    """
    return min(found, key=lambda own: (round(_distance(target, own), 2), -own.psnr))


def _distance(target, own):
    return abs(_log(target, own) - target.aim()[1])


def _log(target, own):
    return target.log(own.bits, own.psnr)


def give_up(steering, method_class, args, pixels):
    """Says what a model can reach and which other model of the folder is closer to the target.

    Args:
      steering: `steering.Steering`, whose `result` is final.
      method_class, args: the method and its command line.
      pixels: the image, uint8 (1, H, W, 3).

    Raises:
      InputError: always, except for a file that is smaller than it might be.
    """
    target = steering.target
    line = "{}: with {}, λ leads to {}".format(target, args.runname, target.text(steering.result))
    try:
        best = closest(target, own_figures(method_class, args, pixels, "*"))
    except InputError:  # the run is in a folder within that folder
        best = None
    if best and best.run.name != args.runname:
        own = target.text(_log(target, best))
        line += "; {} is closer, whose own prediction has {}".format(best.run.name, own)
    else:
        line += "; no other model in {} is closer".format(args.checkpoint_dir)
    if target.flag != "max_bytes" or target.side(steering.result) > 0:
        raise InputError(line)
    console.note(line)


def own_figures(method_class, args, pixels, pattern):
    """A list of `Own` for the runs that match a pattern and suit a method.

    Args:
      method_class, args: the method and its command line.
      pixels: the image, uint8 (1, H, W, 3).
      pattern: of run names.

    Raises:
      InputError: there are none.
    """
    found, refused = [], None
    for name in checkpoints.run_folders(args.checkpoint_dir, pattern):
        try:
            run = checkpoints.find_run(args.checkpoint_dir, name, args.num_filters)
            if checkpoints.is_of(method_class.model_class, run):
                found.append(own_figure(method_class, run, args, pixels))
        except InputError as error:
            refused = error
    if not found:
        line = "{}: no run of {}.py there, whose models this script needs"
        raise refused or InputError(line.format(pattern, method_class.model_class.name))
    return found


def overhead_bits(method_class, height, width):
    """The bits of a file besides its latents, about; 0 for net rates."""
    is_net = issubclass(method_class.model_class, hyperprior.Mbt2018BB)
    return 0 if is_net else 8 * (container.overhead(height, width) + WORD_BYTES // 2)


def own_figure(method_class, run, args, pixels):
    """`Own` of a run for one image, uint8 (1, H, W, 3)."""
    size = pixels.shape[1:3]
    weights = checkpoints.load(method_class.model_class, run)
    with tf.Graph().as_default(), tf.Session(config=device.session_config()) as session:
        model = hyperprior.build(
            method_class.model_class, weights, sigma_min=method_class.sigma_min
        )
        x = tf.constant(pixels, tf.float32) / 255
        latents = model.transmitted(x)
        rates = model.rates(size[0] * size[1], **latents)
        psnr = utils.quality(x, model.synthesis(latents["y"], size))["psnr"]
        bpp, psnr, latents = session.run([rates["bpp"][0], psnr[0], latents])
    bits = float(bpp) * size[0] * size[1] + overhead_bits(method_class, *size)
    if not method_class.flags:
        writer = method_class.coder(run, weights, args)
        with naming(run.checkpoint):
            writer.add({key: value[0] for key, value in latents.items()}, size, None)
        bits = 8 * len(writer.finish()[0])
    return Own(run, bits, float(psnr))
