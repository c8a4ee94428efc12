"""The machine that this process runs on."""

import os


def cores():
    """Number of CPU cores that this process may use.

    Workers of a distributed training run divide the cores of their machine among themselves.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))
