"""TensorFlow 1.15 and TensorFlow Compression 1.3, quiet and quick.

Import `tf` and `tfc` from here. Importing them directly prints dozens of
NumPy FutureWarnings and deprecation notes that say nothing about this project,
and leaves large tensors to the C library, which asks the system for new pages
for each of them: that took up to half of the time of an iteration. On a GPU,
TensorFlow takes memory as it needs it, so that several processes can share one.

`tfc` is imported when it is first asked for. Most of the project does without,
as there is none for NVIDIA's TensorFlow (docs/gpu.md): ask for it inside the
functions that need it.
"""

import logging
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors still raise exceptions
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow.compat.v1 as tf

    tf.get_logger().setLevel(logging.ERROR)

__all__ = ["tf", "tfc"]  # noqa: F822  tfc is made below


def __getattr__(name):
    """`tfc`, at the first use (PEP 562).

    Raises:
      InputError: it is not installed, or for another TensorFlow.
    """
    if name != "tfc":
        raise AttributeError(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_compression as tfc
    except (ImportError, OSError, tf.errors.OpError) as error:
        from runtime.errors import InputError

        raise InputError(
            "needs tensorflow-compression 1.3, as do training of the base model and the authors' "
            ".tfci, but not the rest ({})".format(str(error).strip().splitlines()[0])
        )
    return tfc
