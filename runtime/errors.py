"""Errors that a user can mend."""

import contextlib


class InputError(Exception):
    """Something that the user gave is wrong; its text is the one line that is shown."""

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
    """Puts a file's name before the text of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise type(error)("{}: {}".format(path, error))
