"""Tables, Bjøntegaard deltas and rate-distortion curves of results.

    python -m study.report results/mine --output results/mine

reads per-image tables (`images.csv` of `study.run`, or any CSV with the columns image, method,
lambda or quality, est_bpp and psnr), result files of the scripts (`.npz`), published points
(`<method>-psnr.csv`: rate and PSNR, a row for each model, no header), and folders of these, also
while a study runs: means are over the images that all methods have.

It prints the means, the Bjøntegaard deltas and gains against the anchors, and of each pair of
methods how often one is better. The output folder receives all as text (report.txt), Markdown
(report.md), LaTeX (report.tex), a page (report.html), CSV (points.csv, bd.csv, gains.csv) and JSON
(report.json), and figures as PNG and SVG. `study/statistics.py` defines the numbers,
docs/studies.md explains the tables.
"""

import fnmatch
import itertools
import json
import os
import re

import numpy as np

from runtime import files
from runtime.errors import InputError
from study import command, curves, documents, figures, page, rd_figures, statistics, tables

ANCHORS = ("mbt2018", "bb_plain")  # the two models' own predictions
RATES = ("est_bpp", "net_bpp", "actual_bpp")
RATES_HELP = """rate in bits per pixel: estimated, of the files, or net, which is that of the files
less the bits that bits-back archives give back (%(default)s)"""

ERRORS = ("rate", *rd_figures.QUALITIES)  # with standard errors
POINT_COLUMNS = (
    *("dataset", "method", "rate", *(name + "_se" for name in ERRORS)),
    *(*tables.MEANS[2:], *statistics.GAINS[2:]),
)
GAIN_COLUMNS = ("dataset", "method", "anchor", "lambda", "model", *statistics.GAINS)
TEXTS = ("report.txt", "report.md", "report.tex", "report.json")
CSVS = {  # what is in the JSON too
    "points": ("points.csv", POINT_COLUMNS),
    "gains": ("gains.csv", GAIN_COLUMNS),
    "deltas": ("bd.csv", statistics.DELTAS),
}


def main(argv=None):
    args = parse(argv)
    rows, found = curves.read(args.inputs, args.dataset)
    beside = curves.read(args.published, "")[1]
    if args.published and not beside:
        names = " ".join(args.published)
        raise InputError("--published: {}: no …{} there".format(names, curves.PUBLISHED))
    table, found = select(tables.frame(tables.in_order(rows)), found, args)
    if args.rate != RATES[0] and found + beside:
        raise InputError("--rate {}: published points have {}".format(args.rate, RATES[0]))
    table, notes = curves.comparable(table)
    found = curves.of_rows(table, args.rate, args.hull) + found
    if not found:
        raise InputError("{}: no results there".format(" ".join(args.inputs)))
    names = [(curve.dataset, curve.method) for curve in found]
    if len(set(names)) < len(names):
        raise InputError("{}: {} twice".format(*max(names, key=names.count)))
    pictures = page.pictures(table, args)
    names = [*TEXTS, page.NAME, *(name for name, _ in CSVS.values())]
    paths = {name: os.path.join(args.output, name) for name in names}
    for path in paths.values():
        files.check_writable(path)

    content = {"rate": args.rate, "hull": args.hull, "anchors": args.anchor}
    content.update(gains=gains_of(table, args), deltas=compare(found, args))
    content.update(points=points_of(found, content["gains"], args.anchor[0]))
    content.update(notes=[*notes, *provenance_notes(table)])
    made = documents_of(table, content)
    for key, (name, columns) in CSVS.items():
        content[key] = [known(row) for row in content[key]]
        lines = [{**dict.fromkeys(columns, ""), **row} for row in content[key]]
        files.write_bytes(paths[name], tables.to_csv(lines, columns))
    parts = ["{}\n\n{}".format(one.title, documents.as_text(one)) for one in made]
    text = "\n\n".join([*parts, *content["notes"]])
    record = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    texts = (text + "\n", documents.markdown("Results", made), documents.latex(made), record + "\n")
    for name, one in zip(TEXTS, texts):
        files.write_bytes(paths[name], one.encode())
    drawn, notes = draw_all(table, found, beside, args)
    files.write_bytes(paths[page.NAME], page.render(made, content["notes"], drawn, pictures))
    # Last, so that nothing is lost if stdout cannot show it.
    print("\n".join([text, *notes]))
    names += map(os.path.basename, drawn)
    print("wrote {} to {}".format(", ".join(names), args.output))


def parse(argv):
    parser = command.parser("study.report", __doc__, positional="inputs [inputs ...]")
    add = parser.add_argument
    add("inputs", nargs="+", help="tables, result files, published points, or folders of these")
    add(
        "--anchor",
        nargs="+",
        metavar="METHOD",
        help="methods to compare with: the first with all others, the next with those that use its "
        "models (mbt2018, and bb_plain where it is)",
    )
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="methods to report besides the anchors, named with their flags (all)",
    )
    add("--models", nargs="+", metavar="RUNNAME", help="run folders to report, or patterns (all)")
    add("--rate", choices=RATES, default="est_bpp", help=RATES_HELP)
    add(
        "--hull",
        action="store_true",
        help="of each method the best of all models at each rate (upper convex hull)",
    )
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
    page.add_flags(parser)
    command.add_output(parser, "./report")
    return parser.parse_args(argv)


def select(table, found, args):
    """Selects rows and curves by --methods, --models and --rate, and sets `args.anchor`.

    Raises:
      InputError: a name or pattern matches nothing.
    """
    there = dict.fromkeys([*table["method"], *(curve.method for curve in found)])
    others = ANCHORS[1:] if args.anchor is None else args.anchor[1:]
    first = (args.anchor or ANCHORS)[0]
    for flag, names in (("--methods", args.methods or ()), ("--anchor", (args.anchor or [])[1:])):
        for name in names:
            if name not in there:
                line = "{}: no results of {}, but of {}"
                raise InputError(line.format(flag, name, ", ".join(there)))
    if args.models is not None:
        names = set(table["model"]) - {""}
        for pattern in args.models:
            if not fnmatch.filter(names, pattern):
                line = "--models: no results of {}, but of {}"
                raise InputError(line.format(pattern, ", ".join(sorted(names))))
        wanted = [any(fnmatch.fnmatch(m, p) for p in args.models) for m in table["model"]]
        table = table[np.array(wanted, bool) | (table["model"] == "")]
    wanted = {first, *(args.methods or there)}
    models = set(table["model"][table["method"].isin(wanted)]) - {""}
    of_models = set(table["method"][table["model"].isin(models)])
    args.anchor = [first, *(name for name in others if name in of_models and name != first)]
    wanted.update(args.anchor)
    if args.rate == "net_bpp":  # files without bits-back give nothing back
        table = table.assign(net_bpp=table["net_bpp"].fillna(table["actual_bpp"]))
    table = table[table["method"].isin(wanted)].reset_index(drop=True)
    return table, [curve for curve in found if curve.method in wanted]


def known(row):
    """The values of a dict that are there; a delta that says little is not."""
    weak = {name for name in statistics.MEASURES if name in row and statistics.partial(row, name)}
    return {k: v for k, v in row.items() if documents.is_known(v) and k not in weak}


# --- Numbers ---------------------------------------------------------------------------------


def gains_of(table, args):
    """Gains of all methods over the anchors of their models, dicts with `GAIN_COLUMNS`.

    For each λ and, with '' for λ, over all.
    """
    found = []
    for anchor in args.anchor:
        rows = statistics.gains(table, anchor)
        if anchor != args.anchor[0]:
            models = set(table["model"][table["method"] == anchor])
            rows = rows[rows["model"].isin(models)]
        for (dataset, method), of_method in rows.groupby(["dataset", "method"], sort=False):
            groups = [(("", ""), of_method), *of_method.groupby(["lambda", "model"])]
            for setting, group in groups:
                names = (dataset, method, anchor, *setting)
                found.append({**dict(zip(GAIN_COLUMNS, names)), **statistics.summary(group)})
    return found


def points_of(found, gains, anchor):
    """The points of all curves, dicts with `POINT_COLUMNS`, with gains over the first anchor."""
    keys = ("dataset", "method", "lambda", "model")
    by_point = {tuple(g[k] for k in keys): g for g in gains if g["anchor"] == anchor}
    points = []
    for curve in found:
        for index, point in enumerate(curve.points):
            gain = by_point.get(tuple(point.get(key, "") for key in keys), {})
            errors = {
                name + "_se": statistics.standard_error(values[index])
                for name, values in curve.images.items()
            }
            gain = {key: gain[key] for key in statistics.GAINS[2:] if gain and point["lambda"]}
            points.append({**point, **errors, **gain, "method": curve.method})
            points[-1]["dataset"] = curve.dataset
    return points


def compare(found, args):
    """Deltas of all curves from the anchors of their data set and models, see `DELTAS`."""
    deltas = []
    for dataset in dict.fromkeys(curve.dataset for curve in found):
        of_set = [curve for curve in found if curve.dataset == dataset]
        if not any(_is_of(curve, args.anchor[0]) for curve in of_set):
            names = ", ".join(curve.method for curve in of_set)
            line = "--anchor: {} has no {}, but {}"
            raise InputError(line.format(dataset, args.anchor[0], names))
        for anchor, curve in itertools.product(args.anchor, of_set):
            anchors = [one for one in of_set if _is_of(one, anchor)]
            # That of one model only if there is none of several.
            anchors = [one for one in anchors if one.method == anchor] or anchors
            if _is_of(curve, anchor):
                continue
            same = [one for one in anchors if _models(one) & _models(curve)]
            for one in same[:1] or (anchors[:1] if anchor == args.anchor[0] else []):
                names = {"dataset": dataset, "method": curve.method, "anchor": one.method}
                deltas.append({**statistics.delta(one, curve), **names, "rate": args.rate})
    return deltas


def _is_of(curve, method):
    return method in (curve.method, curve.points[0].get("method"))


def _models(curve):
    return {point["model"] for point in curve.points if point.get("model")}


def provenance_notes(table):
    """Lines on rows that do not compare: of several versions of the code, machines, or seeds."""
    scripts = table["method"].str.split().str[0]
    for (dataset, script), rows in table.groupby(["dataset", scripts], sort=False):
        if rows["version"].nunique() > 1:
            line = "{}, {}: rows of {} versions of the code"
            yield line.format(dataset, script, rows["version"].nunique())
    timed = table[table["seconds"].notna()]
    for dataset, rows in timed.groupby("dataset", sort=False):
        places = {" / ".join(filter(None, pair)) for pair in zip(rows["device"], rows["cpu"])}
        if len(places) > 1:
            line = "{}: seconds of {} machines: {}"
            names = sorted(place or "unknown" for place in places)
            yield line.format(dataset, len(places), ", ".join(names))
    seeds = tables.per_image(table).groupby(["dataset", "method"], sort=False)["seeds"]
    for (dataset, method), numbers in seeds:
        if numbers.nunique() > 1:
            line = "{}, {}: {} to {} seeds for each image and setting"
            yield line.format(dataset, method, numbers.min(), numbers.max())


# --- Tables ----------------------------------------------------------------------------------

NAMES = [("data set", "dataset", "{}"), ("method", "method", "{}")]


def _with_error(row, form, key, error):
    text = form.format(row[key])
    return "{} ± {:.2f}".format(text, row[error]) if documents.is_known(row[error]) else text


def _interval(row, name):
    return "{:+.2f} to {:+.2f}".format(row[name + "_low"], row[name + "_high"])


def _delta(name, form):
    def text(row):
        value = form.format(row[name])
        return "({})".format(value) if statistics.partial(row, name) else value

    return text


def documents_of(table, content):
    """The `documents.Table`s of a report."""
    several = len(content["anchors"]) > 1
    anchor = content["anchors"][0]
    bits_back = [p for p in content["points"] if documents.is_known(p.get("est_bpp_back", ""))]
    seeded = any(point.get("seeds", 1) > 1 for point in content["points"])
    against = "" if several else " against {}".format(anchor)
    versus = [("anchor", "anchor", "{}")] if several else []
    over_all = [gain for gain in content["gains"] if gain["lambda"] == ""]
    if not seeded:
        over_all = [{**gain, "seeds": ""} for gain in over_all]
    hull = ", of each method the upper convex hull of all points" if content["hull"] else ""
    partial = [
        d for d in content["deltas"] for name in statistics.MEASURES if statistics.partial(d, name)
    ]
    in_brackets = "In brackets: less than {:.0%} of the anchor's range is compared."
    made = [
        documents.Table(
            "means",
            "Means over the images (gain over {})".format(anchor),
            [
                *NAMES,
                *(("λ", "lambda", "{:g}"), ("quality", "quality", "{:g}")),
                *(("images", "images", "{:d}"), ("seeds", "seeds", "{:d}")),
                *((content["rate"], "rate", "{:.4f}"), ("PSNR", "psnr", "{:.3f}")),
                *(("MS-SSIM", "msssim", "{:.4f}"), ("λ·MSE+bpp", "est_rd_loss", "{:.4f}")),
                ("gain", "gain", lambda row: _with_error(row, "{:.2f}%", "gain", "gain_se")),
                ("seconds", "seconds", "{:.1f}"),
            ],
            content["points"] if seeded else [{**p, "seeds": ""} for p in content["points"]],
            [],
        ),
        documents.Table(
            "deltas",
            "Bjøntegaard deltas{}{}".format(against, hull),
            [
                *(*NAMES, *versus),
                ("BD-rate", "bd_rate", _delta("bd_rate", "{:+.2f}%")),
                ("95% interval", "bd_rate_low", lambda row: _interval(row, "bd_rate")),
                ("of range", "bd_rate_overlap", "{:.0%}"),
                ("BD-PSNR", "bd_psnr", _delta("bd_psnr", "{:+.3f} dB")),
                ("of range", "bd_psnr_overlap", "{:.0%}"),
                ("BD-rate (MS-SSIM)", "bd_rate_msssim", _delta("bd_rate_msssim", "{:+.2f}%")),
                ("of range", "bd_rate_msssim_overlap", "{:.0%}"),
                ("by", "interpolation", "{}"),
                ("remarks", "reason", "{}"),
            ],
            content["deltas"],
            [in_brackets.format(statistics.LEAST_OVERLAP)] if partial else [],
        ),
        documents.Table(
            "gains",
            "Gains{}, means over images and λ".format(against.replace("against", "over")),
            [
                *(*NAMES, *versus),
                *(("images", "images", "{:d}"), ("seeds", "seeds", "{:d}")),
                ("gain", "gain", lambda row: _with_error(row, "{:.2f}%", "gain", "gain_se")),
                ("95% interval", "gain_low", lambda row: _interval(row, "gain")),
                ("± over seeds", "gain_se_seeds", "{:.2f}"),
            ],
            over_all,
            [],
        ),
        *wins_of(table),
        documents.Table(
            "bits-back",
            "Rates of bits-back coding in bits per pixel: estimated, of the files, and net of the "
            "bits that they give back",
            [
                *NAMES,
                *(("λ", "lambda", "{:g}"), ("estimated", "est_bpp", "{:.4f}")),
                ("at the coded z", "est_bpp_coded", "{:.4f}"),
                *(("net", "net_bpp", "{:.4f}"), ("gross", "actual_bpp", "{:.4f}")),
            ],
            bits_back,
            [],
        ),
    ]
    return [table for table in made if table.rows]


def wins_of(table):
    """A `documents.Table` for each data set, of how often each method is better than each other."""
    for dataset, rows in table.groupby("dataset", sort=False):
        found = statistics.wins(rows)
        methods = sorted({pair[0] for pair in found}, key=tables.place)
        lines = [
            {
                "method": one,
                **{o: "{}/{}".format(*found[one, o]) for o in methods if (one, o) in found},
            }
            for one in methods
        ]
        title = "{}: in how many (image, λ) the loss of the row's method is below the column's"
        columns = [("", "method", "{}"), *((name, name, "{:s}") for name in methods)]
        yield documents.Table("wins", title.format(dataset), columns, lines, [])


# --- Figures ---------------------------------------------------------------------------------


def draw_all(table, found, beside, args):
    """Draws the figures of all data sets; returns their paths, and notes on what is not in them."""
    looks = figures.looks([curve.method for curve in found + beside])
    paths, notes, stems = [], [], set()
    for dataset in dict.fromkeys(curve.dataset for curve in found):
        of_set = [curve for curve in found if curve.dataset == dataset]
        drawn = {}
        for quality in rd_figures.QUALITIES:
            having = [curve for curve in of_set if curves.has(curve, quality)]
            others = [curve for curve in beside if curves.has(curve, quality)]
            name = quality.replace("_db", "")
            if having:
                drawn[name] = rd_figures.draw_curves(having, others, quality, args.rate, looks)
            if 0 < len(having) < len(of_set):
                names = ", ".join(curve.method for curve in of_set if curve not in having)
                notes.append("note: {}: not in the figure of {}: {}".format(dataset, name, names))
        gains = gains_by_image(table[table["dataset"] == dataset], args.anchor[0])
        if gains:
            drawn["gain"] = rd_figures.draw_gains(gains, args.anchor[0], figures.looks(gains))
        stem = file_stem(dataset, stems)
        for name, figure in drawn.items():
            path = os.path.join(args.output, "{}-{}".format(stem, name))
            paths += figures.save_all(figure, path)
    return paths, notes


def gains_by_image(table, anchor):
    """Gains over the anchor, means over λ and seeds, a dict from method to a dict by image."""
    found = statistics.gains(table, anchor).groupby(["method", "image"], sort=False)["gain"].mean()
    methods = found.index.get_level_values(0).unique()
    return {method: found[method].to_dict() for method in methods}


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


if __name__ == "__main__":
    command.run(main)
