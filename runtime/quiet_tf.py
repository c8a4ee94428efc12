"""TensorFlow 1.15 and TensorFlow Compression 1.3, without their warnings and with faster settings.

Import `tf` and `tfc` from here. Importing them directly prints dozens of NumPy
FutureWarnings and deprecation notes that are irrelevant to this project, and
makes the C library allocate large tensors, requesting new pages from the system
for each of them: that took up to half the time of an iteration. On a GPU,
TensorFlow allocates memory as needed, so that several processes can share one.
Where the CPU quota of a container is below the number of cores, TensorFlow gets
only as many threads as the quota has cores.

`tfc` is imported on first use. Import it inside the functions that need it:
most of the project works without it, because NVIDIA's TensorFlow has no build
of it (docs/gpu.md).
"""

import atexit
import contextlib
import gc
import logging
import math
import os
import warnings

from runtime import machine
from runtime.errors import InputError


@contextlib.contextmanager
def no_collection():
    """A context without garbage collection, for imports and graphs.

    They make hundreds of thousands of objects that stay, which the collector would look through
    over and over.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


atexit.register(gc.freeze)  # nor are they looked through when the process ends

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors still raise exceptions
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
if (machine.quota() or math.inf) < machine.affinity():  # TensorFlow does not know quotas
    for kind in ("INTRAOP", "INTEROP"):
        os.environ.setdefault("TF_NUM_{}_THREADS".format(kind), str(machine.cores()))
with warnings.catch_warnings(), no_collection():
    warnings.simplefilter("ignore")
    import tensorflow.compat.v1 as tf

    tf.get_logger().setLevel(logging.ERROR)

__all__ = ["enough_memory", "no_collection", "tf", "tfc"]  # noqa: F822  `__getattr__` below provides tfc


def __getattr__(name):
    """Imports `tfc` on first use (PEP 562).

    Raises:
      InputError: it is not installed, or is built for another TensorFlow.
    """
    if name != "tfc":
        raise AttributeError(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_compression as tfc
    except (ImportError, OSError, tf.errors.OpError) as error:
        raise InputError(
            "needs tensorflow-compression 1.3, as do training of the base model and the authors' "
            ".tfci, but not the rest ({})".format(str(error).strip().splitlines()[0])
        )
    return tfc


@contextlib.contextmanager
def enough_memory(name, remedy):
    """Turns exhausted memory, or a full disk, into an `InputError`.

    Args:
      name: of the file or folder that the work within is about.
      remedy: what needs less memory.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        if "No space left" in str(error) or "quota exceeded" in str(error):
            raise InputError("{}: the disk is full; what was saved before is whole".format(name))
        raise InputError("{}: the memory is exhausted; {}".format(name, remedy))
