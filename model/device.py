"""The device of a graph: the GPU if TensorFlow finds one, otherwise the CPU. See docs/gpu.md.

No other module makes this choice. With a GPU, graphs use `layers`, and grappler converts them to
cuDNN's memory layout; without one, they use `cpu_layers`. TensorFlow's placer puts operations on
the GPU, except for those in a scope of `on_host` (numbers that change with the step, which the
host needs anyway) or `on_cpu` (a whole graph that a decoder has to repeat exactly).
"""

import contextlib
import glob
import os
import re
import subprocess
import sys

from model import cpu_layers
from model import layers as portable_layers
from runtime.quiet_tf import tf


def gpus():
    """Names of the GPUs that TensorFlow can use; empty if a CUDA library is missing."""
    return [gpu.name for gpu in tf.config.experimental.list_physical_devices("GPU")]


def layers():
    """The module, `layers` or `cpu_layers`, for the device that the current graph runs on."""
    return cpu_layers if tf.get_collection(_CPU_ONLY) or not gpus() else portable_layers


_CPU_ONLY = "runs on the CPU alone"


@contextlib.contextmanager
def on_cpu():
    """A scope for a graph that runs on the CPU, with `cpu_layers`, so the same way everywhere."""
    scopes = tf.get_collection_ref(_CPU_ONLY)
    scopes.append(True)
    try:
        with on_host():
            yield
    finally:
        scopes.pop()


def on_host():
    """A scope whose operations run on the CPU: the steps, seeds and schedules of a GPU's graph."""
    return tf.device("/cpu:0")


def session_config():
    """Configuration of a session that runs the same fetches many times."""
    config = tf.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    if gpus():
        # Only the grappler pass that a GPU needs, because the other ones copy large models.
        rewrite.optimizers.append("layout")
        rewrite.meta_optimizer_iterations = rewrite.ONE
    else:
        # Grappler copies the constants of large models several times for each set of fetches.
        # That takes seconds without making iterations faster.
        rewrite.disable_meta_optimizer = True
    return config


def cpu_config():
    """Configuration of a session for an `on_cpu` graph: it sees no GPU and uses no GPU memory."""
    return tf.ConfigProto(device_count={"GPU": 0})


def describe():
    """The device that graphs run on, in words: "CPU", or "GPU" with the name of the card."""
    found = gpus()
    if not found:
        return "CPU"
    from tensorflow.python.client import device_lib

    cards = [d.physical_device_desc for d in device_lib.list_local_devices()]
    names = [re.search("name: ([^,]+)", card) for card in cards if card]
    return "GPU ({})".format(", ".join(name.group(1) for name in names if name))


# --- The machine's cards, found without CUDA -------------------------------------------------


def cards(environment=os.environ):
    """The NVIDIA cards that processes may use, as named in `CUDA_VISIBLE_DEVICES`.

    This queries neither TensorFlow nor CUDA, so that it allocates no memory on a card.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(glob.glob(_PROC)))]
    names = []
    for name in visible.split(","):
        if not re.match("[0-9]+$|GPU-|MIG-", name.strip()):
            break  # CUDA ignores the first invalid name and all after it: '' and '-1' hide all
        names.append(name.strip())
    return names


_PROC = "/proc/driver/nvidia/gpus/*"


def environment_of(number, environment=os.environ):
    """The environment of process `number` (0, 1, …) of several that share the machine's cards.

    Cards are assigned in turn, one per process. Without cards, nothing changes.
    """
    available = cards(environment)
    chosen = {"CUDA_VISIBLE_DEVICES": available[number % len(available)]} if available else {}
    return {**environment, **chosen}


def without_gpus(environment=os.environ):
    """The environment of a process that must not see any GPU."""
    return {**environment, "CUDA_VISIBLE_DEVICES": ""}


def why_unused():
    """One line on why TensorFlow does not use an installed card; None if nothing is wrong.

    TensorFlow logs the reason, but `quiet_tf` hides its log. This looks for GPUs again in a fresh
    process and reads the log of that one.
    """
    if not cards() or gpus():
        return None
    if not tf.test.is_built_with_cuda():
        return "the GPU is not used: TensorFlow {} is built without CUDA".format(tf.VERSION)
    process = subprocess.run(
        [sys.executable, "-c", _LIST_GPUS],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    missing = re.findall("Could not load dynamic library '([^']+)'", process.stderr)
    failed = re.findall("failed call to cuInit: (.*)", process.stderr)
    reason = "its driver does not start" + (" ({})".format(failed[0]) if failed else "")
    if missing:
        reason = "TensorFlow cannot load {}".format(", ".join(dict.fromkeys(missing)))
    return "the GPU is not used: {}; see docs/gpu.md".format(reason)


_LIST_GPUS = """
import tensorflow.compat.v1 as tf
tf.config.experimental.list_physical_devices("GPU")
"""
