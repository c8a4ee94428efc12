"""The machine that this process runs on."""

import contextlib
import os
import pathlib
import platform
import re

# Of cgroups: the folder of version 2, that of version 1, and the names of their limits.
CGROUPS = (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
OWN_CGROUPS = "/proc/self/cgroup"
TASKS = "STUDY_TASKS"  # environment variable: the number of tasks of a study that run side by side


def cores():
    """Number of CPU cores that this process may use.

    Workers of a distributed training run divide the cores of their machine among themselves.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, usable // int(os.environ.get("HOROVOD_LOCAL_SIZE", 1)))


def threads():
    """Number of threads of this process: that of TensorFlow, or one for each of `cores`."""
    return max(0, int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)) or cores()


def memory():
    """Bytes of memory that this process may use: the machine's, or the least limit of its cgroups.

    The tasks of a study that run side by side divide it among themselves.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limits():
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" where there is no limit
            found.append(int(text))
    return min(found) // int(os.environ.get(TASKS, 1))


def _limits():
    """Yields paths of the files that may limit memory: of this process's cgroup and those above."""
    cgroups = {"/"}  # in containers, often the root of what can be seen
    with contextlib.suppress(OSError), open(OWN_CGROUPS) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                own = pathlib.PurePosixPath(path)
                cgroups.update(str(cgroup) for cgroup in (own, *own.parents))
    for cgroup in cgroups:
        for folder, name in CGROUPS:
            yield os.path.join(folder, cgroup.strip("/"), name)


def cpu_model():
    """Name of the CPU's model, or at least of its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            match = re.search(r"^model name\s*:\s*(.*\S)", file.read(), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()
