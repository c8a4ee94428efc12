"""Shared parts of the command lines in study/."""

import argparse
import os
import re
import sys

from inference import scripts
from runtime import signals


def run(main):
    """Runs `main()` of a module that was started as `python -m study.<name>`.

    Its return value becomes the exit code. On wrong input the process prints one line and exits
    with code 2.
    """
    with signals.command(main.__globals__["__spec__"].name):
        sys.exit(main())


def parser(name, doc, *flags, positional=""):
    """Makes the parser of a command line.

    Args:
      name: module that `python -m` runs.
      doc: docstring of that module.
      *flags: names from `FLAGS` to add.
      positional: positional arguments for the usage line, which has them first because flags with
        several values would swallow them.
    """
    made = argparse.ArgumentParser(
        prog="python -m " + name,
        usage="%(prog)s {} [flags]".format(positional) if positional else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in flags:
        made.add_argument(flag, **FLAGS[flag])
    return made


def add_output(parser, default, metavar="DIR", what="folder to write to "):
    """Adds --output, the folder or file that a command writes to."""
    parser.add_argument(
        "--output",
        default=default,
        type=os.path.expanduser,
        metavar=metavar,
        help=what + "(%(default)s)",
    )


def size(text):
    """Parses "<width>x<height>" to (width, height), for `add_argument`."""
    match = re.fullmatch("([1-9][0-9]*)x([1-9][0-9]*)", text)
    if not match:
        raise argparse.ArgumentTypeError("{!r} is not <width>x<height>".format(text))
    return tuple(int(side) for side in match.groups())


def positive(text):
    """Parses a whole number above 0, for `add_argument`."""
    if not re.fullmatch("[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError("{!r} is not a whole number above 0".format(text))
    return int(text)


def natural(text):
    """Parses a whole number from 0, for `add_argument`."""
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError("{!r} is not a whole number from 0".format(text))
    return int(text)


FLAGS = {  # shared by several commands
    "--checkpoint_dir": {
        "default": "./checkpoints",
        "type": os.path.expanduser,
        "metavar": "DIR",
        "help": "folder of run folders (%(default)s)",
    },
    "--runname": {"default": scripts.demo_run("mbt2018"), "help": "run folder (%(default)s)"},
}
