"""Processes large images and batches in pieces that fit in memory: first by image, then by tile.

The transforms are local: a latent of y depends on the pixels within 32 rows and columns of its own
16 × 16, and those pixels depend on the latents within 2 places. A piece is computed with a halo of
`HALO` latents around it. Zero padding corrupts only the halo, which is cropped; at the border of
the image, where the padding is part of the model, there is no halo. The pieces equal the result for
the whole image except for the last bits.

`transform` is a function of `transforms` with its weights bound, constants or stored
tensors (`stored.py`): gradients with respect to weights are not computed here.
"""

import collections
import itertools

import numpy as np

from model import device
from runtime import machine
from runtime.quiet_tf import tf

STRIDE = 16  # pixels along a latent's side
HALO = 2
GPU_AREA = 64 * 64  # latents of a piece, including the halo, summed over images, on a GPU
_SHARE = 0.25  # of the memory, which a piece may take
_LATENT_BYTES = 2048  # of activations and gradients by pixels of a latent, per channel (measured)
_MANY_CHANNELS = 256  # assumed for g_a, whose images do not show the model's channels

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


def largest(channels):
    """The number of latents that a piece may have, for a model with this number of channels."""
    if device.gpus():
        return GPU_AREA
    return max(int(_SHARE * machine.memory() / (_LATENT_BYTES * channels)), (4 * HALO) ** 2)


class _Pieces:
    """The pieces of a batch: groups of whole images, or tiles of single images.

    Args:
      batch, height, width: of the images, in pixels.
      channels: channels of the model.

    Attributes:
      images: number of images in a piece.
      rows, columns: lists of `Span`s of latents.
    """

    def __init__(self, batch, height, width, channels):
        height, width = -(-height // STRIDE), -(-width // STRIDE)
        area = largest(channels)
        fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * height * width <= area]
        self._batch, self.images = batch, max(fitting, default=1)
        side = max(height, width) if fitting else max(int(area**0.5), 4 * HALO)
        self.rows, self.columns = spans(height, side), spans(width, side)

    def __len__(self):
        return self._batch // self.images * len(self.rows) * len(self.columns)

    def __iter__(self):
        """Yields the first image, the span of rows and that of columns of each piece."""
        return itertools.product(range(0, self._batch, self.images), self.rows, self.columns)

    def joined(self, results, scale):
        """Joins the cores of the pieces in `results`, a dict by piece."""

        def core(span):
            begin, end = span.core_begin - span.begin, span.core_end - span.begin
            return slice(scale * begin, scale * end)

        def row_of(image, row):
            parts = (results[image, row, column] for column in self.columns)
            cores = (part[:, core(row)] for part in parts)
            return tf.concat([c[:, :, core(s)] for c, s in zip(cores, self.columns)], axis=2)

        images = range(0, self._batch, self.images)
        return tf.concat(
            [tf.concat([row_of(image, row) for row in self.rows], axis=1) for image in images],
            axis=0,
        )


def analysis(transform, x):
    """Computes `transform(x)`: images (N, H, W, 3) to latents (N, ⌈H/16⌉, ⌈W/16⌉, C)."""
    batch, height, width, _ = x.shape.as_list()
    pieces = _Pieces(batch, height, width, _MANY_CHANNELS)
    if len(pieces) == 1:
        return transform(x)

    def extent(span, pixels):  # the image, and so the last span, may end within a latent
        return min(span.size * STRIDE, pixels - span.begin * STRIDE)

    def size(image, row, column):
        return pieces.images, extent(row, height), extent(column, width)

    # Pieces of one size share a loop.
    results = {}
    for shape in sorted({size(*piece) for piece in pieces}):
        group = [piece for piece in pieces if size(*piece) == shape]
        begins = tf.constant([[image, r.begin * STRIDE, c.begin * STRIDE] for image, r, c in group])
        outputs = _mapped(lambda begin, shape=shape: transform(_cut(x, begin, shape)), begins)
        results.update(zip(group, tf.unstack(outputs)))
    return pieces.joined(results, 1)


def synthesis(transform, y, size):
    """Computes `transform(y, size=size)`: latents to images (N, H, W, 3)."""
    batch, _, _, channels = y.shape.as_list()
    pieces = _Pieces(batch, *size, channels)
    if len(pieces) == 1:
        return transform(y, size=size)
    shape = (pieces.images, pieces.rows[0].size, pieces.columns[0].size)
    begins = tf.constant([[image, row.begin, column.begin] for image, row, column in pieces])
    images = _mapped(
        lambda begin: transform(_cut(y, begin, shape), size=_pixels(shape[1:])), begins
    )
    x_tilde = pieces.joined(dict(zip(pieces, tf.unstack(images))), STRIDE)
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
    latents = y.shape.as_list()
    pieces = _Pieces(batch, height, width, latents[3])
    if len(pieces) == 1:
        return distortion_of_whole(transform, y, x, weights)
    x_tilde = synthesis(transform, y, (height, width))
    shape = (pieces.images, pieces.rows[0].size, pieces.columns[0].size)
    pixels = _pixels(shape[1:])
    below, right = (side - own for side, own in zip(_pixels(latents[1:3]), (height, width)))
    margins = [[0, 0], [0, below], [0, right], [0, 0]]
    x = tf.pad(x, margins)
    weights = None if weights is None else tf.pad(weights, margins)
    elements = (
        tf.constant([[image, row.begin, column.begin] for image, row, column in pieces]),
        tf.constant(np.array([_kept(row, height) for _, row, _ in pieces])),
        tf.constant(np.array([_kept(column, width) for _, _, column in pieces])),
    )

    def error(y, begin, row_kept, column_kept):
        kept = row_kept[:, None, None] * column_kept[:, None]
        if weights is not None:
            kept *= _cut(weights, begin * [0, STRIDE, STRIDE], (1, *pixels))
        piece = _cut(x, begin * [1, STRIDE, STRIDE], (pieces.images, *pixels))
        squares = tf.math.squared_difference(piece, transform(y, size=pixels))
        return tf.reduce_sum(kept * squares, axis=(1, 2, 3)) / (3 * height * width)

    def placed(total, begin, part):
        """Adds a part of `total`, which begins at `begin`."""
        after = tf.constant(total.shape.as_list()) - begin - tf.constant(part.shape.as_list())
        padded = tf.pad(part, tf.stack([begin, after], axis=1))
        return total + tf.ensure_shape(padded, total.shape)

    def add_error(total, element):
        begin, *_ = element
        return placed(total, begin[:1], error(_cut(y, begin, shape), *element))

    def add_gradient(total, element):
        begin, *_ = element
        piece = _cut(y, begin, shape)
        (gradient,) = tf.gradients(error(piece, *element), piece)
        return placed(total, tf.pad(begin, [[0, 1]]), gradient)

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
    """The part of `v` (N, h, w, C) of `size` (n, h', w') that starts at `begin` (3,)."""
    return tf.slice(v, tf.pad(begin, [[0, 1]]), (*size, v.shape.as_list()[3]))


def _mapped(function, begins):
    """Applies `function` to each of `begins` (n, 3), one after the other; stacked as (n, …)."""
    return tf.map_fn(function, begins, tf.float32, parallel_iterations=1, back_prop=False)
