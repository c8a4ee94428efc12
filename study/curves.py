"""Rate-distortion curves: reading results, and making curves of their means over the images."""

import collections
import glob
import itertools
import os

import numpy as np

from model import checkpoints
from runtime.errors import InputError
from study import tables

QUALITIES = ("psnr", "msssim_db")
PUBLISHED = "-psnr.csv"  # suffix of files of published points

Curve = collections.namedtuple("Curve", "dataset method points images hull")
Curve.__doc__ = """A method's means on a data set, in order of increasing rate.

points: list of dicts with `rate` (bits per pixel), `psnr` (dB), and any other known values; images:
dict from `rate` and qualities to an array (points, images) that the points are means of, empty for
published points; hull: whether only points on the upper convex hull count.
"""


# --- Input -----------------------------------------------------------------------------------


def read(paths, dataset):
    """Reads rows and published curves from files and folders.

    A task that several of them have gives one row.

    Args:
      paths: per-image tables (`tables.read_csv`), result files, files of published points, or
        folders of these. The result files of a study count where there is no `images.csv` yet.
      dataset: name of the data set for files that do not name theirs.

    Returns:
      rows: list of dicts (`tables.COLUMNS`).
      curves: list of `Curve`, the published points.

    Raises:
      InputError: a file is missing or of another kind, or a folder has none of these.
    """
    rows, curves, results = [], [], []
    for path in paths:
        for name in _inside(path) if os.path.isdir(path) else [path]:
            if name.endswith(".npz"):
                results.append(name)
            elif name.endswith(PUBLISHED):
                curves.append(read_published(name))
            else:
                rows += tables.read_csv(name, dataset)
    values = [tables.load(name) for name in results]
    for name, one, label in zip(results, values, tables.labels(values)):
        # A study has named the method; several seeds of it go by one name.
        rows += tables.rows_of_result(name, dataset, None if "task" in one else label)
    once = {}
    for index, row in enumerate(rows):
        task = row.get("task") or index
        once.setdefault((row["dataset"], row["image"], row["method"], task), row)
    curves.sort(key=lambda curve: (curve.dataset, *tables.place(curve.method)))
    return list(once.values()), curves


def _inside(folder):
    """The files of a folder that can be read."""

    def found(*patterns):
        paths = [os.path.join(glob.escape(folder), pattern) for pattern in patterns]
        return sorted(name for path in paths for name in glob.glob(path))

    study = found("images.csv") or found(os.path.join("tasks", "*", "*", "*.npz"))
    inside = [*study, *found("*.npz", "*" + PUBLISHED)]
    if not inside:
        line = "{}: no images.csv (which study.run writes), .npz or …{} in this folder"
        raise InputError(line.format(folder, PUBLISHED))
    return inside


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
    _check_points(points, path)
    return Curve(dataset, method, sorted(points, key=lambda point: point["rate"]), {}, False)


# --- Curves ----------------------------------------------------------------------------------


def of_rows(table, rate, hull=False):
    """Makes the `Curve`s of means over the images, in the order of `table`.

    A curve is of a method, with a model for each λ. Where one model was used at several λ, these
    are a curve of their own, "<method> of <model>", and the method's own curve has the λ that the
    model's name says.

    Args:
      table: a `tables.frame`, all points with the same images (`comparable`).
      rate: column to use as the rate.
      hull: make one curve of all points of a method, of which the upper convex hull counts.

    Raises:
      InputError: a value is missing or not finite, or a λ has several points.
    """
    for key in (rate, "psnr"):
        for row in table[~np.isfinite(table[key])].to_dict("records"):
            where = tables.where(*(row[name] for name in tables.POINT))
            raise InputError("{}: image {} has no finite {}".format(where, row["image"], key))
    images = tables.per_image(table).assign(rate=lambda found: found[rate])
    groups = images.groupby([*tables.POINT], sort=False)
    groups = {key: group.sort_values("image") for key, group in groups}
    points = [{**mean, "rate": mean[rate]} for mean in tables.over_images(images)]
    curves = collections.OrderedDict()
    for point in points:
        for label in _labels(point, points, hull):
            curves.setdefault((point["dataset"], label), []).append(point)
    return [_curve(*key, curve, groups, hull) for key, curve in curves.items()]


def _labels(point, points, hull):
    """The names of the curves that a point is on."""
    alike = [p for p in points if all(p[key] == point[key] for key in ("dataset", "method"))]
    settings = {p["lambda"] for p in alike if p["model"] == point["model"]}
    models = {p["model"] for p in alike}
    if hull or len(settings) == 1 or not point["model"]:
        return [point["method"]]
    own = len(models) > 1 and checkpoints.lambda_in(point["model"]) == point["lambda"]
    return [point["method"]] * own + ["{} of {}".format(point["method"], point["model"])]


def _curve(dataset, method, points, groups, hull):
    """The `Curve` of some points, with its images from `groups`, a dict by `tables.POINT`."""
    points.sort(key=lambda point: point["rate"])
    if not hull:
        # A method that does not optimise has the same point at each λ of a model.
        points = [
            point
            for before, point in zip([{}, *points], points)
            if any(before.get(key) != point[key] for key in ("model", "rate", "psnr"))
        ]
        for one, other in itertools.combinations(points, 2):
            if all(one[key] == other[key] for key in tables.SETTING):
                names = (
                    "{} {}".format(p["model"], p["checkpoint_sha256"][:8]).strip()
                    for p in (one, other)
                )
                where = tables.where(*(one[key] for key in tables.POINT))
                line = (
                    "{}: of two checkpoints, {} and {}; --models picks a run by its name, and "
                    "--hull takes the best of all"
                )
                raise InputError(line.format(where, *sorted(names)))
    _check_points(points, "{}, {}".format(dataset, method))
    keys = [tuple(point[key] for key in tables.POINT) for point in points]
    images = {name: np.stack([groups[key][name] for key in keys]) for name in ("rate", *QUALITIES)}
    return Curve(dataset, method, points, images, hull)


def _check_points(points, where):
    for point in points:
        if not (np.isfinite(point["psnr"]) and np.isfinite(point["rate"]) and point["rate"] > 0):
            line = "{}: a point of {} bits per pixel and {} dB"
            raise InputError(line.format(where, point["rate"], point["psnr"]))


def has(curve, quality):
    """Whether all points of a curve have a finite value of a quality."""
    values = [point.get(quality, "") for point in curve.points]
    return "" not in values and np.isfinite(values).all()


def line(curve, quality, weights=None):
    """The rates and the values of a quality of a `Curve`, in order of increasing rate.

    Args:
      weights: (images,), of each image in the means; None: those of `points`.

    Returns:
      Two arrays (points,); of a curve with `hull` only the points on it.
    """
    if weights is None:
        rates, values = (
            np.array([point[key] for point in curve.points]) for key in ("rate", quality)
        )
    else:
        rates, values = (curve.images[key] @ weights for key in ("rate", quality))
    order = np.lexsort((-values, rates))
    rates, values = rates[order], values[order]
    return _upper_hull(rates, values) if curve.hull else (rates, values)


def _upper_hull(rates, values):
    """The rising part of the upper convex hull of points in order of their rates."""
    best = np.r_[True, values[1:] > np.maximum.accumulate(values)[:-1]]
    kept = []
    for point in zip(rates[best], values[best]):
        while (
            len(kept) > 1
            and np.cross(np.subtract(kept[-1], kept[-2]), np.subtract(point, kept[-1])) >= 0
        ):
            kept.pop()
        kept.append(point)
    return tuple(np.array(kept).T)
