"""Functions that numba compiles for `compiled.py`.

Without `fastmath`, LLVM neither reorders operations nor contracts a product and a sum to one
operation with one rounding (tests/test_compiled.py inspects the machine code). So these functions
have the results that NumPy has, on every processor.

Each kernel processes rows `first` to `last`, so that threads can share the work.
"""

import hashlib
import os

import numba
import numpy as np
from numba.extending import register_jitable

from coding import arithmetic, exact_posterior, integer_networks
from coding.exact_posterior import gaussian, prior, q_gradients, sample, update
from coding.integer_networks import CLAMP, UNIT

for _function in (
    *(arithmetic.exp, arithmetic.tanh, arithmetic.sigmoid, arithmetic.normal_tail),
    *(arithmetic._polynomial, integer_networks.prior_logits, integer_networks._prior_unit),
    *(integer_networks._prior_sums, integer_networks._prior_activation),
    *(gaussian, prior, q_gradients, sample, update),
):
    register_jitable(forceinline=True)(_function)  # LLVM vectorises no loop that calls something


def _cache_folder():
    """A folder for compiled code, which depends on the source; None if it cannot be written.

    numba by itself notices a change of a function's file, but not of the functions that it calls.
    """
    digest = hashlib.sha256()
    for path in (
        __file__,
        arithmetic.__file__,
        exact_posterior.__file__,
        integer_networks.__file__,
    ):
        with open(path, "rb") as file:
            digest.update(file.read())
    name = "compiled-" + digest.hexdigest()[:16]
    folder = os.path.join(os.path.dirname(__file__), "__pycache__", name)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


OPTIONS = {"nogil": True, "error_model": "numpy"}


def _compiled(function):
    numba.config.CACHE_DIR = _cache_folder() or ""
    return numba.njit(function, cache=bool(numba.config.CACHE_DIR), **OPTIONS)


def _line(function):
    """Compiles a function of one line of channels on its own, because LLVM vectorises it then."""
    return register_jitable(function)


# --- Elements --------------------------------------------------------------------------------


@_line
def _sample_line(mean, logvar, normal, z, deviation, grid):
    for c in range(len(z)):
        z[c], deviation[c], place = sample(mean[c], logvar[c], normal[c])
        grid[c] = np.minimum(np.maximum(place, -CLAMP), CLAMP)


@_compiled
def sample_rows(first, last, mean, logvar, normal, z, deviation, padded):
    """Samples z in rows first to last, and writes its grid to the `padded` input of h_s."""
    for i in range(first, last):
        for j in range(z.shape[1]):
            _sample_line(
                *(mean[i, j], logvar[i, j], normal[i, j]),
                *(z[i, j], deviation[i, j], padded[i + 1, j + 1]),
            )


@_line
def _gaussian_line(y, mu, log_sigma, of_mu, of_log_sigma):
    for c in range(len(y)):
        of_mu[c], of_log_sigma[c], _ = gaussian(y[c], mu[c] * UNIT, log_sigma[c] * UNIT)


@_compiled
def gaussian_rows(first, last, peaks, y, padded, gradient):
    """Gradients in mu and log sigma, which are the `padded` output of h_s."""
    channels = y.shape[2]
    for i in range(first, last):
        for j in range(y.shape[1]):
            parameters, of_both = padded[i + 1, j + 1], gradient[i, j]
            _gaussian_line(
                *(y[i, j], parameters[:channels], parameters[channels:]),
                *(of_both[:channels], of_both[channels:]),
            )
            _raise(peaks, of_both)


@_line
def _raise(peaks, values):
    """Raises `peaks` to the magnitudes of `values`."""
    for c in range(len(values)):
        peaks[c] = np.maximum(peaks[c], np.abs(values[c]))


@_line
def _prior_line(z, weights, of_z):
    for c in range(len(z)):
        of_prior, _ = prior(z[c], weights[:, c])
        of_z[c] = of_z[c] + of_prior


@_line
def _update_line(value, gradient, scale, mean, square, rate, adam):
    beta1, beta2, epsilon = adam
    for c in range(len(value)):
        value[c], mean[c], square[c] = update(
            *(value[c], scale * gradient[c], mean[c], square[c]), *(rate, beta1, beta2, epsilon)
        )


@_compiled
def update_rows(first, last, z, deviation, gradient, weights, scale, rate, adam, values, moments):
    """Adds the gradient of p(z) to the `gradient` in z; updates the mean and log-variance of q."""
    of_q = np.empty((2, z.shape[2]))
    for i in range(first, last):
        for j in range(z.shape[1]):
            of_z, deviations = gradient[i, j], deviation[i, j]
            _prior_line(z[i, j], weights, of_z)
            for c in range(len(of_z)):
                of_q[0, c], of_q[1, c] = q_gradients(of_z[c], deviations[c])
            for k in range(2):
                mean, square = moments[k, 0, i, j], moments[k, 1, i, j]
                _update_line(values[k, i, j], of_q[k], scale, mean, square, rate, adam)


# --- Layers ----------------------------------------------------------------------------------

# Row i of Bᵀ adds entry _ONE[i] of its operand to _SIGN[i] times entry _OTHER[i].
_ONE = (0, 1, 2, 1)
_OTHER = (2, 2, 1, 3)
_SIGN = (-1.0, 1.0, -1.0, -1.0)


@_compiled
def transform(first, last, peaks, padded, begin, tiles):
    """Bᵀ X B of the tiles in rows first to last, and their largest magnitudes.

    Args:
      peaks: (16, C), updated.
      padded: (2h + 2, 2w + 2, C).
      begin: the row of tiles with which `tiles` begins.
      tiles: (16, ≥ (last - begin) · w, C), written.
    """
    columns = padded.shape[1] // 2 - 1
    line = np.empty(padded.shape[1:])
    for row in range(first, last):
        for i in range(4):
            one, other = padded[2 * row + _ONE[i]], padded[2 * row + _OTHER[i]]
            for x in range(len(line)):
                _add(one[x], _SIGN[i], other[x], line[x])
            for j in range(4):
                for column in range(columns):
                    tile = tiles[4 * i + j, (row - begin) * columns + column]
                    left, right = line[2 * column + _ONE[j]], line[2 * column + _OTHER[j]]
                    _add(left, _SIGN[j], right, tile)
                    _raise(peaks[4 * i + j], tile)


@_line
def _add(one, sign, other, total):
    for c in range(len(total)):
        total[c] = one[c] + sign * other[c]


@_line
def _add_three(one, sign, two, three, total):
    for c in range(len(total)):
        total[c] = one[c] + sign * (two[c] + three[c])


# Phases come in the order (0, 1), (0, 0), (1, 0), (1, 1), in which those whose kernels share a row
# or a column of zeros are neighbours.


@_line
def phase_at(s, t, phases):
    return s * phases + (s + t + 1) % phases


@_line
def _place_of(phase, phases):
    return phase // phases, (phase + phase // phases + 1) % phases


@_line
def _activate_line(totals, bias, scale, low, output):
    for c in range(len(output)):
        value = np.floor((totals[c] * 0.25 + bias[c]) * scale + 0.5)
        output[c] = np.minimum(np.maximum(value, low), CLAMP)


@_compiled
def activate(first, last, products, begin, bias, scale, low, phases, size, padded):
    """The outputs of a layer from its `products` (16, …, C), in rows of tiles first to last."""
    height, width = size
    columns = (width + 1) // 2
    channels = padded.shape[2]
    lines = np.empty((4, products.shape[2]))
    totals = np.empty(products.shape[2])
    for row in range(first, last):
        for column in range(columns):
            place = (row - begin) * columns + column
            for a in range(min(2, height - 2 * row)):
                _add_rows(products, place, a, lines)
                for b in range(min(2, width - 2 * column)):
                    _add_three(lines[b], 1.0 - 2.0 * b, lines[b + 1], lines[b + 2], totals)
                    for phase in range(phases * phases):
                        s, t = _place_of(phase, phases)
                        i, j = phases * (2 * row + a) + s, phases * (2 * column + b) + t
                        start, stop = phase * channels, (phase + 1) * channels
                        _activate_line(
                            *(totals[start:stop], bias[start:stop], scale, low),
                            padded[i + 1, j + 1],
                        )


@_line
def _add_rows(products, place, a, lines):
    """Row `a` of Aᵀ times the products of a tile."""
    for j in range(4):
        one, two, three = products[4 * a + j], products[4 * a + 4 + j], products[4 * a + 8 + j]
        _add_three(one[place], 1.0 - 2.0 * a, two[place], three[place], lines[j])


@_line
def _differentiate_line(totals, factor, relu, activation, output):
    for c in range(len(output)):
        output[c] = totals[c] * 0.25 * factor
    if relu:
        for c in range(len(output)):
            output[c] = output[c] * (activation[c] > 0)


@_compiled
def differentiate(first, last, peaks, products, begin, factor, relu, padded, gradient):
    """The gradient in a layer's input, which is `padded`, and through the ReLU before it."""
    height, width, channels = gradient.shape
    columns = (width + 1) // 2
    lines = np.empty((4, channels))
    totals = np.empty(channels)
    for row in range(first, last):
        for column in range(columns):
            place = (row - begin) * columns + column
            for a in range(min(2, height - 2 * row)):
                _add_rows(products, place, a, lines)
                for b in range(min(2, width - 2 * column)):
                    _add_three(lines[b], 1.0 - 2.0 * b, lines[b + 1], lines[b + 2], totals)
                    i, j = 2 * row + a, 2 * column + b
                    _differentiate_line(totals, factor, relu, padded[i + 1, j + 1], gradient[i, j])
                    _raise(peaks, gradient[i, j])


@_line
def _quantise_line(values, unit, integers):
    for c in range(len(values)):
        integers[c] = np.floor(values[c] / unit + 0.5)


@_compiled
def quantise(first, last, gradient, unit, phases, padded):
    """Gradients in units of `unit`, rounded; phases become channels."""
    channels = gradient.shape[2]
    for i in range(first, last):
        for j in range(gradient.shape[1]):
            integers = padded[i // phases + 1, j // phases + 1]
            start = phase_at(i % phases, j % phases, phases) * channels
            _quantise_line(gradient[i, j], unit, integers[start : start + channels])
