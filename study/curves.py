"""Rate-distortion curves, and Bjøntegaard deltas between them."""

import collections
import glob
import os
import warnings

import bjontegaard
import numpy as np

from runtime.errors import InputError
from study import tables

BD_POINTS = 4  # needed per curve: a polynomial of degree 3 has 4 coefficients
INTERPOLATIONS = ("cubic", "pchip", "akima")
PUBLISHED = "-psnr.csv"  # suffix of files of published points

Curve = collections.namedtuple("Curve", "dataset method points")
Curve.__doc__ = """A method's means on a data set, in order of increasing rate.

points: list of dicts with `rate` (bits per pixel), `psnr` (dB), and any other known values.
"""


# --- Input -----------------------------------------------------------------------------------


def read(paths, dataset):
    """Reads rows and published curves from files and folders.

    Args:
      paths: per-image tables (`tables.read_csv`), result files, files of published points, or
        folders of these.
      dataset: name of the data set for files that do not name theirs.

    Returns:
      rows: list of dicts (`tables.COLUMNS`).
      curves: list of `Curve`, the published points.

    Raises:
      InputError: a file is missing or of another kind, or a folder has none of these.
    """
    rows, curves, results = [], [], []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(
                name
                for pattern in ("images.csv", "*.npz", "*" + PUBLISHED)
                for name in glob.glob(os.path.join(glob.escape(path), pattern))
            )
            if not inside:
                raise InputError(
                    "{}: no images.csv (which study.run writes), .npz or …{} in this "
                    "folder".format(path, PUBLISHED)
                )
        else:
            inside = [path]
        for name in inside:
            if name.endswith(".npz"):
                results.append(name)
            elif name.endswith(PUBLISHED):
                curves.append(read_published(name))
            else:
                rows += tables.read_csv(name, dataset)
    labels = tables.labels([tables.load(name) for name in results])
    for name, label in zip(results, labels):
        rows += tables.rows_of_result(name, dataset, label)
    return rows, sorted(curves, key=lambda curve: (curve.dataset, *tables.place(curve.method)))


def read_published(path):
    """Reads a `Curve` from a file of points: rate and PSNR, one row for each model, no header.

    Method and data set are named by file and folder: `kodak/sga-psnr.csv` is sga on kodak.
    """
    points = []
    for number, line in enumerate(tables.read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            rate, psnr = (float(cell) for cell in line.split(","))
        except ValueError:
            raise InputError(
                "{}: line {}: not two numbers, est_bpp and PSNR: {}".format(path, number, line)
            )
        points.append({"rate": rate, "psnr": psnr})
    if not points:
        raise InputError("{}: no points".format(path))
    folder, name = os.path.split(tables.as_text(os.path.abspath(path)))
    method = name[: -len(PUBLISHED)]
    if not method.strip():
        raise InputError("{}: has to be called <method>{}".format(path, PUBLISHED))
    dataset = "{}, published".format(os.path.basename(folder))
    return _curve(dataset, method, points, path)


def of_rows(rows, rate):
    """Makes the `Curve`s of means over the images, in the order of `rows`.

    Args:
      rows: as `read` returns them.
      rate: column to use as the rate.

    Raises:
      InputError: a value is missing or not finite, a λ has several points, or the means are over
        different images.
    """
    for row in rows:
        for key in ("lambda", rate, "psnr"):
            value = row.get(key, "")
            if value == "" or not np.isfinite(value):
                raise InputError(
                    "{}, {}, λ = {:g}: image {} has {} for {}".format(
                        row["dataset"],
                        row["method"],
                        row["lambda"],
                        row["image"],
                        "nothing" if value == "" else value,
                        key,
                    )
                )
    points = collections.OrderedDict()
    for mean in tables.means(rows):
        where = "{}, {}, λ = {:g}".format(mean["dataset"], mean["method"], mean["lambda"])
        curve = points.setdefault((mean["dataset"], mean["method"]), [])
        for other in curve:
            if other["lambda"] == mean["lambda"]:
                names = [" ".join((m["model"], m["checkpoint_sha256"][:8])) for m in (other, mean)]
                raise InputError(
                    "{}: of two checkpoints, {} and {}; --models picks a run by its name".format(
                        where, *names
                    )
                )
        curve.append({**mean, "rate": mean[rate]})
    _check_same_images(rows)
    return [_curve(*key, curve, "{}, {}".format(*key)) for key, curve in points.items()]


def _check_same_images(rows):
    """Raises `InputError` unless all points of a data set are means over the same images."""
    sets, pixels = collections.OrderedDict(), {}
    for row in rows:
        key = (row["dataset"], row["method"], row["lambda"])
        images = sets.setdefault(key, set())
        if row["image"] in images:
            raise InputError("{}, {}, λ = {:g}: {} twice".format(*key, row["image"]))
        images.add(row["image"])
        for name in ("image_sha256", "height", "width"):
            value = str(row.get(name, ""))
            known = pixels.setdefault((row["dataset"], row["image"], name), value)
            if value != known and "" not in (value, known):
                raise InputError(
                    "{}, {}, λ = {:g}: {} is another image, or another part of it, than for other "
                    "methods".format(*key, row["image"])
                )
    first = {}
    for key, images in sets.items():
        reference, expected = first.setdefault(key[0], (key, images))
        if images != expected:
            raise InputError(
                "{}, {}, λ = {:g}: not the images of {}, λ = {:g} (one of them has no {}); means "
                "over different images cannot be compared: --common takes those that all "
                "have".format(*key, *reference[1:], min(images ^ expected))
            )


def in_common(rows):
    """Keeps the rows of images that every method and λ of the data set has."""
    sets = collections.defaultdict(lambda: collections.defaultdict(set))
    for row in rows:
        sets[row["dataset"]][row["method"], row["lambda"]].add(row["image"])
    common = {name: set.intersection(*groups.values()) for name, groups in sets.items()}
    for name, images in common.items():
        if not images:
            raise InputError("{}: no image that all methods and λ have".format(name))
    return [row for row in rows if row["image"] in common[row["dataset"]]]


def _curve(dataset, method, points, where):
    for point in points:
        if not (np.isfinite(point["psnr"]) and np.isfinite(point["rate"]) and point["rate"] > 0):
            raise InputError(
                "{}: a point of {} bits per pixel and {} dB".format(
                    where, point["rate"], point["psnr"]
                )
            )
    return Curve(dataset, method, sorted(points, key=lambda point: point["rate"]))


# --- Bjøntegaard delta -----------------------------------------------------------------------

Delta = collections.namedtuple("Delta", "bd_rate bd_psnr bd_rate_msssim overlap reason")
Delta.__doc__ = """A curve compared with an anchor.

bd_rate: percent of the rate, at equal PSNR; bd_psnr: dB, at equal rate; bd_rate_msssim: percent of
the rate, at equal MS-SSIM in dB; overlap: length of the PSNR range that both curves cover, as a
fraction of the range from the lowest to the highest PSNR. A value that cannot be computed is None,
and `reason` says why.
"""


def delta(anchor, curve, interpolation):
    """The `Delta` of a `Curve` from an anchor, with one of `INTERPOLATIONS`."""
    for one in (curve, anchor):
        reason = _unfit(one, "psnr")
        if reason:
            return Delta(None, None, None, None, "no delta: {} has {}".format(one.method, reason))
    low, high = zip(*(_range(one, "psnr") for one in (anchor, curve)))
    overlap = max(min(high) - max(low), 0) / (max(high) - min(low))
    if not overlap:
        reason = "no delta: the curves share no PSNR: {:.2f} to {:.2f} dB, and {:.2f} to {:.2f} dB"
        ranges = (*_range(anchor, "psnr"), *_range(curve, "psnr"))
        return Delta(None, None, None, 0.0, reason.format(*ranges))
    bd_rate = _bd(bjontegaard.bd_rate, anchor, curve, "psnr", interpolation)
    bd_psnr = _bd(bjontegaard.bd_psnr, anchor, curve, "psnr", interpolation)
    bd_rate_msssim = None
    if not any(_unfit(one, "msssim_db") for one in (anchor, curve)):
        bd_rate_msssim = _bd(bjontegaard.bd_rate, anchor, curve, "msssim_db", interpolation)
    reason = "" if bd_psnr is not None else "no BD-PSNR: the curves share no rate"
    return Delta(bd_rate, bd_psnr, bd_rate_msssim, overlap, reason)


MOST_APART = 2  # percentage points of BD-rate that polynomials and pchip may differ by


def doubt(cubic, pchip):
    """Why the polynomials of `Delta` cubic are not to be trusted, or ''.

    Those of curves that saturate do not rise throughout, and their BD-rate may be anything; pchip,
    which rises between rising points, shows it.
    """
    for name, text in (("bd_rate", "BD-rate"), ("bd_rate_msssim", "BD-rate (MS-SSIM)")):
        values = [getattr(delta, name) for delta in (cubic, pchip)]
        if values == [None, None]:
            continue
        if None in values or abs(values[0] - values[1]) > MOST_APART:
            shown = ["nothing" if v is None else "{:+.2f}%".format(v) for v in values]
            return "{} is {} by cubic and {} by pchip".format(text, *shown)
    return ""


def has(curve, quality):
    """Whether all points of a curve have a finite value of a quality."""
    values = [point.get(quality, "") for point in curve.points]
    return "" not in values and np.isfinite(values).all()


def _unfit(curve, quality):
    """Why a curve has no Bjøntegaard delta; None if it has one."""
    if len(curve.points) < BD_POINTS:
        return "{} of the {} points that it takes".format(len(curve.points), BD_POINTS)
    if not has(curve, quality):
        return "points without {}".format(quality)
    values = [point[quality] for point in curve.points]
    rates = [point["rate"] for point in curve.points]
    if not (np.diff(values) > 0).all() or not (np.diff(rates) > 0).all():
        return "a {} that does not rise with the rate".format(quality)
    return None


def _range(curve, quality):
    values = [point[quality] for point in curve.points]
    return min(values), max(values)


def _bd(function, anchor, curve, quality, interpolation):
    """A Bjøntegaard delta of the given function; None if the curves do not overlap."""
    columns = [
        np.array([point[key] for point in one.points])
        for one in (anchor, curve)
        for key in ("rate", quality)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about overlap, which we report ourselves
        value = function(*columns, method=interpolation, require_matching_points=False)
    return float(value) if np.isfinite(value) else None
