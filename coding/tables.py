"""Integer probability tables, by which p(y|z), p(z) and q(z|y) are coded.

The frequencies of a table are at least 1 and add up to 2^24, the coder's precision. Its first entry
is the escape for symbols outside the table. Frequencies are computed with `arithmetic.py`, and so
by the same operations everywhere.

For Gaussians, the fractional part of the mean lies on a grid in the unit interval around 0 (its
integer part shifts the symbol), and sigma lies between 2^-8 and 2^8, with log2 sigma on a grid of
spacing 1/32. The spacing for the mean is 1/128 for sigma < ½; beyond, it doubles with sigma, up to
1. These grids cost about 1e-4 bits per symbol or less.
"""

import collections

import numpy as np

from coding import arithmetic

TOTAL = 2**24

SIGMA_STEPS = 32  # per octave
SIGMA_LEVELS = 16 * SIGMA_STEPS + 1
MEAN_STEPS = 128  # per unit, for small sigma
# Minimum probability of an escape. With the 10 bits or more that follow, an escaped symbol costs at
# least 27 bits at this probability, less than the 29.9 bits of the bound on likelihoods, 1e-9.
ESCAPE = 2.0**-17
REACH = 5.2  # standard deviations that a Gaussian's table covers on either side
TAIL = 2.0**-20  # mass outside a table of p(z) on either side
MAX_REACH = 2048  # most symbols that a table of p(z) covers on either side

Table = collections.namedtuple("Table", "probabilities first")
Table.__doc__ = """The probabilities of the escape (if any) and of the symbols from `first` on.

They are float64, multiples of 2^-24 that add up to exactly 1.
"""


def _tables(cdf, first, escape=True):
    """Makes tables from distribution functions at the edges of their symbols.

    Args:
      cdf: list of increasing arrays, each with one edge more than the table has symbols.
      first: the first symbol of each table.
      escape: whether the tables have one; otherwise its probability goes to the middle entry.
    """
    made = []
    for edges, start in zip(cdf, first):
        symbols = len(edges) - 1
        # The mass of both tails comes first, for the escape; then each entry gets at least 1.
        shifted = 1 - edges[-1] + edges
        if escape:
            shifted = ESCAPE + (1 - ESCAPE) * shifted
        bounds = np.floor(shifted * (TOTAL - symbols - 1))
        bounds += np.arange(1, symbols + 2)
        bounds[-1] = TOTAL
        bounds[1:] -= bounds[:-1]
        if not escape:
            bounds = bounds[1:] + (np.arange(symbols) == symbols // 2) * bounds[0]
        made.append(Table(bounds / TOTAL, int(start)))
    return made


# --- Gaussians -------------------------------------------------------------------------------


class Gaussians:
    """N(mean, sigma²), convolved with U(-½, ½), on the integers.

    Args:
      escape: whether the tables have one, which is required if symbols can be arbitrary.
    """

    def __init__(self, escape=True):
        self.escape = escape
        level = np.arange(SIGMA_LEVELS)
        self._sigma = arithmetic.exp(level % SIGMA_STEPS * (arithmetic.LN2 / SIGMA_STEPS))
        self._sigma = np.ldexp(self._sigma, level // SIGMA_STEPS - 8)

    def codes(self, mean, log2_sigma):
        """Finds the tables that approximate Gaussians.

        Args:
          mean, log2_sigma: float64 arrays of one shape.

        Returns:
          codes: int64 array of that shape, for `tables`.
          shifts: float64, offset to add to a table symbol to get the Gaussian's symbol.
          mean, log2_sigma: the rounded values that tables and shifts represent.
        """
        level = np.floor(log2_sigma * SIGMA_STEPS + 0.5) + 8 * SIGMA_STEPS
        level = np.clip(level, 0, SIGMA_LEVELS - 1)
        steps = _mean_steps(level)
        shifts = np.floor(mean + 0.5)
        place = np.floor((mean - shifts) * steps + 0.5)
        codes = level * (MEAN_STEPS + 1) + place + MEAN_STEPS // 2
        return codes.astype(np.int64), shifts, shifts + place / steps, level / SIGMA_STEPS - 8

    def tables(self, codes):
        """A list of the `Table`s for `codes`, a 1-D array."""
        level, place = np.divmod(codes, MEAN_STEPS + 1)
        mean = (place - MEAN_STEPS // 2) / _mean_steps(level)
        sigma = self._sigma[level]
        reach = np.ceil(REACH * sigma + 0.5).astype(np.int64)
        numbers = 2 * reach + 2  # edges per table
        ends = np.cumsum(numbers)
        which = np.repeat(np.arange(len(codes)), numbers)
        edges = np.arange(len(which)) - (ends - numbers + reach)[which] - 0.5
        cdf = arithmetic.normal_cdf((edges - mean[which]) / sigma[which])
        return _tables(np.split(cdf, ends[:-1]), -reach, self.escape)


def _mean_steps(level):
    """The number of grid points per unit of the mean."""
    return np.ldexp(1.0, np.clip(14 - level // SIGMA_STEPS, 0, 7).astype(int))


# --- The learned prior -----------------------------------------------------------------------


class PriorTables:
    """p(z) on the points medians + spacing · symbol; the codes are the channels.

    Args:
      prior: `integer_networks.Prior`.
      medians: (C,).
      spacing: spacing of the grid.
    """

    escape = True

    def __init__(self, prior, medians, spacing=1.0):
        def cdf(symbol):
            return prior.cdf(medians + spacing * (symbol - 0.5))

        low = self._first_edge(cdf, TAIL, len(medians)) - 1
        high = self._first_edge(cdf, 1 - TAIL, len(medians))
        numbers = (high - low).astype(int)
        values = cdf(low + np.arange(numbers.max() + 1)[:, None])
        self._tables = _tables([values[: n + 1, c] for c, n in enumerate(numbers)], low)

    @staticmethod
    def _first_edge(cdf, mass, channels):
        """Each channel's first symbol at whose lower edge the cdf is at least `mass`."""
        low = np.full(channels, -MAX_REACH, np.float64)
        high = np.full(channels, MAX_REACH, np.float64)
        for _ in range((2 * MAX_REACH).bit_length() - 1):
            middle = np.floor((low + high) / 2)
            above = cdf(middle) >= mass
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return high

    def tables(self, codes):
        """A list of the `Table`s for `codes`, a 1-D array of channels."""
        return [self._tables[channel] for channel in codes]


def fingerprint():
    """Bytes that change if the tables of Gaussians change."""
    gaussians = Gaussians()
    codes, *_ = gaussians.codes(np.zeros(SIGMA_LEVELS), np.arange(SIGMA_LEVELS) / SIGMA_STEPS - 8)
    tables = gaussians.tables(codes)
    return np.concatenate([table.probabilities for table in tables]).astype("<f8").tobytes()
