"""The iterations of `exact_posterior`, compiled by numba for all cores; their results are the same.

Elements: numba compiles the functions that `exact_posterior.Iterations` applies to arrays
(`kernels.py`).

Layers: each layer of h_s is a convolution with kernels of 3 × 3 here; the layers that double the
resolution compute the 2 × 2 phases of their outputs as channels. Winograd's algorithm F(2×2, 3×3)
(Lavin and Gray 2016, arXiv 1509.09308) takes 16 products for 2 × 2 outputs instead of 36. It is
exact on integers if G has twice its usual entries:

    4 Y = Aᵀ [(G K Gᵀ) ⊙ (Bᵀ X B)] A       Bᵀ = 1  0 -1  0     G = 2  0  0     Aᵀ = 1  1  1  0
                                                0  1  1  0         1  1  1          0  1 -1 -1
    X: 4 × 4 inputs, Y: 2 × 2 outputs           0 -1  1  0         1 -1  1
                                                0  1  0 -1         0  0  2

⊙ sums over channels: a BLAS product of matrices for each of the 16 places. All sums are integers,
which float64 holds exactly up to 2^53, in any order and with or without fused operations. Whether
they stay below follows from the largest inputs at each place (`_Convolution.is_exact`). If it does
not, `integer_networks.Layer` computes this layer, whose sums always do.
"""

import concurrent.futures
import functools

import numpy as np

from coding import exact_posterior, kernels
from coding.integer_networks import CLAMP, EXACT
from runtime import machine

BAND = 256  # tiles of 2 × 2 outputs whose transforms are kept at a time
_PART = 1 << 16  # elements for which a further thread pays


@functools.lru_cache()
def _pool():
    return concurrent.futures.ThreadPoolExecutor(machine.threads())


def _in_parts(kernel, first, last, elements, *args, peaks=None):
    """Runs `kernel(begin, end, *args)` on parts of the rows first to last, on all cores.

    Args:
      elements: number of elements, by which the number of parts is chosen.
      peaks: shape of an array of maxima, which each part has of its own (its third argument); the
        largest of all parts are returned.
    """
    number = max(min(machine.threads(), elements // _PART, last - first), 1)
    edges = [first + (last - first) * k // number for k in range(number + 1)]
    maxima = np.zeros((number, *(peaks or ())))
    calls = [
        (begin, end, *([own] if peaks else []), *args)
        for begin, end, own in zip(edges[:-1], edges[1:], maxima)
    ]
    if number == 1:
        kernel(*calls[0])
    else:
        list(_pool().map(lambda call: kernel(*call), calls))
    return maxima.max(axis=0)


class _TooLarge(Exception):
    """A sum might exceed 2^53."""


class _Product:
    """Sums over channels, by a matrix for each of the 16 places, in bands of rows of tiles.

    Args:
      matrices: list of 16 arrays (C, D).
      bias: the largest magnitude of what is added to 4 times the outputs.
      size: (height, width) of the layer's input.
    """

    def __init__(self, matrices, bias, size):
        self._bias = bias
        # Without the inputs and the outputs that only have zeros.
        self._parts = [
            (matrix[rows, columns], rows, columns)
            for matrix in matrices
            for rows, columns in [(_extent(matrix.any(axis=1)), _extent(matrix.any(axis=0)))]
        ]
        self._sums = np.array([np.abs(matrix).sum(axis=0).max() for matrix in matrices])
        self._largest = np.array([np.abs(matrix).max(axis=1) for matrix in matrices])
        rows, columns = (-(-side // 2) for side in size)
        self._rows, self._columns = rows, columns
        self._step = min(max(BAND // columns, 1), rows)
        # Shapes of a band's tiles and of its products.
        self.shapes = [(16, self._step * columns, channels) for channels in matrices[0].shape]

    def bands(self, padded, workspace):
        """Yields the products of rows of tiles: begin, end and an array (16, ≥ tiles, D).

        Args:
          padded: the input.
          workspace: two arrays, which hold at least `shapes`; the products are in the second.

        Raises:
          _TooLarge: they are not exact.
        """
        tiles, products = (
            memory[: np.prod(shape)].reshape(shape) for memory, shape in zip(workspace, self.shapes)
        )
        for begin in range(0, self._rows, self._step):
            end = min(begin + self._step, self._rows)
            number = (end - begin) * self._columns
            peaks = _in_parts(
                *(kernels.transform, begin, end, tiles.size, padded, begin, tiles),
                peaks=(16, padded.shape[2]),
            )
            if not self._are_exact(peaks):
                raise _TooLarge
            for tile, (matrix, rows, columns), product in zip(tiles, self._parts, products):
                np.matmul(tile[:number, rows], matrix, out=product[:number, columns])
                product[:number, : columns.start] = 0
                product[:number, columns.stop :] = 0
            yield begin, end, products

    def _are_exact(self, peaks):
        """Whether sums stay below 2^53, for the largest inputs (16, C) at each place."""
        bounds = np.minimum(peaks.max(axis=1) * self._sums, (peaks * self._largest).sum(axis=1))
        bounds = bounds.reshape(4, 4)
        # A row of Aᵀ adds the first or the last three.
        bounds = np.maximum(bounds[:3], bounds[1:]).sum(axis=0)
        bounds = np.maximum(bounds[:3], bounds[1:]).sum(axis=0)
        return bounds + self._bias < 0.99 * EXACT  # False for NaN


class _Convolution:
    """A layer of h_s, and the buffers of its input, output and their gradients.

    Args:
      layer: `integer_networks.Layer`.
      before: the `_Convolution` whose output is its input; None for the first one.
      size: (height, width) of the input.

    Attributes:
      input, output: as `_padded` makes them.
      gradient: the gradient in the output, (h', w', C'), to be written by what follows.
    """

    def __init__(self, layer, before, size):
        kernel = _with_3_taps(layer)
        channels, outputs = kernel.shape[2:]
        matrices = _transformed(kernel)
        self.layer, self._before, self._size = layer, before, size
        self._phases = 2 if layer.up else 1
        self._bias = np.tile(layer.bias, self._phases * self._phases)
        self._forward = _Product(matrices, 4 * np.abs(self._bias).max(), size)
        # Mirroring a kernel swaps the first and the last row of its transform.
        mirrored = [matrices[4 * i + j].T for i in _MIRRORED for j in _MIRRORED]
        self._backward = _Product(mirrored, 0, size)
        self._output_size = tuple(self._phases * side for side in size)
        self.input = before.output if before else _padded(size, channels)
        self.output = _padded(self._output_size, len(layer.bias))
        self.gradient = np.zeros((*self._output_size, len(layer.bias)))
        self._integers = _padded(size, outputs)

    def workspace(self):
        """The numbers of elements of the arrays that `forward` and `backward` need."""
        shapes = zip(self._forward.shapes, self._backward.shapes)
        return [max(np.prod(shape) for shape in both) for both in shapes]

    def forward(self, workspace):
        """Computes `output` from `input`."""
        low = 0.0 if self.layer.relu else -CLAMP
        try:
            for begin, end, products in self._forward.bands(self.input, workspace):
                _in_parts(
                    *(kernels.activate, begin, end, products.size, products, begin, self._bias),
                    *(2.0**-self.layer.bits, low, self._phases, self._size, self.output),
                )
        except _TooLarge:
            inside = _inside(self.output, self._output_size)
            inside[:] = self.layer.forward(_inside(self.input, self._size))

    def backward(self, peak, gradient, workspace):
        """Computes the gradient in `input`, and through the ReLU before it, if there is one.

        Args:
          peak: the largest magnitude of `self.gradient`.
          gradient: (h, w, C), written.
          workspace: as for `forward`.

        Returns:
          the largest magnitude of `gradient`.
        """
        _, exponent = np.frexp(peak)
        unit = np.ldexp(1 / self.layer.gradient_largest, exponent)
        _in_parts(
            *(kernels.quantise, 0, len(self.gradient), self.gradient.size),
            *(self.gradient, unit, self._phases, self._integers),
        )
        relu = self._before is not None and self._before.layer.relu
        factor = unit * 2.0**-self.layer.bits
        try:
            peaks = [
                _in_parts(
                    *(kernels.differentiate, begin, end, products.size, products, begin),
                    *(factor, relu, self.input, gradient),
                    peaks=gradient.shape[2:],
                ).max()
                for begin, end, products in self._backward.bands(self._integers, workspace)
            ]
            return max(peaks)
        except _TooLarge:
            output = _inside(self.output, self._output_size)
            gradient[:] = self.layer.backward(self.gradient, output)
            if relu:
                gradient *= _inside(self.input, self._size) > 0
            return np.abs(gradient).max()


_MIRRORED = (3, 1, 2, 0)


def _extent(used):
    """The shortest slice that holds all places that are True."""
    places = np.flatnonzero(used)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)


def _with_3_taps(layer):
    """The kernel (3, 3, C, D) of a layer as a correlation; D are the channels of all phases."""
    if not layer.up:
        return layer.kernel
    # Output 2p + s of `spread` is Σ over u of input p + (s + 2 - u) / 2, where that is an integer.
    kernel = np.zeros((3, 3, layer.kernel.shape[2], 4, layer.kernel.shape[3]))
    for u, v in np.ndindex(5, 5):
        phase = kernels.phase_at(u % 2, v % 2, 2)
        kernel[(u % 2 + 4 - u) // 2, (v % 2 + 4 - v) // 2, :, phase] = layer.kernel[u, v]
    return kernel.reshape(*kernel.shape[:3], -1)


def _transformed(kernel):
    """G K Gᵀ of kernels (3, 3, C, D), a list of 16 arrays (C, D)."""

    def rows(k):
        return 2 * k[0], k[0] + k[1] + k[2], k[0] - k[1] + k[2], 2 * k[2]

    return [place for row in rows(kernel) for place in rows(row)]


def _padded(size, channels):
    """Zeros (2⌈h/2⌉ + 2, 2⌈w/2⌉ + 2, C), to hold an array of `size` (h, w) from (1, 1) on."""
    return np.zeros((*(side + side % 2 + 2 for side in size), channels))


def _inside(padded, size):
    return padded[1 : size[0] + 1, 1 : size[1] + 1]


class Iterations(exact_posterior.Iterations):
    """See `exact_posterior.Iterations`."""

    def __init__(self, decoder, y, mean, logvar, scale, settings):
        self._y, self._scale, self._adam = y, scale, tuple(settings[2:])
        self._weights = decoder.prior.weights
        self._values = np.stack([mean, logvar])
        self.mean, self.logvar = self._values
        self._moments = np.zeros((2, *self._values.shape))
        self._z, self._deviation, self._gradient = np.empty((3, *mean.shape))
        self._layers = []
        size = mean.shape[:2]
        for layer in decoder.hyper_synthesis.layers:
            self._layers.append(_Convolution(layer, (self._layers or [None])[-1], size))
            size = tuple((2 if layer.up else 1) * side for side in size)
        sizes = zip(*[layer.workspace() for layer in self._layers])
        self._workspace = [np.empty(max(needed)) for needed in sizes]

    def run(self, normal, rate):
        z, deviation = self._z, self._deviation
        rows = len(z)
        _in_parts(
            *(kernels.sample_rows, 0, rows, z.size, self.mean, self.logvar, normal),
            *(z, deviation, self._layers[0].input),
        )
        for layer in self._layers:
            layer.forward(self._workspace)
        last = self._layers[-1]
        peak = _in_parts(
            *(
                kernels.gaussian_rows,
                0,
                len(self._y),
                8 * self._y.size,
                self._y,
                last.output,
                last.gradient,
            ),
            peaks=last.gradient.shape[2:],
        ).max()
        gradients = [self._gradient] + [layer.gradient for layer in self._layers[:-1]]
        for layer, gradient in zip(self._layers[::-1], gradients[::-1]):
            peak = layer.backward(peak, gradient, self._workspace)
        _in_parts(
            *(
                kernels.update_rows,
                0,
                rows,
                8 * z.size,
                z,
                deviation,
                self._gradient,
                self._weights,
            ),
            *(self._scale, rate, self._adam, self._values, self._moments),
        )
