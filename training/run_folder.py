"""Files that training reads from and writes to run folders, besides checkpoints."""

import contextlib
import json
import os
import time

import numpy as np

from model import checkpoints
from model.hyperprior import Mbt2018
from runtime import console, files
from runtime.errors import InputError
from runtime.quiet_tf import tf
from training import horovod

FIT_SIGMA = 0.1  # standard deviation of q(z|y) that a new bits-back model begins with
FIT_STEPS, FIT_RATE = 300, 1e-2  # to fit it, by Adam
LAST_OF_H_A = "hyper_analysis_transform/layer_2/kernel_rdft"  # (frequencies, N·channels of z)


@contextlib.contextmanager
def claimed(folder, args, start, kept):
    """Keeps other trainings out of a run folder, and records the settings of this one there.

    The settings are written to args.json and appended to record.txt, which a new run begins anew:
    a start that failed before its first checkpoint does not count. On file systems that cannot lock
    folders, such as NFS, other trainings are not kept out.
    The record of a new run that starts from another run's weights (`--init_from`) begins with a
    copy of that run's record, so that it covers all training steps of the model. Its
    `init_from_step` is the number of steps that those weights have seen, in that run and before.

    Args:
      start: the step from which training resumes.
      kept: the folder's checkpoints, from whose last one training resumes; none for a new run.

    Raises:
      InputError: another process trains there, or has done so since `kept` was read.
    """
    with files.locked(folder, "another process is training there"):
        if checkpoints.kept_checkpoints(folder, tell=lambda line: None) != kept:
            line = "{}: another process has just trained there; start again to go on from there"
            raise InputError(line.format(folder))
        _record_settings(folder, args, start, not kept)
        yield


def _record_settings(folder, args, start, is_new):
    settings = {**vars(args), "workers": horovod.size(), "start_step": start}
    path, args_path = (os.path.join(folder, name) for name in ("record.txt", "args.json"))
    history = ""
    if args.init_from and is_new:
        source = checkpoints.newest_checkpoint(args.init_from)
        step = checkpoints.read_checkpoint(source)[1]
        settings["init_from_step"] = step + (recorded(args.init_from, "init_from_step") or 0)
        with contextlib.suppress(FileNotFoundError), open(
            os.path.join(args.init_from, "record.txt")
        ) as file:
            history = file.read()
    elif not is_new:  # what the weights began with, and the steps before, still count
        source = recorded(folder, "init_from") or ""
        if args.init_from and os.path.realpath(args.init_from) != os.path.realpath(source):
            line = "--init_from: not used, {} has weights of its own to resume from"
            console.note(line.format(folder))
        settings["init_from"] = source
        if recorded(folder, "init_from_step"):
            settings["init_from_step"] = recorded(folder, "init_from_step")
    settings = json.dumps(settings, indent=4, sort_keys=True)
    with files.atomic_write(args_path) as file:
        file.write(settings.encode())
    with open(path, "w" if is_new else "a") as file:
        file.write("{}{}\n{}\n\n".format(history, time.strftime("%Y-%m-%d %H:%M:%S"), settings))


def recorded(folder, name):
    """The value of a setting in a run folder's args.json, or None."""
    with contextlib.suppress(FileNotFoundError, ValueError), open(
        os.path.join(folder, "args.json")
    ) as file:
        return json.load(file).get(name)
    return None


def check_resumable(checkpoint, variables):
    """Raises `InputError` unless a checkpoint has all `variables`, in their shapes."""
    shapes = checkpoints.read_checkpoint(checkpoint)[0]
    for variable in variables:
        name, shape = variable.op.name, variable.shape
        if not shape.is_compatible_with(shapes.get(name, [])) or name not in shapes:
            raise InputError(
                "{}: training cannot resume from here, {} is missing or of another shape; train "
                "into another --checkpoint_dir, with --init_from {} if you like".format(
                    checkpoint, name, os.path.dirname(checkpoint)
                )
            )


def restore(checkpoint, variables):
    """An initialiser that reads the `variables` from a checkpoint."""
    saver = tf.train.Saver(variables)

    def initialise(scaffold, session):
        with checkpoints.reading(checkpoint):
            saver.restore(session, checkpoint)

    return initialise


def warm_start(source, variables, model, x):
    """An initialiser that copies those trainable `variables` that a run folder, `source`, has.

    A bits-back model also takes a base model's p(z), which has another scope there, and what h_a
    maps to z, as its z_mean. The base model's p(z) is the density of z without noise, which is
    narrow where z hardly varies, so the standard deviation of q is fitted to `FIT_SIGMA` before
    training begins. With random weights it would be about 1: the large gradients that follow undo
    part of what h_s has learned, and Adam's second moments remember them for thousands of steps.

    Args:
      source: path of a run folder; '' for none.
      variables: the model's, of which some are trainable.
      model: a `hyperprior.Mbt2018` with these variables.
      x: (N, H, W, 3), the patches that training sees.

    Returns:
      A function for `tf.train.Scaffold`; None if `source` is ''.

    Raises:
      InputError: `source` has no checkpoint, one of another N, or none of the variables is in it.
    """
    if not source:
        return None
    checkpoint = checkpoints.newest_checkpoint(source)
    if checkpoint is None:
        raise InputError("--init_from: {}: no checkpoint there".format(source))
    wanted = [v for v in variables if v.trainable]
    values, means = {}, []
    (own,) = (v.shape.as_list() for v in wanted if v.op.name == checkpoints.OF_N)
    with checkpoints.reading(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        shapes = reader.get_variable_to_shape_map()
        if shapes.get(checkpoints.OF_N, own) != own:
            line = "--init_from: {}: the model has --num_filters {}, not {}"
            raise InputError(line.format(checkpoint, *shapes[checkpoints.OF_N], *own))
        for v in wanted:
            name, shape = v.op.name, v.shape.as_list()
            name = name if name in shapes else Mbt2018.prior_scope + name
            if shapes.get(name) == shape:
                values[v] = reader.get_tensor(name)
            elif name == LAST_OF_H_A and shapes.get(name) == [shape[0], shape[1] // 2]:
                means.append((v, reader.get_tensor(name)))
    if not values:
        raise InputError("--init_from: {}: none of its weights fit this model".format(checkpoint))

    if means:
        error = model.hyper_analysis(model.analysis(x))["z_logvar"] - 2 * np.log(FIT_SIGMA)
        fit = tf.train.AdamOptimizer(FIT_RATE).minimize(
            tf.reduce_mean(tf.math.square(error)), var_list=[v for v, _ in means]
        )

    def initialise(scaffold, session):
        for v, z in means:
            frequencies, size = z.shape
            channels = int(np.sqrt(size))
            kernel = session.run(v).reshape(frequencies, channels, -1)
            kernel[..., :channels] = z.reshape(frequencies, channels, channels)
            values[v] = kernel.reshape(frequencies, -1)
        for v, value in values.items():
            v.load(value, session)
        if means:
            for _ in range(FIT_STEPS):
                session.run(fit)
        print("{} of {} weights are from {}".format(len(values), len(wanted), checkpoint))

    return initialise
