"""Command-line flags as data: a method lists its own, with defaults, next to its equations."""

import argparse
import functools
import math
import os
import re
from typing import Any, NamedTuple, Optional

from runtime.errors import InputError


class Flag(NamedTuple):
    """A command-line flag, which has the type of its default.

    default: a number; a string, for a path or one of `choices`; False for a switch.
    help: its text in `--help`; "{}" in it is replaced by the choices.
    minimum: lowest allowed number; None: the number must be positive.
    choices: tuple of the allowed values; None: any value.
    below: bound that a number must lie below; None: no such bound.
    word: a word that may stand in place of the number; None: none.
    at_most: highest allowed number, or the name of another flag that has it; None: no such bound.
    needs: name of another flag and the value, or True for any but an empty one, without which this
      one has no effect; None: no such flag.
    """

    default: Any
    help: str
    minimum: Optional[float] = None
    choices: Optional[tuple] = None
    below: Optional[float] = None
    word: Optional[str] = None
    at_most: Any = None
    needs: Optional[tuple] = None


def add_flags(parser, flags):
    """Adds a dict of `Flag`s by name to an `argparse` parser; --lambda is stored as `lmbda`."""
    for name, flag in flags.items():
        options = {"default": flag.default, "help": "{} ({})".format(flag.help, flag.default)}
        if flag.default is False:
            options = {"action": "store_true", "help": flag.help}
        elif flag.choices:
            text = flag.help.format(", ".join(map(str, flag.choices)))
            options.update(type=type(flag.default), choices=flag.choices)
            options["help"] = "{} ({})".format(text, flag.default)
        else:
            kind = os.path.expanduser
            if not isinstance(flag.default, str):
                kind = functools.partial(
                    number, type(flag.default), flag.minimum, below=flag.below, word=flag.word
                )
            options.update(type=kind, metavar=name.rsplit("_", 1)[-1].upper())
            options["help"] = options["help"].replace("%", "%%")
        parser.add_argument("--" + name, dest=_stored(name), **options)


def _stored(name):
    """The attribute in which a flag is stored, which cannot be a keyword."""
    return "lmbda" if name == "lambda" else name


def check_together(args, flags):
    """Raises `InputError` if values of `Flag`s, a dict by name, do not go together."""
    for name, flag in flags.items():
        value = getattr(args, _stored(name))
        most, whose = flag.at_most, ""
        if isinstance(most, str):
            most, whose = getattr(args, most), "--{}, ".format(most)
        if most is not None and value > most:
            raise InputError("--{}: {:g} is above {}{:g}".format(name, value, whose, most))
        if flag.needs and value != flag.default:
            other, needed = flag.needs
            text, given = "without --{} {}".format(other, needed), getattr(args, other)
            if isinstance(needed, bool):
                text = "{} --{}".format("without" if needed else "with", other)
                given = bool(given)
            if given != needed:
                raise InputError("--{}: has no effect {}".format(name, text))


def words(values):
    """Yields the words of a command line that gives flags these values, a dict by name."""
    for name, value in values.items():
        if value is True:
            yield "--" + name
        elif value is not False:
            yield "--{} {}".format(name, value)


def refuse_dashed_paths(parser, argv):
    """Ends with a clear line where a file's name begins with a dash, as flags do."""
    for argument in argv:
        is_flag = argument.split("=")[0] in parser._option_string_actions
        if re.fullmatch(r"-[^-].*\.[A-Za-z]\w*", argument) and not is_flag:
            parser.error("{0}: begins with a dash, as flags do; write ./{0}".format(argument))


def number(kind, minimum, text, below=None, word=None):
    """Parses a number of type `kind` that is at least `minimum`, or positive if that is None.

    If the text is `word`, it is returned as it is. Whole numbers have at most 64 bits: NumPy saves
    larger ones as objects, which it does not load.

    Raises:
      argparse.ArgumentTypeError: `text` is not such a number.
    """
    if text == word:
        return text
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "{!r} is not {} number".format(text, "a whole" if kind is int else "a")
        )
    if kind is int and abs(value) >= 2**64:
        raise argparse.ArgumentTypeError("{} is beyond 64 bits".format(text))
    if not (math.isfinite(value) and (value > 0 if minimum is None else value >= minimum)):
        bound = "above 0" if minimum is None else "at least {}".format(minimum)
        raise argparse.ArgumentTypeError("{} is not {}".format(text, bound))
    if below is not None and value >= below:
        raise argparse.ArgumentTypeError("{} is not below {}".format(text, below))
    return value
