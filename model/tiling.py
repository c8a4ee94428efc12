"""Processes large images in pieces, so that memory does not grow with their size.

The transforms are local: a latent of y depends on the pixels within 32 rows and columns of its own
16 × 16, and those pixels depend on the latents within 2 places. A piece is computed with a halo of
`HALO` latents around it. Zero padding corrupts only the halo, which is cropped; at the border of
the image, where the padding is part of the model, there is no halo. The pieces equal the result for
the whole image except for the last bits.

`transform` is a function of `transforms` with its weights bound, which have to be constants:
gradients with respect to weights are not computed here.
"""

import collections
import itertools

import numpy as np

from model import device
from runtime.quiet_tf import tf

STRIDE = 16  # pixels along a latent's side
HALO = 2
AREA = 64 * 64  # latents of a piece, including the halo, summed over the images of a batch

Span = collections.namedtuple("Span", "begin size core_begin core_end")
Span.__doc__ = """A range of rows (or columns) of latents to compute, and the core to keep of it."""


def spans(length, longest):
    """Covers `length` latents with `Span`s of equal size ≤ `longest`; their cores partition it."""
    if length <= longest:
        return [Span(0, length, 0, length)]
    number = -(-(length - 2 * HALO) // (longest - 2 * HALO))
    size = -(-(length - 2 * HALO) // number) + 2 * HALO
    begins = [min(i * (size - 2 * HALO), length - size) for i in range(number)]
    edges = [0] + [begin + size - HALO for begin in begins[:-1]] + [length]
    return [Span(begin, size, *core) for begin, *core in zip(begins, edges[:-1], edges[1:])]


def _grid(batch, height, width):
    """The spans of rows and columns of latents, for a `height` and `width` in pixels."""
    height, width = -(-height // STRIDE), -(-width // STRIDE)
    if batch * height * width <= AREA:
        longest = max(height, width)
    else:
        longest = max(int((AREA / batch) ** 0.5), 4 * HALO)
    return spans(height, longest), spans(width, longest)


def analysis(transform, x):
    """Computes `transform(x)`: images (N, H, W, 3) to latents (N, ⌈H/16⌉, ⌈W/16⌉, C)."""
    batch, height, width, _ = x.shape.as_list()
    rows, columns = _grid(batch, height, width)
    if len(rows) == len(columns) == 1:
        return transform(x)

    def extent(span, pixels):  # the image, and so the last span, may end within a latent
        return min(span.size * STRIDE, pixels - span.begin * STRIDE)

    def size(row, column):
        return extent(row, height), extent(column, width)

    # Pieces of one size share a loop.
    pieces = list(itertools.product(rows, columns))
    results = {}
    for shape in sorted({size(*piece) for piece in pieces}):
        group = [piece for piece in pieces if size(*piece) == shape]
        begins = [[STRIDE * row.begin, STRIDE * column.begin] for row, column in group]
        outputs = _mapped(
            lambda begin, shape=shape: transform(_cut(x, begin, shape)), tf.constant(begins)
        )
        results.update(zip(group, tf.unstack(outputs)))
    return _joined(rows, columns, results, 1)


def synthesis(transform, y, size):
    """Computes `transform(y, size=size)`: latents to images (N, H, W, 3)."""
    rows, columns = _grid(y.shape.as_list()[0], *size)
    if len(rows) == len(columns) == 1:
        return transform(y, size=size)
    pieces = list(itertools.product(rows, columns))
    shape = (rows[0].size, columns[0].size)
    begins = tf.constant([[row.begin, column.begin] for row, column in pieces])
    images = _mapped(lambda begin: transform(_cut(y, begin, shape), size=_pixels(shape)), begins)
    x_tilde = _joined(rows, columns, dict(zip(pieces, tf.unstack(images))), STRIDE)
    return x_tilde[:, : size[0], : size[1]]


def distortion_of_whole(transform, y, x, weights=None):
    """Mean of weights · (x - x_tilde)² over each image, (N,), and x_tilde = transform(y).

    Args:
      transform: `transform(y, size=(H, W))` returns images (N, H, W, 3).
      y, x: latents and images.
      weights: (1, H, W, 3), not negative; None: 1 everywhere.
    """
    x_tilde = transform(y, size=tuple(x.shape.as_list()[1:3]))
    compared = (x, x_tilde)
    if weights is not None:
        root = tf.math.sqrt(weights)
        compared = (root * x, root * x_tilde)
    return device.layers().mean_squared_error(*compared), x_tilde


def distortion(transform, y, x, weights=None):
    """Like `distortion_of_whole`, but only the error has a gradient, and only with respect to `y`.

    The gradient is also computed piece by piece, recomputing each piece from `y` rather than
    keeping its activations.
    """
    batch, height, width, _ = x.shape.as_list()
    rows, columns = _grid(batch, height, width)
    if len(rows) == len(columns) == 1:
        return distortion_of_whole(transform, y, x, weights)
    x_tilde = synthesis(transform, y, (height, width))
    latents = y.shape.as_list()[1:3]
    shape = (rows[0].size, columns[0].size)
    below, right = (side - pixels for side, pixels in zip(_pixels(latents), (height, width)))
    margins = [[0, 0], [0, below], [0, right], [0, 0]]
    x = tf.pad(x, margins)
    weights = None if weights is None else tf.pad(weights, margins)
    pieces = list(itertools.product(rows, columns))
    elements = (
        tf.constant([[row.begin, column.begin] for row, column in pieces]),
        tf.constant(np.array([_kept(row, height) for row, _ in pieces])),
        tf.constant(np.array([_kept(column, width) for _, column in pieces])),
    )

    def error(y, begin, row_kept, column_kept):
        kept = row_kept[:, None, None] * column_kept[:, None]
        if weights is not None:
            kept *= _cut(weights, STRIDE * begin, _pixels(shape))
        piece = _cut(x, STRIDE * begin, _pixels(shape))
        squares = tf.math.squared_difference(piece, transform(y, size=_pixels(shape)))
        return tf.reduce_sum(kept * squares, axis=(1, 2, 3)) / (3 * height * width)

    def add_error(total, element):
        return total + error(_cut(y, element[0], shape), *element)

    def add_gradient(total, element):
        piece = _cut(y, element[0], shape)
        (gradient,) = tf.gradients(error(piece, *element), piece)
        before = tf.pad(element[0], [[1, 1]])
        after = tf.constant([0, *latents, 0]) - before - tf.constant([0, *shape, 0])
        paddings = tf.stack([before, after], axis=1)
        return total + tf.ensure_shape(tf.pad(gradient, paddings), y.shape)

    def fold(add, initializer):
        # Like `tf.foldl`, whose counters a GPU would have to send to the host for each piece.
        def add_next(i, total):
            return i + 1, add(total, [element[i] for element in elements])

        _, total = tf.while_loop(
            lambda i, _: i < len(pieces),
            add_next,
            (0, initializer),
            parallel_iterations=1,
            back_prop=False,
        )
        return total

    @tf.custom_gradient
    def in_pieces(y):
        def gradient(g):
            total = fold(add_gradient, initializer=tf.zeros(y.shape))
            return tf.reshape(g, (-1, 1, 1, 1)) * total

        return fold(add_error, initializer=tf.zeros(batch)), gradient

    return in_pieces(y), x_tilde


def _pixels(latents):
    return tuple(STRIDE * side for side in latents)


def _kept(span, pixels):
    """1 for pixels of a span that lie in its core and in the image, 0 for its other pixels."""
    places = STRIDE * span.begin + np.arange(STRIDE * span.size)
    end = min(STRIDE * span.core_end, pixels)
    return ((places >= STRIDE * span.core_begin) & (places < end)).astype(np.float32)


def _cut(v, begin, size):
    """The part of `v` (N, h, w, C) of `size` rows and columns that starts at `begin` (2,)."""
    batch, _, _, channels = v.shape.as_list()
    return tf.slice(v, tf.pad(begin, [[1, 1]]), (batch, *size, channels))


def _mapped(function, begins):
    """Applies `function` to each of `begins` (n, 2), one after the other; stacked as (n, …)."""
    return tf.map_fn(function, begins, tf.float32, parallel_iterations=1, back_prop=False)


def _joined(rows, columns, results, scale):
    """Joins the cores of the pieces in `results`, a dict by (row, column)."""

    def core(span):
        return slice(scale * (span.core_begin - span.begin), scale * (span.core_end - span.begin))

    return tf.concat(
        [
            tf.concat(
                [results[row, column][:, core(row), core(column)] for column in columns], axis=2
            )
            for row in rows
        ],
        axis=1,
    )
