"""Signals, and the ways in which a command ends."""

import contextlib
import errno
import os
import signal
import sys

from runtime import console
from runtime.errors import InputError


@contextlib.contextmanager
def command(name):
    """Runs the body of a command; invalid input ends the process with one line and exit code 2."""
    console.show_all()
    try:
        with sigterm_as_interrupt():
            yield
    except InputError as error:
        _end(name, error, error.exit_code)
    except MemoryError:
        _end(name, "the memory is exhausted", 2)
    except KeyboardInterrupt:
        print("{}: interrupted".format(name), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end(name, "{}: {}".format(error.filename or "a file", error.strerror), 2)


def reason(code, errors):
    """Why a process failed.

    Args:
      code: its exit code, not 0.
      errors: what it wrote to stderr, of which the last line counts.
    """
    if code < 0:
        name = signal.Signals(-code).name
        return "ended by {}{}".format(name, " (memory?)" if name == "SIGKILL" else "")
    lines = errors.strip().splitlines()
    return lines[-1] if lines else "ended with exit code {}".format(code)


def _end(name, reason, code):
    print("{}: error: {}".format(name, reason), file=sys.stderr)
    sys.exit(code)


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
