"""Runs methods × models × images: each method on each image, with each model that suits it.

    python -m study.run kodak/ --models 'mbt2018*-num_filters=32-*' --output results/mine

writes a result file for each task, a per-image table (`images.csv`) and a table of means
(`means.csv`) into the output folder. Tasks run in parallel on the cores of this machine, or on
the workers of a Dask cluster. Tasks with existing results for the same pixels, settings and
checkpoint are skipped: after an interruption of any kind, the same command resumes. The
table keeps its rows of other images, methods and models.
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
    images_csv, means_csv = (
        os.path.join(args.output, name) for name in ("images.csv", "means.csv")
    )
    known = {row.get("task"): row for row in read_table(images_csv, args)}
    missing = [t for t in wanted if t.key not in known and not is_done(args.output, t)]
    for path in (images_csv, means_csv, *(result_path(args.output, task) for task in missing)):
        files.check_writable(path)
    line = "{} tasks ({} images, {} methods, {} models), of which {} are done already"
    numbers = (len(images), len(methods), len(models), len(wanted) - len(missing))
    print(line.format(len(wanted), *numbers), flush=True)
    failures = compute(missing, args, len(wanted)) if missing else set()
    new = [row_of(t, known.get(t.key), args) for t in wanted if t.key not in failures]
    # Read again: another study may have written to the table since.
    rows = merged(read_table(images_csv, args), wanted, new, args.dataset)
    files.write_bytes(images_csv, tables.to_csv(rows, tables.COLUMNS))
    # Means of the numbers as rounded in the table, whether this study computed them or another.
    means = tables.means(read_table(images_csv, args))
    files.write_bytes(means_csv, tables.to_csv(means, tables.MEANS))
    print("wrote {} and {}".format(images_csv, means_csv))
    return new, len(failures)


def methods_for(models):
    """The methods, of the nine, for which there is a model."""
    kinds = {model.kind for model in models}
    return [m for m in scripts.METHODS if find_method(m).model_class.name in kinds]


def read_table(path, args):
    """The rows of a per-image table; none if there is no such file."""
    return tables.read_csv(path, args.dataset) if os.path.exists(path) else []


def row_of(task, known, args):
    """The row of a finished task: `known`, or else from its result file."""
    if known is None:
        (known,) = tables.rows_of_result(result_path(args.output, task), args.dataset)
    names = {"dataset": args.dataset, "image": task.image.name, "method": task.method}
    return {**known, **names}  # the same pixels and settings may have several names


def merged(old, wanted, new, dataset):
    """All rows in order: the new ones, and the old ones that belong to none of the wanted tasks.

    Args:
      old, new: rows.
      wanted: `tasks.Task`s, done or not.
      dataset: data set of the new rows.
    """
    taken = set()
    for task in wanted:
        what = (dataset, task.method, task.run.name, task.settings["lmbda"])
        # Either the same image under another name, or another image under the same name.
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
        "--dataset", default="images", help="name of the images in tables and figures (%(default)s)"
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
    add("--scheduler", metavar="ADDRESS", help="Dask cluster to run on, tcp://host:port")
    add("--retries", type=int, default=2, help="how often a failed task is retried (%(default)s)")


def parsed(parser, argv):
    """Parses a command line that has the flags of `add_flags`."""
    args = parser.parse_args(argv)
    if args.scheduler and args.workers:
        parser.error("--workers: a cluster (--scheduler) has its own")
    return args


def title(task):
    """The name of a task in messages."""
    words = (task.image.name, task.method, task.run.name, task.settings["lmbda"])
    return "{}, {}, {}, λ = {}".format(*words)


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


def compute(missing, args, number):
    """Runs tasks, and writes each result as it arrives.

    Args:
      missing: list of `tasks.Task`.
      args: the command line.
      number: number of all tasks, including those already done. Threads per task follow from this
        rather than from the number missing, so that timings of resumed studies are comparable.

    Returns:
      set of the keys of the tasks that failed; each failure has been reported on stderr.
    """
    failures = set()
    with _client(args, number) as (client, threads), console.Progress(
        len(missing), title="tasks"
    ) as progress:
        futures = {
            client.submit(
                tasks.run_task,
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
            except Exception as error:  # the task failed, its worker died, or the cluster is gone
                failures.add(task.key)
                line = "failed: {}: {}".format(title(task), _reason(error))
                print(line, file=sys.stderr, flush=True)
            else:
                files.write_bytes(result_path(args.output, task), content)
            future.release()
            progress.update(done)
    return failures


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
