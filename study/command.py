"""What all commands have in common."""

import importlib
import os

import inference
import utils
from tools import scripts


def run(main):
    """Runs `main()` of a module that was started as `python -m study.<name>`.

    Ends the process with one line and exit code 2 on wrong input.
    """
    with utils.command(main.__globals__["__spec__"].name):
        main()


def method_class(script):
    """The `inference.Method` that `<script>.py` defines.

    Raises:
      InputError: there is no such script, or it is no method.
    """
    if script.isidentifier() and os.path.isfile(os.path.join(scripts.ROOT, script + ".py")):
        for value in vars(importlib.import_module(script)).values():
            is_method = isinstance(value, type) and issubclass(value, inference.Method)
            if is_method and value.__module__ == script:
                return value
    raise utils.InputError("{}: no script of a method, such as sga".format(script))
