"""Convolutions of stride 2 by minimal filtering (Winograd; Lavin and Gray 2016, arXiv 1509.09308).

Splitting the 5×5 taps of a transposed convolution by output phase gives four kernels, zero-padded
to 3×3, and so a single correlation with 4 M outputs: 36 matrix products for each tile of 4×4
samples. Its adjoint is the convolution of stride 2. The error is about 1e-6 of the largest output.

Tensors are float32, channels-last and of static shape.
"""

import numpy as np

from runtime.quiet_tf import tf

TAPS = 5
TILE, REACH = 4, 6  # side of a tile in samples of each phase, and in samples of x it depends on
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and ∞: a fifth of the error of (0, ±1, ±2, ∞)


def toom_cook(points, outputs):
    """The matrices A, G, B of minimal filtering in one dimension.

    A (Gg ⊙ Bd) is the correlation of d (n samples) with g (n - outputs + 1 taps), at `outputs`
    places. n is the number of `points` plus one for ∞ (Blahut 2010, "Fast Algorithms for Signal
    Processing", section 5.2).
    """
    points = np.array(points)
    n = len(points) + 1
    a = np.zeros((outputs, n))
    a[:, :-1] = points ** np.arange(outputs)[:, None]
    a[-1, -1] = 1
    g = np.zeros((n, n - outputs + 1))
    b = np.zeros((n, n))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        g[i] = point ** np.arange(n - outputs + 1) / np.prod(point - others)
        b[i, :-1] = np.poly(others)[::-1]
    g[-1, -1] = 1
    b[-1] = np.poly(points)[::-1]
    return a, g, b


A, G, B = (np.kron(m, m) for m in toom_cook(POINTS, TILE))  # for two dimensions


def number_of_tiles(shape):
    """The number of tiles that cover a tensor of `shape` (N, h, w, …)."""
    return shape[0] * -(-shape[1] // TILE) * -(-shape[2] // TILE)


def constant_weights(kernel):
    """Transforms a kernel, array (5, 5, C, M), to the weights of the products, (36, C, 4 M)."""
    places, _ = _places_of_taps(kernel.shape[2])
    rows = np.concatenate([kernel.reshape(-1, kernel.shape[3]), np.zeros((1, kernel.shape[3]))])
    weights = np.dot(G, rows[places].reshape(9, -1))
    return weights.reshape(REACH**2, kernel.shape[2], -1).astype(np.float32)


def trained_weights(kernel):
    """Like `constant_weights`, for a tensor, with a gradient."""
    channels, outputs = kernel.shape.as_list()[2:]
    places, origins = _places_of_taps(channels)
    matrix = G.astype(np.float32)

    @tf.custom_gradient
    def transform(kernel):
        def gradient(g):
            g = tf.matmul(matrix, tf.reshape(g, (REACH**2, -1)), transpose_a=True)
            return tf.reshape(tf.gather(tf.reshape(g, (-1, outputs)), origins), kernel.shape)

        rows = tf.concat([tf.reshape(kernel, (-1, outputs)), tf.zeros((1, outputs))], 0)
        weights = tf.matmul(matrix, tf.reshape(tf.gather(rows, places), (9, -1)))
        return tf.reshape(weights, (REACH**2, channels, 4 * outputs)), gradient

    return transform(kernel)


def _places_of_taps(channels):
    """The row of each tap of the four phases in a kernel's rows (5·5·C, M), and the inverse.

    The rows come in the order (3, 3, C, 2, 2); for a missing tap, it is the one after the last.
    """
    i, j, c, a, b = np.ix_(*map(np.arange, (3, 3, channels, 2, 2)))
    row, column = TAPS - 1 + a - 2 * i, TAPS - 1 + b - 2 * j
    places = (row * TAPS + column) * channels + c
    places = np.where((row < TAPS) & (column < TAPS), places, TAPS**2 * channels)
    places = places.astype(np.int32).ravel()
    return places, np.argsort(places, kind="stable")[: TAPS**2 * channels].astype(np.int32)


class Tiles:
    """Convolutions between tensors of two shapes, (N, h, w, C) and (N, 2h, 2w, M).

    Samples, rows of C or M numbers, are gathered into tiles and back.

    Args:
      shape: shape of the smaller one, (N, h, w, C).
      outputs: M, the number of channels of the larger one.
    """

    def __init__(self, shape, outputs):
        self.shape, self.outputs = shape, outputs
        batch, height, width, self.channels = shape
        down, across = -(-height // TILE), -(-width // TILE)
        self.tiles = (batch, down, across)
        self.a, self.b = A.astype(np.float32), B.astype(np.float32)

        n = np.arange(batch)
        # Indices of samples of the padded x, in the order (REACH, REACH, batch, down, across).
        self.padded = (TILE * down + 2, TILE * across + 2)
        i, j, n_, t, s = np.ix_(
            np.arange(REACH), np.arange(REACH), n, TILE * np.arange(down), TILE * np.arange(across)
        )
        self.inputs = _indices((n_, i + t, j + s), (batch, *self.padded))
        # Indices of the output's samples in the order (TILE, TILE, batch, down, across, 2, 2).
        n_, i, j = np.ix_(n, np.arange(2 * height), np.arange(2 * width))
        u, v = i // 2, j // 2
        places = (u % TILE, v % TILE, n_, u // TILE, v // TILE, i % 2, j % 2)
        self.places = _indices(places, (TILE, TILE, *self.tiles, 2, 2))
        # The inverse; tiles that overlap the border take a row of zeros appended at the end.
        origins = np.full(TILE**2 * int(np.prod(self.tiles)) * 4, self.places.size)
        origins[self.places] = np.arange(self.places.size)
        self.origins = origins.astype(np.int32)

    def up(self, x, weights):
        """Computes `cpu_layers.conv_up` of x (N, h, w, C): (N, 2h, 2w, M)."""

        @tf.custom_gradient
        def convolve(x, weights):
            small = self._of_small(x)

            def gradient(g):
                large = self._of_large(g)
                dx = self._to_small(tf.matmul(large, weights, transpose_b=True))
                return dx, tf.matmul(small, large, transpose_a=True)

            return self._to_large(tf.matmul(small, weights)), gradient

        return convolve(x, weights)

    def down(self, x, weights):
        """Computes the adjoint of `up`, `cpu_layers.conv_down` of x (N, 2h, 2w, M): (N, h, w, C).

        `weights` are those of the transposed kernel, (5, 5, C, M).
        """

        @tf.custom_gradient
        def correlate(x, weights):
            large = self._of_large(x)

            def gradient(g):
                small = self._of_small(g)
                dx = self._to_large(tf.matmul(small, weights))
                return dx, tf.matmul(small, large, transpose_a=True)

            return self._to_small(tf.matmul(large, weights, transpose_b=True)), gradient

        return correlate(x, weights)

    def _of_small(self, x):
        """The factors of the products, (36, tiles, C), from x (N, h, w, C)."""
        _, height, width, _ = self.shape
        below, right = (self.padded[0] - height - 1, self.padded[1] - width - 1)
        x = tf.pad(x, [[0, 0], [1, below], [1, right], [0, 0]])
        x = tf.gather(tf.reshape(x, (-1, self.channels)), self.inputs)
        x = tf.matmul(self.b, tf.reshape(x, (REACH**2, -1)))
        return tf.reshape(x, (REACH**2, -1, self.channels))

    def _to_large(self, products):
        """(N, 2h, 2w, M) from products (36, tiles, 4 M)."""
        batch, height, width, _ = self.shape
        x = tf.matmul(self.a, tf.reshape(products, (REACH**2, -1)))
        x = tf.gather(tf.reshape(x, (-1, self.outputs)), self.places)
        return tf.reshape(x, (batch, 2 * height, 2 * width, self.outputs))

    def _of_large(self, g):
        """The adjoint of `_to_large`."""
        g = tf.reshape(g, (-1, self.outputs))
        if self.origins.size > self.places.size:
            g = tf.pad(g, [[0, 1], [0, 0]])
        g = tf.reshape(tf.gather(g, self.origins), (TILE**2, -1))
        g = tf.matmul(self.a, g, transpose_a=True)
        return tf.reshape(g, (REACH**2, -1, 4 * self.outputs))

    def _to_small(self, products):
        """The adjoint of `_of_small`."""
        _, height, width, _ = self.shape
        g = tf.matmul(self.b, tf.reshape(products, (REACH**2, -1)), transpose_a=True)
        g = tf.reshape(g, (REACH, REACH, *self.tiles, self.channels))
        g = _overlapped(_overlapped(g, axis=0, tiles=3), axis=1, tiles=4)
        g = tf.reshape(
            tf.transpose(g, (2, 3, 0, 4, 1, 5)),
            (-1, TILE * self.tiles[1], TILE * self.tiles[2], self.channels),
        )
        return g[:, :height, :width]


def _indices(places, shape):
    return np.ravel_multi_index(np.broadcast_arrays(*places), shape).astype(np.int32).ravel()


def _overlapped(g, axis, tiles):
    """Adds first and last entries along `axis` to the neighbouring tiles' samples they lie on."""
    first, *own, last = tf.unstack(g, axis=axis)
    own[0] += _shifted(last, tiles - 1, 1)
    own[-1] += _shifted(first, tiles - 1, -1)
    return tf.stack(own, axis)


def _shifted(v, axis, by):
    """Shifts `v` by one place along `axis`, filling in zeros."""
    paddings = [[0, 0] for _ in v.shape]
    begin, size = [0] * len(paddings), v.shape.as_list()
    size[axis] -= 1
    paddings[axis] = [1, 0] if by > 0 else [0, 1]
    begin[axis] = 0 if by > 0 else 1
    return tf.pad(tf.slice(v, begin, size), paddings)
