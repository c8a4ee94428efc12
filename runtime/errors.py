"""Errors that a user can mend."""

import contextlib


class InputError(Exception):
    """Something that the user gave is wrong; its text is the one line that is shown."""


@contextlib.contextmanager
def naming(path):
    """Puts a file's name before the text of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError("{}: {}".format(path, error))
