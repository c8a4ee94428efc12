"""Trained models on disk: run folders, their checkpoints, and the weights in them."""

import collections
import contextlib
import glob
import hashlib
import os
import re

from model import device, entropy_models, transforms
from runtime.errors import InputError
from runtime.files import file_sha256
from runtime.quiet_tf import tf


def run_name(script, num_filters, num_hfilters, lmbda):
    """Name of the folder with a model's checkpoints; the model itself ignores num_hfilters."""
    hfilters = "-num_hfilters={}".format(num_hfilters) if num_hfilters > 0 else ""
    return "{}-num_filters={}{}-lmbda={:g}".format(script, num_filters, hfilters, lmbda)


Run = collections.namedtuple("Run", "name checkpoint step num_filters lmbda")
Run.__doc__ = """A trained model: its run name, newest checkpoint and its step, N_f, and λ.

lmbda is parsed from the run name; None if the name has none.
"""


def find_run(checkpoint_dir, name, num_filters=None):
    """Finds a run and its newest checkpoint; returns a `Run`.

    Args:
      checkpoint_dir, name: the run's folder is `<checkpoint_dir>/<name>`.
      num_filters: the N_f that the checkpoint must have; None: any.

    Raises:
      InputError: the run does not exist, or its checkpoint is unreadable or has another N_f.
    """
    folder = os.path.join(checkpoint_dir, os.path.normpath(name))
    name = os.path.basename(folder)
    if not os.path.isdir(folder):
        there = sorted(os.path.basename(p) for p in glob.glob(os.path.join(checkpoint_dir, "*-*")))
        raise InputError(
            "{}: no such run folder; --checkpoint_dir has {}".format(
                folder, ", ".join(there) or "no runs"
            )
        )
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise InputError("{}: no checkpoint in this run folder".format(folder))
    shapes, step = read_checkpoint(checkpoint)
    found = shapes.get("analysis_transform/layer_0/bias", [None])[0]
    if found is None:
        raise InputError("{}: not a checkpoint of this model".format(checkpoint))
    if num_filters is not None and num_filters != found:
        raise InputError(
            "{}: the model has --num_filters {}, not {}".format(checkpoint, found, num_filters)
        )
    match = re.search(r"lmbda=([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)", name)
    return Run(name, checkpoint, step, found, float(match.group(1)) if match else None)


def lambda_of(run, given):
    """λ as given on the command line or, if that is negative, as in the name of a `Run`.

    Raises:
      InputError: λ is in neither.
    """
    if given >= 0:
        return given
    if run.lmbda is None:
        raise InputError("{}: this run name has no lmbda=…; give --lambda".format(run.name))
    return run.lmbda


def newest_checkpoint(folder):
    """Path of the newest checkpoint in a run folder, even if the folder was moved; or None."""
    path = os.path.join(folder, "checkpoint")
    try:
        state = tf.train.get_checkpoint_state(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("{}: not a readable checkpoint state ({})".format(path, error))
    if state is None or not state.model_checkpoint_path:
        return None
    return os.path.join(folder, os.path.basename(state.model_checkpoint_path))


def read_checkpoint(checkpoint):
    """A checkpoint's shapes (lists) by name, and its step; `InputError` if it is unreadable."""
    with reading(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        return reader.get_variable_to_shape_map(), int(reader.get_tensor("global_step"))


@contextlib.contextmanager
def reading(checkpoint):
    """Converts TensorFlow's errors about a damaged checkpoint to `InputError`s."""
    try:
        yield
    except (tf.errors.OpError, ValueError) as error:
        line = "{}: not a readable checkpoint of this model ({})"
        raise InputError(line.format(checkpoint, str(error).strip().splitlines()[0]))


def checkpoint_sha256(checkpoint):
    """SHA-256 over the SHA-256 digests of a checkpoint's files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(glob.glob(glob.escape(checkpoint) + ".*")):
        digest.update(file_sha256(path).encode())
    return digest.hexdigest()


def is_of(model_class, run):
    """Whether the checkpoint of a `Run` belongs to `model_class`, `Mbt2018` or `Mbt2018BB`."""
    return model_class.prior_scope + "matrix_0" in read_checkpoint(run.checkpoint)[0]


def load(model_class, run):
    """Reads a model's parameters from a checkpoint and evaluates its weights from them.

    Args:
      model_class: `Mbt2018` or `Mbt2018BB`.
      run: `Run`.

    Returns:
      The `weights` of `hyperprior.build`: a dict of NumPy arrays in `transforms.Transforms` and
      `entropy_models.Density`.

    Raises:
      InputError: the checkpoint is damaged or belongs to another model.
    """
    reader = tf.train.load_checkpoint(run.checkpoint)
    if not is_of(model_class, run):
        raise InputError(
            "{}: not a model of {}.py, which this script needs".format(
                run.checkpoint, model_class.name
            )
        )

    def getter(name, shape, *_, **__):
        scope = tf.get_variable_scope().name
        value = reader.get_tensor("{}/{}".format(scope, name) if scope else name)
        if value.shape != tuple(shape):
            raise ValueError("{} has shape {}, not {}".format(name, value.shape, tuple(shape)))
        return tf.constant(value)

    # On the CPU, because a decoder has to compute the same weights.
    with reading(run.checkpoint), tf.Graph().as_default(), device.on_cpu(), tf.Session(
        config=device.cpu_config()
    ) as session:
        channels = model_class.hyper_channels(run.num_filters)
        weights = {"transforms": transforms.transforms(run.num_filters, channels, getter)}
        with tf.variable_scope(model_class.prior_scope.rstrip("/")):
            weights["prior"] = entropy_models.density(run.num_filters, getter)
        flat = tf.nest.flatten(weights)
        values = iter(session.run([tensor for tensor in flat if tensor is not None]))
        weights = tf.nest.pack_sequence_as(
            weights, [None if tensor is None else next(values) for tensor in flat]
        )
        weights.update(model_class.read_grid(reader))
    return weights
