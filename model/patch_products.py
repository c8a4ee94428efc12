"""Correlations that are trained, and the gradients of their kernels, as matrix products.

`conv2d_backprop_filter` has half the speed of the product of gathered patches that it stands for,
and of an image's three channels `conv2d` is not much better.

Tensors are float32, channels-last and of static shape.
"""

import numpy as np

from runtime.quiet_tf import tf

FEW_CHANNELS = 16  # up to here patches are small enough to be kept for the gradient
PATCHES_BYTES = 2**25  # of patches that are made at a time, unless those of one image are more


def correlation(x, kernel, stride):
    """Correlation with zeros around `x`, of which every `stride`-th sample is kept.

    Args:
      x: (N, H, W, C).
      kernel: (2i + 1, 2j + 1, C, M).

    Returns:
      y: (N, ⌈H/stride⌉, ⌈W/stride⌉, M).
      kernel_gradient: function of ∂loss/∂y that returns ∂loss/∂kernel.
    """
    support, channels, outputs = _shape(kernel)
    if channels > FEW_CHANNELS:
        padding = [[0, 0], *([taps // 2, taps // 2] for taps in support), [0, 0]]
        y = tf.nn.conv2d(x, kernel, strides=stride, padding=padding)
        return y, lambda g: kernel_gradient(x, kernel, g, stride)
    rows = patches(x, support, stride)
    batch, height, width, _ = x.shape.as_list()
    y = tf.matmul(rows, tf.reshape(kernel, (-1, outputs)))
    y = tf.reshape(y, (batch, -(-height // stride), -(-width // stride), outputs))
    return y, lambda g: _as_kernel(_product(rows, g), kernel)


def kernel_gradient(x, kernel, g, stride):
    """∂loss/∂kernel, of the shape of `kernel`, from g = ∂loss/∂y (see `correlation`)."""
    support, channels, _ = _shape(kernel)
    batch, height, width, _ = g.shape.as_list()
    bytes_each = x.dtype.size * height * width * np.prod(support) * channels
    number = -(-batch // max(1, int(PATCHES_BYTES // bytes_each)))
    sizes = np.diff(np.linspace(0, batch, number + 1).astype(int))
    products = [
        _product(patches(x, support, stride), g)
        for x, g in zip(tf.split(x, sizes), tf.split(g, sizes))
    ]
    return _as_kernel(tf.add_n(products), kernel)


def _product(rows, g):
    """(M, taps · C), from the patches and (N, h, w, M): faster than the other way round."""
    return tf.matmul(tf.reshape(g, (-1, g.shape[-1])), rows, transpose_a=True)


def _as_kernel(product, kernel):
    return tf.reshape(tf.transpose(product), kernel.shape)


def _shape(kernel):
    rows, columns, channels, outputs = kernel.shape.as_list()
    return (rows, columns), channels, outputs


def patches(x, support, stride):
    """What each sample of a correlation depends on: (N · ⌈H/stride⌉ · ⌈W/stride⌉, taps · C).

    Args:
      x: (N, H, W, C).
      support: height and width of the kernel, odd.
      stride: of the correlation.
    """
    batch, height, width, channels = x.shape.as_list()
    samples = tf.reshape(x, (-1, channels))
    zero = batch * height * width  # index of a sample behind the others
    samples = tf.concat([samples, tf.zeros((1, channels), x.dtype)], 0)
    rows = _places(height, support[0], stride, width, zero)
    columns = _places(width, support[1], stride, 1, zero)
    images = np.arange(batch, dtype=np.int32) * height * width
    # Added up in the graph, whose constants stay small: sessions do it once.
    indices = images[:, None, None] + rows
    indices = tf.constant(indices[:, :, None, :, None]) + tf.constant(columns[:, None, :])
    indices = tf.minimum(indices, zero)
    return tf.reshape(
        tf.gather(samples, tf.reshape(indices, (-1,))), (-1, np.prod(support) * channels)
    )


def _places(length, taps, stride, step, outside):
    """Where the taps of each sample lie along an axis, times `step`: (⌈length/stride⌉, taps)."""
    places = np.arange(0, length, stride)[:, None] + np.arange(taps) - taps // 2
    inside = (places >= 0) & (places < length)
    return np.where(inside, step * places, outside).astype(np.int32)
