"""Means, Bjøntegaard deltas and rate-distortion curves of results.

    python -m study.report results/mine --output results/mine

reads per-image tables (`images.csv` of `study.run`, or any CSV with the columns image, method,
lambda, est_bpp and psnr), result files of the scripts (`.npz`), published points
(`<method>-psnr.csv`: rate and PSNR, a row for each model, no header), and folders of these. It
prints the means over the images, with the gain of each method (by how much the loss λ·MSE + bpp,
always with the estimated rate, lies below the anchor's at the same λ), and the BD-rate and
BD-PSNR against the anchor. The output folder receives both as text (report.txt), CSV (points.csv,
bd.csv) and JSON (report.json), and figures as PNG and SVG.

BD-rate is the mean difference of the logarithm of the rate at equal quality, BD-PSNR that of the
quality at equal logarithm of the rate, between curves through the points of two methods. With
`--interpolation cubic` these are polynomials of degree 3 (least squares; Bjøntegaard 2001,
VCEG-M33), with pchip and akima piecewise ones through all points. Default: cubic, or pchip where
the two differ by more than 2 percentage points of BD-rate, which a line says: polynomials through
points of curves that saturate go anywhere.
"""

import fnmatch
import json
import os
import re

import numpy as np

from inference import scripts
from runtime import files
from runtime.errors import InputError
from study import command, curves, figures, tables

RATES = ("est_bpp", "net_bpp", "actual_bpp")
RATES_HELP = """rate in bits per pixel: estimated, of the files, or net, which is that of the files
less the bits that bits-back archives give back (%(default)s)"""
LEAST_OVERLAP = 0.75  # below this, a note says that a delta covers only part of the curves

POINT_COLUMNS = ("dataset", "method", "rate", *tables.MEANS[2:], "gain")
DELTA_COLUMNS = ("dataset", "method", "anchor", "rate", "interpolation", *curves.Delta._fields)


def main(argv=None):
    args = parse(argv)
    rows, found = select(*curves.read(args.inputs, args.dataset), args)
    rows = tables.in_order(rows)
    if args.rate == "net_bpp":  # files without bits-back give nothing back
        rows = [{**r, "net_bpp": r.get("net_bpp", "") or r.get("actual_bpp", "")} for r in rows]
    beside = curves.read(args.published, "")[1]
    if args.rate != RATES[0] and found + beside:
        raise InputError("--rate {}: published points have {}".format(args.rate, RATES[0]))
    found = curves.of_rows(rows, args.rate) + found
    if not found:
        raise InputError("{}: no results there".format(" ".join(args.inputs)))
    names = [(curve.dataset, curve.method) for curve in found]
    if len(set(names)) < len(names):
        raise InputError("{}: {} twice".format(*max(names, key=names.count)))
    if args.published and not beside:
        names = " ".join(args.published)
        raise InputError("--published: {}: no …{} there".format(names, curves.PUBLISHED))
    names = ["report.txt", "points.csv", "bd.csv", "report.json"]
    paths = [os.path.join(args.output, name) for name in names]
    for path in paths:
        files.check_writable(path)

    points = [
        {"dataset": curve.dataset, "method": curve.method, **point}
        for curve in found
        for point in curve.points
    ]
    for point, gain in tables.gains(points, args.anchor, "dataset", "lambda"):
        point["gain"] = gain
    deltas = compare(found, args)
    text = "{}\n{}".format(means_text(points, args.rate), deltas_text(deltas, args))
    text = "\n".join([text, *provenance_notes(rows)])
    report = {
        "rate": args.rate,
        "anchor": args.anchor,
        "interpolation": args.interpolation or curves.INTERPOLATIONS[0],
        "points": [{k: v for k, v in point.items() if _is_known(v)} for point in points],
        "deltas": deltas,
    }
    contents = (
        text.encode() + b"\n",
        tables.to_csv([{**dict.fromkeys(POINT_COLUMNS, ""), **p} for p in points], POINT_COLUMNS),
        tables.to_csv(
            [{k: "" if v is None else v for k, v in d.items()} for d in deltas], DELTA_COLUMNS
        ),
        json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n",
    )
    for path, content in zip(paths, contents):
        files.write_bytes(path, content)
    figure_paths, notes = draw_all(rows, found, beside, args)
    # Last, so that nothing is lost if stdout cannot show it.
    print("\n".join([text, *notes]))
    paths += figure_paths
    print("wrote {} to {}".format(", ".join(map(os.path.basename, paths)), args.output))


def parse(argv):
    parser = command.parser("study.report", __doc__, positional="inputs [inputs ...]")
    add = parser.add_argument
    add("inputs", nargs="+", help="tables, result files, published points, or folders of these")
    add("--anchor", default="mbt2018", metavar="METHOD", help="method to compare with (mbt2018)")
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="methods to report besides the anchor, named with their flags (all)",
    )
    add("--models", nargs="+", metavar="RUNNAME", help="run folders to report, or patterns (all)")
    add("--rate", choices=RATES, default="est_bpp", help=RATES_HELP)
    add(
        "--interpolation",
        choices=curves.INTERPOLATIONS,
        help="of the curves for the deltas (cubic, or pchip where they differ much)",
    )
    add("--common", action="store_true", help="only the images that all methods and λ have")
    add(
        "--published",
        nargs="+",
        default=[],
        metavar="PATH",
        help="published points to add to the figures, such as results/kodak",
    )
    add(
        "--dataset",
        default="images",
        type=tables.as_text,
        help="name of a data set that has none (%(default)s)",
    )
    command.add_output(parser, "./report")
    return parser.parse_args(argv)


def select(rows, found, args):
    """Selects rows and curves by --methods, --models and --common.

    Raises:
      InputError: a name or pattern matches nothing.
    """
    if args.methods is not None:
        there = dict.fromkeys([*(row["method"] for row in rows), *(c.method for c in found)])
        for method in args.methods:
            if method not in there:
                names = ", ".join(there)
                raise InputError("--methods: no results of {}, but of {}".format(method, names))
        wanted = {*args.methods, args.anchor}
        rows = [row for row in rows if row["method"] in wanted]
        found = [curve for curve in found if curve.method in wanted]
    if args.models is not None:
        names = {row.get("model", "") for row in rows}
        wanted = set()
        for pattern in args.models:
            matching = fnmatch.filter(names, pattern)
            if not matching:
                names = ", ".join(sorted(names))
                raise InputError("--models: no results of {}, but of {}".format(pattern, names))
            wanted.update(matching)
        rows = [row for row in rows if row.get("model", "") in wanted]
    return curves.in_common(rows) if args.common else rows, found


def _is_known(value):
    """Whether a value is present and can be written as JSON."""
    return value not in ("", None) and (not isinstance(value, float) or np.isfinite(value))


# --- Tables ----------------------------------------------------------------------------------


def compare(found, args):
    """Deltas of all curves against the anchor of their data set, dicts with `DELTA_COLUMNS`."""
    anchors = {curve.dataset: curve for curve in found if curve.method == args.anchor}
    deltas = []
    for curve in found:
        if curve.method == args.anchor:
            continue
        if curve.dataset not in anchors:
            raise InputError(
                "--anchor: {} has no {}, but {}".format(
                    curve.dataset,
                    args.anchor,
                    ", ".join(c.method for c in found if c.dataset == curve.dataset),
                )
            )
        used = args.interpolation or curves.INTERPOLATIONS[0]
        value, note = curves.delta(anchors[curve.dataset], curve, used), {}
        if used == "cubic":
            pchip = curves.delta(anchors[curve.dataset], curve, "pchip")
            doubt = curves.doubt(value, pchip)
            if doubt and not args.interpolation:
                value, used = pchip, "pchip"
            if doubt:
                note = {"note": "{}; shown is {}".format(doubt, used)}
        names = (curve.dataset, curve.method, args.anchor, args.rate, used)
        deltas.append({**dict(zip(DELTA_COLUMNS, names)), **value._asdict(), **note})
    return deltas


def means_text(points, rate):
    """The points as an aligned text table."""
    columns = [
        ("data set", "dataset", "{}"),
        ("method", "method", "{}"),
        ("λ", "lambda", "{:g}"),
        ("images", "images", "{}"),
        (rate, "rate", "{:.4f}"),
        ("PSNR", "psnr", "{:.3f}"),
        ("MS-SSIM", "msssim", "{:.4f}"),
        ("λ·MSE+bpp", "est_rd_loss", "{:.4f}"),
        ("gain", "gain", "{:.2f}%"),
        ("seconds", "seconds", "{:.1f}"),
    ]
    return _aligned(columns, points)


def deltas_text(deltas, args):
    """The deltas as an aligned text table, with notes on them."""
    columns = [
        ("data set", "dataset", "{}"),
        ("method", "method", "{}"),
        ("BD-rate", "bd_rate", "{:+.2f}%"),
        ("BD-PSNR", "bd_psnr", "{:+.3f} dB"),
        ("BD-rate (MS-SSIM)", "bd_rate_msssim", "{:+.2f}%"),
        ("overlap", "overlap", "{:.0%}"),
    ]
    lines = [_aligned(columns, deltas)]
    if not deltas:
        lines = []
    else:
        interpolation = args.interpolation or curves.INTERPOLATIONS[0]
        lines.append("Against {}; {} interpolation.".format(args.anchor, interpolation))
    for delta in deltas:
        name = "{}, {}: ".format(delta["dataset"], delta["method"])
        if "note" in delta:
            lines.append(name + delta["note"])
        if delta["reason"]:
            lines.append(name + delta["reason"])
        elif delta["overlap"] < LEAST_OVERLAP:
            lines.append(
                name
                + "compared over {:.0%} of the PSNR that the two curves cover".format(
                    delta["overlap"]
                )
            )
    return "\n".join(lines)


def provenance_notes(rows):
    """Lines on rows that do not compare: of several versions of the code, or machines."""
    versions, machines = {}, {}
    for row in rows:
        script = (row["dataset"], row["method"].split()[0])
        versions.setdefault(script, set()).add(row.get("version", ""))
        if row.get("seconds", "") != "":
            where = " / ".join(filter(None, (row.get("device", ""), row.get("cpu", ""))))
            machines.setdefault(row["dataset"], set()).add(where or "unknown")
    for (dataset, script), found in versions.items():
        if len(found) > 1:
            line = "{}, {}: rows of {} versions of the code"
            yield line.format(dataset, script, len(found))
    for dataset, found in machines.items():
        if len(found) > 1:
            line = "{}: seconds of {} machines: {}"
            yield line.format(dataset, len(found), ", ".join(sorted(found)))


def _aligned(columns, rows):
    """A table as text: the first two columns left-aligned, the others right-aligned.

    Args:
      columns: list of (header, key, format).
      rows: list of dicts; a missing value is shown as a dash.
    """
    header = [name for name, _, _ in columns]
    lines = [[_cell(row.get(key, ""), form) for _, key, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *lines)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [header, *lines]
    )


def _cell(value, form):
    return form.format(value) if _is_known(value) else "–"


# --- Figures ---------------------------------------------------------------------------------

QUALITIES = {"psnr": "PSNR, dB", "msssim_db": "MS-SSIM, dB (−10 log₁₀(1 − MS-SSIM))"}


def draw_all(rows, found, beside, args):
    """Draws the figures of all data sets; returns their paths, and notes on what is not in them."""
    looks = figures.looks([curve.method for curve in found + beside], scripts.METHODS)
    paths, notes, stems = [], [], set()
    for dataset in dict.fromkeys(curve.dataset for curve in found):
        of_set = [curve for curve in found if curve.dataset == dataset]
        drawn = {}
        for quality in QUALITIES:
            having = [curve for curve in of_set if curves.has(curve, quality)]
            others = [curve for curve in beside if curves.has(curve, quality)]
            name = quality.replace("_db", "")
            if having:
                drawn[name] = draw_curves(having, others, quality, args.rate, looks)
            if 0 < len(having) < len(of_set):
                names = ", ".join(curve.method for curve in of_set if curve not in having)
                notes.append("note: {}: not in the figure of {}: {}".format(dataset, name, names))
        gains = gains_by_image([row for row in rows if row["dataset"] == dataset], args.anchor)
        if gains:
            drawn["gain"] = draw_gains(gains, args.anchor, looks)
        stem = file_stem(dataset, stems)
        for name, figure in drawn.items():
            path = os.path.join(args.output, "{}-{}".format(stem, name))
            paths += figures.save_all(figure, path)
    return paths, notes


def file_stem(dataset, taken):
    """What the names of a data set's figures begin with, none of `taken`, to which it is added.

    A data set's name may be a path; its figures are in the output folder all the same.
    """
    plain = stem = re.sub(r"[/\\]", "-", dataset.replace(", ", "-"))
    number = 1
    while stem in taken:
        number += 1
        stem = "{}-{}".format(plain, number)
    taken.add(stem)
    return stem


def draw_curves(found, beside, quality, rate, looks):
    """Draws rate-distortion curves of a data set, and nearby parts of those `beside`, in pale."""
    figure, axes = figures.subplots(figsize=(9, 5.5))
    for curve in found:
        label = figures.plain(curve.method)
        axes.plot(*_columns(curve, quality), **looks[curve.method], label=label)
    rates = [point["rate"] for curve in found for point in curve.points]
    low, high = 0.8 * min(rates), 1.2 * max(rates)
    for curve in beside:
        label = "{} ({})".format(curve.method, curve.dataset)
        look = {**looks[curve.method], "linestyle": ":", "alpha": 0.5, "zorder": 1.5}
        axes.plot(*_columns(curve, quality), **look, label=figures.plain(label))
    if beside:
        axes.set_xlim(low, high)
        _fit_height(axes)
    axes.set_xlabel("rate, bits per pixel ({})".format(rate))
    axes.set_ylabel(QUALITIES[quality])
    axes.set_title(figures.plain(found[0].dataset))
    axes.legend(**figures.BESIDE)
    return figure


def _fit_height(axes):
    """Limits the y axis to the range of the lines between the limits of the x axis."""
    low, high = axes.get_xlim()
    seen = []
    for line in axes.get_lines():
        x, y = line.get_data()
        if min(x) <= high and max(x) >= low:
            ends = np.clip((low, high), min(x), max(x))
            seen += [*np.interp(ends, x, y), *y[(x >= low) & (x <= high)]]
    margin = 0.05 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - margin, max(seen) + margin)


def _columns(curve, quality):
    return zip(*((point["rate"], point[quality]) for point in curve.points))


def gains_by_image(rows, anchor):
    """Percentage by which the loss λ·MSE + bpp lies below the anchor's, averaged over all λ.

    Returns:
      dict from method to a dict from image to percentage. Rows without a loss are left out.
    """
    found = {}
    for row, gain in tables.gains(rows, anchor, "lambda", "image"):
        found.setdefault(row["method"], {}).setdefault(row["image"], []).append(gain)
    return {
        method: {image: float(np.mean(values)) for image, values in by_image.items()}
        for method, by_image in found.items()
    }


MOST_NAMES = 40  # image names that fit below an axis


def draw_gains(gains, anchor, looks):
    """Plots each method's gain on each image, sorted by the gain of the method with the largest."""
    best = max(gains, key=lambda method: np.mean(list(gains[method].values())))
    images = sorted(gains[best], key=gains[best].get)
    figure, axes = figures.subplots(figsize=(max(8, min(16, 0.35 * len(images))), 5))
    axes.axhline(0, color="0.5", linewidth=1)
    for method, by_image in gains.items():
        values = [by_image.get(image, np.nan) for image in images]
        mean = np.mean(list(by_image.values()))
        label = figures.plain("{} (mean {:.2f}%)".format(method, mean))
        axes.plot(range(len(images)), values, **{**looks[method], "linestyle": ""}, label=label)
    below = figures.plain(anchor)
    axes.set_ylabel("fall of λ·MSE + bpp below that of {}, mean over λ, %".format(below))
    if len(images) <= MOST_NAMES:
        axes.set_xticks(range(len(images)))
        axes.set_xticklabels([figures.plain(image) for image in images], rotation=45, ha="right")
    else:
        by = figures.plain(best)
        axes.set_xlabel("{} images, by the gain of {}".format(len(images), by))
    axes.legend(**figures.BESIDE)
    return figure


if __name__ == "__main__":
    command.run(main)
