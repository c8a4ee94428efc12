"""The gain of SGA with fewer iterations, for several of its options.

    python -m study.budgets kodak/kodim01.png kodak/kodim05.png --crop 384x256

runs sga.py with several settings for several numbers of iterations, through `study.run` (whose
`images.csv` holds the results), and prints the gain over the network's prediction: by how much the
loss λ·MSE + bpp lies below, mean over the images. The output folder receives these numbers as
`budgets.csv`, with the seconds per image (without starting the process and building the graph), as
a table in Markdown (`budgets.md`), and as a figure (`budgets.png`, `budgets.svg`). With `--redraw`
nothing runs: table and figure are made of the results that are there.
"""

import os

import matplotlib.ticker

from model import checkpoints
from runtime import console, files
from runtime.errors import InputError
from study import command, documents, figures, run, statistics, tables

BUDGETS = (100, 250, 500, 1000, 2000)  # iterations
RATES = {100: 0.05, 250: 0.05, 500: 0.02, 1000: 0.02, 2000: 0.02}  # learning rates of Adam
STEPS = (  # each changes one thing: name, flag, and its value, which replaces an earlier one
    ("default", None, None),
    ("schedule fitted", "--fit_schedule", ""),
    ("higher rate", "--lr", "{lr}"),
    ("which decays", "--lr_final", "0.1"),
    ("T from 1", "--t_max", "1"),
    ("linear", "--probability", "linear"),
    ("ssl", "--probability", "ssl"),
    ("3 classes", "--classes", "3"),
)


def cumulative(steps):
    """The flags of each of `steps` with those of the steps before it: dict from name to str."""
    flags, settings = {}, {}
    for name, flag, value in steps:
        if flag:
            flags[flag] = value
        settings[name] = " ".join(" ".join(pair).strip() for pair in flags.items())
    return settings


SETTINGS = cumulative(STEPS)  # {lr} is filled in from `RATES`
PREDICTION = "mbt2018"

COLUMNS = ("setting", "method", "iterations", "seconds", "est_rd_loss", *statistics.GAINS)


def main(argv=None):
    args = parse(argv)
    csv_path, text_path, stem = (
        os.path.join(args.output, name) for name in ("budgets.csv", "budgets.md", "budgets")
    )
    for path in (csv_path, text_path, stem + ".png", stem + ".svg"):
        files.check_writable(path)
    methods = {(setting, its): method_of(setting, its) for setting in SETTINGS for its in BUDGETS}
    if args.redraw:
        found, failed = tables.read_csv(os.path.join(args.output, "images.csv"), args.dataset), 0
        model = os.path.basename(os.path.normpath(args.runname))
        found = [row for row in found if (row["dataset"], row["model"]) == (args.dataset, model)]
    else:
        checkpoints.find_run(args.checkpoint_dir, args.runname)
        args.methods, args.models = [PREDICTION, *methods.values()], [args.runname]
        found, failed = run.study(args)
    if failed:
        print("{} tasks failed: no table of budgets, and no figure".format(failed))
        return 1
    rows = gains(found, methods)
    text = as_text(rows)
    print(text)
    files.write_bytes(csv_path, tables.to_csv(rows, COLUMNS))
    files.write_bytes(text_path, text.encode() + b"\n")
    written = [csv_path, text_path, *figures.save_all(draw(rows, args.dataset), stem)]
    print("wrote {}".format(", ".join(written)))
    return 0


def parse(argv):
    parser = command.parser(
        "study.budgets", __doc__, "--runname", "--checkpoint_dir", positional="images [images ...]"
    )
    run.add_flags(parser, "./results/budgets")
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="run nothing: of the results in --output",
    )
    return run.parsed(parser, argv)


def method_of(setting, its):
    """Script and flags of one of `SETTINGS` with `its` iterations."""
    flags = SETTINGS[setting].format(lr=RATES[its])
    return " ".join("sga {} --sga_its {}".format(flags, its).split())


def gains(rows, methods):
    """The gain of each setting over the prediction.

    Args:
      rows: rows of a table, of one data set and model.
      methods: dict from (setting, iterations) to the method's name.

    Returns:
      list of dicts with the keys `COLUMNS`.

    Raises:
      InputError: a method has no rows of images that the prediction has too, or no image has rows
        of all methods.
    """
    found = statistics.gains(tables.frame(rows), PREDICTION)
    images = {m: set(found["image"][found["method"] == m]) for m in methods.values()}
    for method, there in images.items():
        if not there:
            raise InputError("{}: no results, or none of {}".format(method, PREDICTION))
    common = set.intersection(*images.values())
    if any(there != common for there in images.values()):
        if not common:
            raise InputError("no image has results of all methods")
        names = ", ".join(sorted(common))
        console.note("only these images have results of all methods: " + names)
    found = found[found["image"].isin(common)]
    made = []
    for (setting, its), method in methods.items():
        of_method = found[found["method"] == method]
        means = (float(of_method[key].mean()) for key in ("seconds", "est_rd_loss"))
        names = (setting, method, its, *means)
        made.append({**dict(zip(COLUMNS, names)), **statistics.summary(of_method)})
    return made


def as_text(rows):
    """The gains as a Markdown table, settings by iterations, the largest of each column in bold."""

    def cell(its):
        best = max(row["gain"] for row in rows if row["iterations"] == its)
        return lambda line: ("**{:.2f}%**" if line[its] == best else "{:.2f}%").format(line[its])

    lines = []
    for setting in SETTINGS:
        of_setting = {row["iterations"]: row["gain"] for row in rows if row["setting"] == setting}
        lines.append({"setting": setting, **of_setting})
    columns = [("", "setting", "{}"), *((str(its), its, cell(its)) for its in BUDGETS)]
    return documents.as_markdown(documents.Table("budgets", "", columns, lines, []))


def draw(rows, title):
    """Plots the falls against iterations and against seconds."""
    figure, axes = figures.subplots(1, 2, figsize=(11, 5), sharey=True)
    looks = figures.looks(SETTINGS)
    for axis, key in zip(axes, ("iterations", "seconds")):
        for setting in SETTINGS:
            points = [(r[key], r["gain"]) for r in rows if r["setting"] == setting]
            axis.plot(*zip(*points), **looks[setting], label=setting)
        axis.set_xscale("log")
    axes[0].set_xlabel("iterations")
    axes[0].set_xticks(BUDGETS)
    axes[0].set_xticklabels(BUDGETS)
    axes[1].set_xlabel("seconds per image")
    axes[1].xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter("{x:g}")
    for axis in axes:
        axis.minorticks_off()
    axes[0].set_ylabel("gain over the prediction, %")
    axes[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(figures.plain("{}, mean of {} images".format(title, rows[0]["images"])))
    return figure


if __name__ == "__main__":
    command.run(main)
