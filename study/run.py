"""Runs methods × models × images: each method on each image, with each model that suits it.

    python -m study.run kodak/ --models 'mbt2018*-num_filters=32-*' --output results/mine

writes a result file for each task, a table by image (`images.csv`) and one of means (`means.csv`)
into the output folder, and the tables as tasks end. Tasks run side by side on the cores of this
machine, or on the workers of a Dask cluster. What is done already, of the same pixels, settings,
checkpoint and version of the code, is not done again: after an interruption, whatever its kind, the
same command goes on. Rows that the table had of other images, methods and models stay in it.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time

import dask
import distributed

from inference import scripts
from inference.methods import find_method
from model import device
from runtime import console, files, machine
from runtime.errors import InputError
from study import command, tables, tasks

CONNECT_TIMEOUT = 10  # seconds


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
      rows: rows (`tables.COLUMNS`) of all tasks of `args` except those that failed.
      failed: number of failed tasks.

    Raises:
      InputError: wrong input, before anything runs.
    """
    images = tasks.find_images(args.images, args.crop)
    models = tasks.find_models(args.checkpoint_dir, args.models)
    methods = list(dict.fromkeys(args.methods or methods_for(models)))
    wanted = tasks.make_tasks(images, methods, models)
    table = Table(args, wanted)
    before = table.read()
    known = {row.get("task"): row for row in before}
    missing = [
        task
        for task in wanted
        if args.recompute or task.key not in known and not is_done(args.output, task)
    ]
    for path in (*table.paths, *(result_path(args.output, task) for task in missing)):
        files.check_writable(path)
    print(summary(wanted, missing), flush=True)
    old = len(before) - len(merged(before, missing, [], args.dataset))
    if old:
        why = "of other code, settings or pixels, or of another checkpoint"
        why = "--recompute" if args.recompute else why
        print("{}: {} rows are computed anew: {}".format(table.paths[0], old, why), flush=True)
    started = {title(task) for task in missing}
    for task in wanted:
        if title(task) not in started:
            table.add(task, known.get(task.key))

    def keep(task, content):
        files.write_bytes(result_path(args.output, task), content)
        table.add(task)
        if table.is_due():
            table.write()

    failed = compute(missing, args, len(wanted), keep) if missing else 0
    table.write(wanted)
    print("wrote {} and {}".format(*table.paths))
    return table.new(), failed


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

    def read(self):
        """The rows of `images.csv` as it is; none where there is no such file."""
        path, dataset = self.paths[0], self.args.dataset
        return tables.read_csv(path, dataset) if os.path.exists(path) else []

    def add(self, task, known=None):
        """Adds the row of a task that is done: `known`, or that of its result file."""
        self.rows[title(task)] = row_of(task, known, self.args)

    def new(self):
        """The rows that were added, in the order of the tasks."""
        return [self.rows[title(task)] for task in self.wanted if title(task) in self.rows]

    def is_due(self):
        """Whether it is time to write the tables, which takes long where they are long."""
        return time.monotonic() >= self.due

    def write(self, ended=None):
        """Writes both, with the new rows in place of those of `ended` (None: tasks with rows)."""
        begun = time.monotonic()
        if ended is None:
            ended = [task for task in self.wanted if title(task) in self.rows]
        # Read again: another study may have written to it since.
        rows = merged(self.read(), ended, self.new(), self.args.dataset)
        files.write_bytes(self.paths[0], tables.to_csv(rows, tables.COLUMNS))
        # Of the numbers as the table has them, so that they do not depend on who computed them.
        files.write_bytes(self.paths[1], tables.to_csv(tables.means(self.read()), tables.MEANS))
        self.due = time.monotonic() + self.PAUSE * (time.monotonic() - begun)


def summary(wanted, missing):
    """How many tasks there are, and of what, in words."""
    images = len({task.image.name for task in wanted})
    methods = len({task.method for task in wanted})
    models = len({task.run.name for task in wanted})
    pairs = len(wanted) // images
    line = "{} tasks ({} images × {} pairs of method and model, of {} methods and {} models)"
    line = line.format(len(wanted), images, pairs, methods, models)
    return "{}, of which {} are done already".format(line, len(wanted) - len(missing))


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
        names = map(tables.as_text, (task.method, task.run.name))
        what = (dataset, *names, task.settings["lmbda"])
        # The same image under another name, and another image under the same.
        taken |= {(*what, task.image.name), (*what, task.image.sha256)}
    kept = []
    for row in old:
        what = (row["dataset"], row["method"], row.get("model", ""), row["lambda"])
        if not taken & {(*what, row["image"]), (*what, row.get("image_sha256", ""))}:
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
        help="scripts, each with its flags in quotes: sga 'sga --preset fast' (those of the nine "
        "that have a model in --models)",
    )
    add(
        "--models",
        nargs="+",
        default=["*"],
        metavar="RUNNAME",
        help="run folders in --checkpoint_dir, or patterns of them (all)",
    )
    add_flags(parser, "./results/study")
    return parsed(parser, argv)


def add_flags(parser, output):
    """Adds the flags for the images, the output and the resources of a study."""
    add = parser.add_argument
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
    add("--recompute", action="store_true", help="also what is done already")


def parsed(parser, argv):
    """Parses a command line that has the flags of `add_flags`."""
    args = parser.parse_args(argv)
    if args.scheduler and args.workers:
        parser.error("--workers: a cluster (--scheduler) has its own")
    return args


def title(task):
    """The name of a task in messages."""
    words = (task.image.name, task.method, task.run.name, task.settings["lmbda"])
    return tables.as_text("{}, {}, {}, λ = {}".format(*words))


def result_path(output, task):
    """Path of a task's result file."""
    name = "{}-{}.npz".format(task.image.name, task.key)
    return os.path.join(output, "tasks", task.method.split()[0], task.run.name, name)


def is_done(output, task):
    """Whether there is a complete result of a task."""
    try:
        # Reading the whole file detects damage.
        return str(tables.load(result_path(output, task))["task"]) == task.key
    except (InputError, KeyError):
        return False


# --- Dask ------------------------------------------------------------------------------------

# By default Dask monitors itself a hundred times a second, which costs a twelfth of two cores.
SELDOM = {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.profile.interval": "1s",
    "distributed.worker.profile.cycle": "10s",
}


def compute(missing, args, number, keep):
    """Runs tasks, and says which fail.

    Args:
      missing: list of `tasks.Task`.
      args: the command line.
      number: of all tasks, those that are done already too: which of them are missing does not
        change how many threads each gets, as their seconds are compared.
      keep: called with each task that does not fail and the content of its result file, bytes.

    Returns:
      The number of tasks that failed.
    """
    failed = 0
    with _client(args, number) as (client, threads), console.Progress(
        len(missing), title="tasks"
    ) as progress:
        futures = {
            client.submit(
                tasks.attempt,
                task,
                threads,
                key="{}, {}".format(title(task), task.key),
                retries=args.retries,
            ): task
            for task in missing
        }
        for done, future in enumerate(distributed.as_completed(futures), 1):
            task = futures[future]
            try:
                content = future.result()
            except Exception as error:  # of the task; a worker that died; a cluster that is gone
                content = tasks.Refusal(_reason(error))
            if isinstance(content, tasks.Refusal):
                failed += 1
                line = "failed: {}: {}".format(title(task), content.reason)
                print(line, file=sys.stderr, flush=True)
            else:
                keep(task, content)
            future.release()
            progress.update(done)
    return failed


def _reason(error):
    if isinstance(error, ImportError):
        return "{} (workers must be started in this folder)".format(error)
    if isinstance(error, distributed.scheduler.KilledWorker):
        return "its worker died, several times"
    return str(error)


@contextlib.contextmanager
def _client(args, number):
    """Yields a Dask client for `number` tasks, and the threads that each task may use."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if args.scheduler:
        try:
            client = distributed.Client(args.scheduler, timeout=CONNECT_TIMEOUT)
        except (OSError, ValueError, TypeError) as error:
            raise InputError("--scheduler: {}: {}".format(args.scheduler, error))
        with client:
            if not client.scheduler_info()["workers"]:
                print("waiting for workers at {}".format(args.scheduler), flush=True)
            yield client, args.threads or 1
        return
    workers, threads = shared_out(args, number)
    with _no_process_left(), tempfile.TemporaryDirectory() as folder, dask.config.set(
        SELDOM
    ), _deaf_to_interrupts(
        distributed.LocalCluster,
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,  # Dask's limit, which does not see the memory of the tasks' processes
        dashboard_address=":0",  # any free port: several studies may run
        local_directory=folder,
        silence_logs=logging.CRITICAL,
    ) as cluster, distributed.Client(cluster) as client, _silent_once_interrupted():
        yield client, threads


def shared_out(args, number):
    """How many of `number` tasks run at a time on this machine, and the threads of each.

    One task per core, or with GPUs one per GPU: only the user knows whether more fit its memory.
    """
    cores = machine.cores()
    most = len(device.cards()) or cores // (args.threads or 1)
    workers = args.workers or max(1, min(number, most))
    return workers, args.threads or max(1, cores // workers)


@contextlib.contextmanager
def _silent_once_interrupted():
    """Discards what Dask writes to stderr while it closes after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr = io.StringIO()
        raise


@contextlib.contextmanager
def _no_process_left():
    """Kills the workers that Dask leaves running when it closes after Ctrl-C.

    A Dask thread waits for each of them. If the workers ended together with this process, such a
    thread might find its worker gone and print a traceback.
    """
    stderr = sys.stderr
    try:
        yield
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.kill()
        for thread in threading.enumerate():
            if thread.name.endswith("watch process join"):
                thread.join(10)
        sys.stderr = stderr
        raise


def _deaf_to_interrupts(make, **kwargs):
    """Calls `make(**kwargs)` so that its processes ignore Ctrl-C, which this one handles."""
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return make(**kwargs)
    finally:
        signal.signal(signal.SIGINT, old)


if __name__ == "__main__":
    command.run(main)
