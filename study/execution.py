"""The execution of a study's tasks, within a Dask worker.

A script runs in a process of its own (`study.serve`), through its command line: a method that fails
or runs out of memory affects no other task, and a new script needs no registration. Each thread of
a worker keeps the last process, for the tasks that differ in their image alone: to start one costs
several seconds. Classical codecs run in the worker itself.
"""

import collections
import contextlib
import ctypes
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import distributed
import numpy as np

from inference.scripts import ROOT
from model import checkpoints, device
from runtime import machine, signals
from runtime.errors import InputError
from study import codecs, inputs, tables, tasks
from study.versions import version

Outcome = collections.namedtuple("Outcome", "content refusal seconds start")
Outcome.__doc__ = """The end of a task.

content: of its result file, bytes; refusal: why it failed in a way that another attempt would
repeat, or None; seconds: that it took; start: those of them in which a process started and built
its graph, 0 if the process was there.
"""


def attempt(task, threads, separate=False):
    """`run_task`, but a failure that another attempt would repeat is returned.

    Dask tries again what raises. The process ends with the task if `separate`.

    Returns:
      `Outcome`.
    """
    try:
        return run_task(task, threads)
    except InputError as error:
        return Outcome(b"", str(error), None, None)
    finally:
        if separate:
            end_process()


def run_task(task, threads):
    """Runs a task, on any machine that can see its files.

    Args:
      task: `tasks.Task`.
      threads: number of threads that it may use.

    Returns:
      `Outcome`.

    Raises:
      InputError: the checkpoint, the image, the code or the encoder is another than it was, or the
        method has refused what it was given; the text says why.
      RuntimeError: the method failed otherwise.
    """
    begun = time.monotonic()
    pixels = inputs.read(task.image)
    weight_map, line = task.settings.get("weight_map"), "{}: is not as it was when the study began"
    if inputs.digest(pixels) != task.image.sha256:
        raise InputError(line.format(task.image.path))
    if weight_map and tasks.key_of(*task[:5]) != task.key:
        raise InputError(line.format(weight_map))
    run = _of_script if task.run else _of_codec
    values, started = run(task, pixels, threads)
    values.update(
        input=tables.as_text(os.path.basename(task.image.path)),
        image=task.image.name,
        image_sha256=task.image.sha256,
        height=task.image.height,
        width=task.image.width,
        method=task.method,
        task=task.key,
        version=task.version,
        cpu=machine.cpu_model(),
        threads=threads,
    )
    content = io.BytesIO()
    np.savez(content, **values)
    seconds = time.monotonic() - begun
    start = max(0, seconds - float(np.sum(values["seconds"]))) if started else 0
    return Outcome(content.getvalue(), None, seconds, start)


def _of_codec(task, pixels, threads):
    """The values of a result of a classical codec, by name; and False: no process was started."""
    codec = codecs.CODECS[task.script]
    here = codec.missing() or codec.version()
    if here != task.version:
        line = "{}: this worker has another encoder than the study began with: {}, not {}"
        raise InputError(line.format(task.script, here, task.version))
    values = codecs.evaluate(task.script, pixels, task.settings["quality"], threads)
    return {"script": task.script, "device": "CPU", **task.settings, **values}, False


# --- Scripts ---------------------------------------------------------------------------------

_kept = threading.local()  # .process: the last `Process` of this thread


def _of_script(task, pixels, threads):
    """The values of a result of a script, by name; and whether a process was started for it."""
    environment = _environment(threads)
    identity = (task.method, task.run, task.settings, task.version, pixels.shape, environment)
    if getattr(_kept, "process", None) and _kept.process.identity != identity:
        end_process()
    process, _kept.process = getattr(_kept, "process", None), None
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, task.image.name + ".npy")
        result = os.path.join(folder, "result.npz")
        np.save(image, pixels[None])
        try:
            started = not (process and process.ask(image, result))
            if started:
                process = Process(identity, _command(task), environment)
                if not process.ask(image, result):
                    raise RuntimeError("the process ended before its first image")
        except (InputError, RuntimeError) as error:
            path = tables.as_text(task.image.path)
            raise type(error)(str(error).replace(image, path))
        _kept.process = process
        return {**tables.load(result), "checkpoint_sha256": task.run.sha256}, started


def end_process():
    """Ends the process that this thread keeps."""
    if getattr(_kept, "process", None):
        _kept.process.close()
        _kept.process = None


def _command(task):
    """The command line that runs a task's script on images.

    Raises:
      InputError: the checkpoint or the code is another than it was.
    """
    run = checkpoints.find_run(task.run.folder, task.run.name)
    if checkpoints.checkpoint_sha256(run.checkpoint) != task.run.sha256:
        raise InputError("{}: is not as it was when the study began".format(run.checkpoint))
    script, flags = tasks.split(task.method)
    if version(script) != task.version:
        line = "{}.py, or what it imports, is not as it was when the study began"
        raise InputError(line.format(script))
    flags += ["--lambda", repr(task.settings["lmbda"]), "--seed", str(task.settings["seed"])]
    if task.settings.get("weight_map"):  # whose path may be relative to where the study began
        flags += ["--weight_map", task.settings["weight_map"]]
    command = [sys.executable, "-m", "study.serve", script, "--checkpoint_dir", task.run.folder]
    return [*command, "compress", task.run.name, "image", "--results_dir", "", *flags]


def _environment(threads):
    """The environment of a process that uses some threads, and one GPU if there are any."""
    number = str(threads)
    return {
        **device.environment_of(_worker_number()),
        "TF_NUM_INTRAOP_THREADS": number,
        "TF_NUM_INTEROP_THREADS": number,
        "OMP_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
    }


def _worker_number():
    """The number at the end of the name of the Dask worker that calls this; 0 outside of Dask.

    Workers of `study.run` are named 0, 1, …; others are named by `dask_worker --name`.
    """
    try:
        name = str(distributed.get_worker().name)
    except ValueError:
        return 0
    return int((re.findall("[0-9]+", name) or ["0"])[-1])


class Process:
    """A process of `study.serve`, which ends at the latest with this one.

    Args:
      identity: all that its results depend on besides the pixels, to be compared.
      command: list of str.
      environment: dict.
    """

    def __init__(self, identity, command, environment):
        self.identity = identity
        self._errors = tempfile.TemporaryFile()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment,
            preexec_fn=_die_with_parent,
        )

    def ask(self, image, result):
        """Has the image at one path processed, and the result written to the other.

        Returns:
          Whether this was done: False if the process has ended, since nobody asked for long.

        Raises:
          InputError: the script refused it (exit code 2); the text says why.
          RuntimeError: the process failed otherwise.
        """
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps([image, result]).encode() + b"\n")
            self._popen.stdin.flush()
        if self._popen.stdout.readline():
            return True
        code = self._popen.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        self.close()
        if code:
            raise (InputError if code == 2 else RuntimeError)(signals.reason(code, text))
        return False

    def close(self):
        """Ends the process."""
        self._popen.kill()
        self._popen.wait()
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.stdout.close()
        self._errors.close()


_LIBC = ctypes.CDLL(None)


def _die_with_parent():
    """Has the process killed when its worker is killed (on Linux only)."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
