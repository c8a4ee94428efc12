"""Correlations with trained kernels, and the gradients of the kernels, as matrix products.

`conv2d_backprop_filter` has half the speed of the equivalent matrix product with gathered patches,
and `conv2d` is not much better for the three channels of an image.

Tensors are float32, channels-last and of static shape.
"""

import numpy as np

from runtime.quiet_tf import tf

FEW_CHANNELS = 16  # up to this many, patches are small enough to keep for the gradient
PATCHES_BYTES = 2**25  # limit on the patches gathered at a time, but at least one image's


def padding(kernel):
    """Padding by half a kernel on all sides: TFC's `same_zeros`, unlike TensorFlow's SAME."""
    rows, columns = (taps // 2 for taps in kernel.shape.as_list()[:2])
    return [[0, 0], [rows, rows], [columns, columns], [0, 0]]


def correlation(x, kernel, stride):
    """Cross-correlates zero-padded `x` with a kernel at every `stride`-th sample.

    Args:
      x: (N, H, W, C).
      kernel: (2i + 1, 2j + 1, C, M).

    Returns:
      y: (N, ⌈H/stride⌉, ⌈W/stride⌉, M).
      kernel_gradient: function of ∂loss/∂y that returns ∂loss/∂kernel.
    """
    support, channels, outputs = _shape(kernel)
    if channels > FEW_CHANNELS:
        y = tf.nn.conv2d(x, kernel, strides=stride, padding=padding(kernel))
        return y, lambda g: kernel_gradient(x, kernel, g, stride)
    rows = patches(x, support, stride)
    batch, height, width, _ = x.shape.as_list()
    y = tf.matmul(rows, tf.reshape(kernel, (-1, outputs)))
    y = tf.reshape(y, (batch, -(-height // stride), -(-width // stride), outputs))
    return y, lambda g: _as_kernel(_product(rows, g), kernel)


def kernel_gradient(x, kernel, g, stride):
    """∂loss/∂kernel, with the shape of `kernel`, from g = ∂loss/∂y (see `correlation`)."""
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
    """gᵀ · rows, (M, taps · C), for g (N, h, w, M) and patches `rows`; faster than rowsᵀ · g."""
    return tf.matmul(tf.reshape(g, (-1, g.shape[-1])), rows, transpose_a=True)


def _as_kernel(product, kernel):
    return tf.reshape(tf.transpose(product), kernel.shape)


def _shape(kernel):
    rows, columns, channels, outputs = kernel.shape.as_list()
    return (rows, columns), channels, outputs


def patches(x, support, stride):
    """The patch that each output of a correlation sees: (N · ⌈H/stride⌉ · ⌈W/stride⌉, taps · C).

    Args:
      x: (N, H, W, C).
      support: height and width of the kernel, odd.
      stride: stride of the correlation.
    """
    batch, height, width, channels = x.shape.as_list()
    samples = tf.reshape(x, (-1, channels))
    zero = batch * height * width  # index of an extra sample after all of `x`
    samples = tf.concat([samples, tf.zeros((1, channels), x.dtype)], 0)
    rows = _places(height, support[0], stride, width, zero)
    columns = _places(width, support[1], stride, 1, zero)
    images = np.arange(batch, dtype=np.int32) * height * width
    # The sum is part of the graph, to keep its constants small; a session computes it once.
    indices = images[:, None, None] + rows
    indices = tf.constant(indices[:, :, None, :, None]) + tf.constant(columns[:, None, :])
    indices = tf.minimum(indices, zero)
    return tf.reshape(
        tf.gather(samples, tf.reshape(indices, (-1,))), (-1, np.prod(support) * channels)
    )


def _places(length, taps, stride, step, outside):
    """`step` · the position of each output's taps along an axis: (⌈length/stride⌉, taps)."""
    places = np.arange(0, length, stride)[:, None] + np.arange(taps) - taps // 2
    inside = (places >= 0) & (places < length)
    return np.where(inside, step * places, outside).astype(np.int32)
