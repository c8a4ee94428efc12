"""What SGA reaches with fewer iterations, and by which of its options.

    python -m study.budgets kodak/kodim01.png kodak/kodim05.png --crop 384x256 --output results/mine

runs sga.py with several settings for several numbers of iterations, as `study.run` does (in whose
`images.csv` they are), and prints by how much the mean loss λ·MSE + bpp falls below that of the
network's prediction. The output folder gets this as `budgets.csv`, with the seconds of a task, and
as a figure (`budgets.png`, `budgets.svg`).
"""

import os

import matplotlib.ticker

import utils
from study import command, figures, run, tables

BUDGETS = (100, 250, 500, 1000, 2000)  # iterations
SWIFT = "--fit_schedule --t_max 1 --lr_final 0.1"
SETTINGS = {  # name to the flags besides those of `flags_of`
    "default": "",
    "default, fitted": "--fit_schedule",
    "atanh": "--fit_schedule --lr_final 0.1",
    "linear": SWIFT + " --probability linear",
    "ssl": SWIFT + " --probability ssl",
    "ssl, 3 classes": SWIFT + " --probability ssl --classes 3",
}
RATES = {100: 0.05, 250: 0.05, 500: 0.02, 1000: 0.02, 2000: 0.02}  # of Adam, but for the defaults
PREDICTION = "mbt2018"

COLUMNS = ("setting", "method", "iterations", "images", "seconds", "est_rd_loss", "fall_percent")


def main(argv=None):
    args = parse(argv)
    csv_path, stem = (os.path.join(args.output, name) for name in ("budgets.csv", "budgets"))
    for path in (csv_path, stem + ".png"):
        utils.check_writable(path)
    methods = {(s, its): method_of(s, its) for s in SETTINGS for its in BUDGETS}
    known = ["--checkpoint_dir", args.checkpoint_dir, "--models", args.runname]
    if args.crop:
        known += ["--crop", "{}x{}".format(*args.crop)]
    known += ["--output", args.output, "--dataset", args.dataset]
    failed = run.main([*args.images, "--methods", PREDICTION, *methods.values(), *known])
    if failed:
        return failed
    means = tables.read_csv(os.path.join(args.output, "images.csv"), args.dataset)
    rows = falls(tables.means(r for r in means if r["dataset"] == args.dataset), methods)
    print(as_text(rows))
    utils.write_bytes(csv_path, tables.to_csv(rows, COLUMNS))
    written = [csv_path, *figures.save_all(draw(rows, args.dataset), stem)]
    print("wrote {}".format(", ".join(written)))
    return 0


def parse(argv):
    flags = ("--runname", "--checkpoint_dir", "--dataset", "--crop")
    parser = command.parser("study.budgets", __doc__, *flags)
    add = parser.add_argument
    add("images", nargs="+", help="as for study.run")
    add("--output", default="./results/budgets", metavar="DIR", help="(./results/budgets)")
    return parser.parse_args(argv)


def method_of(setting, its):
    """Script and flags of one of `SETTINGS` with so many iterations."""
    lr = "" if setting.startswith("default") else "--lr {}".format(RATES[its])
    return " ".join("sga {} --sga_its {} {}".format(SETTINGS[setting], its, lr).split())


def falls(means, methods):
    """Fall of the mean loss below the prediction's.

    Args:
      means: `tables.means` of one data set.
      methods: dict of (setting, iterations) to the method's name.

    Returns:
      list of dicts with the keys `COLUMNS`.
    """
    by_method = {mean["method"]: mean for mean in means}
    anchor = by_method[PREDICTION]["est_rd_loss"]
    rows = []
    for (setting, its), method in methods.items():
        mean = by_method[method]
        values = (mean["images"], mean["seconds"], mean["est_rd_loss"])
        fall = 100 * (1 - mean["est_rd_loss"] / anchor)
        rows.append(dict(zip(COLUMNS, (setting, method, its, *values, fall))))
    return rows


def as_text(rows):
    """The falls as a Markdown table, settings by iterations."""
    lines = ["| | {} |".format(" | ".join(map(str, BUDGETS))), "|---" * (1 + len(BUDGETS)) + "|"]
    for setting in SETTINGS:
        cells = ["{:.2f}%".format(r["fall_percent"]) for r in rows if r["setting"] == setting]
        lines.append("| {} | {} |".format(setting, " | ".join(cells)))
    return "\n".join(lines)


def draw(rows, title):
    """The falls against iterations and against seconds."""
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
    figure.suptitle("{}, mean of {} images".format(title, rows[0]["images"]))
    return figure


if __name__ == "__main__":
    command.run(main)
