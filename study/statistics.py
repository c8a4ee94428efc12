"""Gains over an anchor, their uncertainty, and Bjøntegaard deltas between curves.

**Gain**: the percentage by which a method's loss λ·MSE + bpp, always with the estimated rate, lies
below the anchor's on the same image at the same λ. The gain of several images, λ or seeds is the
mean of theirs.

**Bjøntegaard delta** (VCEG-M33, 2001): BD-rate is the mean difference of the logarithm of the rate
at equal quality, as a percentage; BD-PSNR the mean difference of PSNR at equal logarithm of the
rate. Both are taken between curves through the points of two methods: polynomials of degree 3
(cubic; least squares), or piecewise ones through all points (pchip).

**Intervals** cover the truth in 95% of all samples of images. They are Student's, with the standard
error of the bootstrap: the images are drawn again, the same ones for both methods, and the standard
deviation of the statistic times sqrt(n / (n - 1)) is its standard error. (The bootstrap's own
percentiles are too narrow for the ten or twenty images of a study.)
"""

import collections
import itertools
import warnings

import bjontegaard
import numpy as np
from scipy import stats

from study import curves

RESAMPLES = 400  # of the bootstrap

# --- Intervals -------------------------------------------------------------------------------


def interval(statistic, images, resamples=RESAMPLES):
    """The 95% interval of a statistic of `images` images, (low, high); None if there is none.

    Args:
      statistic: function of weights of the images, (images,), which sum to 1, to a float; NaN where
        it has no value.
    """
    if images < 2:
        return None
    draws = np.random.RandomState(0).multinomial(images, np.full(images, 1 / images), resamples)
    values = np.array([statistic(draw / images) for draw in draws])
    values = values[np.isfinite(values)]
    if len(values) < 0.9 * resamples:
        return None
    centre = statistic(np.full(images, 1 / images))
    error = values.std(ddof=1) * np.sqrt(images / (images - 1))
    half = stats.t.ppf(0.975, images - 1) * error
    return centre - half, centre + half


def standard_error(values):
    """Standard error of the mean of some values; NaN of fewer than two."""
    return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


# --- Gains -----------------------------------------------------------------------------------


def settings(table):
    """What rows are compared at: λ, and the model's name less its kind where λ has several models.

    Models of two kinds go together if their names differ in the first word alone, as in
    `mbt2018-num_filters=64-lmbda=0.001` and `mbt2018_bb-num_filters=64-lmbda=0.001`.

    Returns:
      `Series` of str, one for each row of `table`.
    """
    rows = table[["dataset", "method", "lambda", "model"]]
    several = rows.drop_duplicates().groupby(["dataset", "method", "lambda"]).size().max() > 1
    names = table["model"].str.partition("-")[2] if several else ""
    return table["lambda"].astype(str) + " " + names


def gains(table, anchor):
    """The gain of each row that has a loss, of a method other than the anchor.

    Args:
      table: a `tables.frame` with λ.
      anchor: a method, whose loss is the mean over its seeds.

    Returns:
      `table`'s rows that can be compared, with the columns `setting` and `gain`.
    """
    table = table[table["est_rd_loss"].notna() & (table["lambda"] != "")]
    table = table.assign(setting=settings(table))
    same = ["dataset", "image", "setting"]
    losses = table[table["method"] == anchor].groupby(same)["est_rd_loss"].mean()
    found = table[table["method"] != anchor].join(losses.rename("anchor_loss"), on=same)
    found = found[found["anchor_loss"].notna()]
    return found.assign(gain=100 * (1 - found["est_rd_loss"] / found["anchor_loss"]))


GAINS = ("images", "seeds", "gain", "gain_se", "gain_low", "gain_high", "gain_se_seeds")


def summary(found):
    """Mean gain with its uncertainty, of rows of one method, as a dict with the keys `GAINS`.

    Each image counts once, and of an image each λ. gain_se: standard error over the images;
    gain_low, gain_high: 95% interval over the images; gain_se_seeds: standard error over the seeds,
    on the images and λ that all seeds have; NaN for what there is not.
    """
    cells = found.pivot_table("gain", ["image", "setting"], "seed")
    images = cells.mean(axis=1).groupby("image").mean().values
    seeds = cells.dropna().mean().values  # of what all of them have
    low, high = interval(lambda weights: images @ weights, len(images)) or (np.nan, np.nan)
    errors = standard_error(images), low, high, standard_error(seeds)
    return dict(zip(GAINS, (len(images), cells.shape[1], images.mean(), *errors)))


def wins(table):
    """In how many (image, λ) each method has a lower loss than each other; a tie counts for none.

    Args:
      table: a `tables.frame` of one data set.

    Returns:
      dict from (method, other method) to (wins, pairs); none for methods that share no (image, λ).
    """
    table = table[table["est_rd_loss"].notna() & (table["lambda"] != "")]
    table = table.assign(setting=settings(table))
    losses = table.pivot_table("est_rd_loss", ["image", "setting"], "method")
    found = {}
    for one, other in itertools.permutations(losses.columns, 2):
        both = losses[[one, other]].dropna()
        if len(both):
            found[one, other] = int((both[one] < both[other]).sum()), len(both)
    return found


# --- Bjøntegaard deltas ----------------------------------------------------------------------

BD_POINTS = 4  # needed per curve: a polynomial of degree 3 has 4 coefficients
LEAST_OVERLAP = 0.5  # of the anchor's range; below, a delta says little of the two curves
INTERPOLATIONS = ("cubic", "pchip")

Measure = collections.namedtuple("Measure", "name unit quality base function apart")
Measure.__doc__ = """A Bjøntegaard delta.

quality: of the curves; base: what the two are equal in, "rate" or the quality; function: the
library's; apart: by how much cubic and pchip may differ.
"""
MEASURES = {
    "bd_rate": Measure("BD-rate", "%", "psnr", "psnr", bjontegaard.bd_rate, 2),
    "bd_psnr": Measure("BD-PSNR", " dB", "psnr", "rate", bjontegaard.bd_psnr, 0.1),
    "bd_rate_msssim": Measure(
        "BD-rate (MS-SSIM)", "%", "msssim_db", "msssim_db", bjontegaard.bd_rate, 2
    ),
}
RANGES = {"psnr": "PSNR", "rate": "log-rate", "msssim_db": "MS-SSIM"}
DELTAS = (
    *("dataset", "method", "anchor", "rate", "interpolation", "bd_rate_low", "bd_rate_high"),
    *(name + part for name in MEASURES for part in ("", "_overlap", "_cubic", "_pchip")),
    "reason",
)


def delta(anchor, curve):
    """Bjøntegaard deltas of a `curves.Curve` from an anchor's.

    Returns:
      dict with, for each name in `MEASURES`, None where there is none:
        <name>: the delta;
        <name>_cubic, <name>_pchip: both interpolations of it. The first counts unless they differ
          by more than `Measure.apart`: polynomials through points of curves that saturate go
          anywhere;
        <name>_overlap: share of the anchor's range that is compared.
      `bd_rate_low`, `bd_rate_high`: 95% interval; `interpolation`: the one that counts, for all;
      `reason`: in words, why something is missing or not to be trusted, or ''.
    """
    found, reasons, doubts = dict.fromkeys(DELTAS), [], []
    for name, measure in MEASURES.items():
        unfit = [_unfit(one, measure.quality) for one in (anchor, curve)]
        if any(unfit):
            if name == "bd_rate":
                method, reason = next((c.method, r) for c, r in zip((anchor, curve), unfit) if r)
                return {**found, "interpolation": "", "reason": "{} has {}".format(method, reason)}
            continue
        lines = [curves.line(one, measure.quality) for one in (anchor, curve)]
        overlap = found[name + "_overlap"] = _overlap(measure, *lines)
        label = RANGES[measure.base]
        if not overlap:
            reasons.append("no {} in common".format(label))
            continue
        values = [_bd(measure, *lines, interpolation) for interpolation in INTERPOLATIONS]
        for interpolation, value in zip(INTERPOLATIONS, values):
            found["{}_{}".format(name, interpolation)] = value
        if overlap < LEAST_OVERLAP:
            reasons.append("{:.0%} of {}'s {} range".format(overlap, anchor.method, label))
        if not abs(values[0] - values[1]) <= measure.apart:
            shown = ["{:+.2f}{}".format(value, measure.unit) for value in values]
            doubts.append("{} {} by cubic, {} by pchip".format(measure.name, *shown))
    used = found["interpolation"] = INTERPOLATIONS[bool(doubts)]
    for name in MEASURES:
        found[name] = found["{}_{}".format(name, used)]
    if found["bd_rate"] is not None and anchor.images and curve.images:
        found["bd_rate_low"], found["bd_rate_high"] = _bd_interval(anchor, curve, used)
    found["reason"] = "; ".join([*reasons, *doubts])
    return found


def partial(delta, name):
    """Whether a delta covers less than `LEAST_OVERLAP` of the anchor's range."""
    return delta[name] is not None and delta[name + "_overlap"] < LEAST_OVERLAP


def _bd_interval(anchor, curve, interpolation):
    measure = MEASURES["bd_rate"]

    def statistic(weights):
        lines = [curves.line(one, measure.quality, weights) for one in (anchor, curve)]
        fit = all(
            len(part) >= BD_POINTS and (np.diff(part) > 0).all() for line in lines for part in line
        )
        return _bd(measure, *lines, interpolation) if fit else np.nan

    images = anchor.images["rate"].shape[1]
    return interval(statistic, images) or (None, None)


def _overlap(measure, anchor, line):
    """Share of the range of the anchor's base that a line's covers."""
    lines = (anchor, line)
    bases = [np.log(rates) if measure.base == "rate" else values for rates, values in lines]
    (low, high), (other_low, other_high) = ((base[0], base[-1]) for base in bases)
    return max(min(high, other_high) - max(low, other_low), 0) / (high - low)


def _bd(measure, anchor, line, interpolation):
    """A Bjøntegaard delta between two lines, (rates, values); NaN if they do not overlap."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about overlap, which we report ourselves
        options = {"method": interpolation, "require_matching_points": False}
        return float(measure.function(*anchor, *line, **options))


def _unfit(curve, quality):
    """Why a curve has no Bjøntegaard delta; None if it has one."""
    if not curves.has(curve, quality):
        return "points without {}".format(quality)
    rates, values = curves.line(curve, quality)
    if len(rates) < BD_POINTS:
        return "{} of the {} points that a delta needs".format(len(rates), BD_POINTS)
    if not (np.diff(values) > 0).all() or not (np.diff(rates) > 0).all():
        return "a {} that does not rise with the rate".format(quality)
    return None
