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

import itertools
import json
import os

from runtime import files
from runtime.errors import InputError
from study import (
    command,
    curves,
    documents,
    page,
    rd_figures,
    report_tables,
    selection,
    statistics,
    tables,
)

RATES = ("est_bpp", "net_bpp", "actual_bpp")
RATES_HELP = """rate in bits per pixel: estimated, of the files, or net, which is that of the files
less the bits that bits-back archives give back (net_bpp beside classical codecs, else est_bpp)"""

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
    rows = tables.in_order(tables.with_digests(rows))
    table, found = selection.select(tables.frame(rows), found, args)
    if args.rate != RATES[0] and found + beside:
        raise InputError("--rate {}: published points have {}".format(args.rate, RATES[0]))
    table, notes = selection.comparable(table)
    found = curves.of_rows(table, args.rate, args.hull) + found
    if not found:
        raise InputError("{}: no results there".format(" ".join(args.inputs)))
    names = [(curve.dataset, curve.method) for curve in found]
    if len(set(names)) < len(names):
        raise InputError("{}: {} twice".format(*max(names, key=names.count)))
    names = [*TEXTS, page.NAME, *(name for name, _ in CSVS.values())]
    paths = {name: os.path.join(args.output, name) for name in names}
    for path in paths.values():
        files.check_writable(path)

    content = {"rate": args.rate, "hull": args.hull, "anchors": args.anchor}
    content.update(gains=gains_of(table, args), deltas=compare(found, args))
    content.update(points=points_of(found, content["gains"], args.anchor[0]))
    content.update(notes=[*notes, *selection.provenance_notes(table)])
    made = report_tables.make(table, content)
    pictures = page.pictures(table, args)
    for key, (name, columns) in CSVS.items():
        content[key] = [known(row) for row in content[key]]
        lines = [{**dict.fromkeys(columns, ""), **row} for row in content[key]]
        files.write_bytes(paths[name], tables.to_csv(lines, columns))
    parts = ["{}\n\n{}".format(one.title, documents.as_text(one)) for one in made]
    text = "\n\n".join([*parts, *content["notes"]])
    record = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    markdown = documents.markdown("Results", made, content["notes"])
    texts = (text, markdown, documents.latex(made, content["notes"]), record)
    for name, one in zip(TEXTS, texts):
        files.write_bytes(paths[name], one.encode() + b"\n")
    drawn, notes = rd_figures.draw_all(table, found, beside, args)
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
    add("--rate", choices=RATES, help=RATES_HELP)
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


if __name__ == "__main__":
    command.run(main)
