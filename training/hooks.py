"""Session hooks of training: checkpoints of sound models, and summaries."""

import os
import time

import numpy as np

import utils
from runtime.quiet_tf import tf
from training import validation


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


def summaries(x, x_tilde, metrics, logdir, secs):
    """A hook that writes the metrics and the first two patches for TensorBoard."""
    for key, value in metrics.items():
        tf.summary.scalar(key, value)
    tf.summary.image("original", utils.to_uint8(x), max_outputs=2)
    tf.summary.image("reconstruction", utils.to_uint8(x_tilde), max_outputs=2)
    return tf.train.SummarySaverHook(
        save_secs=secs, output_dir=logdir, summary_op=tf.summary.merge_all()
    )
