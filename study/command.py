"""What the commands of studies have in common."""

import argparse
import sys

import utils


def run(name, main):
    """Runs `main()`, whose value is the exit code; on wrong input one line, and exit code 2.

    Args:
      name: of the command, for messages.
    """
    try:
        with utils.sigterm_as_interrupt():
            code = main()
    except utils.InputError as error:
        print("{}: error: {}".format(name, error), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("{}: interrupted".format(name), file=sys.stderr)
        code = 130
    sys.exit(code)


def parser(name, doc):
    """A parser of a command line, `name` being the module that `python -m` runs."""
    return argparse.ArgumentParser(
        prog="python -m " + name,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
