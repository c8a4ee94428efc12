"""Trained models on disk: run folders, their checkpoints, and the weights in them."""

import collections
import contextlib
import glob
import hashlib
import os
import re

from model import device, entropy_models, transforms
from runtime import console
from runtime.errors import InputError
from runtime.files import file_sha256
from runtime.quiet_tf import tf

OF_N = "analysis_transform/layer_0/bias"  # the variable whose shape is (N,)


def run_name(script, num_filters, num_hfilters, lmbda):
    """Name of the folder with a model's checkpoints; the model itself ignores num_hfilters."""
    hfilters = "-num_hfilters={}".format(num_hfilters) if num_hfilters > 0 else ""
    return "{}-num_filters={}{}-lmbda={:g}".format(script, num_filters, hfilters, lmbda)


Run = collections.namedtuple("Run", "name checkpoint step num_filters lmbda")
Run.__doc__ = """A trained model: its run name, newest checkpoint and its step, N_f, and λ.

lmbda is parsed from the run name; None if the name has none.
"""

STATE = "checkpoint"  # file that names the newest checkpoint of a run folder


def run_folders(checkpoint_dir, pattern):
    """Run folders that match a glob pattern, as sorted paths relative to `checkpoint_dir`."""
    start = os.path.join(glob.escape(checkpoint_dir), pattern)
    found = (path for name in (STATE, CHECKPOINTS) for path in glob.glob(os.path.join(start, name)))
    return sorted({os.path.relpath(os.path.dirname(path), checkpoint_dir) for path in found})


def find_run(checkpoint_dir, name, num_filters=None, checkpoint=None):
    """Finds a run and its newest checkpoint; returns a `Run`.

    Args:
      checkpoint_dir, name: the run's folder is `<checkpoint_dir>/<name>`.
      num_filters: the N_f that the checkpoint must have; None: any.
      checkpoint: name of the checkpoint in that folder to take instead of the newest, or None.

    Raises:
      InputError: the run does not exist, or its checkpoint is unreadable or has another N_f.
    """
    folder = os.path.join(checkpoint_dir, os.path.normpath(name))
    name = os.path.basename(folder)
    if not os.path.isdir(checkpoint_dir):
        raise InputError("{}: no such folder of runs".format(checkpoint_dir))
    if not os.path.isdir(folder):
        there = sorted(os.path.basename(p) for p in glob.glob(os.path.join(checkpoint_dir, "*-*")))
        raise InputError(
            "{}: no such run folder; --checkpoint_dir has {}".format(
                folder, ", ".join(there) or "no runs"
            )
        )
    checkpoint = os.path.join(folder, checkpoint) if checkpoint else newest_checkpoint(folder)
    if checkpoint is None:
        raise InputError("{}: no checkpoint in this run folder".format(folder))
    shapes, step = read_checkpoint(checkpoint)
    found = shapes.get(OF_N, [None])[0]
    if found is None:
        raise InputError("{}: not a checkpoint of this model".format(checkpoint))
    if num_filters is not None and num_filters != found:
        raise InputError(
            "{}: the model has --num_filters {}, not {}".format(checkpoint, found, num_filters)
        )
    return Run(name, checkpoint, step, found, lambda_in(name))


def is_pattern(name):
    """Whether a run name is a glob pattern."""
    return bool(re.search(r"[*?\[]", name))


def find_runs(checkpoint_dir, pattern, model_class, num_filters=None, tell=console.note):
    """The runs of a model whose names match a glob pattern, a list of `Run`.

    Args:
      checkpoint_dir: the folder of run folders.
      pattern: of run names.
      model_class: `Mbt2018` or `Mbt2018BB`.
      num_filters: the N_f that they must have; None: any.
      tell: called with a line for each run that is left out because it cannot be read.

    Raises:
      InputError: there are none, or two of the same name.
    """
    found, refused = [], []
    for name in run_folders(checkpoint_dir, pattern) or [pattern]:
        try:
            run = find_run(checkpoint_dir, name)
            if is_of(model_class, run) and num_filters in (None, run.num_filters):
                found.append(run)
        except InputError as error:
            refused.append(error)
    if not found:
        line = "{}: no run of {}.py there{}, whose models this script needs"
        size = "" if num_filters is None else " with --num_filters {}".format(num_filters)
        raise refused[0] if refused else InputError(line.format(pattern, model_class.name, size))
    check_names(found)
    for error in refused:
        tell("{}; this run is left out".format(error))
    return found


def check_names(runs):
    """Raises `InputError` if two of several `Run`s, which results name, have the same name."""
    folders = {}
    for run in runs:
        folder = os.path.dirname(run.checkpoint)
        other = folders.setdefault(run.name, folder)
        if not os.path.samefile(other, folder):
            line = "{} and {}: results cannot tell runs of the same name apart; choose one"
            raise InputError(line.format(other, folder))


def lambda_in(name):
    """λ in a run name, in any notation of Python; None where there is none or something else."""
    number = r"lmbda=((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?!\.?[0-9]|[A-Za-z,])"
    match = re.search(number, name)
    return float(match.group(1)) if match else None


def lambda_of(run, given):
    """λ as given on the command line or, if that is -1, as in the name of a `Run`.

    Raises:
      InputError: λ is in neither, or another negative number is given.
    """
    if given >= 0:
        return given
    if given != -1:
        raise InputError("--lambda: {:g} is below 0; -1 takes the run's".format(given))
    if run.lmbda is None:
        line = "{}: this run name has no lmbda=… that is a number; give --lambda"
        raise InputError(line.format(run.name))
    return run.lmbda


CHECKPOINTS = "model.ckpt-*.index"  # and not `best.ckpt-…`, of validation, or `.index` of others


def newest_checkpoint(folder):
    """Path of the newest checkpoint in a run folder, even if the folder was moved; or None.

    The state file says which one it is. If that file is missing or damaged, or names a checkpoint
    that does not exist, the complete checkpoint of the highest step is taken, with a note.

    Raises:
      InputError: there are checkpoints, none of which is complete, or TensorFlow cannot read from
        a folder of this name.
    """
    paths = kept_checkpoints(folder)
    return paths[-1] if paths else None


def kept_checkpoints(folder, tell=console.note):
    """Paths of the checkpoints that training keeps in a run folder, newest last.

    They are those named in the state file, or all complete ones; see `newest_checkpoint`. `tell`
    is called with a line if the state file is missing or damaged.
    """
    check_readable(folder)
    named, problem = _state(folder)
    if named and has_all_files(named[-1]):
        return list(filter(has_all_files, named))
    there = glob.glob(os.path.join(glob.escape(folder), CHECKPOINTS))
    if not there and not named:
        return []
    there = [path[: -len(".index")] for path in there]
    complete = sorted(filter(_is_complete, there), key=_step)
    state = os.path.join(folder, STATE)
    if not complete:
        line = "{}: {}, and no complete checkpoint is beside it; a new run needs another folder"
        raise InputError(line.format(state, problem))
    tell("{}: {}; taking {}".format(state, problem, os.path.basename(complete[-1])))
    return complete


def check_readable(folder):
    """Raises `InputError` if TensorFlow, which takes a path for a pattern, could not read it."""
    if re.search(r"[\[\\]", folder):
        line = "{}: TensorFlow cannot read checkpoints from a path with [ or \\; rename the folder"
        raise InputError(line.format(folder))


def _state(folder):
    """The checkpoints that the state file names, newest last, and what is wrong with it."""
    path = os.path.join(folder, STATE)
    if not os.path.exists(path):
        return [], "missing"
    try:
        state = tf.train.get_checkpoint_state(folder)
    except (OSError, ValueError):  # not UTF-8, or empty
        state = None
    if state is None:
        return [], "damaged"
    newest = state.model_checkpoint_path
    paths = [path for path in state.all_model_checkpoint_paths if path != newest] + [newest]
    paths = [os.path.join(folder, os.path.basename(path)) for path in paths]
    return paths, "names {}, which is not there or incomplete".format(os.path.basename(newest))


def _step(checkpoint):
    """The step in a checkpoint's name; -1 where there is none."""
    number = checkpoint.rsplit("-", 1)[-1]
    return int(number) if number.isdigit() else -1


def _is_complete(checkpoint):
    """Whether all files of a checkpoint are there, and can be read as far as the step."""
    try:
        return has_all_files(checkpoint) and read_checkpoint(checkpoint)[1] >= 0
    except InputError:
        return False


def has_all_files(checkpoint):
    shards = glob.glob(glob.escape(checkpoint) + ".data-?????-of-?????")
    is_whole = bool(shards) and len(shards) == int(shards[0][-5:])
    return is_whole and os.path.exists(checkpoint + ".index")


def read_checkpoint(checkpoint):
    """A checkpoint's shapes (lists) by name, and its step; `InputError` if it is unreadable."""
    check_readable(checkpoint)
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
    config = device.cpu_config()
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # sooner, for a single run
    with reading(run.checkpoint), tf.Graph().as_default(), device.on_cpu(), tf.Session(
        config=config
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
