"""Which rows a report is of: those asked for, which can be compared with each other."""

import fnmatch
import re

import numpy as np

from runtime.errors import InputError
from study import tables
from study.codecs import CODECS

ANCHORS = ("mbt2018", "bb_plain")  # the two models' own predictions


def select(table, found, args):
    """Selects rows and curves by --methods and --models, and sets `args.anchor` and `args.rate`.

    Raises:
      InputError: a name or pattern matches nothing.
    """
    there = dict.fromkeys([*table["method"], *(curve.method for curve in found)])
    others = ANCHORS[1:] if args.anchor is None else args.anchor[1:]
    first = args.anchor[0] if args.anchor else _base(there)
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
    for name in (args.anchor or [])[1:]:
        if name not in of_models:
            line = "--anchor: {} shares no model with another method; it can only come first"
            raise InputError(line.format(name))
    args.anchor = [first, *(name for name in others if name in of_models and name != first)]
    wanted.update(args.anchor)
    table = table[table["method"].isin(wanted)].reset_index(drop=True)
    found = [curve for curve in found if curve.method in wanted]
    # Files without bits-back give nothing back.
    net = table["net_bpp"].fillna(table["actual_bpp"])
    if args.rate is None:
        files = table["method"].isin(CODECS).any() and np.isfinite(net).all()
        args.rate = "net_bpp" if files and not (found or args.published) else "est_bpp"
    if args.rate == "net_bpp":
        table = table.assign(net_bpp=net)
    return table, found


def _base(there):
    """The first method that is the base model's prediction, whatever its flags."""
    return next((name for name in there if name.split()[0] == ANCHORS[0]), ANCHORS[0])


def comparable(table):
    """Keeps the images that all methods and settings of a data set have, as studies may be running.

    Settings with lossless images are left out. Where no image is left, the settings with the fewest
    images are left out, one by one, until there is one.

    Args:
      table: a `tables.frame`.

    Returns:
      table: the rows kept; and a list of notes, str, on those that were not.

    Raises:
      InputError: an image is there twice under one setting and seed, or with other pixels.
    """
    _check_same_images(table)
    points = [tuple(point) for point in table[[*tables.POINT]].values]
    lossless = dict.fromkeys(point for point, x in zip(points, table["psnr"]) if np.isinf(x))
    line = "{}: left out, as the PSNR of a lossless image is infinite"
    notes = [line.format(tables.where(*point)) for point in lossless]
    table = table[np.array([point not in lossless for point in points], bool)]
    table = table.reset_index(drop=True)
    keep = np.zeros(len(table), bool)
    for dataset, rows in table.groupby("dataset", sort=False):
        sets = {key: set(group["image"]) for key, group in rows.groupby([*tables.POINT])}
        everything = set.union(*sets.values())
        while not set.intersection(*sets.values()):
            fewest = min(sets, key=lambda key: len(sets[key]))
            images = sets.pop(fewest)
            line = "{}: left out, as it has only {} of {} images and they share none"
            notes.append(
                line.format(tables.where(dataset, *fewest[1:]), len(images), len(everything))
            )
        common = set.intersection(*sets.values())
        if common != everything:
            lacking = [key for key, images in sets.items() if images != everything]
            names = tables.where("", *lacking[0][1:])
            names += " and {} more".format(len(lacking) - 1) if lacking[1:] else ""
            line = "{}: means over the {} of {} images that all have; some are not there yet of {}"
            notes.append(line.format(dataset, len(common), len(everything), names))
        points = [tuple(point) for point in rows[[*tables.POINT]].values]
        kept = rows["image"].isin(common) & np.array([point in sets for point in points])
        keep |= table.index.isin(rows.index[kept])
    return table[keep], notes


def _check_same_images(table):
    """Raises `InputError` if an image is there twice, or is two images."""
    seen, pixels = set(), {}
    for row in table.to_dict("records"):
        point = [row[key] for key in tables.POINT]
        key = (*point, row["seed"], row["image"])
        if key in seen:
            raise InputError("{}: {} twice".format(tables.where(*point), row["image"]))
        seen.add(key)
        for name in ("image_sha256", "height", "width"):
            value = str(row[name])
            known = pixels.setdefault((row["dataset"], row["image"], name), value)
            if value != known and "" not in (value, known):
                line = "{}: {} is another image, or another part of it, than for other methods"
                raise InputError(line.format(tables.where(*point), row["image"]))


def provenance_notes(table):
    """Lines on rows that do not compare: of several checkpoints, versions, machines, or seeds."""
    trained = table[table["checkpoint_sha256"] != ""]
    for (dataset, model), rows in trained.groupby(["dataset", "model"], sort=False):
        if rows["checkpoint_sha256"].nunique() > 1:
            line = "{}, {}: rows of {} checkpoints of this name"
            yield line.format(dataset, model, rows["checkpoint_sha256"].nunique())
    learned = table[table["model"] != ""]
    sizes = learned["model"].str.replace("^[^-]*-", "", regex=True)  # less the kind of model
    for (dataset, lmbda), rows in learned.assign(size=sizes).groupby(["dataset", "lambda"]):
        methods = rows.groupby("method", sort=False)["size"].agg(set)
        apart = [name for name in methods.index if not methods[name] & methods.iloc[0]]
        if apart:
            line = "{}, λ = {:g}: the models of {} and {} differ in more than their kind"
            yield line.format(dataset, lmbda, methods.index[0], apart[0])
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
        threads = {re.sub(r"\.0$", "", str(number)) or "unknown" for number in rows["threads"]}
        if len(threads) > 1:
            numbers = ", ".join(sorted(threads, key=lambda text: (len(text), text)))
            yield "{}: seconds with different numbers of threads: {}".format(dataset, numbers)
    seeds = tables.per_image(table).groupby(["dataset", "method"], sort=False)["seeds"]
    for (dataset, method), numbers in seeds:
        if numbers.nunique() > 1:
            line = "{}, {}: {} to {} seeds for each image and setting"
            yield line.format(dataset, method, numbers.min(), numbers.max())
