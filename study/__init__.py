"""Studies of many images, models and methods, with figures of the results.

    python -m study.run            methods × models × images, on the cores of a machine or a cluster
    python -m study.same_size      PSNR above classical codecs at the same file size
    python -m study.report         tables, BD-rate and rate-distortion curves of results
    python -m study.budgets        the gain of SGA with fewer iterations
    python -m study.traces         the course of the optimisation, method against method
    python -m study.learning_curves  the validation loss of training runs, by step
    python -m study.look           one image coded by two methods, with maps of the bits
    python -m study.targets        how well targets are met, and what a step brings
    python -m study.sga_landscape  the loss over two latents, and SGA's path through it

These need the packages of `requirements-study.txt`; each has a `--help`. What a study is made of:

    inputs.py         images, and their pixels         tasks.py          image × method × model
    codecs.py         classical codecs as methods      schedule.py       order of tasks, time left
    cluster.py        Dask, here or on a cluster       execution.py      a task, in a Dask worker
    serve.py          a script for several images      versions.py       digest of a result's code

What reports are made of:

    tables.py         rows of results, CSV, means      curves.py         rate-distortion curves
    selection.py      rows that can be compared        statistics.py     gains, intervals, deltas
    report_tables.py  the tables of a report           documents.py      text, Markdown, LaTeX
    rd_figures.py     the figures of a report          figures.py        style of all figures
    page.py           report.html, its template        command.py        command lines
"""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile

from runtime import files
from runtime.errors import InputError

for _name in ("bjontegaard", "distributed", "jinja2", "matplotlib", "pandas", "tabulate"):
    if importlib.util.find_spec(_name) is None:
        _line = "study: the package {} is missing; `make study-setup` installs it, or {}"
        print(_line.format(_name, "pip install -r requirements-study.txt"), file=sys.stderr)
        sys.exit(2)


def _give_matplotlib_a_folder():
    """A temporary folder for its files, where it has none: else it would warn of that."""
    for variable, beside in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        base = os.environ.get(variable) or os.path.join(os.path.expanduser("~"), beside)
        try:
            files.check_folder(os.path.join(base, "matplotlib"))
        except InputError:
            folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return


if not os.environ.get("MPLCONFIGDIR"):
    _give_matplotlib_a_folder()
