"""The parametrisations of weights in TFC 1.3's layers: checkpoints hold their parameters.

`fourier` and `nonnegative` take the arguments of `tf.get_variable` after `getter`, the function
that creates the variable, and return the weight as a tensor.
"""

import numpy as np
from scipy import fftpack

from model.bounds import lower_bound
from runtime.quiet_tf import tf

OFFSET = 2.0**-18  # keeps the gradient of the square root finite at 0


def fourier(getter, name, shape, dtype, initializer):
    """A kernel (support, support, C, M) whose real Fourier transform is the trained variable.

    The variable, `<name>_rdft`, is (support², C·M).
    """
    basis = fourier_basis(shape[0])
    flat = (len(basis), shape[2] * shape[3])

    def initial(_, dtype=None, partition_info=None):
        kernel = initializer(shape, dtype=dtype, partition_info=partition_info)
        return tf.matmul(tf.constant(basis, dtype), tf.reshape(kernel, flat), transpose_a=True)

    transform = getter(name=name + "_rdft", shape=flat, dtype=dtype, initializer=initial)
    return tf.reshape(tf.matmul(tf.constant(basis, dtype), transform), shape)


def fourier_basis(support):
    """Orthonormal real Fourier basis for kernels of odd support, float64.

    Returns:
      (support², support²), with a row for each sample and a column for each frequency.
    """
    basis = np.identity(support**2).reshape(support**2, support, support)
    for axis in (1, 2):
        basis = fftpack.rfft(basis, axis=axis)
        np.moveaxis(basis, axis, 0)[1:] *= np.sqrt(2)
    return basis.reshape(support**2, support**2) / np.sqrt(support**2)


def nonnegative(getter, name, shape, dtype, initializer, minimum=0.0):
    """A weight ≥ `minimum` whose square root, after adding `OFFSET`², is the trained variable.

    The variable is called `reparam_<name>`.
    """

    def initial(shape, dtype=None, partition_info=None):
        value = initializer(shape, dtype=dtype, partition_info=partition_info)
        return tf.math.sqrt(tf.math.maximum(value + OFFSET**2, OFFSET**2))

    root = getter(name="reparam_" + name, shape=shape, dtype=dtype, initializer=initial)
    return tf.math.square(lower_bound(root, (minimum + OFFSET**2) ** 0.5)) - OFFSET**2
