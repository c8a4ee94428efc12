"""Convolutions and GDN in TensorFlow's own operations: the definition, and the version for GPUs.

Tensors are float32, channels-last and of static shape. `cpu_layers` implements the same functions
in ways that are fast on a CPU; `device.layers` chooses between the two modules.
"""

from model.patch_products import padding
from runtime.quiet_tf import tf


def conv_down(x, kernel):
    """Cross-correlates zero-padded `x` with a kernel at every second sample.

    Args:
      x: (N, H, W, C).
      kernel: (2k + 1, 2k + 1, C, M), centred on samples 0, 2, 4, … of `x`.

    Returns:
      (N, ⌈H/2⌉, ⌈W/2⌉, M).
    """
    return tf.nn.conv2d(x, kernel, strides=2, padding=padding(kernel))


def conv(x, kernel):
    """Cross-correlates zero-padded `x` with a kernel.

    Args:
      x: (N, H, W, C).
      kernel: (2k + 1, 2k + 1, C, M).

    Returns:
      (N, H, W, M).
    """
    return tf.nn.conv2d(x, kernel, strides=1, padding=padding(kernel))


def conv_up(x, kernel, winograd=False):
    """Upsamples `x` with a zero after each sample, in rows and columns, and convolves the result.

    Args:
      x: (N, h, w, C).
      kernel: (2k + 1, 2k + 1, C, M).
      winograd: used by `cpu_layers`; has no effect here, where cuDNN chooses the algorithm.

    Returns:
      (N, 2h, 2w, M).
    """
    batch, height, width, _ = x.shape.as_list()
    return tf.nn.conv2d_backprop_input(
        [batch, 2 * height, 2 * width, kernel.shape.as_list()[3]],
        tf.transpose(kernel, (0, 1, 3, 2)),
        x,
        strides=(1, 2, 2, 1),
        padding=padding(kernel),
    )


def flipped(kernel):
    """The kernel rotated by 180°: correlating with it convolves."""
    return tf.reverse(kernel, (0, 1))


def gdn(x, beta, gamma, inverse=False):
    """Generalised divisive normalisation (Ballé et al. 2016, arXiv 1511.06281).

    Args:
      x: (N, H, W, C).
      beta, gamma: (C,) and (C, C), positive.
      inverse: multiply instead of divide, which approximates the inverse.

    Returns:
      x_i / √p_i, or x_i √p_i, with the shape of `x`; p_i = beta_i + Σ_j gamma_ji x_j².
    """
    pool = tf.nn.conv2d(tf.math.square(x), gamma[None, None], strides=1, padding="VALID")
    pool = tf.nn.bias_add(pool, beta)
    return x * (tf.math.sqrt(pool) if inverse else tf.math.rsqrt(pool))


def bias_add(x, bias):
    """Adds `bias` (C,) to `x` (N, H, W, C)."""
    return tf.nn.bias_add(x, bias)


def mean_squared_error(x, x_tilde):
    """Mean of (x - x_tilde)² over each image, (N,).

    Args:
      x, x_tilde: (N, H, W, C).
    """
    return tf.reduce_mean(tf.math.squared_difference(x, x_tilde), axis=(1, 2, 3))
