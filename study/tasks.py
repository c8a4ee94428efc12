"""The tasks of a study, each of which is one image with one method and one model.

A task runs in a separate process, through the command line of its script. A method that fails or
runs out of memory therefore affects no other task, and a new script needs no registration.
"""

import argparse
import collections
import ctypes
import glob
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile

import distributed
import numpy as np

import tf_boilerplate
import utils
from inference.methods import find_method
from inference.scripts import ROOT
from model import checkpoints, device, hyperprior
from runtime import console, errors, files, machine
from runtime.errors import InputError
from study import tables
from study.versions import version

# --- Images ----------------------------------------------------------------------------------

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")

Image = collections.namedtuple("Image", "name path index crop sha256 height width")
Image.__doc__ = """An image of a study.

name: by which results call it, as `tables.as_text` makes it; path: absolute, of its file; index: in
an `.npy`, else None; crop: (width, height) of the part in the middle that is taken, or None;
sha256: of the pixels; height, width: of what is taken.
"""


def find_images(patterns, crop=None):
    """Finds the images of folders (not of their subfolders), of patterns, and of files.

    Args:
      patterns: list of str.
      crop: (width, height) of the centre crops to take, swapped for portrait images; or None.

    Returns:
      list of `Image`, sorted by name.

    Raises:
      InputError: nothing matches, or a file is not an image or is smaller than `crop`.
    """
    paths = []
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        if os.path.isdir(pattern):
            pattern = os.path.join(glob.escape(pattern), "*")
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        found = [path for path in found if utils.is_array(path) or _is_image(path)]
        if not found:
            endings = " ".join((*SUFFIXES, ".npy"))
            hint = "" if os.path.isfile(pattern) else files.pattern_hint(pattern)
            line = "{}: no image there, whose name ends in {}{}"
            raise InputError(line.format(pattern, endings, hint))
        paths += found
    places = []
    for path in sorted({os.path.abspath(path) for path in paths}):
        if utils.is_array(path):
            number = utils.Images(path).shape[0]
            digits = len(str(number - 1))
            places += [(path, i, "-{:0{}}".format(i, digits)) for i in range(number)]
        else:
            places.append((path, None, ""))
    names = _names(places)
    return sorted(_image(name, *place[:2], crop) for name, place in zip(names, places))


def _is_image(path):
    return path.lower().endswith(SUFFIXES)


def _names(places):
    """Short names of (path, index, ending for the name), all different."""
    paths = [path for path, _, _ in places]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    places = [(tables.as_text(path), index, ending) for path, index, ending in places]
    common = tables.as_text(common)

    def relative(path):
        return os.path.relpath(path, common).replace(os.sep, "_")

    for short in (
        lambda path: os.path.basename(os.path.splitext(path)[0]),
        lambda path: os.path.splitext(relative(path))[0],
        relative,
    ):
        names = [short(path) + ending for path, _, ending in places]
        if len(set(names)) == len(names):
            return names
    raise InputError("two images are both called {}".format(max(names, key=names.count)))


def _image(name, path, index, crop):
    image = Image(name, path, index, crop, "", 0, 0)
    pixels = read(image, console.note)
    return image._replace(sha256=_digest(pixels), height=pixels.shape[0], width=pixels.shape[1])


def _digest(pixels):
    return hashlib.sha256("{} ".format(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def read(image, note=lambda text: None):
    """The pixels of an `Image`, uint8 (H, W, 3); `note` as for `utils.read_image`."""
    if image.index is None:
        pixels = utils.read_image(image.path, note)
    else:
        pixels = np.array(utils.open_array(image.path)[image.index])
    if image.crop is None:
        return pixels
    size = image.crop if pixels.shape[1] >= pixels.shape[0] else image.crop[::-1]
    with errors.naming(image.path):
        return utils.centre_crop(pixels, size)


# --- Tasks -----------------------------------------------------------------------------------

Task = collections.namedtuple("Task", "image method run settings version key")
Task.__doc__ = """One image with one method and one model.

image: an `Image`; method: the script's name and flags, as the user wrote them, less --lambda; run:
`Model`; settings: dict of all settings of the method, defaults and λ too; version: of the code of
the script and all that it imports (`study.versions`); key: digest of all that the result depends
on.
"""

Model = collections.namedtuple("Model", "folder name step sha256 lmbda kind")
Model.__doc__ = """A trained model.

folder: absolute path of the folder that holds its run folder; sha256: digest of the checkpoint;
kind: name of the script that trains it; name, step, lmbda: as in `checkpoints.Run`.
"""


def find_models(checkpoint_dir, patterns):
    """Finds the `Model`s of run names, or patterns of run names, in a checkpoint folder.

    An invalid run that only a pattern means is left out, and a note says so.

    Raises:
      InputError: no such run, or an invalid one that is named or the only one.
    """
    folder = os.path.abspath(checkpoint_dir)
    models, refused = {}, {}
    for pattern in patterns:
        # Of a name that is not there, `find_run` says what is wrong.
        for name in checkpoints.run_folders(folder, pattern) or [pattern]:
            if name in models or name in refused and name != pattern:
                continue
            try:
                models[name] = _find_model(folder, name)
            except InputError as error:
                if name == pattern:
                    raise
                refused[name] = error
    if refused and not models:
        raise next(iter(refused.values()))
    for error in refused.values():
        console.note("{}; the study leaves this run out".format(error))
    return list(models.values())


def _find_model(folder, name):
    run = checkpoints.find_run(folder, name)
    kinds = (hyperprior.Mbt2018, hyperprior.Mbt2018BB)
    kinds = [kind.name for kind in kinds if checkpoints.is_of(kind, run)]
    if not kinds:
        raise InputError("{}: not a checkpoint of these models".format(run.checkpoint))
    digest = checkpoints.checkpoint_sha256(run.checkpoint)
    return Model(folder, run.name, run.step, digest, run.lmbda, kinds[0])


def make_tasks(images, methods, models):
    """Makes all `Task`s, ordered by image, so that finished tasks predict the remaining time.

    Args:
      images: list of `Image`.
      methods: list of str, names of scripts with any flags, such as "sga --preset fast". Each runs
        with the models that suit it.
      models: list of `Model`.

    Raises:
      InputError: a script does not exist, or no model suits it.
      SystemExit: a script does not know a flag (argparse has reported it).
    """
    pairs = {}
    for method in methods:
        script, flags = split(method)
        method_class = find_method(script)
        code = version(script)
        fitting = [model for model in models if model.kind == method_class.model_class.name]
        if not fitting:
            raise InputError(
                "{}: none of the models is one of {}.py, which this script needs".format(
                    script, method_class.model_class.name
                )
            )
        for model in fitting:
            args = parse(script, flags, model.name)
            args.lmbda = checkpoints.lambda_of(model, args.lmbda)
            # λ has a column of its own: a method at several λ is one method.
            label = " ".join(map(shlex.quote, [script, *_without_lambda(flags)]))
            settings = method_class.settings(args)
            pairs[label, model.name, args.lmbda] = (label, model, settings, code)
    return [
        Task(image, label, model, settings, code, _key(image, label, model, settings, code))
        for image in images
        for label, model, settings, code in pairs.values()
    ]


def split(method):
    """Splits a method, as the user wrote it, into the script and a list of flags."""
    try:
        words = shlex.split(method)
    except ValueError as error:
        raise InputError("{!r}: not the name of a script and its flags ({})".format(method, error))
    if not words:
        raise InputError("{!r}: not the name of a script and its flags".format(method))
    return re.sub(r"\.py$", "", words[0]), words[1:]


def parse(script, flags, runname):
    """Parses the command line of `compress` with a method's flags.

    Raises:
      InputError: the script does not exist, or a flag names a file, which is left to the study.
      SystemExit: the script does not know a flag (argparse has reported it).
    """
    argv = ["compress", runname, "image", "--results_dir", "", *flags]
    args = tf_boilerplate.parse(script, "", find_method(script), None, argv)
    named = (args.output, args.results_dir, args.save_reconstruction)
    if any(named) or args.eval_imgs != "image" or getattr(args, "side_info", None):
        raise InputError("{} {}: files are not named here".format(script, " ".join(flags)))
    return args


def _without_lambda(flags):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--lambda")
    return parser.parse_known_args(flags)[1]


def _key(image, method, model, settings, code):
    identity = [method.split()[0], code, model.name, model.sha256, image.sha256, settings]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


Refusal = collections.namedtuple("Refusal", "reason")
Refusal.__doc__ = "Why a task failed that would fail in the same way if it were tried again."


def attempt(task, threads):
    """`run_task`, but a failure that another attempt would repeat is returned, as a `Refusal`.

    Dask tries again what raises.
    """
    try:
        return run_task(task, threads)
    except InputError as error:
        return Refusal(str(error))


def run_task(task, threads):
    """Runs a task, on any machine that can see its files.

    Args:
      task: `Task`.
      threads: number of threads that its process may use.

    Returns:
      The content of the result file, as bytes.

    Raises:
      InputError: the checkpoint, the image or the code is another than it was, or the script has
        refused what it was given (exit code 2); the text says why.
      RuntimeError: the script failed otherwise.
    """
    run = checkpoints.find_run(task.run.folder, task.run.name)
    if checkpoints.checkpoint_sha256(run.checkpoint) != task.run.sha256:
        raise InputError("{}: is not as it was when the study began".format(run.checkpoint))
    pixels = read(task.image)
    if _digest(pixels) != task.image.sha256:
        raise InputError("{}: is not as it was when the study began".format(task.image.path))
    script, flags = split(task.method)
    if version(script) != task.version:
        line = "{}.py, or what it imports, is not as it was when the study began"
        raise InputError(line.format(script))
    flags += ["--lambda", repr(task.settings["lmbda"])]
    number = str(threads)
    environment = {
        **device.environment_of(_worker_number()),
        "TF_NUM_INTRAOP_THREADS": number,
        "TF_NUM_INTEROP_THREADS": number,
        "OMP_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
    }
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, task.image.name + ".npy")
        np.save(image, pixels[None])
        command = [sys.executable, os.path.join(ROOT, script + ".py")]
        command += ["--checkpoint_dir", task.run.folder, "compress", task.run.name, image]
        process = subprocess.run(
            [*command, "--results_dir", folder, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            preexec_fn=_die_with_parent,
        )
        if process.returncode:
            kind = InputError if process.returncode == 2 else RuntimeError
            raise kind(_reason(process).replace(image, tables.as_text(task.image.path)))
        (path,) = glob.glob(os.path.join(glob.escape(folder), "rd-*.npz"))
        return _with_provenance(path, task)


def _worker_number():
    """The number at the end of the name of the Dask worker that calls this; 0 outside of Dask.

    Workers of `study.run` are named 0, 1, …; others are named by `dask_worker --name`.
    """
    try:
        name = str(distributed.get_worker().name)
    except ValueError:
        return 0
    return int((re.findall("[0-9]+", name) or ["0"])[-1])


def _reason(process):
    """Why a script failed."""
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return "ended by {}{}".format(name, " (memory?)" if name == "SIGKILL" else "")
    lines = process.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ended with exit code {}".format(process.returncode)


_LIBC = ctypes.CDLL(None)


def _die_with_parent():
    """Has the process killed when its worker is killed (on Linux only)."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _with_provenance(path, task):
    """The content of a result file, with the values that only the study knows added."""
    values = tables.load(path)
    values.update(
        input=tables.as_text(os.path.basename(task.image.path)),
        image=task.image.name,
        image_sha256=task.image.sha256,
        height=task.image.height,
        width=task.image.width,
        method=task.method,
        checkpoint_sha256=task.run.sha256,
        task=task.key,
        version=task.version,
        cpu=machine.cpu_model(),
    )
    content = io.BytesIO()
    np.savez(content, **values)
    return content.getvalue()
