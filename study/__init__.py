"""Studies of many images, models and methods, with figures of the results.

    python -m study.run            methods × models × images, on the cores of a machine or a cluster
    python -m study.report         tables, BD-rate and rate-distortion curves of results
    python -m study.budgets        the gain of SGA with fewer iterations
    python -m study.traces         the course of the optimisation, method against method
    python -m study.look           one image coded by two methods, with maps of the bits
    python -m study.sga_landscape  the loss over two latents, and SGA's path through it

These need the packages of `requirements-study.txt`; each has a `--help`.
"""

import importlib.util
import sys

for _name in ("bjontegaard", "distributed", "matplotlib"):
    if importlib.util.find_spec(_name) is None:
        _line = "study: the package {} is missing; `make study-setup` installs it, or {}"
        print(_line.format(_name, "pip install -r requirements-study.txt"), file=sys.stderr)
        sys.exit(2)
