"""Where graphs run: on the GPU that TensorFlow finds, else on the CPU. See docs/gpu.md.

This is the only place that knows. With a GPU, graphs get `layers`, and grappler turns them into
the memory layout of cuDNN; without, they get `cpu_layers`. TensorFlow's placer puts operations on
the GPU, except for those in a scope of `on_host` (numbers that change with the step, which the
host has to have anyway) or `on_cpu` (all of a graph that a decoder has to repeat exactly).
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
    """Names of the GPUs that TensorFlow can use; none where a CUDA library is missing."""
    return [gpu.name for gpu in tf.config.experimental.list_physical_devices("GPU")]


def layers():
    """The module of layers, `layers` or `cpu_layers`, for the device that the graph runs on."""
    return cpu_layers if tf.get_collection(_CPU_ONLY) or not gpus() else portable_layers


_CPU_ONLY = "runs on the CPU alone"


@contextlib.contextmanager
def on_cpu():
    """Within, all of what is built runs on the CPU, with its layers, and so alike everywhere."""
    scopes = tf.get_collection_ref(_CPU_ONLY)
    scopes.append(True)
    try:
        with on_host():
            yield
    finally:
        scopes.pop()


def on_host():
    """Within, operations run on the CPU: for steps, seeds and schedules of a graph on the GPU."""
    return tf.device("/cpu:0")


def session_config():
    """For a session that runs the same fetches many times."""
    config = tf.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    if gpus():
        # Of grappler's passes only the one that a GPU needs: the others copy large models too.
        rewrite.optimizers.append("layout")
        rewrite.meta_optimizer_iterations = rewrite.ONE
    else:
        # Grappler copies the constants of large models several times for each set of fetches.
        # That takes seconds, and makes no iteration faster.
        rewrite.disable_meta_optimizer = True
    return config


def cpu_config():
    """For a session of a graph of `on_cpu`: it does not see any GPU, nor touch its memory."""
    return tf.ConfigProto(device_count={"GPU": 0})


def describe():
    """On which device graphs run, in words, with the name of the card."""
    found = gpus()
    if not found:
        return "CPU"
    from tensorflow.python.client import device_lib

    cards = [d.physical_device_desc for d in device_lib.list_local_devices()]
    names = [re.search("name: ([^,]+)", card) for card in cards if card]
    return "GPU ({})".format(", ".join(name.group(1) for name in names if name))


# --- Cards of the machine, found without CUDA ------------------------------------------------


def cards(environment=os.environ):
    """The NVIDIA cards that processes may use, as `CUDA_VISIBLE_DEVICES` calls them.

    Neither TensorFlow nor CUDA is asked, so that the process that asks takes no memory of a card.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(glob.glob(_PROC)))]
    names = []
    for name in visible.split(","):
        if not re.match("[0-9]+$|GPU-|MIG-", name.strip()):
            break  # CUDA ignores all from the first invalid one on: '' and '-1' hide every card
        names.append(name.strip())
    return names


_PROC = "/proc/driver/nvidia/gpus/*"


def environment_of(number, environment=os.environ):
    """The environment of the process of some number (0, 1, …) that shares cards with others.

    Each gets one card, in turn. Where there are no cards, nothing changes.
    """
    available = cards(environment)
    chosen = {"CUDA_VISIBLE_DEVICES": available[number % len(available)]} if available else {}
    return {**environment, **chosen}


def without_gpus(environment=os.environ):
    """The environment of a process that is to see no GPU."""
    return {**environment, "CUDA_VISIBLE_DEVICES": ""}


def why_unused():
    """Why TensorFlow does not use a card that is there, in a line; None where nothing is wrong.

    TensorFlow says so in its log, which `quiet_tf` hides: a fresh process, whose log is read, tries
    again.
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
