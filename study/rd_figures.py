"""Figures of a report: rate-distortion curves, and the gain on each image."""

import os
import re

import numpy as np

from study import curves, figures, statistics, tables

QUALITIES = {"psnr": "PSNR, dB", "msssim_db": "MS-SSIM, dB (−10 log₁₀(1 − MS-SSIM))"}
MOST_TALL = 1  # times the height of the learned curves that classical codecs may add on a side
MOST_NAMES = 40  # image names that fit below an axis


def draw_curves(found, beside, quality, rate, looks):
    """Plots the `curves.Curve`s of a data set, and nearby parts of those `beside`, in pale.

    The axes show the rates of the learned methods, and there all of `beside`, which were asked for,
    and as much of classical codecs as leaves the learned methods large.

    Args:
      quality: one of `QUALITIES`.
      rate: name of the rate.
      looks: as `figures.looks` returns them.
    """
    figure, axes = figures.subplots(figsize=(9, 5.5))
    for curve in found:
        label = figures.plain(curve.method)
        axes.plot(*curves.line(curve, quality), **looks[curve.method], label=label)
    for curve in beside:
        label = "{} ({})".format(curve.method, curve.dataset)
        look = {**looks[curve.method], "linestyle": ":", "alpha": 0.6, "zorder": 1.5}
        axes.plot(*curves.line(curve, quality), **look, label=figures.plain(label))
    learned = [c for c in found if c.method.split()[0] not in tables.CODECS] or found
    if len(learned) < len(found) + len(beside):
        rates = np.concatenate([curves.line(curve, quality)[0] for curve in learned])
        axes.set_xlim(0.8 * rates.min(), 1.2 * rates.max())
        axes.set_ylim(*_heights(axes, learned, beside, quality))
        for line in axes.get_lines():
            if not line.get_path().intersects_bbox(axes.viewLim, filled=False):
                line.set_label(line.get_label() + ", outside")
    axes.set_xlabel("rate, bits per pixel ({})".format(rate))
    axes.set_ylabel(QUALITIES[quality])
    axes.set_title(figures.plain(found[0].dataset))
    axes.legend(**figures.BESIDE)
    return figure


def _heights(axes, learned, beside, quality):
    """Limits of the y axis, between the limits of the x axis."""
    wanted = [curves.line(curve, quality) for curve in [*learned, *beside]]
    seen = np.concatenate([_within(*axes.get_xlim(), *line) for line in wanted])
    spare = MOST_TALL * max(np.ptp(seen), 0.5)
    low, high = seen.min() - spare, seen.max() + spare
    for line in axes.get_lines():
        values = _within(*axes.get_xlim(), *line.get_data())
        seen = np.append(seen, values[(values >= low) & (values <= high)])
    margin = 0.05 * np.ptp(seen) or 0.5
    return seen.min() - margin, seen.max() + margin


def _within(low, high, x, y):
    """Values of a line from x = low to x = high, the ends included."""
    x, y = np.asarray(x), np.asarray(y)
    if x.min() > high or x.max() < low:
        return np.zeros(0)
    ends = np.interp(np.clip((low, high), x.min(), x.max()), x, y)
    return np.concatenate([ends, y[(x >= low) & (x <= high)]])


def draw_gains(gains, anchor, looks):
    """Plots each method's gain on each image, sorted by the gain of the method with the largest.

    Args:
      gains: dict from method to a dict from image to percentage, mean over λ.
    """
    best = max(gains, key=lambda method: np.mean(list(gains[method].values())))
    images = sorted(gains[best], key=gains[best].get)
    few = len(images) <= MOST_NAMES
    width = 0.12 * len(images) * len(gains) if few else 0.2 * len(images)
    figure, axes = figures.subplots(figsize=(np.clip(width, 8, 16), 5))
    axes.axhline(0, color="0.5", linewidth=1)
    for index, (method, by_image) in enumerate(gains.items()):
        values = [by_image.get(image, np.nan) for image in images]
        label = "{} (mean {:.2f}%)".format(method, np.mean(list(by_image.values())))
        # Side by side, so that none hides another.
        places = np.arange(len(images)) + 0.7 * ((index + 0.5) / len(gains) - 0.5)
        look = {**looks[method], "linestyle": "", "label": figures.plain(label)}
        axes.plot(places, values, **look)
    below = figures.plain(anchor)
    axes.set_ylabel("gain over {}, mean over λ, %".format(below))
    axes.set_xlim(-0.6, len(images) - 0.4)
    if few:
        axes.set_xticks(range(len(images)))
        axes.set_xticklabels([figures.plain(image) for image in images], rotation=45, ha="right")
        axes.set_xticks(np.arange(len(images) - 1) + 0.5, minor=True)
        axes.grid(False, axis="x")
        axes.grid(True, axis="x", which="minor", alpha=0.3)
        axes.tick_params(axis="x", which="minor", length=0)
    else:
        by = figures.plain(best)
        axes.set_xlabel("{} images, by the gain of {}".format(len(images), by))
    axes.legend(**figures.BESIDE)
    return figure


def draw_all(table, found, beside, args):
    """Draws the figures of all data sets; returns their paths, and notes on what is not in them."""
    looks = figures.looks([curve.method for curve in found + beside])
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
        gains = gains_by_image(table[table["dataset"] == dataset], args.anchor[0])
        if gains:
            drawn["gain"] = draw_gains(gains, args.anchor[0], figures.looks(gains))
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
