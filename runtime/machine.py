"""The machine that this process runs on."""

import os
import platform
import re


def cores():
    """Number of CPU cores that this process may use.

    Workers of a distributed training run divide the cores of their machine among themselves.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))


def cpu_model():
    """Name of the CPU's model, or at least of its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.*\S)", file.read(), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()
