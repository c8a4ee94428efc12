"""Targets: the size, the rate or the quality that a result is to have, instead of a λ.

A target is met by the choice of a model, if there are several (`choice.py`), and of λ
(`steering.py`).
"""

import collections

import numpy as np

from coding import container
from coding.stack import WORD_BYTES
from model import checkpoints
from model.hyperprior import Mbt2018BB
from runtime.errors import InputError
from runtime.flags import Flag

FLAGS = {
    "max_bytes": Flag(
        0,
        "bytes that the file (bits-back: its net size) must not exceed, which λ is adapted to; by "
        "default none",
    ),
    "target_bpp": Flag(0.0, "bits per pixel of the file, which λ is adapted to; by default none"),
    "target_psnr": Flag(0.0, "PSNR in dB, which λ is adapted to; by default none"),
}
UNITS = {"max_bytes": "{:.0f} bytes", "target_bpp": "{:.4f} bpp", "target_psnr": "{:.2f} dB"}

# Below, what is steered: the natural logarithm of the bits, or of 1 / MSE. Both grow with λ.
NATS_PER_DB = np.log(10) / 10


class Target(collections.namedtuple("Target", "flag value pixels overhead", defaults=(0,))):
    """What a result is to have.

    flag: a key of `FLAGS`; value: what that flag gives; pixels: number of pixels of the image;
    overhead: bits of the file besides its latents, about; 0 if the rate is a net one.
    """

    # From the lowest to the highest value that is accepted, and that is aimed at, as factors.
    ACCEPTED = {"max_bytes": (0.98, 1), "target_bpp": (0.99, 1.01)}
    AIMED = {"max_bytes": (0.985, 0.993, 0.998), "target_bpp": (0.996, 1, 1.004)}
    ACCEPTED_DB, AIMED_DB = 0.02, 0.008

    def __str__(self):
        return "--{} {:.10g}".format(self.flag, self.value)

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


def given(args):
    """The names in `FLAGS` of the targets on a command line."""
    return [flag for flag in FLAGS if getattr(args, flag, 0)]


def check(method_class, args):
    """Raises `InputError` if a command line has several targets, or one that no image can meet."""
    names = given(args)
    if len(names) > 1:
        raise InputError("--{} and --{}: give one target".format(*names))
    name = "".join("{}: ".format(Target(flag, getattr(args, flag), 0)) for flag in names)
    if "max_bytes" in names and getattr(args, "estimate_only", False):
        raise InputError(name + "not with --estimate_only, which codes nothing")
    if names and not method_class.flags and not checkpoints.is_pattern(args.runname):
        line = (
            "{}.py can only choose a model; outside of studies, give a pattern of run names, such "
            "as '*'"
        )
        raise InputError(name + line.format(method_class.script()))


def read(method_class, args, images):
    """The `Target` of a command line, or None.

    Args:
      method_class, args: the method and its parsed command line, which have passed `check`.
      images: `utils.Images`.

    Raises:
      InputError: there are several images, or nothing can meet the target.
    """
    names = given(args)
    if not names:
        return None
    number, height, width, _ = images.shape
    least = 8 * container.overhead(height, width)
    is_net = issubclass(method_class.model_class, Mbt2018BB)
    overhead = 0 if is_net else least + 8 * (WORD_BYTES // 2)
    target = Target(names[0], getattr(args, names[0]), height * width, overhead)
    name = "{}: ".format(target)
    if number > 1:
        line = "{} holds {} images; a target is for one"
        raise InputError(name + line.format(images.path, number))
    if target.flag == "max_bytes" and not args.output:
        raise InputError(name + "needs a file to write, whose name goes after the image's")
    if target.is_rate:
        if target.bits <= (0 if is_net else least):
            line = "no more than the {} of a file without latents"
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
