"""Signals, and the ways in which a command ends."""

import contextlib
import os
import signal
import sys

from runtime.errors import InputError


@contextlib.contextmanager
def command(name):
    """Runs the body of a command; invalid input ends the process with one line and exit code 2."""
    try:
        with sigterm_as_interrupt():
            yield
    except InputError as error:
        print("{}: error: {}".format(name, error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("{}: interrupted".format(name), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@contextlib.contextmanager
def sigterm_as_interrupt():
    """A context in which SIGTERM raises KeyboardInterrupt, so that partial files are removed."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


@contextlib.contextmanager
def stop_signals():
    """A context in which SIGINT and SIGTERM are appended to the list that it yields.

    The first one does not end the process; the second raises KeyboardInterrupt.
    """
    received = []

    def receive(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
