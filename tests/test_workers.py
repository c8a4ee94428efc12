"""Several workers under horovodrun train one model together, and end together."""

import glob
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, checkpoint_values, pretend_cores, train_argv

import mbt2018
import tf_boilerplate
from model import checkpoints
from runtime import machine
from runtime.errors import InputError
from runtime.quiet_tf import tf
from training import cores, data, horovod

needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None,
    reason="Horovod is not installed (requirements-horovod.txt)",
)
RUN = "mbt2018-num_filters=4-lmbda=0.01"
SCRIPT = os.path.join(ROOT, "mbt2018.py")


@pytest.fixture
def worker(monkeypatch):
    """Makes this process look like a worker started by horovodrun."""

    def become(rank, size):
        monkeypatch.setenv("HOROVOD_RANK", str(rank))
        monkeypatch.setenv("HOROVOD_SIZE", str(size))
        monkeypatch.setenv("HOROVOD_LOCAL_SIZE", str(size))

    return become


class Job:
    """Two workers that run a Python command line."""

    def __init__(self, *command):
        horovodrun = os.path.join(os.path.dirname(sys.executable), "horovodrun")
        self.command = [sys.executable, *command]
        self.process = subprocess.Popen(
            [horovodrun, "-np", "2", "-H", "localhost:2", *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # its workers end with it

    def until_saved(self, folder, step):
        """Waits for a checkpoint after this step; the first steps are slow."""
        deadline = time.time() + 300
        while self.process.poll() is None:
            assert time.time() < deadline
            if (folder / "checkpoint").exists():
                newest = checkpoints.newest_checkpoint(str(folder))
                if newest and int(newest.rsplit("-", 1)[1]) > step:
                    return
            time.sleep(0.2)
        raise AssertionError(self.process.stdout.read())

    def pid(self, rank):
        """The process id of one of the workers."""
        for folder in glob.glob("/proc/[0-9]*"):
            try:
                with open(folder + "/cmdline", "rb") as file:
                    command = file.read().split(b"\0")[:-1]
                with open(folder + "/environ", "rb") as file:
                    variables = file.read().split(b"\0")
            except OSError:  # it has ended or belongs to another user
                continue
            mine = command == [os.fsencode(word) for word in self.command]
            if mine and b"HOROVOD_RANK=%d" % rank in variables:
                return int(os.path.basename(folder))
        raise AssertionError("no such worker")

    def end(self, timeout=300):
        """Waits for the end; returns the exit code and everything that was printed."""
        with self:
            printed, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, printed


def test_alone_without_horovodrun():
    assert (horovod.size(), horovod.rank(), horovod.first()) == (1, 0, True)
    assert horovod.own_seed(17) == 17
    assert horovod.of_first(3, None) == 3
    tensor = tf.zeros(())
    assert horovod.average(tensor, "name") is tensor


def test_seeds_of_workers_differ(worker):
    seeds = []
    for rank in range(3):
        worker(rank, 3)
        seeds += [horovod.own_seed(seed) for seed in range(10)]
    assert len(set(seeds)) == len(seeds)


def test_workers_of_a_machine_share_its_cores(worker, monkeypatch):
    pretend_cores(monkeypatch, 8)
    assert machine.cores() == 8
    worker(1, 3)
    assert machine.cores() == 2
    assert cores.config(2).inter_op_parallelism_threads == 2
    worker(1, 20)
    assert machine.cores() == 1


def test_threads_are_those_that_are_asked_for(monkeypatch):
    pretend_cores(monkeypatch, 8)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert machine.threads() == 8
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert machine.threads() == 2


def images_read(folder, n, batches):
    """Numbers of the one-coloured images `<number>.npy` in this worker's first batches."""
    paths = [str(folder / "{}.npy".format(number)) for number in range(n)]
    with tf.Graph().as_default(), tf.Session() as session:
        batch = data.batches(paths, 1, 8, 1, seed=5)
        pixels = [session.run(batch)[0, 0, 0, 0] for _ in range(batches)]
    return [int(round(pixel * 100)) for pixel in pixels]


def test_workers_read_different_images(worker, tmp_path):
    for number in range(64):
        image = np.full((8, 8, 3), number / 100, np.float32)
        np.save(str(tmp_path / "{}.npy".format(number)), image)
    alone = images_read(tmp_path, 64, 16)
    seen = []
    for rank in range(2):
        worker(rank, 2)
        # Each pass has 32 images; while 16 more are mixed in, the first 16 are from the first pass.
        seen += images_read(tmp_path, 64, 16)
    assert len(set(seen)) == 32 and len(set(alone)) == 16
    # With fewer images than workers, all use all images, with different patches.
    worker(2, 3)
    assert set(images_read(tmp_path, 2, 20)) == {0, 1}


def test_without_horovod_one_line_says_so(worker, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "horovod", None)
    worker(1, 2)
    with pytest.raises(SystemExit) as exit:
        tf_boilerplate.main(None, lambda: None, train_argv(photos, tmp_path, "--last_step", 1))
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "requirements-horovod.txt" in line
    with pytest.raises(InputError):
        horovod.average(tf.zeros(()), "name")


@needs_horovod
def test_two_workers_of_batch_4_follow_one_of_batch_8(photos, tmp_path):
    """With the same patches, the same noise, and the same state of model and optimisers."""
    # Blocks of colour, so that each patch has a different gradient.
    coarse = np.random.RandomState(0).uniform(size=(10, 8, 8, 8, 3)).astype(np.float32)
    given = str(tmp_path / "data.npy")
    np.save(given, coarse.repeat(8, axis=2).repeat(8, axis=3))

    def command(folder, batchsize, last_step):
        flags = ("--batchsize", batchsize, "--last_step", last_step, "--learning_rate", 1e-3)
        driver = os.path.join(ROOT, "tests", "same_patches.py")
        return [driver, given, *train_argv(photos, tmp_path / folder, *flags)]

    subprocess.run([sys.executable, *command("one", 8, 5)], check=True)
    start = checkpoint_values(tmp_path / "one" / RUN)
    shutil.copytree(str(tmp_path / "one"), str(tmp_path / "two"))
    subprocess.run([sys.executable, *command("one", 8, 15)], check=True)
    code, printed = Job(*command("two", 4, 15)).end()
    assert code == 0, printed

    one, two = (checkpoint_values(tmp_path / folder / RUN) for folder in ("one", "two"))
    assert one.keys() == two.keys() and two["global_step"] == 15
    for name, value in one.items():
        if name.endswith("/quantized_cdf"):
            continue  # integers, derived from the other variables
        # Adam divides by the gradient's size: if that is almost zero, rounding errors show. The
        # quantiles minimise an absolute value, whose gradient changes its sign at the minimum.
        sensitive = "reparam_gamma" in name or "quantiles" in name
        atol = 1e-3 if sensitive else 1e-6
        np.testing.assert_allclose(two[name], value, rtol=1e-4, atol=atol, err_msg=name)
        if "kernel" in name and "Adam" not in name:
            assert np.abs(value - start[name]).max() > 1e-3  # the weights have moved


@needs_horovod
def test_a_job_goes_on_where_one_process_stopped_and_back(untrained, photos, tmp_path):
    logs, folder = tmp_path / "logs", tmp_path / RUN
    shutil.copytree(str(untrained / RUN), str(folder))
    variables = tf.train.list_variables(str(folder))

    def argv(last_step):
        return train_argv(photos, tmp_path, "--last_step", last_step, "--logdir", logs)

    with Job(SCRIPT, *argv(100000), "--save_checkpoint_secs", "1") as job:
        job.until_saved(folder, 0)
        os.kill(job.pid(rank=1), signal.SIGTERM)
        code, printed = job.end()
    assert code != 0 and "mbt2018: interrupted" in printed
    assert not re.search(
        r"^\[.*Traceback", printed, re.MULTILINE
    )  # horovodrun prints one of its own
    step = checkpoint_values(folder)["global_step"]
    assert "[0]<stdout>:{}: steps 0 to 100000, 6 images".format(folder) in printed
    assert "saved at step {}".format(step) in printed and "[1]<stdout>" not in printed
    assert len(glob.glob(str(logs / "*" / "events*"))) == 1

    with tf.Graph().as_default():
        tf_boilerplate.main(None, mbt2018.training_graph, argv(step + 2))
    assert checkpoint_values(folder)["global_step"] == step + 2
    assert [name for name, _ in variables] == [
        name for name, _ in tf.train.list_variables(str(folder))
    ]
    with open(str(folder / "record.txt")) as file:
        record = file.read()
    assert [record.count('"workers": {}'.format(n)) for n in (1, 2)] == [2, 1]


def runs(pid):
    """Whether a process is still running; a zombie is not."""
    try:
        with open("/proc/{}/stat".format(pid)) as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@needs_horovod
@pytest.mark.parametrize("killed", ["worker", "horovodrun"])
def test_where_one_ends_all_end(killed, photos, tmp_path):
    flags = ("--last_step", 100000, "--save_checkpoint_secs", 1)
    with Job(SCRIPT, *train_argv(photos, tmp_path, *flags)) as job:
        job.until_saved(tmp_path / RUN, 0)
        pids = [job.pid(rank) for rank in (0, 1)]
        if killed == "worker":
            os.kill(pids[1], signal.SIGKILL)
        else:
            job.process.send_signal(signal.SIGINT)
        code, printed = job.end()
    assert code != 0
    if killed == "worker":
        assert "worker 0: ended, as another worker has ended" in printed
    deadline = time.time() + 30
    while any(map(runs, pids)):
        assert time.time() < deadline
        time.sleep(0.1)
    assert all(np.isfinite(value).all() for value in checkpoint_values(tmp_path / RUN).values())


@needs_horovod
def test_nan_ends_all_before_it_is_saved(photos, tmp_path):
    flags = ("--last_step", 50, "--learning_rate", 1e30, "--save_checkpoint_secs", 1)
    code, printed = Job(SCRIPT, *train_argv(photos, tmp_path, *flags)).end()
    assert code != 0 and "mbt2018: error" in printed and "the training diverged" in printed
    assert all(np.isfinite(value).all() for value in checkpoint_values(tmp_path / RUN).values())
