"""Errors that a user can correct."""

import contextlib


class InputError(Exception):
    """The user's input is invalid; the exception's text is the one line that the user sees."""

    exit_code = 2


class Unfinished(InputError):
    """A part of the work failed for no fault of the input; the rest is done."""

    exit_code = 1


def exhausted(reason, remedy):
    """An `InputError` for the `reason` that TensorFlow or the system gives when it runs out.

    Args:
      remedy: what needs less memory; for a full disk there is none.
    """
    if "No space left" in reason or "quota exceeded" in reason:
        return InputError("the disk is full; what was saved before is whole")
    return InputError("the memory is exhausted; {}".format(remedy))


@contextlib.contextmanager
def naming(path):
    """Prefixes the text of any `InputError` raised within with a file's name."""
    try:
        yield
    except InputError as error:
        raise type(error)("{}: {}".format(path, error))
