"""The tables of a report."""

from study import documents, statistics, tables

NAMES = [("data set", "dataset", "{}"), ("method", "method", "{}")]


def make(table, content):
    """The `documents.Table`s of a report.

    Args:
      table: a `tables.frame` of comparable rows.
      content: dict with `rate`, `hull`, `anchors`, and the lists of dicts `points`, `deltas` and
        `gains`.
    """
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
        *_wins(table),
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


def _wins(table):
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
