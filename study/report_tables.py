"""The tables of a report."""

from study import documents, statistics, tables

METHOD = ("method", "method", "{}")
MOST_WINS = 20  # a wider table is too wide to read
COUNTS = [("images", "images", "{:d}"), ("seeds", "seeds", "{:d}")]


def make(table, content):
    """The `documents.Table`s of a report.

    Args:
      table: a `tables.frame` of comparable rows.
      content: dict with `rate`, `hull`, `anchors`, and the lists of dicts `points`, `deltas` and
        `gains`.
    """
    datasets = list(dict.fromkeys(row["dataset"] for row in content["points"]))
    several = len(content["anchors"]) > 1
    names = [("data set", "dataset", "{}"), METHOD] if len(datasets) > 1 else [METHOD]
    versus = [*names, ("anchor", "anchor", "{}")] if several else names
    against = "" if several else " against {}".format(content["anchors"][0])
    made = [
        _means(names, content),
        _deltas(versus, "Bjøntegaard deltas" + against, content),
        _gains(versus, "Gains, means over images and λ" + against, content),
        _bits_back(names, content),
    ]
    if len(datasets) == 1:
        made = [one._replace(title="{} ({})".format(one.title, *datasets)) for one in made]
    groups = enumerate(table.groupby("dataset", sort=False), 1)
    made[3:3] = [_wins("wins-{}".format(n), *group) for n, group in groups]
    return [one for one in made if one.rows]


def _means(names, content):
    title = "Means over the images, gains against {}".format(content["anchors"][0])
    columns = [
        *names,
        *(("λ", "lambda", "{:g}"), ("quality", "quality", "{:g}"), *COUNTS),
        *((content["rate"], "rate", "{:.4f}"), ("PSNR", "psnr", "{:.3f}")),
        *(("MS-SSIM", "msssim", "{:.4f}"), ("λ·MSE+bpp", "est_rd_loss", "{:.4f}")),
        *(("gain", "gain", _with_error("gain")), ("seconds", "seconds", "{:.2f}")),
    ]
    return documents.Table("means", title, columns, _without_one_seed(content["points"]), [])


def _deltas(names, title, content):
    rows, notes = content["deltas"], []
    if any(statistics.partial(row, name) for row in rows for name in statistics.MEASURES):
        line = "In brackets: less than {:.0%} of the anchor's range is compared."
        notes = [line.format(statistics.LEAST_OVERLAP)]
    if content["hull"]:
        title += ", of each method the upper convex hull of all points"
    columns = [
        *names,
        ("BD-rate", "bd_rate", _delta("bd_rate", "{:+.2f}%")),
        ("95% interval", "bd_rate_low", _interval("bd_rate")),
        ("of range", "bd_rate_overlap", "{:.0%}"),
        ("BD-PSNR", "bd_psnr", _delta("bd_psnr", "{:+.3f} dB")),
        ("of range", "bd_psnr_overlap", "{:.0%}"),
        ("BD-rate (MS-SSIM)", "bd_rate_msssim", _delta("bd_rate_msssim", "{:+.2f}%")),
        ("of range", "bd_rate_msssim_overlap", "{:.0%}"),
        *(("by", "interpolation", "{}"), ("remarks", "reason", "{}")),
    ]
    return documents.Table("deltas", title, columns, rows, notes)


def _gains(names, title, content):
    rows = _without_one_seed([gain for gain in content["gains"] if gain["lambda"] == ""])
    columns = [
        *(*names, *COUNTS, ("gain", "gain", _with_error("gain"))),
        ("95% interval", "gain_low", _interval("gain")),
        ("± over seeds", "gain_se_seeds", "{:.2f}"),
    ]
    return documents.Table("gains", title, columns, rows, [])


def _wins(name, dataset, rows):
    """How often each method is better than each other; empty of more than `MOST_WINS` methods."""
    found = statistics.wins(rows)
    methods = sorted({pair[0] for pair in found}, key=tables.place)
    methods = methods if len(methods) <= MOST_WINS else []
    title = "In how many (image, λ) the loss of the row's method is below the column's ({})"
    lines = []
    for one in methods:
        cells = {o: "{}/{}".format(*found[one, o]) for o in methods if (one, o) in found}
        lines.append({None: one, **cells})
    columns = [("", None, "{}"), *((name, name, "{:s}") for name in methods)]
    return documents.Table(name, title.format(dataset), columns, lines, [])


def _bits_back(names, content):
    title = "Rates of bits-back coding in bits per pixel: estimated, net and gross"
    notes = ["Gross: of the files. Net: of the files less the bits that they give back."]
    rows = [p for p in content["points"] if documents.is_known(p.get("est_bpp_back", ""))]
    columns = [
        *(*names, ("λ", "lambda", "{:g}"), ("estimated", "est_bpp", "{:.4f}")),
        ("at the coded z", "est_bpp_coded", "{:.4f}"),
        *(("net", "net_bpp", "{:.4f}"), ("gross", "actual_bpp", "{:.4f}")),
    ]
    return documents.Table("bits-back", title, columns, rows, notes)


# --- Cells -----------------------------------------------------------------------------------


def _without_one_seed(rows):
    """Rows without `seeds` if all have one."""
    if any(row.get("seeds", 1) > 1 for row in rows):
        return rows
    return [{**row, "seeds": ""} for row in rows]


def _with_error(key):
    def text(row):
        error = row[key + "_se"]
        return "{:.2f}%".format(row[key]) + (
            " ± {:.2f}".format(error) if documents.is_known(error) else ""
        )

    return text


def _interval(name):
    return lambda row: "{:+.2f} to {:+.2f}".format(row[name + "_low"], row[name + "_high"])


def _delta(name, form):
    def text(row):
        value = form.format(row[name])
        return "({})".format(value) if statistics.partial(row, name) else value

    return text
