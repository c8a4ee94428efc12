"""The tasks of a study: an image with a method and, unless it is a classical codec, a model.

Methods are named as on a command line: a script, or one of `codecs.CODECS`, with its flags.
"""

import argparse
import collections
import hashlib
import json
import os
import re
import shlex

import tf_boilerplate
from inference.methods import find_method
from model import checkpoints, hyperprior
from runtime import console, files
from runtime.errors import InputError, naming
from study import codecs, tables
from study.versions import version


class Task(collections.namedtuple("Task", "image method run settings version key")):
    """One image with one method, and one model or quality.

    image: an `inputs.Image`; method: the name of a script or codec and its flags, as the user wrote
    them, less --lambda, --seed and --quality; run: a `Model`, None for a codec; settings: dict of
    all settings of the method, defaults, λ, seed and quality too; version: of the code of the
    script and all that it imports (`study.versions`), or of the encoder; key: digest of all that
    the result depends on.
    """

    __slots__ = ()

    @property
    def script(self):
        """Name of the script or codec."""
        return self.method.split()[0]

    @property
    def model(self):
        """Name of the run folder; '' for a codec."""
        return self.run.name if self.run else ""

    @property
    def place(self):
        """What tells a row of a table apart from others of the image, as in `place_of`."""
        settings = (self.settings.get(name, "") for name in ("lmbda", "quality", "seed"))
        return _place(tables.as_text(self.method), tables.as_text(self.model), *settings)

    def __str__(self):
        """What messages call the task."""
        return ", ".join((self.image.name, self.kind))

    @property
    def kind(self):
        """What messages call the tasks that differ in their image alone."""
        words = [self.method, self.model] if self.run else [self.method]
        for name, text in (("lmbda", "λ = {}"), ("quality", "quality {:g}"), ("seed", "seed {}")):
            if name in self.settings and (name, self.settings[name]) != ("seed", 0):
                words.append(text.format(self.settings[name]))
        return tables.as_text(", ".join(words))


def place_of(row):
    """Method, model, λ, quality and seed of a row of a table, as in `Task.place`."""
    return _place(*(row.get(name, "") for name in ("method", "model", "lambda", "quality", "seed")))


def _place(method, model, lmbda, quality, seed):
    return method, model, lmbda, quality, str(seed or 0)  # tables of others may lack seeds


Model = collections.namedtuple("Model", "folder name step sha256 lmbda kind")
Model.__doc__ = """A trained model.

folder: absolute path of the folder that holds its run folder; sha256: digest of the checkpoint;
kind: name of the script that trains it; name, step, lmbda: as in `checkpoints.Run`.
"""


def find_models(checkpoint_dir, patterns):
    """Finds the `Model`s of run names, or patterns of run names, in a checkpoint folder.

    An invalid run that only a pattern means is left out, and a note says so.

    Raises:
      InputError: no such run, or an invalid one that is named or the only one; two runs with the
        same name.
    """
    folder = os.path.abspath(checkpoint_dir)
    models, refused = {}, {}
    for pattern in map(os.path.normpath, patterns):
        # Of a name that is not there, `find_run` says what is wrong.
        for name in checkpoints.run_folders(folder, pattern) or [pattern]:
            if name in models or name in refused and name != pattern:
                continue
            try:
                models[name] = _find_run(folder, name)
            except InputError as error:
                if name == pattern:
                    raise
                refused[name] = error
    if refused and not models:
        raise next(iter(refused.values()))
    for error in refused.values():
        console.note("{}; the study leaves this run out".format(error))
    checkpoints.check_names([run for run, _ in models.values()])
    return [_model(run, kind) for run, kind in models.values()]


def _find_run(folder, name):
    """The `checkpoints.Run` of a name, and the script that trains its kind of model."""
    run = checkpoints.find_run(folder, name)
    kinds = (hyperprior.Mbt2018, hyperprior.Mbt2018BB)
    kinds = [kind.name for kind in kinds if checkpoints.is_of(kind, run)]
    if not kinds:
        raise InputError("{}: not a checkpoint of these models".format(run.checkpoint))
    return run, kinds[0]


def _model(run, kind):
    folder = os.path.abspath(os.path.join(os.path.dirname(run.checkpoint), os.pardir))
    digest = checkpoints.checkpoint_sha256(run.checkpoint)
    return Model(folder, run.name, run.step, digest, run.lmbda, kind)


def make_tasks(images, methods, models, seeds=None):
    """Makes all `Task`s, ordered by image.

    Args:
      images: list of `inputs.Image`.
      methods: list of str, such as "sga --preset fast" or "jpeg --quality 5 10". Each script runs
        with the models that suit it.
      models: list of `Model`.
      seeds: of the scripts that have no --seed among their flags; None: only the default.

    Raises:
      InputError: a script does not exist, no model suits it, or a codec's flags are wrong.
      SystemExit: a script does not know a flag (argparse has reported it).
    """
    kinds = {}
    for method in methods:
        name, flags = split(method)
        if name in codecs.CODECS:
            found = _of_codec(name, flags)
        else:
            found = _of_script(name, flags, models, seeds)
        for kind in found:
            kinds[repr(kind)] = kind
    return [Task(image, *kind, key_of(image, *kind)) for image in images for kind in kinds.values()]


def _of_codec(name, flags):
    """Yields method, None, settings and version, of `Task`s of a codec."""
    for quality in codecs.parse(name, flags):
        codec = codecs.CODECS[name]
        yield name, None, codec.settings(quality), codec.version()


def _of_script(script, flags, models, seeds):
    """Yields method, run, settings and version, of `Task`s of a script."""
    method_class = find_method(script)
    code = version(script)
    fitting = [model for model in models if model.kind == method_class.model_class.name]
    if not fitting:
        raise InputError(
            "{}: none of the models is one of {}.py, which this script needs".format(
                script, method_class.model_class.name
            )
        )
    # λ and seed have columns of their own: a method at several of them is one method.
    given, others = _numbers(flags)
    label = " ".join(map(shlex.quote, [script, *others]))
    for model in fitting:
        args = parse(script, flags, model.name)
        args.lmbda = checkpoints.lambda_of(model, args.lmbda)
        for seed in [args.seed] if given.seed or not seeds else seeds:
            args.seed = seed
            yield label, model, method_class.settings(args), code


def _numbers(flags):
    """Values of --lambda and --seed among flags, None for those not given, and the other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--lambda")
    parser.add_argument("--seed")
    return parser.parse_known_args(flags)


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
      InputError: the script does not exist, flags do not go together, or a flag names a file,
        which is left to the study.
      SystemExit: the script does not know a flag (argparse has reported it).
    """
    argv = ["compress", runname, "image", "--results_dir", "", *flags]
    method_class = find_method(script)
    args = tf_boilerplate.parse(script, "", method_class, None, argv)
    with naming(script):
        method_class.check(args)
    named = (args.output, args.results_dir, args.save_reconstruction)
    if any(named) or args.eval_imgs != "image" or getattr(args, "side_info", None):
        raise InputError("{} {}: files are not named here".format(script, " ".join(flags)))
    if args.overwrite or args.eval_batch_size > 1:
        line = "{} {}: in studies there is no --overwrite and no --eval_batch_size"
        raise InputError(line.format(script, " ".join(flags)))
    if getattr(args, "weight_map", ""):
        args.weight_map = os.path.abspath(args.weight_map)  # processes run in another folder
    return args


def key_of(image, method, run, settings, code):
    """The `key` of a `Task`: a digest of all that its result depends on."""
    model = (run.name, run.sha256) if run else ("", "")
    if settings.get("weight_map"):
        content = files.read_bytes(settings["weight_map"])
        settings = {**settings, "weight_map": hashlib.sha256(content).hexdigest()}
    identity = [method.split()[0], code, *model, image.sha256, settings]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
