"""Runs methods × models × images: each method on each image, with each model that suits it.

    python -m study.run kodak/ --models 'mbt2018*-num_filters=64-*' --output results/mine

writes a result file for each task, a table by image (`images.csv`) and one of means (`means.csv`)
into the output folder, and the tables as tasks end. Tasks run side by side on the cores of this
machine, or on the workers of a Dask cluster. What is done already, of the same pixels, settings,
checkpoint and version of the code, is not done again: after an interruption, whatever its kind, the
same command goes on. Rows that the table had of other images, methods and models stay in it.

Besides scripts, the classical codecs jpeg, webp, jpeg2000, avif, jpegxl and heic are methods, at
several qualities each ('jpeg --quality 5 10 20').
"""

import collections
import contextlib
import os
import threading
import time

from inference import scripts
from inference.methods import find_method
from runtime import console, files
from runtime.errors import InputError
from study import cluster, codecs, command, inputs, tables, tasks

ALL = ["*"]  # models


def main(argv=None):
    rows, failed = study(parse(argv))
    if failed:
        print(
            "{} of {} tasks failed, and are missing from these".format(failed, len(rows) + failed)
        )
    return 1 if failed else 0


def study(args):
    """Runs the tasks without results, and writes the tables.

    Args:
      args: namespace of the flags of `add_flags`, `images`, `methods` (None: all) and `models`.

    Returns:
      rows: rows (`tables.COLUMNS`) of all tasks of `args` except those that failed; none with
        --dry-run.
      failed: number of failed tasks.

    Raises:
      InputError: wrong input, before anything runs.
    """
    wanted = find_tasks(args)
    table = Table(args, wanted)
    before = table.read()
    known = {row.get("task"): row for row in before}
    missing = [
        task
        for task in wanted
        if args.recompute or task.key not in known and not is_done(args.output, task)
    ]
    if args.dry_run:
        print(summary(wanted, missing), *listed(wanted, missing), sep="\n")
        return [], 0
    for path in (*table.paths, *(result_path(args.output, task) for task in missing)):
        files.check_writable(path)
    print(summary(wanted, missing), flush=True)
    old = len(before) - len(merged(before, missing, [], args.dataset))
    if old:
        why = "of other code, settings or pixels, or of another checkpoint"
        why = "--recompute" if args.recompute else why
        print("{}: {} rows are computed anew: {}".format(table.paths[0], old, why), flush=True)
    started = {identity(task) for task in missing}
    for task in wanted:
        if identity(task) not in started:
            table.add(task, known.get(task.key))

    def keep(task, content):
        files.write_bytes(result_path(args.output, task), content)
        table.add(task)
        table.write_when_due()

    try:
        failed = cluster.compute(missing, args, len(wanted), keep) if missing else 0
    finally:
        table.cancel()
    table.write(wanted)
    print("wrote {} and {}".format(*table.paths))
    return table.new(), failed


def find_tasks(args):
    """All tasks of a command line; codecs that are missing here are left out, with a note."""
    found = inputs.find(args.images, args.crop)
    methods = list(dict.fromkeys(args.methods or ()))
    names = {method: tasks.split(method)[0] for method in methods}
    missing = {n: codecs.CODECS[n].missing() for n in names.values() if n in codecs.CODECS}
    for name, why in missing.items():
        if why:
            console.note("{}: {}; the study leaves it out".format(name, why))
    there = [method for method in methods if not missing.get(names[method])]
    if methods and not there:
        raise InputError("--methods: none of these codecs is there")
    models = []
    if not methods or any(name not in codecs.CODECS for name in names.values()):
        models = tasks.find_models(args.checkpoint_dir, args.models)
    elif args.models != ALL or args.seeds:
        flag = "models" if args.models != ALL else "seeds"
        raise InputError("--{}: classical codecs, the only --methods, have none".format(flag))
    return tasks.make_tasks(found, there or methods_for(models), models, args.seeds)


def identity(task):
    """What tells a row apart from the others of a data set."""
    return (task.image.name, *task.place)


class Table:
    """The tables of a study, which grow as its tasks end.

    Args:
      args: the command line.
      wanted: all `tasks.Task`s of it.
    """

    PAUSE = 20  # times the seconds that it took to write them, before they are written again

    def __init__(self, args, wanted):
        self.args, self.wanted, self.rows = args, wanted, {}
        self.paths = [os.path.join(args.output, name) for name in ("images.csv", "means.csv")]
        self.due = time.monotonic()
        self.timer, self.lock = None, threading.RLock()

    def read(self):
        """The rows of `images.csv` as it is; none where there is no such file."""
        path, dataset = self.paths[0], self.args.dataset
        return tables.read_csv(path, dataset) if os.path.exists(path) else []

    def add(self, task, known=None):
        """Adds the row of a task that is done: `known`, or that of its result file."""
        row = row_of(task, known, self.args)
        with self.lock:
            self.rows[identity(task)] = row

    def new(self):
        """The rows that were added, in the order of the tasks."""
        rows = (self.rows.get(identity(task)) for task in self.wanted)
        return [row for row in rows if row]

    def write_when_due(self):
        """Writes both, now or, if they were written just before, after a pause."""
        wait = self.due - time.monotonic()
        if wait <= 0:
            self.write()
        elif not (self.timer and self.timer.is_alive()):
            self.timer = threading.Timer(wait, self._write_late)
            self.timer.start()

    def _write_late(self):
        with contextlib.suppress(InputError):  # which the next one will raise again
            self.write()

    def cancel(self):
        """Forgets what is to be written after a pause."""
        if self.timer:
            self.timer.cancel()
            self.timer.join()

    def write(self, ended=None):
        """Writes both, with the new rows in place of those of `ended` (None: tasks with rows)."""
        with self.lock, files.locked(self.args.output):
            self._write(ended)

    def _write(self, ended):
        begun = time.monotonic()
        if ended is None:
            ended = [task for task in self.wanted if identity(task) in self.rows]
        # Read again: another study may have written to it since, and waits now (`files.locked`).
        rows = merged(self.read(), ended, self.new(), self.args.dataset)
        files.write_bytes(self.paths[0], tables.to_csv(rows, tables.COLUMNS))
        # Of the numbers as the table has them, so that they do not depend on who computed them.
        files.write_bytes(self.paths[1], tables.to_csv(tables.means(self.read()), tables.MEANS))
        self.due = time.monotonic() + self.PAUSE * (time.monotonic() - begun)


def summary(wanted, missing):
    """How many tasks there are, and of what, in words."""
    number = len({task.image.name for task in wanted})
    found = (
        ("method", {task.method for task in wanted}),
        ("model", {task.model for task in wanted if task.run}),
        ("codec setting", {task.kind for task in wanted if not task.run}),
        ("seed", {task.settings["seed"] for task in wanted if task.run}),
    )
    parts = [_number(len(values), what) for what, values in found if values]
    if parts[-1] == "1 seed":
        parts.pop()
    return "{} ({} × {}: {}), of which {} are done already".format(
        _number(len(wanted), "task"),
        _number(number, "image"),
        _number(len(wanted) // number, "setting"),
        ", ".join(parts),
        len(wanted) - len(missing),
    )


def _number(number, what):
    return "{} {}{}".format(number, what, "" if number == 1 else "s")


def listed(wanted, missing):
    """Yields lines: how many tasks of each kind there are, and what is to be done of them."""
    waiting = collections.Counter(task.kind for task in missing)
    for kind, number in collections.Counter(task.kind for task in wanted).items():
        yield "{:6} to do of {}: {}".format(waiting[kind], number, kind)


def methods_for(models):
    """The methods, of the nine, for which there is a model."""
    kinds = {model.kind for model in models}
    return [m for m in scripts.METHODS if find_method(m).model_class.name in kinds]


def row_of(task, known, args):
    """The row of a finished task: `known`, or else from its result file."""
    if known is None:
        (known,) = tables.rows_of_result(result_path(args.output, task), args.dataset)
    names = {
        "dataset": args.dataset,
        "image": task.image.name,
        "method": tables.as_text(task.method),
    }
    return {**known, **names}  # the same pixels and settings may go by several


def merged(old, wanted, new, dataset):
    """All rows in order: the new ones, and the old ones that belong to none of the wanted tasks.

    Args:
      old, new: rows.
      wanted: `tasks.Task`s, done or not.
      dataset: data set of the new rows.
    """
    taken = set()
    for task in wanted:
        # The same image under another name, and another image under the same.
        taken |= {(task.place, task.image.name), (task.place, task.image.sha256)}
    kept = []
    for row in old:
        place = tasks.place_of(row)
        names = {(place, row["image"]), (place, row.get("image_sha256", ""))}
        if row["dataset"] != dataset or not taken & names:
            kept.append(row)
    blank = dict.fromkeys(tables.COLUMNS, "")
    return tables.in_order({**blank, **row} for row in [*kept, *new])


def parse(argv):
    parser = command.parser(
        "study.run", __doc__, "--checkpoint_dir", positional="images [images ...]"
    )
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="scripts and classical codecs ({}), each with its flags in quotes: sga "
        "'sga --preset fast' 'jpeg --quality 5 10' (those of the nine scripts that have a model in "
        "--models)".format(" ".join(codecs.CODECS)),
    )
    add(
        "--models",
        nargs="+",
        default=ALL,
        metavar="RUNNAME",
        help="run folders in --checkpoint_dir, or patterns of them (all)",
    )
    add(
        "--seeds",
        nargs="+",
        type=command.natural,
        metavar="N",
        help="of the random numbers: one row for each, of scripts without --seed (0)",
    )
    add("--dry-run", action="store_true", help="print the tasks, and run nothing")
    add_flags(parser, "./results/study")
    return parsed(parser, argv)


def add_flags(parser, output):
    """Adds the flags for the images, the output and the resources of a study."""
    add = parser.add_argument
    parser.set_defaults(seeds=None, dry_run=False)
    add("images", nargs="+", help="folders, patterns, image files, or uint8 .npy (n, H, W, 3)")
    command.add_output(parser, output)
    add(
        "--dataset",
        default="images",
        type=tables.as_text,
        help="what tables and figures call them (%(default)s)",
    )
    add(
        "--crop",
        type=command.size,
        metavar="WxH",
        help="take centre crops (HxW of portrait images)",
    )
    add(
        "--workers",
        type=command.positive,
        metavar="N",
        help="tasks at a time (one per GPU, or per core without a GPU)",
    )
    add(
        "--threads",
        type=command.positive,
        metavar="N",
        help="threads of each task (cores / workers; 1 on a cluster)",
    )
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster to run on, tcp://host:port")
    add(
        "--retries",
        type=int,
        default=2,
        help="of a task that fails, unless its script refuses what it is given (%(default)s)",
    )
    add(
        "--separate",
        action="store_true",
        help="start a process for each task, which is slower and gives the same results",
    )
    add("--recompute", action="store_true", help="also what is done already")


def parsed(parser, argv):
    """Parses a command line that has the flags of `add_flags`."""
    args = parser.parse_args(argv)
    if args.scheduler and args.workers:
        parser.error("--workers: a cluster (--scheduler) has its own")
    return args


def result_path(output, task):
    """Path of a task's result file."""
    name = "{}-{}.npz".format(task.image.name, task.key)
    place = task.model or "quality={:g}".format(task.settings["quality"])
    return os.path.join(output, "tasks", task.script, place, name)


def is_done(output, task):
    """Whether there is a complete result of a task."""
    try:
        # Reading the whole file detects damage.
        return str(tables.load(result_path(output, task))["task"]) == task.key
    except (InputError, KeyError):
        return False


if __name__ == "__main__":
    command.run(main)
