"""The machine that this runs on."""

import os

from runtime.quiet_tf import tf


def cores():
    """Number of those that this process may use; 1 where a GPU has the work.

    The workers of a distributed training share those of their machine.
    """
    if tf.config.experimental.list_physical_devices("GPU"):
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
