"""The gain of SGA with fewer iterations, for several of its options.

    python -m study.budgets kodak/kodim01.png kodak/kodim05.png --crop 384x256

runs sga.py with several settings for several numbers of iterations, through `study.run` (whose
`images.csv` holds the results), and prints by how much the mean loss λ·MSE + bpp falls below that
of the network's prediction. The output folder receives these numbers as `budgets.csv`, with the
seconds per image (without starting the process and building the graph), and as a figure
(`budgets.png`, `budgets.svg`).
"""

import os

import matplotlib.ticker

from model import checkpoints
from runtime import files
from study import command, figures, run, tables

BUDGETS = (100, 250, 500, 1000, 2000)  # iterations
RATES = {100: 0.05, 250: 0.05, 500: 0.02, 1000: 0.02, 2000: 0.02}  # learning rates of Adam
DECAY = "--fit_schedule --lr_final 0.1 --lr {lr}"
SWIFT = DECAY + " --t_max 1"
SETTINGS = {  # name to flags; {lr} is filled in from `RATES`
    "default": "",
    "default, fitted": "--fit_schedule",
    "atanh": DECAY,
    "linear": SWIFT + " --probability linear",
    "ssl": SWIFT + " --probability ssl",
    "ssl, 3 classes": SWIFT + " --probability ssl --classes 3",
}
PREDICTION = "mbt2018"

COLUMNS = ("setting", "method", "iterations", "images", "seconds", "est_rd_loss", "fall_percent")


def main(argv=None):
    args = parse(argv)
    csv_path, stem = (os.path.join(args.output, name) for name in ("budgets.csv", "budgets"))
    for path in (csv_path, stem + ".png", stem + ".svg"):
        files.check_writable(path)
    methods = {(setting, its): method_of(setting, its) for setting in SETTINGS for its in BUDGETS}
    args.methods = [PREDICTION, *methods.values()]
    args.models = [checkpoints.find_run(args.checkpoint_dir, args.runname).name]
    found, failed = run.study(args)
    if failed:
        print("{} tasks failed: no table of budgets, and no figure".format(failed))
        return 1
    rows = falls(tables.means(found), methods)
    print(as_text(rows))
    files.write_bytes(csv_path, tables.to_csv(rows, COLUMNS))
    written = [csv_path, *figures.save_all(draw(rows, args.dataset), stem)]
    print("wrote {}".format(", ".join(written)))
    return 0


def parse(argv):
    parser = command.parser(
        "study.budgets", __doc__, "--runname", "--checkpoint_dir", positional="images [images ...]"
    )
    run.add_flags(parser, "./results/budgets")
    return run.parsed(parser, argv)


def method_of(setting, its):
    """Script and flags of one of `SETTINGS` with `its` iterations."""
    flags = SETTINGS[setting].format(lr=RATES[its])
    return " ".join("sga {} --sga_its {}".format(flags, its).split())


def falls(means, methods):
    """The fall of the mean loss below that of the prediction.

    Args:
      means: `tables.means` of one data set and model.
      methods: dict from (setting, iterations) to the method's name.

    Returns:
      list of dicts with the keys `COLUMNS`.
    """
    by_method = {mean["method"]: (mean, fall) for mean, fall in tables.gains(means, PREDICTION)}
    rows = []
    for (setting, its), method in methods.items():
        mean, fall = by_method[method]
        values = (mean["images"], mean["seconds"], mean["est_rd_loss"])
        rows.append(dict(zip(COLUMNS, (setting, method, its, *values, fall))))
    return rows


def as_text(rows):
    """The falls as a Markdown table, settings by iterations, the largest of each column in bold."""

    def cell(row):
        rivals = [r["fall_percent"] for r in rows if r["iterations"] == row["iterations"]]
        text = "{:.2f}%".format(row["fall_percent"])
        return "**{}**".format(text) if row["fall_percent"] == max(rivals) else text

    lines = ["| | {} |".format(" | ".join(map(str, BUDGETS))), "|---" * (1 + len(BUDGETS)) + "|"]
    for setting in SETTINGS:
        cells = [cell(row) for row in rows if row["setting"] == setting]
        lines.append("| {} | {} |".format(setting, " | ".join(cells)))
    return "\n".join(lines)


def draw(rows, title):
    """Plots the falls against iterations and against seconds."""
    figure, axes = figures.subplots(1, 2, figsize=(11, 5), sharey=True)
    looks = figures.looks(SETTINGS)
    for axis, key in zip(axes, ("iterations", "seconds")):
        for setting in SETTINGS:
            points = [(r[key], r["fall_percent"]) for r in rows if r["setting"] == setting]
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
    axes[0].set_ylabel("fall of λ·MSE + bpp below the prediction's, %")
    axes[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(figures.plain("{}, mean of {} images".format(title, rows[0]["images"])))
    return figure


if __name__ == "__main__":
    command.run(main)
