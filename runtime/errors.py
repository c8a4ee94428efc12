"""Errors that a user can correct."""

import contextlib


class InputError(Exception):
    """The user's input is invalid; the exception's text is the one line that the user sees."""

    exit_code = 2


class Unfinished(InputError):
    """A part of the work failed for no fault of the input; the rest is done."""

    exit_code = 1


@contextlib.contextmanager
def naming(path):
    """Prefixes the text of any `InputError` raised within with a file's name."""
    try:
        yield
    except InputError as error:
        raise type(error)("{}: {}".format(path, error))
