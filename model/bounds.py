"""Bounds with a gradient towards the allowed side, equivalent to those in TFC 1.3's `math_ops`.

A plain maximum has zero gradient below its bound, so a value there could never come back.
"""

from runtime.quiet_tf import tf


def lower_bound(v, bound):
    """max(`v`, `bound`), for a tensor and a number.

    The gradient passes where `v` is within the bound or where descent would raise it.
    """
    v = tf.convert_to_tensor(v)
    bound = tf.constant(bound, v.dtype)

    @tf.custom_gradient
    def bounded(v):
        def gradient(g):
            return tf.cast(tf.logical_or(v >= bound, g < 0), g.dtype) * g

        return tf.maximum(v, bound), gradient

    return bounded(v)


def upper_bound(v, bound):
    """min(`v`, `bound`), for a tensor and a number.

    The gradient passes where `v` is within the bound or where descent would lower it.
    """
    return -lower_bound(-tf.convert_to_tensor(v), -bound)
