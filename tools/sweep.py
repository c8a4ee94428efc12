"""What the options and presets of SGA reach, and in how many iterations: `make sweep`.

`budgets` runs sga.py with several settings for several numbers of iterations, prints the fall of
the loss, writes it to a CSV file and draws it. `presets` compares the presets of sga.py and
bb_sga.py with the defaults at two λ. Runs that are there already are not repeated.
"""

import argparse
import csv
import os
import sys

import bench
import numpy as np
import scripts

import utils

BASE, BITS_BACK = (scripts.demo_run(name) for name in ("mbt2018", "mbt2018_bb"))
MODELS = {"sga": (BASE, "mbt2018"), "bb_sga": (BITS_BACK, "bb_plain")}  # and who only predicts

BUDGETS = [100, 250, 500, 1000, 2000]
SWIFT = "--fit_schedule --t_max 1 --lr_final 0.1"
SETTINGS = {
    "default": "",
    "default, fitted": "--fit_schedule",
    "atanh": "--fit_schedule --lr_final 0.1",
    "linear": SWIFT + " --probability linear",
    "ssl": SWIFT + " --probability ssl",
    "ssl, 3 classes": SWIFT + " --probability ssl --classes 3",
}
RATES = {100: 0.05, 250: 0.05, 500: 0.02, 1000: 0.02, 2000: 0.02}  # of Adam, but for the defaults

PRESETS = {"default": "", "fast": "--preset fast", "best": "--preset best"}
LAMBDAS = [0.01, 0.005]


class Runs:
    """Runs of the scripts on one set of images, each in a folder of its own.

    Args:
      output: folder of all.
      images: uint8 (n, H, W, 3).
    """

    def __init__(self, output, images):
        self.folder = os.path.join(output, "{}-images".format(len(images)))
        os.makedirs(self.folder, exist_ok=True)
        self.path = os.path.join(self.folder, "images.npy")
        with utils.atomic_write(self.path) as file:
            np.save(file, images)
        self.sha256 = utils.file_sha256(self.path)

    def result(self, script, run, flags=""):
        """The result file as a dict."""
        folder = os.path.join(self.folder, " ".join([script, *flags.split()]).replace(" --", ","))
        path = os.path.join(folder, "result.npz")
        if os.path.exists(path):
            with np.load(path) as result:
                if result["input_sha256"] == self.sha256:
                    return dict(result)
        print("running {} {}".format(script, flags), file=sys.stderr, flush=True)
        os.replace(scripts.compress(script, run, self.path, folder, *flags.split()), path)
        return self.result(script, run, flags)


def fall(result, anchor):
    """Percent by which the mean loss lies below that of the prediction."""
    return 100 * (1 - result["est_rd_loss"].mean() / anchor["est_rd_loss"].mean())


def flags_of(setting, its):
    lr = "" if setting.startswith("default") else " --lr {}".format(RATES[its])
    return "{} --sga_its {}{}".format(SETTINGS[setting], its, lr).strip()


# --- Budgets ---------------------------------------------------------------------------------


def budgets(images, args):
    runs = Runs(args.output, images)
    run, predictor = MODELS["sga"]
    anchor = runs.result(predictor, run)
    results = {
        setting: [runs.result("sga", run, flags_of(setting, its)) for its in BUDGETS]
        for setting in SETTINGS
    }
    falls = {setting: [fall(result, anchor) for result in row] for setting, row in results.items()}
    milliseconds = iteration_times(images.shape[1:3], args.turns)

    print("| | {} |".format(" | ".join(map(str, BUDGETS))))
    print("|---" * (1 + len(BUDGETS)) + "|")
    for setting, row in falls.items():
        print("| {} | {} |".format(setting, " | ".join("{:.2f}%".format(value) for value in row)))
    best = [max(falls, key=lambda setting, i=i: falls[setting][i]) for i in range(len(BUDGETS))]
    print("| best | {} |".format(" | ".join(best)))
    print("| seconds | {} |".format(" | ".join(_seconds(milliseconds, i) for i in BUDGETS)))

    default = results["default"][-1]
    course = 100 * (1 - default["rd_loss_after_rounding"] / anchor["est_rd_loss"][:, None])
    with open(os.path.join(args.report, "sga-budgets.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["setting", "flags", "iterations", "seconds", "est_rd_loss", "fall_percent"]
        )
        for setting, row in results.items():
            for its, result, value in zip(BUDGETS, row, falls[setting]):
                seconds = _seconds(milliseconds, its)
                loss = "{:.6f}".format(result["est_rd_loss"].mean())
                flags = flags_of(setting, its)
                writer.writerow([setting, flags, its, seconds, loss, "{:.4f}".format(value)])
    draw(os.path.join(args.report, "sga-budgets.png"), falls, default["its"], course, milliseconds)


def _seconds(milliseconds, its):
    return "{:.1f}".format(its * milliseconds / 1e3)


def iteration_times(size, turns):
    """Median milliseconds of an iteration of sga.py with the demo model."""
    with bench.workers(bench.Worker(bench.our_iteration, scripts.CHECKPOINTS, BASE, *size)) as made:
        return bench.take_turns(made, turns, 10)[0]


MARKERS = "osD^vP"


def draw(path, falls, its, course, milliseconds):
    """Fall of the loss against iterations, and seconds above.

    Args:
      path: of the PNG.
      falls: dict of setting to a list for `BUDGETS`, in percent.
      its: (n,) iterations of the default's record.
      course: (images, n) fall of the loss after rounding at these.
      milliseconds: of an iteration.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    axes.plot(its + 1, course.mean(axis=0), color="0.6", label="default, on its way to 2000")
    for (setting, values), marker in zip(falls.items(), MARKERS):
        axes.plot(BUDGETS, values, marker=marker, label=setting)
    axes.set_xscale("log")
    axes.set_xlim(80, 2300)
    axes.set_ylim(bottom=0)
    axes.set_xticks(BUDGETS)
    axes.set_xticklabels(BUDGETS)
    axes.minorticks_off()
    axes.set_xlabel("iterations")
    axes.set_ylabel("fall of λ·MSE + bpp below the prediction's, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    seconds = axes.secondary_xaxis(
        "top", functions=(lambda n: n * milliseconds / 1e3, lambda s: s * 1e3 / milliseconds)
    )
    seconds.set_xlabel("seconds per image")
    seconds.set_xticks([n * milliseconds / 1e3 for n in BUDGETS])
    seconds.set_xticklabels([_seconds(milliseconds, n) for n in BUDGETS])
    figure.savefig(path, dpi=120)


# --- Presets ---------------------------------------------------------------------------------


def presets(images, args):
    runs, alone = Runs(args.output, images), Runs(args.output, images[:1])
    rows = []
    for script, (run, predictor) in MODELS.items():
        for lmbda in LAMBDAS:
            anchor = runs.result(predictor, run, "--lambda {}".format(lmbda))
            for preset, flags in PRESETS.items():
                flags = "{} --lambda {}".format(flags, lmbda).strip()
                rows.append((script, lmbda, preset, runs.result(script, run, flags), anchor))
    # Not taken from the runs above, beside which other work may have run.
    seconds = {
        (script, preset): alone.result(script, MODELS[script][0], flags)["seconds"][0]
        for script in MODELS
        for preset, flags in PRESETS.items()
    }
    print("| script | λ | preset | est. bpp | PSNR | λ·MSE + bpp | fall | seconds |")
    print("|---" * 8 + "|")
    for script, lmbda, preset, result, anchor in rows:
        line = "| {}.py | {} | {} | {:.4f} | {:.3f} | {:.4f} | {:.2f}% | {:.0f} |"
        means = (result[key].mean() for key in ("est_bpp", "psnr", "est_rd_loss"))
        values = (*means, fall(result, anchor), seconds[script, preset])
        print(line.format(script, lmbda, preset, *values))


SWEEPS = {"budgets": budgets, "presets": presets}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=SWEEPS)
    parser.add_argument("images", nargs="+", help="image files, of which the middle is taken")
    parser.add_argument("--crop", default="384x256", help="its width x height")
    parser.add_argument("--output", default="sweep", help="folder for the runs")
    parser.add_argument("--report", default=".", help="folder for CSV and figure")
    parser.add_argument("--turns", type=int, default=10, help="in which iterations are timed")
    args = parser.parse_args()
    os.makedirs(args.report, exist_ok=True)
    SWEEPS[args.what](scripts.centre_crops(args.images, args.crop), args)


if __name__ == "__main__":
    main()
