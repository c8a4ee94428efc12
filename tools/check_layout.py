"""Checks that the code has the layout described in CONTRIBUTING.md: `make lint`.

Imports go one way, files stay short, and the scripts do not repeat code.
"""

import ast
import glob
import os
import sys

from inference import scripts
from inference.scripts import ROOT

METHODS = tuple(script for script in scripts.METHODS if script not in scripts.MODELS)
SCRIPTS = (*METHODS, *scripts.MODELS)
# From the top down. Packages of one floor do not import each other; scripts may.
FLOORS = (
    {"study", "tools"},
    set(SCRIPTS),
    {"tf_boilerplate"},
    {"inference", "training"},
    {"coding"},
    {"model"},
    {"utils"},
    {"imaging"},
    {"runtime"},
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
WITHOUT_TENSORFLOW = ("coding/container.py", "inference/scripts.py")
LINES = 450  # longest file
SCRIPT_LINES = 80  # longest script of a method
SCRIPTS_LINES = 407  # all ten scripts together
REPEATED = 6  # as many equal lines of code may not occur in two scripts


def imports(path):
    """Yields the modules that a file imports anywhere, each with its line number."""
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "{}.{}".format(node.module, alias.name), node.lineno


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def check_imports(path):
    """Yields a message for each import that violates the order of `FLOORS`."""
    own = path.replace(".py", "").split("/")[0]
    floor = FLOOR.get(own, FLOOR[SCRIPTS[0]])  # a method of your own stands with the scripts
    for name, line in imports(path):
        other = name.split(".")[0]
        if other == own or other not in FLOOR:
            continue
        among_scripts = floor == FLOOR[SCRIPTS[0]] and other in SCRIPTS
        if FLOOR[other] <= floor and not among_scripts:
            yield "{}:{}: {} may not import {}".format(path, line, own, other)
        if path in WITHOUT_TENSORFLOW and name.startswith(("runtime.quiet_tf", "utils", "model")):
            yield "{}:{}: imports TensorFlow, by {}".format(path, line, name)


def check_lengths(paths):
    lengths = {path: read(path).count("\n") for path in paths}
    for path, length in lengths.items():
        most = SCRIPT_LINES if path[: -len(".py")] in METHODS else LINES
        if length > most:
            yield "{}: {} lines, more than {}".format(path, length, most)
    total = sum(lengths[script + ".py"] for script in SCRIPTS)
    if total > SCRIPTS_LINES:
        yield "the scripts have {} lines, more than {}".format(total, SCRIPTS_LINES)


def check_repetition():
    seen = {}
    for script in SCRIPTS:
        code = [line.strip() for line in read(script + ".py").splitlines()]
        code = [c for c in code if c and not c.startswith(("import", "from", "#"))]
        for start in range(len(code) - REPEATED + 1):
            run = tuple(code[start : start + REPEATED])
            if run in seen:
                line = "{}.py: {} lines stand in {}.py too, from {!r}"
                yield line.format(script, REPEATED, seen[run], run[0])
            seen[run] = script


def main():
    found = (glob.glob(os.path.join(ROOT, pattern)) for pattern in ("*.py", "*/*.py"))
    paths = sorted(os.path.relpath(path, ROOT) for some in found for path in some)
    paths = [path for path in paths if not path.startswith("tests/")]
    faults = [
        "{}: neither a script nor in a package".format(path)
        for path in paths
        if path.split("/")[0].replace(".py", "") not in FLOOR
        and "tf_boilerplate.main(" not in read(path)  # a method of your own
    ]
    for path in paths:
        faults += check_imports(path)
    faults += [*check_lengths(paths), *check_repetition()]
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
