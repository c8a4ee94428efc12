"""The hyperprior's networks on integers, so that encoder and decoder agree to the last bit.

p(y|z) has to be identical in encoder and decoder. With a float network it is not: sums depend on
the order of their terms, which changes with the machine, the number of threads and the batch. Here
weights and activations are integers in fixed point, so that each sum is an integer below 2^53,
which float64 represents exactly in any order of summation:

    activations  a = â / 2^12,  |â| ≤ 2^26 (clamped after each layer; |a| ≤ 16384)
    weights      w = ŵ / 2^16,  2^26 Σ|ŵ| + |bias| < 2^53 for each output: checked on loading
                 (fewer bits than 16 in layers where Σ|w| reaches 1024)
    a layer      â' = clamp(relu(⌊(Σ ŵ â + bias) / 2^16 + ½⌋))

The input latents are multiples of 2^-12 (as integers, medians and the grid of a bits-back z are).
The weights are the float32 values of the checkpoint, rounded (`integer_model.py`).

In models of N = 32, mu and log sigma differ from the float model's by about 1e-3. Together with the
grids of `tables.py`, this changes the rate of Kodak images by -0.05% to +0.003%.
"""

import collections

import numpy as np

from coding import arithmetic
from runtime.errors import InputError

FRACTION_BITS = 12
UNIT = 2.0**-FRACTION_BITS
WEIGHT_BITS = 16
CLAMP = 2.0**26
EXACT = 2.0**53

# Gradients, for `exact_posterior.py`, pass back through the same integer layers; before each, they
# are scaled by a power of two and rounded so that none exceeds GRADIENT_LARGEST.
GRADIENT_LARGEST = 2.0**27


class Layer(
    collections.namedtuple(
        "Layer",
        "kernel bias stride up relu bits gradient_largest",
        defaults=(WEIGHT_BITS, GRADIENT_LARGEST),
    )
):
    """A convolution on integers.

    kernel: (height, width, channels in, channels out), in units of 2^-bits; bias: (channels out,),
    in units of 2^-(bits + 12); up: whether the layer is a transposed convolution of that `stride`;
    gradient_largest: largest magnitude of the integers that `backward` quantises gradients to.
    """

    def forward(self, a):
        """Maps input activations (h, w, C) to output activations (h', w', C')."""
        convolve = spread if self.up else correlate
        a = shift(convolve(a, self.kernel, self.stride) + self.bias, self.bits)
        return np.clip(a, 0 if self.relu else -CLAMP, CLAMP)

    def backward(self, gradient, output):
        """The gradient in the input from the `gradient` in `forward`'s `output`, float values."""
        if self.relu:
            gradient = gradient * (output > 0)
        _, exponent = np.frexp(np.max(np.abs(gradient)))
        unit = np.ldexp(1 / self.gradient_largest, exponent)
        convolve = correlate if self.up else spread
        integers = np.floor(gradient / unit + 0.5)
        gradient = convolve(integers, self.kernel.transpose(0, 1, 3, 2), self.stride)
        return gradient * (unit * 2.0**-self.bits)


def correlate(a, kernel, stride):
    """Cross-correlates zero-padded `a` (h, w, C) with a kernel at every `stride`-th sample."""
    height, width = (-(-side // stride) for side in a.shape[:2])
    rows, columns, _, channels = kernel.shape
    padded = np.pad(a, ((rows // 2,) * 2, (columns // 2,) * 2, (0, 0)), "constant")
    down, right, across = padded.strides
    output = np.empty((height, width, channels), a.dtype)
    matrix = kernel.reshape(-1, channels)
    for block in _blocks(height, width * len(matrix)):
        patches = np.lib.stride_tricks.as_strided(
            padded[stride * block.start :],
            (block.stop - block.start, width, rows, columns, a.shape[2]),
            (stride * down, stride * right, down, right, across),
        )
        product = patches.reshape(-1, len(matrix)) @ matrix
        output[block] = product.reshape(-1, width, channels)
    return output


def spread(a, kernel, stride):
    """The transpose of `correlate`: maps (h, w, C) to (stride · h, stride · w, C')."""
    if stride == 1:
        return correlate(a, kernel[::-1, ::-1], 1)
    height, width, channels_in = a.shape
    rows, columns, _, channels = kernel.shape
    top, left = rows // 2, columns // 2
    padded = np.zeros((stride * height + 2 * top, stride * width + 2 * left, channels), a.dtype)
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels_in, -1)
    for block in _blocks(height, width * matrix.shape[1]):
        product = a[block].reshape(-1, channels_in) @ matrix
        product = product.reshape(-1, width, rows, columns, channels)
        for i, j in np.ndindex(rows, columns):
            start, stop = (stride * row + i for row in (block.start, block.stop))
            padded[start:stop:stride, j : j + stride * width : stride] += product[:, :, i, j]
    return padded[top : top + stride * height, left : left + stride * width]


def _blocks(rows, elements):
    """Slices of rows, short enough that the products take little memory."""
    step = max(2**22 // elements, 1)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def shift(integers, bits):
    """Divides by 2^bits and rounds to the nearest integer; exact below 2^53."""
    return np.floor(integers * 2.0**-bits + 0.5)


class HyperSynthesis:
    """h_s on integers, with two upsampling layers and one of stride 1."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, z, size):
        """mu and log sigma of p(y|z) in units of 2^-12, and the activations for `backward`.

        Args:
          z: (h, w, C) in units of 2^-12.
          size: (height, width) of y, at most four times that of z.

        Returns:
          mu, log_sigma: (*size, C) each; activations: list of arrays.
        """
        a = np.clip(z, -CLAMP, CLAMP)
        activations = []
        for layer in self.layers:
            a = layer.forward(a)
            activations.append(a)
        mu, log_sigma = np.split(a[: size[0], : size[1]], 2, axis=-1)
        return mu, log_sigma, activations

    def backward(self, mu_gradient, log_sigma_gradient, activations):
        """The gradient in z from the gradients in mu and log sigma, all float values."""
        gradient = np.concatenate([mu_gradient, log_sigma_gradient], axis=-1)
        full = np.zeros_like(activations[-1])
        full[: gradient.shape[0], : gradient.shape[1]] = gradient
        for layer, output in zip(self.layers[::-1], activations[::-1]):
            full = layer.backward(full, output)
        return full


class HyperAnalysis:
    """h_a of the bits-back model on integers."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, y):
        """Mean and log-variance of q(z|y), float64 multiples of 2^-12, from integers y."""
        a = np.clip(y / UNIT, -CLAMP, CLAMP)
        for layer in self.layers:
            a = layer.forward(a)
        return np.split(a * UNIT, 2, axis=-1)


class Prior(collections.namedtuple("Prior", "weights")):
    """p(z), like `entropy_models.Density` with its layers of 3 units.

    weights: float64 (`PRIOR_WEIGHTS`, C). They start at the first layer; each of its units has its
    entries of the matrix, its bias and, except in the last layer, its factor.
    """

    def logits(self, z):
        """The logit of the cdf at `z` (…, C), and its first and second derivatives."""
        return prior_logits(z, self.weights)

    def cdf(self, z):
        """The distribution function at `z` (…, C)."""
        return arithmetic.sigmoid(self.logits(z)[0])


PRIOR_WEIGHTS = 43


def prior_logits(z, w):
    """The logit of p(z)'s cdf at `z`, and its first and second derivatives.

    Args:
      z: (…, C), or a scalar where numba compiles this.
      w: the `weights` of a `Prior`, or those of the scalar's channel.
    """
    a = _prior_activation(w[0] * z + w[1], w[0], 0.0, w[2])
    b = _prior_activation(w[3] * z + w[4], w[3], 0.0, w[5])
    c = _prior_activation(w[6] * z + w[7], w[6], 0.0, w[8])
    for k in (9, 24):
        a, b, c = (
            _prior_unit(w, k, a, b, c),
            _prior_unit(w, k + 5, a, b, c),
            _prior_unit(w, k + 10, a, b, c),
        )
    return _prior_sums(w, 39, a, b, c)


def _prior_unit(w, k, a, b, c):
    """A hidden unit whose weights start at w[k]: its value, slope and bend (derivatives in z)."""
    value, slope, bend = _prior_sums(w, k, a, b, c)
    return _prior_activation(value, slope, bend, w[k + 4])


def _prior_sums(w, k, a, b, c):
    return (
        w[k] * a[0] + w[k + 1] * b[0] + w[k + 2] * c[0] + w[k + 3],
        w[k] * a[1] + w[k + 1] * b[1] + w[k + 2] * c[1],
        w[k] * a[2] + w[k + 1] * b[2] + w[k + 2] * c[2],
    )


def _prior_activation(value, slope, bend, factor):
    squashed = arithmetic.tanh(value)
    steepness = factor * (1 - squashed * squashed)
    return (
        value + factor * squashed,
        slope * (1 + steepness),
        bend * (1 + steepness) - 2 * steepness * squashed * slope * slope,
    )


def integer_layer(kernel, bias, name, **settings):
    """Makes a `Layer` from float64 weights, with as many bits as exact sums allow.

    Raises:
      InputError: the weights are too large for exact sums; the message starts with `name`.
    """
    # Sums of integers, so that they are exact here too.
    sums = np.abs(np.floor(kernel * 2.0**WEIGHT_BITS + 0.5)).sum(axis=(0, 1, 2))
    bits = WEIGHT_BITS - max(int(np.frexp(sums.max())[1]) - 26, 0)
    kernel = np.floor(kernel * 2.0**bits + 0.5)
    bias = np.floor(bias * 2.0 ** (bits + FRACTION_BITS) + 0.5)
    sums = np.abs(kernel).sum(axis=(0, 1, 3))
    largest = min(GRADIENT_LARGEST, 2.0 ** (52 - int(np.frexp(sums.max())[1])))
    layer = Layer(kernel, bias, bits=bits, gradient_largest=largest, **settings)
    check_exact(layer, name)
    return layer


def check_exact(layer, name):
    """Raises `InputError` if a sum of `layer` might reach 2^53 or its weights have too few bits."""
    weights = np.abs(layer.kernel)
    forward = CLAMP * weights.sum(axis=(0, 1, 2)) + np.abs(layer.bias)
    backward = layer.gradient_largest * weights.sum(axis=(0, 1, 3))
    if not (max(forward.max(), backward.max()) < EXACT and layer.bits >= 8):  # NaN is refused too
        raise InputError("{}: the weights are too large for exact coding".format(name))
