"""TensorFlow 1.15 and TensorFlow Compression 1.3, quiet and quick.

Import `tf` and `tfc` from here. Importing them directly prints dozens of
NumPy FutureWarnings and deprecation notes that say nothing about this project,
and leaves large tensors to the C library, which asks the system for new pages
for each of them: that took up to half of the time of an iteration.
"""

import logging
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors still raise exceptions
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow.compat.v1 as tf

    tf.get_logger().setLevel(logging.ERROR)
    import tensorflow_compression as tfc

__all__ = ["tf", "tfc"]
