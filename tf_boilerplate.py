"""Command lines, training and evaluation: all that the ten scripts share."""
import argparse
import json
import os
import signal
import sys
import time

import numpy as np
from tqdm import tqdm

import patches
import utils
from quiet_tf import tf
from utils import InputError

# --- Training --------------------------------------------------------------------------------

REPORT_SECS = 30  # between lines of progress where there is no terminal


def train(script, training_graph, args):
    """Trains a model, going on from the newest checkpoint of its run folder where there is one.

    Args:
      script: name of the model, with which its run name begins.
      training_graph: `training_graph(x, num_filters, lmbda)` makes variables and loss for patches
        x; it returns loss, metrics (as `hyperprior.Mbt2018.rate_distortion`), and a Keras layer
        with an auxiliary loss and updates of its own, or None.
      args: the command line.

    Raises:
      InputError: no usable image; a checkpoint of another shape; the loss is NaN.
    """
    runname = utils.run_name(script, args.num_filters, args.num_hfilters, args.lmbda)
    folder = os.path.join(args.checkpoint_dir, runname)
    paths = patches.find_images(args.train_glob, args.patchsize)
    record_settings(folder, args)

    tf.set_random_seed(args.seed)
    x = patches.batches(
        paths, args.batchsize, args.patchsize, args.preprocess_threads, args.seed
    )
    loss, metrics, auxiliary = training_graph(x, args.num_filters, args.lmbda)
    x_tilde = metrics.pop("x_tilde")
    shown = {key: tf.reduce_mean(value) for key, value in metrics.items()}
    shown["psnr"] = tf.reduce_mean(utils.psnr(metrics["mse"]))

    step = tf.train.create_global_step()
    # The model's optimiser first, the auxiliary one second: so their variables are numbered.
    train_op = [tf.train.AdamOptimizer(args.learning_rate).minimize(loss, global_step=step)]
    if auxiliary is not None:
        train_op.append(tf.train.AdamOptimizer(1e-3).minimize(auxiliary.losses[0]))
        train_op.extend(auxiliary.updates)
    with tf.control_dependencies(train_op):
        done_op = tf.identity(step)
    saved = tf.global_variables()
    hooks = [
        tf.train.NanTensorHook(loss),  # before the saver, which would keep the NaN
        tf.train.CheckpointSaverHook(
            folder, save_secs=args.save_checkpoint_secs, saver=tf.train.Saver(saved, max_to_keep=3)
        ),
    ]
    if args.logdir:
        for key, value in shown.items():
            tf.summary.scalar(key, value)
        tf.summary.image("original", utils.to_uint8(x), max_outputs=2)
        tf.summary.image("reconstruction", utils.to_uint8(x_tilde), max_outputs=2)
        hooks.append(
            tf.train.SummarySaverHook(
                save_secs=args.save_summary_secs,
                output_dir=os.path.join(args.logdir, runname),
                summary_op=tf.summary.merge_all(),
            )
        )
    scaffold = tf.train.Scaffold(init_fn=warm_start(args.init_from, saved))
    try:
        with utils.stop_signals() as stop, tf.train.MonitoredTrainingSession(
            checkpoint_dir=folder,
            scaffold=scaffold,
            hooks=hooks,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
        ) as session:
            start = session.run_step_fn(lambda step_context: step_context.session.run(step))
            print("{}: steps {} to {}, {} images".format(folder, start, args.last_step, len(paths)))
            progress = TrainingProgress(start, args.last_step)
            done = start
            while done < args.last_step and not stop:
                if progress.due():
                    done, values = session.run([done_op, shown])
                    progress.show(done, values)
                else:
                    done = session.run(done_op)
    except tf.train.NanLossDuringTrainingError:
        raise InputError(
            "{}: the loss became NaN; the newest checkpoint is from before that. "
            "Try a lower --learning_rate".format(folder)
        )


def record_settings(folder, args):
    """Leaves args.json in the run folder and appends the same to record.txt."""
    settings = json.dumps(vars(args), indent=4, sort_keys=True)
    with utils.atomic_write(os.path.join(folder, "args.json")) as file:
        file.write(settings.encode())
    with open(os.path.join(folder, "record.txt"), "a") as file:
        file.write("{}\n{}\n\n".format(time.strftime("%Y-%m-%d %H:%M:%S"), settings))


def warm_start(source, variables):
    """An initialiser that copies what `source`, a run folder, has of `variables`' values."""
    if not source:
        return None
    checkpoint = tf.train.latest_checkpoint(source)
    if checkpoint is None:
        raise InputError("--init_from: {}: no checkpoint there".format(source))
    shapes = dict(tf.train.list_variables(checkpoint))
    shared = [
        v for v in tf.trainable_variables() if shapes.get(v.op.name) == v.shape.as_list()
    ]
    saver = tf.train.Saver(shared)
    return lambda scaffold, session: saver.restore(session, checkpoint)


class TrainingProgress:
    """A bar on a terminal, a line now and then elsewhere: steps/s, loss, bpp, PSNR, time left."""

    def __init__(self, start, last_step):
        self.bar = tqdm(
            total=last_step,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self.start, self.last_step = start, last_step
        self.begun = self.shown = time.time()

    def due(self):
        return time.time() - self.shown >= (1 if not self.bar.disable else REPORT_SECS)

    def show(self, step, values):
        self.shown = time.time()
        text = "loss={rd_loss:.4f} bpp={bpp:.4f} psnr={psnr:.2f}".format(**values)
        if not self.bar.disable:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)
            return
        speed = (step - self.start) / (self.shown - self.begun)
        left = tqdm.format_interval((self.last_step - step) / max(speed, 1e-9))
        print("step={} {} {:.2f} steps/s, {} left".format(step, text, speed, left), flush=True)


def main(doc, training_graph=None):
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    parser.add_argument("--checkpoint_dir", default="./checkpoints")
    parser.add_argument("--num_filters", type=int)
    parser.add_argument("--num_hfilters", type=int, default=-1)
    parser.add_argument("--verbose", "-V", action="store_true")
    sub = parser.add_subparsers(dest="command")
    t = sub.add_parser("train", allow_abbrev=False)
    t.add_argument("--train_glob", required=True)
    t.add_argument("--batchsize", type=int, default=8)
    t.add_argument("--patchsize", type=int, default=256)
    t.add_argument("--lambda", type=float, default=.01, dest="lmbda")
    t.add_argument("--last_step", type=int, default=1000000)
    t.add_argument("--preprocess_threads", type=int, default=16)
    t.add_argument("--logdir", default="")
    t.add_argument("--save_summary_secs", type=int, default=60)
    t.add_argument("--save_checkpoint_secs", type=int, default=300)
    t.add_argument("--learning_rate", type=float, default=1e-4)
    t.add_argument("--init_from", default="")
    t.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    script = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    train(script, training_graph, args)
