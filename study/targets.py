"""How well targets are met, what a step brings, and a picture of a given size by several codecs.

    python -m study.targets rates 'kodak/kodim0[1-6].png' --crop 192x128
    python -m study.targets hits 'kodak/kodim0[1-6].png' --crop 192x128 --method 'ste --lr 5e-3'
    python -m study.targets steps 'kodak/kodim0[1-6].png' --crop 192x128 --models '*=64-*'
    python -m study.targets picture kodak/kodim07.png --bytes 6000

`rates` asks for five rates, as factors of a plain run's, and compares each result with that of an
oracle, which bisects λ with whole runs at fixed λ: the error of the rate, the iterations in units
of a run's, and by how much λ·MSE + bpp, at the λ of the oracle, is larger. `hits` asks for five
sizes in bytes and five PSNRs, by any method. `steps` lets one model serve λ from 1/16 to 16 times
its own, by λ alone and by λ and step, and compares that with the models trained for each λ
(BD-rate, and a figure). `picture` draws files of JPEG, WebP and JPEG 2000 too, of at most the same
size.
"""

import os
import tempfile

import numpy as np

import utils
from imaging import codecs, panels
from imaging.reading import read_image
from inference import scripts
from inference.methods import find_method
from inference.targets import Target
from model import checkpoints
from runtime import files
from runtime.errors import InputError
from study import command, curves, documents, figures, inputs, statistics, tables, tasks

FACTORS = (0.5, 0.7, 0.85, 1.0, 1.1)  # rates asked for, relative to those of plain runs
LAMBDAS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)  # of one model, relative to its own
BISECTIONS = 9
CLOSE = 0.002  # relative error of the rate at which the oracle stops
RATES = ("error", "oracle_error", "iterations", "seconds", "lambda", "oracle_lambda", "loss")


class Runs:
    """Runs a method on one image, in fresh processes.

    Args:
      image: an `inputs.Image`.
      method: script and flags.
      args: the command line.
      folder: for the image and the results.
    """

    def __init__(self, image, method, args, folder):
        self._script, self._flags = tasks.split(method)
        self.folder, self._dir = folder, args.checkpoint_dir
        self._path = os.path.join(folder, image.name + ".png")
        utils.write_png(self._path, inputs.read(image))

    def result_if_met(self, runname, *flags):
        """The result of one run; None if the script says that it misses the target."""
        try:
            return self.result(runname, *flags)
        except SystemExit as error:
            if error.code != 2:
                raise
            return None

    def result(self, runname, *flags, checkpoint_dir=None):
        """The result of one run, a dict."""
        argv = (self._script, runname, self._path, self.folder, *self._flags, *flags)
        folder = checkpoint_dir or self._dir
        return tables.load(scripts.compress(*argv, checkpoint_dir=folder, quiet=True))


def value(result, key):
    return float(result[key][0])


def run_of(method, runname):
    """The run of the same N and λ whose model a method takes."""
    folder, name = os.path.split(runname)
    kind, dash, rest = name.partition("-")
    if kind in scripts.MODELS:
        name = find_method(tasks.split(method)[0]).model_class.name + dash + rest
    return os.path.join(folder, name)


# --- Rates -----------------------------------------------------------------------------------


def oracle(runs, runname, key, rate, lmbda):
    """The plain run with this rate (`key`), by bisection of log λ around that of a model."""
    low, high = np.log(lmbda / 300), np.log(lmbda * 300)
    best = None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        result = runs.result(runname, "--lambda", np.exp(middle))
        error = value(result, key) / rate - 1
        if best is None or abs(error) < abs(best[0]):
            best = error, result
        if abs(error) < CLOSE:
            break
        low, high = (low, middle) if error > 0 else (middle, high)
    return best[1]


def rates(args):
    """Yields rows, dicts, of every image and rate."""
    runname = run_of(args.method, args.runname)
    for image in inputs.find(args.images, args.crop):
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(image, args.method, args, folder)
            plain = runs.result(runname)
            key = "net_bpp" if "net_bpp" in plain else "actual_bpp"
            for factor in FACTORS:
                rate = round(factor * value(plain, key), 4)
                row = {"image": image.name, "factor": factor, "rate": rate}
                met = runs.result_if_met(runname, "--target_bpp", rate)
                if not met:
                    yield {**row, **dict.fromkeys(RATES, np.nan)}
                    continue
                best = oracle(runs, runname, key, rate, float(plain["lmbda"]))
                lmbda = float(best["lmbda"])
                losses = [lmbda * value(r, "mse") + value(r, "est_bpp") for r in (met, best)]
                its = float(plain["sga_its"])
                values = (
                    value(met, key) / rate - 1,
                    value(best, key) / rate - 1,
                    1 + float(met["more_its"]) / its,
                    value(met, "seconds") / value(plain, "seconds"),
                    value(met, "lmbda_found"),
                    lmbda,
                    losses[0] / losses[1] - 1,
                )
                yield {**row, **dict(zip(RATES, values))}


def summary(rows):
    """A `documents.Table` of the rows of `rates`, a line for each factor."""
    lines = []
    for factor in FACTORS:
        of_factor = [row for row in rows if row["factor"] == factor]
        met = [row for row in of_factor if not np.isnan(row["error"])]
        line = {"factor": factor, "met": _of(met, of_factor)}
        if met:
            column = {key: np.array([row[key] for row in met]) for key in RATES}
            line["error"] = 100 * np.abs(column["error"]).max()
            line["iterations"] = column["iterations"].max()
            line["seconds"] = column["seconds"].mean()
            line["loss"], line["worst"] = 100 * column["loss"].mean(), 100 * column["loss"].max()
        lines.append(line)
    columns = [
        ("rate", "factor", "{:g}"),
        ("met", "met", "{}"),
        ("largest error", "error", "{:.2f}%"),
        ("most iterations", "iterations", "{:.2f}"),
        ("seconds", "seconds", "{:.2f}"),
        ("loss over the oracle's", "loss", "{:+.2f}%"),
        ("at worst", "worst", "{:+.2f}%"),
    ]
    title = "Targets: rates, iterations and seconds in units of those of a plain run"
    return documents.Table("targets", title, columns, lines, [])


def hits(args):
    """Yields rows, dicts, of every image, method, kind of target and target."""
    for image in inputs.find(args.images, args.crop):
        for method in args.methods:
            with tempfile.TemporaryDirectory() as folder:
                runs = Runs(image, method, args, folder)
                yield from _hits_of(runs, image, method, run_of(method, args.runname))


def _hits_of(runs, image, method, runname):
    output = os.path.join(runs.folder, "out.tfci")
    plain = runs.result(runname, output)
    size, psnr = _size(plain, output), value(plain, "psnr")
    # At the optimum, ∂MSE/∂bpp = -1/λ.
    slope = value(plain, "est_bpp") / (float(plain["lmbda"]) * value(plain, "mse"))
    for factor in FACTORS:
        aims = {
            "max_bytes": int(factor * size),
            "target_psnr": round(psnr + 10 / np.log(10) * slope * (factor - 1), 2),
        }
        for kind, aim in aims.items():
            row = {"method": method, "image": image.name, "kind": kind, "factor": factor}
            row.update({"aim": aim, "reached": np.nan, "met": 0, "seconds": np.nan})
            found = runs.result_if_met(runname, output, "--" + kind, aim)
            if found:
                is_size = kind == "max_bytes"
                row["reached"] = _size(found, output) if is_size else value(found, "psnr")
                target = Target(kind, aim, image.height * image.width)
                log = target.log(8 * row["reached"], row["reached"])
                row["met"] = int(target.side(log) == 0)
                row["seconds"] = value(found, "seconds") / value(plain, "seconds")
            yield row


def _size(result, output):
    """Bytes of a file; for bits-back coding, less what it gives back."""
    size = os.path.getsize(output)
    if "net_bpp" in result:
        size *= value(result, "net_bpp") / value(result, "actual_bpp")
    return size


def hit_summary(rows):
    """A `documents.Table` of the rows of `hits`, a line for each method and kind of target."""
    lines = []
    for method, kind in dict.fromkeys((row["method"], row["kind"]) for row in rows):
        same = [row for row in rows if (row["method"], row["kind"]) == (method, kind)]
        met = [row for row in same if row["met"]]
        line = {"method": method, "kind": "--" + kind, "met": _of(met, same)}
        if kind == "max_bytes":
            line["over"] = str(sum(row["reached"] > row["aim"] for row in same))
        if met:
            aims, reached, seconds = (
                np.array([row[key] for row in met]) for key in ("aim", "reached", "seconds")
            )
            if kind == "max_bytes":
                line["error"] = "{:.2f}%".format(100 * (1 - reached / aims).max())
            else:
                line["error"] = "{:.3f} dB".format(np.abs(reached - aims).max())
            line["seconds"] = np.median(seconds)
        lines.append(line)
    columns = [
        ("method", "method", "{}"),
        ("target", "kind", "{}"),
        ("met", "met", "{}"),
        ("too large", "over", "{}"),
        ("largest error", "error", "{}"),
        ("seconds", "seconds", "{:.2f}"),
    ]
    title = "Targets: median of the seconds in units of those of a plain run"
    return documents.Table("hits", title, columns, lines, [])


def _of(some, all_):
    return "{} of {}".format(len(some), len(all_))


def _short(row):
    return [(key, v if isinstance(v, str) else "{:.4g}".format(v)) for key, v in row.items()]


# --- Steps -----------------------------------------------------------------------------------


def steps(args):
    """Yields rows, dicts, of every image and way to change the rate."""
    models = tasks.find_models(args.checkpoint_dir, args.models)
    models = [model for model in models if model.kind == "mbt2018" and model.lmbda]
    if not models:
        raise InputError("--models: none is a base model with a λ in its name")
    models.sort(key=lambda model: model.lmbda)
    one = models[len(models) // 2]
    ways = {
        "λ": [(one, one.lmbda * f, 1) for f in LAMBDAS],
        "λ and step": [(one, one.lmbda * f, "auto") for f in LAMBDAS],
        "models": [(model, model.lmbda, 1) for model in models],
    }
    for image in inputs.find(args.images, args.crop):
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(image, args.method, args, folder)
            for way, settings in ways.items():
                for model, lmbda, step in settings:
                    flags = ("--lambda", lmbda, "--step", step)
                    result = runs.result(model.name, *flags, checkpoint_dir=model.folder)
                    row = {"image": image.name, "way": way, "model": model.name}
                    row.update({"lambda": lmbda, "step": float(result["step"])})
                    row.update({key: value(result, key) for key in ("est_bpp", "psnr")})
                    yield row


def mean_curves(rows):
    """Means over the images of the rows of `steps`: a dict from way to rates and PSNR, arrays."""
    found = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        points = {}
        for row in rows:
            if row["way"] == way:
                points.setdefault((row["model"], row["lambda"]), []).append(row)
        means = [
            [np.mean([row[key] for row in same]) for key in ("est_bpp", "psnr")]
            for same in points.values()
        ]
        found[way] = np.array(means).T
    return found


def step_summary(rows):
    """A `documents.Table` of the rows of `steps`, a line for each way."""
    lines, found = [], mean_curves(rows)
    for way, (bpp, psnr) in found.items():
        line = {"way": way, "from": bpp.min(), "to": bpp.max()}
        line.update({"lowest": psnr.min(), "highest": psnr.max()})
        if way != "λ":
            delta = statistics.delta(*(_curve(name, found[name]) for name in ("λ", way)))
            line.update(rate=delta["bd_rate"], psnr=delta["bd_psnr"], note=delta["reason"])
        lines.append(line)
    columns = [
        ("varied", "way", "{}"),
        ("least bpp", "from", "{:.3f}"),
        ("most bpp", "to", "{:.3f}"),
        ("least PSNR", "lowest", "{:.2f}"),
        ("most PSNR", "highest", "{:.2f}"),
        ("BD-rate to λ alone", "rate", "{:+.1f}%"),
        ("BD-PSNR", "psnr", "{:+.2f} dB"),
        ("remarks", "note", "{}"),
    ]
    return documents.Table("steps", "One model at many rates", columns, lines, [])


def _curve(way, points):
    """A `curves.Curve` of means, from an array (2, n) of rates and PSNR."""
    points = [{"rate": bpp, "psnr": psnr} for bpp, psnr in sorted(points.T.tolist())]
    return curves.Curve("", way, points, {}, True)


def draw_steps(rows):
    """Draws the mean curves of the rows of `steps`."""
    figure, panel = figures.subplots(figsize=(6, 4))
    for (way, (bpp, psnr)), colour, marker in zip(
        mean_curves(rows).items(), figures.COLOURS[1:], figures.MARKERS
    ):
        panel.plot(bpp, psnr, color=colour, marker=marker, markersize=4, label=way)
    panel.set_xlabel("bits per pixel")
    panel.set_ylabel("PSNR [dB]")
    panel.legend()
    return figure


# --- One picture -----------------------------------------------------------------------------


def picture(args):
    """Draws the image, the method's file and those of other codecs, all of at most --bytes."""
    if not args.bytes:
        raise InputError("--bytes: needed, the size of the files")
    images = inputs.find(args.images, args.crop)
    if len(images) != 1:
        raise InputError("picture: takes one image, not {}".format(len(images)))
    image = images[0]
    path = os.path.join(args.output, "{}-{}-bytes.png".format(image.name, args.bytes))
    files.check_writable(path)
    pixels = inputs.read(image)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(image, args.method, args, folder)
        output = os.path.join(folder, "out.tfci")
        runname = run_of(args.method, args.runname)
        result = runs.result(runname, output, "--max_bytes", args.bytes)
        decoded = output + ".png"
        script = tasks.split(args.method)[0]
        there = checkpoints.run_folders(args.checkpoint_dir, runname)
        (name,) = (name for name in there if os.path.basename(name) == str(result["runname"]))
        scripts.run(
            script, "--checkpoint_dir", args.checkpoint_dir, "decompress", name, output, decoded
        )
        name = args.method + (" (net size)" if "net_bpp" in result else "")
        found.append((name, round(_size(result, output)), read_image(decoded)))
    for name, content, pixels_decoded in codecs.within_size(pixels, args.bytes):
        found.append((name, len(content), pixels_decoded))
    shown = [("original, {} bytes".format(pixels.size), pixels)]
    for name, size, pixels_decoded in found:
        label = "{}, {} bytes, {:.2f} dB".format(name, size, codecs.psnr(pixels, pixels_decoded))
        shown.append((label, pixels_decoded))
        print(label)
    panels.write(path, shown)
    print("wrote " + path)


# --- The command -----------------------------------------------------------------------------


USED = {  # for each part, the flag of the method that it needs, and options that others lack
    "rates": ("target_bpp", ("runname",)),
    "hits": ("max_bytes", ("runname",)),
    "steps": ("step", ("models",)),
    "picture": ("max_bytes", ("runname", "bytes")),
}
DEFAULTS = {"runname": scripts.demo_run("mbt2018"), "models": ["mbt2018-*"], "bytes": 0}
PARTS = {"rates": (rates, summary), "hits": (hits, hit_summary), "steps": (steps, step_summary)}


def check(args):
    """Refuses what a part of this command would not use; sets defaults of what it uses.

    Raises:
      InputError: an option is of another part, or the method lacks the flag that is needed.
    """
    flag, options = USED[args.part]
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif name not in options:
            raise InputError("--{}: not for {}".format(name, args.part))
    args.method = args.methods[0]
    if len(args.methods) > 1 and args.part != "hits":
        raise InputError("--method: {} takes one".format(args.part))
    for name in args.methods:
        method = find_method(tasks.split(name)[0])
        is_fixed = args.part in ("rates", "hits") and not method.flags
        if flag not in method.objective_flags or is_fixed:
            raise InputError("--method {}: has no --{} to choose".format(name, flag))


def main(argv=None):
    args = parse(argv)
    check(args)
    if args.part == "picture":
        picture(args)
        return
    stem, rows = os.path.join(args.output, args.part), []
    begun = stem + "-begun.csv"  # of a table that is not complete yet
    drawn = figures.FORMATS if args.part == "steps" else ()
    for ending in ("-begun.csv", ".csv", ".md", *("." + suffix for suffix in drawn)):
        files.check_writable(stem + ending)
    measure, summarise = PARTS[args.part]
    for row in measure(args):
        rows.append(row)
        print("  ".join("{} {}".format(*item) for item in _short(row)), flush=True)
        files.write_bytes(begun, tables.to_csv(rows, list(row)))
    os.replace(begun, stem + ".csv")
    print("wrote {}.csv".format(stem))
    text = documents.as_markdown(summarise(rows)) + "\n"
    files.write_bytes(stem + ".md", text.encode())
    print(text, end="")
    if drawn:
        print("wrote {}".format(", ".join(figures.save_all(draw_steps(rows), stem))))


def parse(argv):
    parser = command.parser("study.targets", __doc__, "--checkpoint_dir")
    add = parser.add_argument
    add("part", choices=tuple(USED))
    add("images", nargs="+", help="image files, folders or patterns")
    add("--crop", type=command.size, metavar="WxH", help="take centre crops of this size")
    text = "script and its flags; for hits, several if you like ({})"
    usual = "sga --preset fast"
    add("--method", dest="methods", nargs="+", default=[usual], help=text.format(usual))
    text = "run folder, or for picture a pattern of them ({})"
    add("--runname", help=text.format(DEFAULTS["runname"]))
    add("--models", nargs="+", help="run folders, for steps ({})".format(*DEFAULTS["models"]))
    add("--bytes", type=command.positive, help="size of the files, for picture")
    command.add_output(parser, "./targets")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
