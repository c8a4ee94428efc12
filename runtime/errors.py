"""Errors that a user can correct."""

import contextlib


class InputError(Exception):
    """The user's input is invalid; the exception's text is the one line that the user sees."""


@contextlib.contextmanager
def naming(path):
    """Prefixes the text of any `InputError` raised within with a file's name."""
    try:
        yield
    except InputError as error:
        raise InputError("{}: {}".format(path, error))
