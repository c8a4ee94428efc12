"""The functions of `layers.py`, which take nearly all the time, in ways that are fast on a CPU.

* `conv_up`, the transpose of a convolution of stride 2, interleaves the rows of two ordinary
  convolutions (Shi et al. 2016, arXiv 1609.05158), one for even rows and one for odd: TensorFlow's
  `conv2d` comes closer to the speed of a matrix product than its `conv2d_transpose`. The gradient
  of `conv_down` does the same.
* Both use Winograd's minimal filtering (`winograd.py`) where an error of about 1e-6 of the largest
  output does not matter: in training, and in losses, which do not affect decoding.
* `gdn` has a gradient of few operations, in pieces that stay in a processor's cache.
* `bias_add` and `mean_squared_error` avoid slow broadcasts.

Kernels are 5×5, except for `conv`. Tensors are float32, channels-last and of static shape.
"""

import numpy as np

from model import patch_products
from model.patch_products import padding
from model.stored import store, stored_value
from model.winograd import Tiles, constant_weights, number_of_tiles, trained_weights
from runtime.quiet_tf import tf


def conv_down(x, kernel):
    """Cross-correlates zero-padded `x` with a kernel at samples 0, 2, 4, ….

    Args:
      x: (N, H, W, C).
      kernel: (5, 5, C, M).

    Returns:
      (N, ⌈H/2⌉, ⌈W/2⌉, M).
    """
    batch, height, width, _ = x.shape.as_list()
    channels, outputs = kernel.shape.as_list()[2:]
    small = [batch, height // 2, width // 2, outputs]
    if _is_trained(kernel) and not (height % 2 or width % 2) and _is_for_winograd(small, kernel):
        weights = _winograd_weights(_transposed(kernel))
        return Tiles(small, channels).down(x, weights)

    @tf.custom_gradient
    def correlate(x, kernel):
        y, kernel_gradient = _correlation(x, kernel, stride=2)

        def gradient(g):
            dx = _up(g, _transposed(kernel))[:, :height, :width]
            return dx, kernel_gradient(g)

        return y, gradient

    return correlate(x, kernel)


def conv(x, kernel):
    """Correlates as `layers.conv`: (N, H, W, C) with (2k + 1, 2k + 1, C, M) to (N, H, W, M)."""

    @tf.custom_gradient
    def correlate(x, kernel):
        y, kernel_gradient = _correlation(x, kernel, stride=1)

        def gradient(g):
            dx, _ = _correlation(g, _transposed(flipped(kernel)), stride=1)
            return dx, kernel_gradient(g)

        return y, gradient

    return correlate(x, kernel)


def conv_up(x, kernel, winograd=False):
    """Upsamples `x` with a zero after each sample, in rows and columns, and convolves the result.

    Args:
      x: (N, h, w, C).
      kernel: (5, 5, C, M).
      winograd: whether to prefer speed to the last bits of precision, as for any trained kernel.

    Returns:
      (N, 2h, 2w, M).
    """
    shape = x.shape.as_list()
    if (winograd or _is_trained(kernel)) and _is_for_winograd(shape, kernel):
        tiles = Tiles(shape, kernel.shape.as_list()[3])
        return tiles.up(x, _winograd_weights(kernel))

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(g):
            dx, kernel_gradient = _correlation(g, _transposed(kernel), stride=2)
            return dx, _transposed(kernel_gradient(x))

        return _up(x, kernel), gradient

    return convolve(x, kernel)


def flipped(kernel):
    """The kernel rotated by 180°: correlating with it convolves."""
    return _folded("flipped", kernel, _reversed)


def _reversed(kernel):
    """The kernel with rows and columns reversed; TensorFlow is slow at strides of -1."""
    return kernel[::-1, ::-1] if _library(kernel) is np else tf.reverse(kernel, (0, 1))


def _transposed(kernel):
    return _folded(
        "transposed", kernel, lambda kernel: _library(kernel).transpose(kernel, (0, 1, 3, 2))
    )


def _library(kernel):
    return np if isinstance(kernel, np.ndarray) else tf


def _is_trained(kernel):
    return kernel.op.type != "Const" and stored_value(kernel) is None


def _folded(name, kernel, function):
    """`function(kernel)`, cached under `name`.

    If `kernel` is a constant or stored, the result is computed once, in NumPy, and kept likewise,
    outside any loop.
    """
    cache = tf.get_collection_ref("folded kernels")
    for key, of, result in cache:
        if key == name and of is kernel:
            return result
    if _is_trained(kernel):
        result = function(kernel)
    elif stored_value(kernel) is not None:
        result = store(function(stored_value(kernel)))
    else:
        with tf.control_dependencies(None):
            result = tf.constant(function(tf.get_static_value(kernel)))
    cache.append((name, kernel, result))
    return result


WINOGRAD_CHANNELS = 128  # with fewer, moving the data outweighs the multiplications
WINOGRAD_TILES = 128  # with fewer, reading the weights does
TRAINED_CHANNELS, TRAINED_TILES = 64, 16  # lower, because the kernel's gradient gains most


def _is_for_winograd(shape, kernel):
    """Whether Winograd's filtering pays off; `shape`: the smaller of the two tensors it maps."""
    least = TRAINED_CHANNELS if _is_trained(kernel) else WINOGRAD_CHANNELS
    tiles = TRAINED_TILES if _is_trained(kernel) else WINOGRAD_TILES
    return min(kernel.shape.as_list()[2:]) >= least and number_of_tiles(shape) >= tiles


def _winograd_weights(kernel):
    weights = trained_weights if _is_trained(kernel) else constant_weights
    return _folded("Winograd", kernel, weights)


def _correlation(x, kernel, stride):
    """Like `patch_products.correlation`, which this uses only for trained kernels."""
    if _is_trained(kernel):
        return patch_products.correlation(x, kernel, stride)

    def kernel_gradient(g):
        shape, strides = kernel.shape.as_list(), (1, stride, stride, 1)
        return tf.nn.conv2d_backprop_filter(x, shape, g, strides=strides, padding=padding(kernel))

    return tf.nn.conv2d(x, kernel, strides=stride, padding=padding(kernel)), kernel_gradient


FEW_OUTPUTS = 16  # up to this many, TensorFlow's own transposed convolution is faster


def _up(x, kernel):
    batch, height, width, _ = x.shape.as_list()
    outputs = kernel.shape.as_list()[3]
    if outputs <= FEW_OUTPUTS:
        return tf.nn.conv2d_backprop_input(
            [batch, 2 * height, 2 * width, outputs],
            _transposed(kernel),
            x,
            strides=(1, 2, 2, 1),
            padding=padding(kernel),
        )
    rows = [
        tf.nn.conv2d(
            x, _row_kernel(kernel, a), strides=1, padding=[[0, 0], [1 - a, 1], [1, 1], [0, 0]]
        )
        for a in (0, 1)
    ]
    rows = [tf.reshape(row, (batch * height, 2 * width * outputs)) for row in rows]
    return tf.reshape(tf.concat(rows, 1), (batch, 2 * height, 2 * width, outputs))


def _row_kernel(kernel, a):
    return _folded("rows {}".format(a), kernel, lambda kernel: _row_taps(kernel, a))


def _row_taps(kernel, a):
    """The kernel of output rows 2u + a, with even and odd columns as channels: (3 - a, 3, C, 2M).

    Odd columns have a tap fewer, filled with zeros: one convolution with zeros is faster than two.
    """
    library, kernel = _library(kernel), _reversed(kernel)
    columns = [
        library.pad(_taps(kernel, a, b), [[0, 0], [b, 0], [0, 0], [0, 0]], "constant")
        for b in (0, 1)
    ]
    channels, outputs = (int(number) for number in kernel.shape[2:])
    return library.reshape(library.stack(columns, axis=3), (3 - a, 3, channels, 2 * outputs))


def _taps(flipped_kernel, a, b):
    """The taps that contribute to output samples (2u + a, 2v + b).

    Even rows depend on x[u - 1], x[u], x[u + 1], odd rows on x[u], x[u + 1]; likewise columns.
    """
    return flipped_kernel[a::2, b::2]


FEW_CHANNELS = 16  # broadcasting to this many or fewer is slow


def bias_add(x, bias):
    """Adds `bias` (C,) to `x` (N, H, W, C); with few channels, to whole rows at once."""
    _, _, width, channels = x.shape.as_list()
    if channels > FEW_CHANNELS:
        return tf.nn.bias_add(x, bias)
    rows = tf.reshape(x, (-1, width * channels))
    return tf.reshape(tf.nn.bias_add(rows, tf.tile(bias, [width])), x.shape)


# --- Distortion ------------------------------------------------------------------------------


def mean_squared_error(x, x_tilde):
    """Mean of (x - x_tilde)² over each image, (N,), with a one-pass gradient.

    Args:
      x, x_tilde: (N, H, W, C); only `x_tilde` gets a gradient.
    """
    number = np.prod(x.shape.as_list()[1:])

    @tf.custom_gradient
    def error(x_tilde):
        def gradient(g):
            return (2 / number) * tf.reshape(g, (-1, 1, 1, 1)) * (x_tilde - x)

        return tf.reduce_mean(tf.math.squared_difference(x, x_tilde), axis=(1, 2, 3)), gradient

    return error(x_tilde)


# --- GDN -------------------------------------------------------------------------------------

STRIP_BYTES = 2**22  # a few strips fit in a processor's cache


def gdn(x, beta, gamma, inverse=False):
    """Generalised divisive normalisation (Ballé et al. 2016, arXiv 1511.06281).

    Args:
      x: (N, H, W, C).
      beta, gamma: (C,) and (C, C).
      inverse: multiply instead of divide, which approximates the inverse.

    Returns:
      x_i / √p_i, or x_i √p_i, with the shape of `x`; p_i = beta_i + Σ_j gamma_ji x_j².
    """
    channels = x.shape.as_list()[-1]
    pixels = int(np.prod(x.shape.as_list()[:-1]))

    @tf.custom_gradient
    def normalise(x, beta, gamma):
        strips = _strips(x)
        root = tf.math.sqrt if inverse else tf.math.rsqrt
        scales = [root(_pool(strip, beta, gamma)) for strip in strips]

        def gradient(g):
            pieces = list(zip(strips, scales, _strips(g)))
            if inverse:  # a pull is 2 ∂loss/∂p
                pulls = [strip * g / scale for strip, scale, g in pieces]
            else:
                pulls = [-strip * g * scale * tf.math.square(scale) for strip, scale, g in pieces]
            dx = tf.concat(
                [
                    g * scale + strip * tf.matmul(pull, gamma, transpose_b=True)
                    for (strip, scale, g), pull in zip(pieces, pulls)
                ],
                axis=0,
            )
            if not (_is_trained(beta) or _is_trained(gamma)):  # saves building what is not used
                return tf.reshape(dx, x.shape), None, None
            dbeta = 0.5 * tf.add_n([tf.reduce_sum(pull, axis=0) for pull in pulls])
            dgamma = 0.5 * tf.add_n(
                [_moments(tf.math.square(strip), pull) for strip, pull in zip(strips, pulls)]
            )
            return tf.reshape(dx, x.shape), dbeta, dgamma

        y = tf.concat([strip * scale for strip, scale in zip(strips, scales)], axis=0)
        return tf.reshape(y, x.shape), gradient

    def _strips(v):
        number = -(-4 * pixels * channels // STRIP_BYTES)
        edges = np.linspace(0, pixels, number + 1).astype(int)
        return tf.split(tf.reshape(v, (pixels, channels)), np.diff(edges), axis=0)

    return normalise(x, beta, gamma)


def _pool(x, beta, gamma):
    return tf.nn.bias_add(tf.matmul(tf.math.square(x), gamma), beta)


MOMENT_ROWS = 1024  # of which matrix products are fastest


def _moments(a, b):
    """Σ a_ki b_kj over the many rows of `a` and `b`, both (rows, C): (C, C)."""
    rows, channels = a.shape.as_list()
    if rows % MOMENT_ROWS:
        return tf.matmul(a, b, transpose_a=True)
    a, b = (tf.reshape(v, (-1, MOMENT_ROWS, channels)) for v in (a, b))
    return tf.reduce_sum(tf.matmul(a, b, transpose_a=True), axis=0)
