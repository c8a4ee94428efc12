"""Stored tensors: large constants as variables, which are set once and never change.

TensorFlow 1 copies a graph's constants for each new set of fetches. With the weights of N = 192, a
run of sga.py spent two seconds on that, and 0.5 GB; a variable is set once, by
`tf.global_variables_initializer`.
"""

from runtime.quiet_tf import tf

SMALL = 2**16  # bytes; up to here an ordinary constant is no slower


def store(array):
    """A tensor with the values of `array`, in the current graph, outside any loop.

    Above `SMALL` it reads a variable: a session must first run the initialisers, which are to be
    made when the graph is complete. `array` must not change.
    """
    entry = [None, array]
    with tf.control_dependencies(None):
        if array.nbytes <= SMALL:
            entry[0] = tf.constant(array)
        else:
            # The graph does not contain the values. (A function as initial value would keep the
            # variable on the CPU, where `py_func` runs.)
            values = tf.py_func(lambda: entry[1], [], tf.as_dtype(array.dtype))
            values = tf.ensure_shape(values, array.shape)
            variable = tf.Variable(values, trainable=False, use_resource=True, name="stored")
            entry[0] = variable.read_value()
    tf.get_collection_ref(_STORED).append(entry)
    return entry[0]


def stored_value(tensor):
    """The array from which `store` made `tensor`; None for any other tensor."""
    for stored, array in tf.get_collection_ref(_STORED):
        if stored is tensor:
            return array
    return None


def release():
    """Frees the arrays behind the current graph, once it is complete and its variables are set."""
    for entry in tf.get_collection_ref(_STORED):
        entry[1] = None


_STORED = "stored tensors"
