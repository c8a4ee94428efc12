"""Learning curves of training runs: the validation loss by step.

    python -m study.learning_curves runs/*/* --output curves

reads `validation.csv` of run folders (training with `--val_glob`) and draws the loss λ·MSE + bpp,
one panel for each λ. Steps of a run that started from another model's weights (`--init_from`) count
from the steps of that model. The output is a figure, as PNG and SVG.
"""

import collections
import json
import math
import os

import matplotlib.ticker

from runtime import files
from runtime.errors import InputError
from study import command, figures
from training import validation

MOST = 1.2  # losses above this multiple of the lowest of a panel lie outside of it

Run = collections.namedtuple("Run", "script parent lmbda steps losses")
Run.__doc__ = """Measurements of a run.

script: its training script; parent: name of the folder that holds its run folder; steps: of the
model, those before `--init_from` included; losses: λ·MSE + bpp, means over the validation images.
"""


def main(argv=None):
    args = parse(argv)
    for ending in figures.FORMATS:
        files.check_writable("{}.{}".format(args.output, ending))
    runs = [read(folder) for folder in args.folders]
    print("wrote {}".format(", ".join(figures.save_all(draw(runs), args.output))))


def parse(argv):
    parser = command.parser("study.learning_curves", __doc__, positional="folders [folders ...]")
    parser.add_argument("folders", nargs="+", type=os.path.expanduser, help="run folders")
    command.add_output(parser, "./learning_curves", "STEM", "figure to write, without .png ")
    return parser.parse_args(argv)


def read(folder):
    """The `Run` in a folder.

    Raises:
      InputError: it has no measurements that are finite, or no readable args.json.
    """
    measured = validation.read_log(folder)
    if not measured:
        raise InputError("{}: no {} there; --val_glob writes it".format(folder, validation.LOG))
    path = os.path.join(folder, "args.json")
    try:
        settings = json.loads(files.read_bytes(path).decode())
        lmbda, start = float(settings["lmbda"]), int(settings.get("init_from_step", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("{}: not the settings of a training ({!r})".format(path, error))
    latest = [
        row
        for row in measured
        if row["images"] == measured[-1]["images"] and math.isfinite(row["rd_loss"])
    ]
    if not latest:
        line = "{}: no finite loss of the images measured last"
        raise InputError(line.format(os.path.join(folder, validation.LOG)))
    steps, losses = zip(*((start + row["step"], row["rd_loss"]) for row in latest))
    above, name = os.path.split(os.path.abspath(folder))
    return Run(name.split("-")[0], os.path.basename(above), lmbda, steps, losses)


def draw(runs):
    """Draws the curves of `Run`s, a panel for each λ."""
    lambdas = sorted({run.lmbda for run in runs})
    columns = min(len(lambdas), 2)
    rows = -(-len(lambdas) // columns)
    size = (5 * columns, 3.2 * rows)
    figure, axes = figures.subplots(rows, columns, figsize=size, squeeze=False)
    looks = figures.looks([run.script for run in runs])
    for panel, lmbda in zip(axes.flat, lambdas):
        drawn = [run for run in runs if run.lmbda == lmbda]
        for run in drawn:
            same = [other for other in drawn if other.script == run.script]
            label = run.script if len(same) == 1 else "{}, {}".format(run.script, run.parent)
            dashes = figures.LINES[same.index(run) % len(figures.LINES)]
            look = {**looks[run.script], "markersize": 3, "linestyle": dashes}
            if len(run.steps) > 30:
                look["marker"] = None
            panel.plot(run.steps, run.losses, **look, label=figures.plain(label))
        # New weights begin far above; the axis is for what comes after.
        shown = [loss for run in drawn for loss in run.losses]
        shown = [loss for loss in shown if loss <= MOST * min(shown)]
        margin = 0.05 * (max(shown) - min(shown)) or 0.01
        panel.set_ylim(min(shown) - margin, max(shown) + margin)
        panel.set_title("λ = {:g}".format(lmbda))
        panel.set_xlabel("steps")
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        panel.set_ylabel("λ·MSE + bpp")
        panel.legend()
    for panel in list(axes.flat)[len(lambdas) :]:
        panel.set_visible(False)
    return figure


if __name__ == "__main__":
    command.run(main)
