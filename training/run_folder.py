"""Files that training reads from and writes to run folders, besides checkpoints."""

import contextlib
import json
import os
import time

import numpy as np

from model import checkpoints
from model.hyperprior import Mbt2018
from runtime import files
from runtime.errors import InputError
from runtime.quiet_tf import tf
from training import horovod, validation

FIT_SIGMA = 0.1  # standard deviation of q(z|y) that a new bits-back model begins with
FIT_STEPS, FIT_RATE = 300, 1e-2  # to fit it, by Adam
LAST_OF_H_A = "hyper_analysis_transform/layer_2/kernel_rdft"  # (frequencies, N·channels of z)


def record_settings(folder, args, start, is_new):
    """Writes the settings to args.json in the run folder and appends them to record.txt.

    The record of a new run that starts from another run's weights (`--init_from`) begins with a
    copy of that run's record, so that it covers all training steps of the model. Its
    `init_from_step` is the number of steps that those weights have seen, in that run and before.

    Args:
      start: the step from which training resumes.
      is_new: whether there was no checkpoint to resume from.
    """
    settings = {**vars(args), "workers": horovod.size(), "start_step": start}
    path, args_path = (os.path.join(folder, name) for name in ("record.txt", "args.json"))
    history = ""
    if args.init_from and is_new:
        source = checkpoints.newest_checkpoint(args.init_from)
        step = checkpoints.read_checkpoint(source)[1]
        settings["init_from_step"] = step + _steps_before(args.init_from)
        if not os.path.exists(path):
            with contextlib.suppress(FileNotFoundError), open(
                os.path.join(args.init_from, "record.txt")
            ) as file:
                history = file.read()
    elif not is_new and _steps_before(folder):  # the steps of that other model still count
        settings["init_from_step"] = _steps_before(folder)
    settings = json.dumps(settings, indent=4, sort_keys=True)
    with files.atomic_write(args_path) as file:
        file.write(settings.encode())
    with open(path, "a") as file:
        file.write("{}{}\n{}\n\n".format(history, time.strftime("%Y-%m-%d %H:%M:%S"), settings))


def _steps_before(folder):
    """The steps of a run's weights before its own; 0 if it began with random weights."""
    path = os.path.join(folder, "args.json")
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError), open(path) as file:
        return json.load(file)["init_from_step"]
    return 0


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
      InputError: `source` has no checkpoint, or none of the variables is in it.
    """
    if not source:
        return None
    checkpoint = checkpoints.newest_checkpoint(source)
    if checkpoint is None:
        raise InputError("--init_from: {}: no checkpoint there".format(source))
    wanted = [v for v in variables if v.trainable]
    values, means = {}, []
    with checkpoints.reading(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        shapes = reader.get_variable_to_shape_map()
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


class Sound:
    """Keeps a model that has diverged from being saved.

    The loss that a step of training gives is that of the weights before its update. Here all
    variables, and the loss of one picture of noise, have to be finite.

    Args:
      model, lmbda: as for `validation.Validation`.
      variables: those that are saved.
    """

    SIDE = 64  # pixels

    def __init__(self, model, lmbda, variables):
        shape = (self.SIDE, self.SIDE, 3)
        self._picture, metrics = validation.measurement(model, shape, lmbda)
        self._noise = np.random.RandomState(0).uniform(size=(1, *shape))
        floats = [v for v in variables if v.dtype.is_floating]
        finite = [tf.reduce_all(tf.math.is_finite(v)) for v in (*floats, metrics["rd_loss"])]
        self._is_sound = tf.reduce_all(tf.stack(finite))

    def holds(self, session):
        """Whether the model may be saved."""
        return session.run(self._is_sound, {self._picture: self._noise})


class Checkpoints(tf.train.SessionRunHook):
    """Saves a checkpoint at the start, every `secs` seconds and at the end, if `sound` holds.

    `tf.train.CheckpointSaverHook` also writes the graph, as text and with each checkpoint, which
    nothing reads and which takes seconds.
    """

    def __init__(self, folder, secs, saver, sound):
        self._path = os.path.join(folder, "model.ckpt")
        self._secs, self._saver, self._sound = secs, saver, sound

    def _save(self, session):
        if not self._sound.holds(session):
            raise tf.train.NanLossDuringTrainingError
        self._step = session.run(tf.train.get_global_step())
        self._saver.save(session, self._path, self._step, write_meta_graph=False)
        self._saved = time.time()

    def after_create_session(self, session, coord):
        self._save(session)

    def after_run(self, run_context, run_values):
        if time.time() - self._saved >= self._secs:
            self._save(run_context.session)

    def end(self, session):
        if session.run(tf.train.get_global_step()) != self._step:
            self._save(session)
