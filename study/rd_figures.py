"""Figures of a report: rate-distortion curves, and the gain on each image."""

import numpy as np

from study import curves, figures, tables

QUALITIES = {"psnr": "PSNR, dB", "msssim_db": "MS-SSIM, dB (−10 log₁₀(1 − MS-SSIM))"}
MOST_TALL = 2.5  # times the height of the learned methods' curves that others may stretch an axis
MOST_NAMES = 40  # image names that fit below an axis


def draw_curves(found, beside, quality, rate, looks):
    """Plots the `curves.Curve`s of a data set, and nearby parts of those `beside`, in pale.

    The axes show the range of the learned methods, and as much of classical codecs and of `beside`
    as fits without making it small.

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
        axes.set_ylim(*_heights(axes, learned, quality))
    axes.set_xlabel("rate, bits per pixel ({})".format(rate))
    axes.set_ylabel(QUALITIES[quality])
    axes.set_title(figures.plain(found[0].dataset))
    axes.legend(**figures.BESIDE)
    return figure


def _heights(axes, learned, quality):
    """Limits of the y axis: all lines between the limits of the x axis, if that is not too much."""
    values = np.concatenate([curves.line(curve, quality)[1] for curve in learned])
    low, high = axes.get_xlim()
    seen = [values.min(), values.max()]
    for line in axes.get_lines():
        x, y = (np.asarray(data) for data in line.get_data())
        if len(x) and x.min() <= high and x.max() >= low:
            ends = np.clip((low, high), x.min(), x.max())
            seen += [*np.interp(ends, x, y), *y[(x >= low) & (x <= high)]]
    spare = MOST_TALL * max(np.ptp(values), 0.5)
    bottom = max(min(seen), values.min() - spare)
    top = min(max(seen), values.max() + spare)
    margin = 0.05 * (top - bottom)
    return bottom - margin, top + margin


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
