"""The machine that this runs on."""

import os


def cores():
    """Number of CPU cores that this process may use.

    The workers of a distributed training share those of their machine.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
