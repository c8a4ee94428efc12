"""The machine that this process runs on."""

import os
import platform
import re

# Of cgroups, version 2 and 1, as containers see them.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores():
    """Number of CPU cores that this process may use.

    Workers of a distributed training run divide the cores of their machine among themselves.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))


def memory():
    """Bytes of memory that this process may use: the machine's, or the limit of its cgroup."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" where there is no limit
            found.append(int(text))
    return min(found)


def cpu_model():
    """Name of the CPU's model, or at least of its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.*\S)", file.read(), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()
