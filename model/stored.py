"""Stored tensors: large constants as variables, which are set once and never change.

TensorFlow 1 copies a graph's constants several times for each new set of fetches. With the weights
of N = 192 that takes half a second or more for each set, and memory; a variable is set once, by
`tf.global_variables_initializer`.
"""

from runtime.quiet_tf import tf

SMALL = 2**16  # bytes; up to here an ordinary constant is no slower


def store(array):
    """A tensor with the values of `array`, in the current graph; not part of any loop."""
    with tf.control_dependencies(None):
        if array.nbytes <= SMALL:
            tensor = tf.constant(array)
        else:
            # A function as initial value would keep the variable on the CPU, where `py_func` runs.
            initial = _outside_graph(array)
            tensor = tf.Variable(initial, trainable=False, use_resource=True).read_value()
    tf.get_collection_ref(_STORED).append((tensor, array))
    return tensor


def stored_value(tensor):
    """The array that a tensor of `store` has been made of; None for any other tensor."""
    for stored, array in tf.get_collection(_STORED):
        if stored is tensor:
            return array
    return None


_STORED = "stored tensors"


def _outside_graph(array):
    """A tensor with the values of `array`, which the graph does not contain."""
    tensor = tf.py_func(lambda: array, [], tf.as_dtype(array.dtype))
    return tf.ensure_shape(tensor, array.shape)
