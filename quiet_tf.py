"""TensorFlow 1.15 and TensorFlow Compression 1.3 without their start-up noise.

Import `tf` and `tfc` from here. Importing them directly prints dozens of
NumPy FutureWarnings and deprecation notes that say nothing about this project.
"""

import logging
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors still raise exceptions
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow.compat.v1 as tf

    tf.get_logger().setLevel(logging.ERROR)
    import tensorflow_compression as tfc

__all__ = ["tf", "tfc"]
