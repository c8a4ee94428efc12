"""Validation during training: whole images, with latents rounded as they are transmitted."""

import collections
import csv
import glob
import hashlib
import os
import time

import numpy as np

import utils
from model import checkpoints
from runtime import files
from runtime.errors import InputError
from runtime.quiet_tf import tf
from training import data

LOG = "validation.csv"  # in the run folder
FIELDS = ("step", "images", "rd_loss", "bpp", "mse", "psnr")
BEST = "best.ckpt"  # prefix of the checkpoint with the lowest validation loss so far
BEST_STATE = "best_checkpoint"  # state file, like `checkpoint` for the newest checkpoint


def best_checkpoint(folder):
    """Path of the checkpoint in a run folder with the lowest validation loss, or None."""
    try:
        state = tf.train.get_checkpoint_state(folder, BEST_STATE)
    except (OSError, ValueError):  # not UTF-8, or empty
        state = None
    path = state and os.path.join(folder, os.path.basename(state.model_checkpoint_path))
    return path if path and checkpoints.has_all_files(path) else None


class Validation:
    """Measures a model on fixed images at intervals, and keeps the best checkpoint.

    Each measurement appends a line to `validation.csv` in the run folder, so that resumed training
    continues its curve. With other images, a new curve begins in the same file: the column `images`
    is a digest of their samples.

    Args:
      model: `hyperprior.Mbt2018` or `Mbt2018BB` on the variables being trained.
      pattern: glob pattern of the images.
      lmbda: λ of the loss.
      folder: run folder.
      saved: variables to save in a checkpoint.
      secs: seconds between measurements.
      logdir: TensorBoard folder to write the measurements to as well; '' for none.
      sound: `hooks.Sound`, asked before a checkpoint is kept.

    Raises:
      InputError: no image matches, or one cannot be read.
    """

    def __init__(self, model, pattern, lmbda, folder, saved, secs, logdir, sound):
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths:
            hint = files.pattern_hint(pattern)
            raise InputError("--val_glob: no file matches {!r}{}".format(pattern, hint))
        self._images = [data.read_whole(path) for path in paths]
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(image.tobytes())
        self._digest = digest.hexdigest()[:12]
        self._graphs = {
            shape: measurement(model, shape, lmbda)
            for shape in {image.shape for image in self._images}
        }
        self._folder, self._secs, self._sound = folder, secs, sound
        self._saver = tf.train.Saver(saved, max_to_keep=1, save_relative_paths=True)
        losses = (row["rd_loss"] for row in read_log(folder) if row["images"] == self._digest)
        self._best = min(filter(np.isfinite, losses), default=np.inf)
        best = best_checkpoint(folder)
        self._saver.recover_last_checkpoints([best] if best else [])
        if best is None:
            self._best = np.inf
        self._logdir = logdir
        self._measured = time.time()

    def due(self):
        """Whether it is time to measure."""
        return time.time() - self._measured >= self._secs

    def run(self, session, step):
        """Measures the model at `step`.

        Args:
          session: a `tf.Session` without hooks, which would count this as a training step.
          step: number of the training step, for the records.

        Returns:
          dict of means over the images: `rd_loss` (λ · MSE + bpp), `bpp`, `mse` and `psnr` (of
          8-bit reconstructions).
        """
        sums = collections.Counter()
        for image in self._images:
            x, metrics = self._graphs[image.shape]
            sums.update(session.run(metrics, {x: image[None]}))
        means = {key: float(value) / len(self._images) for key, value in sums.items()}
        # Before the row, which says that this checkpoint is there.
        if means["rd_loss"] < self._best and self._sound.holds(session):
            self._best = means["rd_loss"]
            self._saver.save(
                session,
                os.path.join(self._folder, BEST),
                step,
                latest_filename=BEST_STATE,
                write_meta_graph=False,
            )
        path = os.path.join(self._folder, LOG)
        whole = _whole_lines(path)
        if os.path.exists(path) and os.path.getsize(path) > len(whole):
            files.write_bytes(path, whole)
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if not whole:
                writer.writeheader()
            values = {key: "{:.6g}".format(value) for key, value in means.items()}
            writer.writerow({"step": step, "images": self._digest, **values})
        if self._logdir:
            tags = {"validation/" + key: value for key, value in means.items()}
            values = [tf.Summary.Value(tag=tag, simple_value=v) for tag, v in tags.items()]
            writer = tf.summary.FileWriterCache.get(self._logdir)
            writer.add_summary(tf.Summary(value=values), step)
            writer.flush()
        self._measured = time.time()
        return means


def measurement(model, shape, lmbda):
    """A placeholder (1, H, W, 3) for an image of the given shape, and a dict of scalar metrics."""
    x = tf.placeholder(tf.float32, (1, *shape))
    latents = model.transmitted(x)
    bpp = model.rates(shape[0] * shape[1], **latents)["bpp"]
    metrics = utils.quality(x, model.synthesis(latents["y"], shape[:2]))
    metrics.update(bpp=bpp, rd_loss=lmbda * metrics["mse"] + bpp)
    return x, {key: value[0] for key, value in metrics.items()}


def read_log(folder):
    """The measurements in a run folder, a list of dicts of `FIELDS`; empty if it has none.

    A last line that does not end, which a full disk may have left, is skipped.

    Raises:
      InputError: a line has something other than the numbers.
    """
    path, rows = os.path.join(folder, LOG), []
    lines = _whole_lines(path).decode(errors="replace").splitlines()
    for number, line in enumerate(csv.DictReader(lines), 2):
        try:
            if None in line:  # more than the columns
                raise ValueError
            rows.append({key: (str if key == "images" else float)(line[key]) for key in FIELDS})
        except (KeyError, TypeError, ValueError):
            line = "{}: line {}: not the numbers {}"
            raise InputError(line.format(path, number, ", ".join(FIELDS)))
    return rows


def _whole_lines(path):
    """A log's bytes without a last line that a full disk has cut; none if there is no log."""
    content = files.read_bytes(path) if os.path.exists(path) else b""
    return content[: content.rfind(b"\n") + 1]


def line(step, means):
    """One line that reports a measurement."""
    return "validation at step {}: loss={rd_loss:.4f} bpp={bpp:.4f} psnr={psnr:.3f}".format(
        step, **means
    )
