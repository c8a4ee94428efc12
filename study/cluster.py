"""Running tasks on Dask: on the cores of this machine, or on the workers of a cluster."""

import contextlib
import datetime
import io
import logging
import multiprocessing
import signal
import sys
import tempfile
import threading
import time

import dask
import distributed

from model import device
from runtime import console, machine
from runtime.errors import InputError
from study import execution, schedule

CONNECT_TIMEOUT = 10  # seconds

# By default Dask monitors itself a hundred times a second, which costs a twelfth of two cores.
SELDOM = {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.profile.interval": "1s",
    "distributed.worker.profile.cycle": "10s",
}


def compute(missing, args, number, keep):
    """Runs tasks; says which fail, how long the first of each method took, and how long is left.

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
    with _client(args, number) as (client, threads):
        workers = client.scheduler_info()["workers"].items()
        slots = [address for address, worker in workers for _ in range(worker["nthreads"])]
        estimate = schedule.Estimate(missing, max(1, len(slots)))
        with console.Progress(len(missing), title="tasks", left=estimate.seconds) as progress:
            futures = _submit(client, missing, threads, slots, args)
            for done, future in enumerate(distributed.as_completed(futures), 1):
                task = futures[future]
                try:
                    outcome = future.result()
                except Exception as error:  # of the task; a dead worker; a cluster that is gone
                    outcome = execution.Outcome(b"", _reason(error), None, None)
                start = 0 if args.separate else outcome.start  # each of them has one then
                first = estimate.ended(task, outcome.seconds, start)
                if outcome.refusal is not None:
                    failed += 1
                    line = "failed: {}: {}".format(task, outcome.refusal)
                    print(line, file=sys.stderr, flush=True)
                else:
                    keep(task, outcome.content)
                    if first and done < len(missing):
                        progress.write(_first(task, outcome, estimate.seconds()))
                future.release()
                progress.update(done)
    return failed


def _submit(client, missing, threads, slots, args):
    """Submits tasks to Dask; returns a dict from futures to tasks."""
    futures = {}
    for index, (task, slot) in enumerate(schedule.placed(missing, max(1, len(slots)))):
        options = {"key": "{}, {}".format(task, task.key), "retries": args.retries}
        if slots:
            options.update(workers=slots[slot], allow_other_workers=True)
        work = (execution.attempt, task, threads, args.separate)
        future = client.submit(*work, priority=-index, **options)
        futures[future] = task
    return futures


def _first(task, outcome, left):
    """A line on the first task of a method that has ended."""
    end = time.time() + left
    soon = left < 12 * 3600
    start = ", {:.1f} of them to start".format(outcome.start) if outcome.start else ""
    return "{}: the first took {:.1f} s{}; all tasks done in about {}, at {}".format(
        task,
        outcome.seconds,
        start,
        datetime.timedelta(seconds=round(left)),
        time.strftime("%H:%M" if soon else "%a %d %b %H:%M", time.localtime(end)),
    )


def _reason(error):
    if isinstance(error, ImportError):
        return "{} (workers must be started in this folder)".format(error)
    if isinstance(error, distributed.scheduler.KilledWorker):
        return "its worker died, several times"
    return str(error) or type(error).__name__


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
        env={machine.TASKS: str(workers)},
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
