"""How the cores of a machine share a training step."""

from model import device
from runtime import machine
from runtime.quiet_tf import tf


def by_cores(loss, x):
    """Computes `loss(x)` from parts of the batch, which the cores process in parallel (`config`).

    That is faster than using all cores for each of many small operations, one after the other.

    Args:
      loss: function of patches (N, H, W, 3) that returns their mean loss and a dict of metrics,
        tensors (N, …).
      x: the batch.
    """
    number = parts(x.shape.as_list()[0])
    losses, metrics = zip(*map(loss, tf.split(x, number)))
    joined = {key: tf.concat([values[key] for values in metrics], 0) for key in metrics[0]}
    return tf.add_n(losses) / number, joined


def config(parts):
    """Configuration of a session whose cores process this number of parts in parallel."""
    return tf.ConfigProto(
        intra_op_parallelism_threads=-(-machine.cores() // parts),
        inter_op_parallelism_threads=machine.cores(),
    )


def parts(batchsize):
    """The number of equal parts that a training batch is split into; with a GPU, 1."""
    if device.gpus():
        return 1
    return max(n for n in range(1, machine.cores() + 1) if batchsize % n == 0)
