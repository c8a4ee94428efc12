"""The machine that this process runs on."""

import contextlib
import os
import pathlib
import platform
import re

CGROUPS = "/sys/fs/cgroup"  # root of version 2; version 1 has a folder for each controller
OWN_CGROUPS = "/proc/self/cgroup"
TASKS = "STUDY_TASKS"  # environment variable: the number of tasks of a study that run side by side


def cores():
    """Number of CPU cores that this process may use, by its affinity and by quotas of its cgroups.

    Workers of a distributed training run divide the cores of their machine among themselves.
    """
    usable = min(affinity(), quota() or affinity())
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))


def affinity():
    """Number of CPU cores that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def quota():
    """CPU quota of this process's cgroups, in cores, rounded up; None if there is none."""
    found = []
    for folder in _cgroups("cpu"):
        share = _words(folder, "cpu.max") or _words(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")
        if len(share) == 2 and share[0].isdigit():  # "max" or -1 where there is no limit
            found.append(-(-int(share[0]) // int(share[1])))
    return min(found, default=None)


def threads():
    """Number of threads of this process: that of TensorFlow, or one for each of `cores`."""
    return max(0, int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)) or cores()


def memory():
    """Bytes of memory that this process may use: the machine's, or the least limit of its cgroups.

    The tasks of a study that run side by side divide it among themselves.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _cgroups("memory"):
        limit = _words(folder, "memory.max") or _words(folder, "memory.limit_in_bytes")
        found += [int(word) for word in limit if word.isdigit()]
    return min(found) // int(os.environ.get(TASKS, 1))


def _cgroups(controller):
    """Yields folders that may have a controller's limits, of the cgroups around this process."""
    paths = {"/"}  # in containers, often the root of what can be seen
    with contextlib.suppress(OSError), open(OWN_CGROUPS) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers or controller in controllers.split(","):
                own = pathlib.PurePosixPath(path)
                paths.update(str(cgroup) for cgroup in (own, *own.parents))
    for path in paths:
        for root in (CGROUPS, os.path.join(CGROUPS, controller)):
            yield os.path.join(root, path.strip("/"))


def _words(folder, *names):
    """The words in these files, one after the other; none if one of them is not there."""
    try:
        return [word for name in names for word in pathlib.Path(folder, name).read_text().split()]
    except OSError:
        return []


def cpu_model():
    """Name of the CPU's model, or at least of its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.*\S)", file.read(), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()
