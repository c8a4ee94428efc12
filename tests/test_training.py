"""Training: its output, how it resumes, and how it handles bad input."""

import argparse
import errno
import functools
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import oracle
import plain
import pytest
from conftest import (
    ROOT,
    UNTRAINED,
    checkpoint_values,
    compress,
    pretend_cores,
    train_argv,
)
from PIL import Image

import mbt2018
import mbt2018_bb
import tf_boilerplate
from inference import methods
from model import checkpoints, hyperprior
from runtime import machine
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import learning_curves
from tools import export, recipe
from training import cores, data, run_folder, validation

MODELS = {"mbt2018": mbt2018, "mbt2018_bb": mbt2018_bb}


def train(model, *args, **kwargs):
    """Trains in this process; returns the run folder."""
    with tf.Graph().as_default():
        method = methods.find_method("mbt2018") if model == "mbt2018" else None
        module = MODELS[model]
        tf_boilerplate.main(method, module.training_graph, argv=train_argv(*args, **kwargs))
    (folder,) = glob.glob(str(args[1] / (model + "-*")))
    return folder


STEPS = 30


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """`trained(model)` is a run folder of 30 steps, which tests share and leave as it is.

    Its summaries are in the folder logs beside it.
    """

    @functools.lru_cache()
    def trained_model(model):
        folder = tmp_path_factory.mktemp(model)
        flags = ["--last_step", STEPS, "--learning_rate", 3e-3, "--logdir", folder / "logs"]
        flags += ["--save_summary_secs", 0, "--val_glob", photos / "[01].png", "--val_secs", 0]
        return train(model, photos, folder, *flags)

    return trained_model


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the base model's run folder, for the test to go on from or to damage."""
    folder = trained("mbt2018")
    return shutil.copytree(folder, str(tmp_path / os.path.basename(folder)))


@pytest.mark.parametrize("model", list(MODELS))
def test_checkpoint_has_the_names_and_shapes_of_the_reference(model, photos, tmp_path):
    folder = train(model, photos, tmp_path, "--last_step", 0, n=8, lmbda=0.02)
    name = "{}-num_filters=8-lmbda=0.02".format(model)
    assert os.path.basename(folder) == name
    ours = dict(tf.train.list_variables(tf.train.latest_checkpoint(folder)))
    with open(os.path.join(oracle.DATA, "variables.json")) as file:
        theirs = json.load(file)[name]
    # The widths of p(z)'s tables follow its quantiles, which training changes.
    for shapes in (ours, theirs):
        shapes.pop("entropy_bottleneck/quantized_cdf", None)
    assert ours == theirs
    with open(os.path.join(folder, "args.json")) as file:
        assert json.load(file)["lmbda"] == 0.02


@pytest.mark.parametrize("model, script", [("mbt2018", "mbt2018"), ("mbt2018_bb", "bb_plain")])
def test_initial_values_are_those_of_the_layers_of_tfc(model, script, untrained):
    ours = checkpoint_values(untrained / UNTRAINED[script])
    with tf.Graph().as_default(), tf.Session() as session:
        x, y, z = (tf.zeros(s) for s in [(1, 64, 64, 3), (1, 4, 4, 4), (1, 1, 1, 4)])
        layers = plain.Plain(4, bits_back=model == "mbt2018_bb")
        layers.run(x, y, z)
        if model == "mbt2018_bb":
            plain.tfc.EntropyBottleneck()(z, training=True)
        session.run(tf.global_variables_initializer())
        variables = {v.op.name: v for v in tf.global_variables()}
        theirs = {name: session.run(variable) for name, variable in variables.items()}
    compared = 0
    for name, value in theirs.items():
        if model == "mbt2018_bb":
            name = name.replace("entropy_bottleneck/", "")
            if name in ("quantiles", "quantized_cdf", "cdf_length"):
                continue
        random = "kernel" in name or "bias_" in name
        assert ours[name].shape == value.shape
        if random:
            # They are equal in distribution; a few hundred samples have at least this spread.
            if value.size > 100:
                assert np.std(ours[name]) == pytest.approx(np.std(value), rel=0.25)
        else:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
            compared += 1
    assert compared >= 25
    zero = [n for n in ours if n.endswith(("/Adam", "/Adam_1"))]
    assert zero and not any(ours[n].any() for n in zero)
    powers = [str(ours[n].round(4)) for n in sorted(ours) if n.startswith("beta")]
    assert powers in (["0.9", "0.9", "0.999", "0.999"], ["0.9", "0.999"])
    assert ours["global_step"] == 0 and ours["global_step"].dtype == np.int64


@pytest.mark.parametrize("model", list(MODELS))
def test_the_loss_falls_and_summaries_are_written(model, trained):
    folder = trained(model)
    (path,) = glob.glob(os.path.join(os.path.dirname(folder), "logs", "*", "events*"))
    losses, tags = [], set()
    for event in tf.train.summary_iterator(path):
        for value in event.summary.value:
            tags.add(value.tag)
            if value.tag == "rd_loss":
                losses.append(value.simple_value)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert {"bpp", "y_bpp", "z_bpp", "mse", "psnr", "original/image/0"} <= tags
    assert {"validation/rd_loss", "validation/bpp", "validation/psnr"} <= tags


class SameNoise:
    """Stands in for the random functions of TensorFlow: noise that depends on its shape alone."""

    @staticmethod
    def uniform(shape, low=0.0, high=1.0):
        places = tf.cast(tf.range(tf.reduce_prod(shape)), tf.float32)
        return tf.reshape(low + (high - low) * tf.math.floormod(0.618034 * places, 1), shape)

    @staticmethod
    def normal(shape):
        return SameNoise.uniform(shape, -1.7, 1.7)


@pytest.mark.parametrize("model", list(MODELS))
def test_the_objective_and_its_gradients_are_those_of_tfcs_layers(model, shipped, monkeypatch):
    """At the weights of a trained model, with the same noise."""
    pretend_cores(monkeypatch, 1)  # the batch stays whole
    for name in ("uniform", "normal"):
        monkeypatch.setattr(tf.random, name, getattr(SameNoise, name))
    run = checkpoints.find_run(str(shipped), model + "-num_filters=8-lmbda=0.02")
    x = np.random.RandomState(0).uniform(0, 1, (2, 64, 128, 3)).astype(np.float32)
    found = []
    graphs = {"mbt2018": plain.training_graph, "mbt2018_bb": plain.bits_back_training_graph}
    for graph in (MODELS[model].training_graph, graphs[model]):
        with tf.Graph().as_default(), tf.Session() as session:
            loss = graph(tf.constant(x), 8, 0.02)[0]
            weights = tf.trainable_variables()
            gradients = dict(zip((v.op.name for v in weights), tf.gradients(loss, weights)))
            gradients = {name: value for name, value in gradients.items() if value is not None}
            session.run(tf.global_variables_initializer())
            tf.train.Saver(weights).restore(session, run.checkpoint)
            found.append(session.run([loss, gradients]))
    (loss, ours), (expected, theirs) = found
    assert loss == pytest.approx(expected, rel=1e-5)
    assert set(ours) == set(theirs) and len(ours) > 40
    for name, gradient in theirs.items():
        largest = np.abs(gradient).max()
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=2e-4 * largest, err_msg=name)


def test_a_run_that_another_process_took_further_meanwhile_is_left_alone(copy):
    kept = checkpoints.kept_checkpoints(copy)
    args = argparse.Namespace(init_from="")
    outdated = run_folder.claimed(copy, args, 0, kept[:-1])
    with pytest.raises(InputError, match="another process has just trained there"), outdated:
        pass
    with run_folder.claimed(copy, args, STEPS, kept):
        pass


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--lr_final", 5], "--lr_final: 5 is above 1"),
        (["--val_secs", 10], "--val_secs: has no effect without --val_glob"),
        (["--save_summary_secs", 5, "--logdir", ""], "has no effect without --logdir"),
    ],
)
def test_flags_of_training_that_do_not_go_together(flags, message, photos, tmp_path, capsys):
    assert message in fails(capsys, photos, tmp_path, "--last_step", 1, *flags)
    assert not list(tmp_path.iterdir())


def test_the_record_of_a_start_that_failed_does_not_count(tmp_path):
    """Before the first checkpoint: the model has seen none of its steps."""
    (tmp_path / "record.txt").write_text("of a model whose weights were not used in the end")
    with run_folder.claimed(str(tmp_path), argparse.Namespace(init_from=""), 0, []):
        pass
    first = (tmp_path / "record.txt").read_text()
    assert "not used" not in first and '"start_step": 0' in first


def test_sigterm_saves_and_ends(photos, tmp_path, capsys):
    command = [sys.executable, os.path.join(ROOT, "mbt2018.py")]
    command += train_argv(photos, tmp_path, "--last_step", 100000)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "steps 0 to 100000" in process.stdout.readline()
    # Meanwhile nothing else is trained there.
    (folder,) = glob.glob(str(tmp_path / "mbt2018-*"))
    before = pathlib.Path(folder, "record.txt").read_text()
    flags = ["--last_step", 5, "--val_glob", photos / "0.png", "--logdir", tmp_path / "logs"]
    line = fails(capsys, photos, tmp_path, *flags)
    assert line.endswith(folder + ": another process is training there")
    assert not list((tmp_path / "logs").glob("*/*"))
    assert pathlib.Path(folder, "record.txt").read_text() == before
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "mbt2018: interrupted"
    (folder,) = glob.glob(str(tmp_path / "mbt2018-*"))
    assert checkpoint_values(folder)["global_step"] > 0


def fails(capsys, *args, **kwargs):
    """The one error line with which training is refused."""
    with pytest.raises(SystemExit) as exit:
        train("mbt2018", *args, **kwargs)
    assert exit.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


@pytest.mark.parametrize("last_step", [1, 50])
def test_a_model_that_diverges_is_not_saved(last_step, photos, tmp_path, capsys):
    """Also where its weights are finite still, and only its loss is not."""
    flags = ["--last_step", last_step, "--learning_rate", 1e30, "--val_glob", photos / "0.png"]
    line = fails(capsys, photos, tmp_path, *flags)
    assert "the training diverged, to NaN or infinity near step 1" in line
    assert "--learning_rate" in line
    (folder,) = glob.glob(str(tmp_path / "mbt2018-*"))
    values = checkpoint_values(folder)
    assert values["global_step"] == 0
    assert all(np.isfinite(value).all() for value in values.values())
    kept = [os.path.basename(path) for path in glob.glob(os.path.join(folder, "*.index"))]
    assert sorted(kept) == ["best.ckpt-0.index", "model.ckpt-0.index"]


def test_a_log_folder_that_cannot_be_written_is_refused_before_training(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = fails(capsys, photos, tmp_path, "--last_step", 1, "--logdir", tmp_path / "file" / "logs")
    assert str(tmp_path / "file" / "logs") in line and "cannot be written" in line
    assert os.listdir(str(tmp_path)) == ["file"]


FULL = "mbt2018/model.ckpt-3_temp.data; No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, FULL),
        OSError(errno.ENOSPC, "No space left on device", "validation.csv"),
    ],
)
def test_a_full_disk_ends_the_training_with_one_line(error, photos, tmp_path, monkeypatch, capsys):
    save = tf.train.Saver.save

    def full(self, session, path, global_step, *args, **kwargs):
        if global_step:
            raise error
        return save(self, session, path, global_step, *args, **kwargs)

    monkeypatch.setattr(tf.train.Saver, "save", full)
    line = fails(capsys, photos, tmp_path, "--last_step", 2)
    assert "the disk is full" in line or "validation.csv: No space left" in line
    (folder,) = glob.glob(str(tmp_path / "mbt2018-*"))
    assert checkpoint_values(folder)["global_step"] == 0


def test_images_that_cannot_be_used_are_named_and_skipped(photos, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(str(photos), str(folder))
    (folder / "text.png").write_text("not an image")
    Image.new("RGB", (63, 200)).save(str(folder / "small.png"))
    np.save(str(folder / "double.npy"), np.zeros((90, 90, 3)))
    np.save(str(folder / "nan.npy"), np.full((90, 90, 3), np.nan, np.float32))
    whole = (folder / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    train("mbt2018", folder, tmp_path, "--last_step", 12)
    errors = capsys.readouterr().err
    for name in ("text.png", "small.png", "double.npy", "nan.npy", "truncated.png"):
        (line,) = (line for line in errors.splitlines() if name in line)
        assert line.startswith("skipped: ")
    assert "63x200 is smaller than the 64x64 patch" in errors


def test_nothing_to_train_on(photos, tmp_path, capsys):
    line = fails(capsys, photos, tmp_path, "--last_step", 1, pattern="*.tif")
    assert "no file matches" in line and "*.tif" in line
    line = fails(capsys, photos, tmp_path, "--last_step", 1, patchsize=256)
    assert "none of the 6 files" in line
    assert not glob.glob(str(tmp_path / "mbt2018-*"))


def hyper_analysis(folder, y, checkpoint):
    """What h_a of the model in a run folder makes of y, or of an image, a dict of arrays."""
    run = checkpoints.find_run(*os.path.split(folder), checkpoint=checkpoint)
    model_class = hyperprior.Mbt2018BB if "_bb" in run.name else hyperprior.Mbt2018
    weights = checkpoints.load(model_class, run)
    with tf.Graph().as_default(), tf.Session() as session:
        model = hyperprior.build(model_class, weights)
        y = tf.constant(y)
        y = model.analysis(y) if y.shape[3] == 3 else y
        return session.run(model.hyper_analysis(y))


def test_a_shipped_model_is_not_trained_further(trained, photos, tmp_path, capsys):
    """It has no optimiser state; --init_from still accepts its weights, and copies its record."""
    base = trained("mbt2018")
    shipped = tmp_path / os.path.basename(base)
    export.main(base, str(shipped))
    line = fails(capsys, photos, tmp_path, "--last_step", STEPS + 5)
    assert "--init_from" in line
    for name in ("args.json", "record.txt"):  # a refused training leaves no trace
        with open(os.path.join(base, name)) as old:
            assert old.read() == (shipped / name).read_text()
    folder = train("mbt2018_bb", photos, tmp_path, "--last_step", 1, "--init_from", shipped)
    values = checkpoint_values(os.path.join(folder, "model.ckpt-0"))
    for name in ("synthesis_transform/layer_0/kernel_rdft", "entropy_bottleneck/matrix_1"):
        own = name.replace("entropy_bottleneck/", "")
        np.testing.assert_array_equal(values[own], checkpoint_values(base)[name])
    assert values["global_step"] == 0
    # z_mean of the bits-back model is z of the base model.
    y = np.random.RandomState(0).randn(1, 8, 8, 4).astype(np.float32)
    z, q = hyper_analysis(base, y, None), hyper_analysis(folder, y, "model.ckpt-0")
    np.testing.assert_array_equal(q["z_mean"], z["z"])
    # Its variance begins small on what it is trained on.
    photo = np.asarray(Image.open(str(photos / "0.png")).convert("RGB")) / np.float32(255)
    q = hyper_analysis(folder, photo[None], "model.ckpt-0")
    assert np.exp(q["z_logvar"].mean() / 2) < 0.5  # with random weights 1, whatever the image
    with open(os.path.join(folder, "record.txt")) as file:
        record = file.read()
    steps = [int(step) for step in re.findall(r'"last_step": (\d+)', record)]
    assert steps == [STEPS, 1]
    assert '"init_from_step": {}'.format(STEPS) in record and '"start_step": 0' in record
    # It goes on without saying what it began with; learning curves still count those steps.
    assert "--init_from" not in capsys.readouterr().err
    train("mbt2018_bb", photos, tmp_path, "--last_step", 2)
    with open(os.path.join(folder, "args.json")) as file:
        settings = json.load(file)
    assert (settings["start_step"], settings["init_from_step"]) == (1, STEPS)
    line = fails(capsys, photos, tmp_path, "--last_step", 1, "--init_from", base, n=8)
    assert "the model has --num_filters 4, not 8" in line
    # With the same weights to start from as before, it just goes on.
    train("mbt2018_bb", photos, tmp_path, "--last_step", 2, "--init_from", str(shipped) + "/")
    assert "--init_from" not in capsys.readouterr().err
    for _ in range(2):  # others are not mixed in, and this is said
        train("mbt2018_bb", photos, tmp_path, "--last_step", 2, "--init_from", base)
        assert "--init_from: not used, " + folder in capsys.readouterr().err
    with open(os.path.join(folder, "args.json")) as file:
        assert json.load(file)["init_from"] == str(shipped)
    # A third run counts the steps of both.
    train("mbt2018_bb", photos, tmp_path / "third", "--last_step", 1, "--init_from", folder)
    with open(str(tmp_path / "third" / os.path.basename(folder) / "args.json")) as file:
        assert json.load(file)["init_from_step"] == STEPS + 2


def test_a_damaged_checkpoint_is_named(copy, photos, capsys):
    path = os.path.join(copy, "model.ckpt-{}.data-00000-of-00001".format(STEPS))
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1000)
    line = fails(capsys, photos, pathlib.Path(copy).parent, "--last_step", STEPS + 5)
    assert "model.ckpt-{}: not a readable checkpoint".format(STEPS) in line


def test_a_run_that_was_moved_goes_on(copy, trained, photos, tmp_path, capsys):
    """Its state file may hold absolute paths, which TensorFlow writes by default."""
    with open(os.path.join(copy, "checkpoint"), "w") as file:
        file.write('model_checkpoint_path: "/home/authors/run/model.ckpt-{}"\n'.format(STEPS))
    last = STEPS + 1
    flags = ["--learning_rate", 1e-3, "--lr_final", 1e-4, "--val_glob", photos / "[01].png"]
    train("mbt2018", photos, tmp_path, "--last_step", last, *flags)
    before, after = checkpoint_values(trained("mbt2018")), checkpoint_values(copy)
    assert after["global_step"] == last
    printed = capsys.readouterr().out
    assert "validation at step {}: loss=".format(last) in printed
    # However few steps there are, the loss is shown.
    assert re.search(r"saved at step {}, loss=[0-9.]+ bpp=".format(last), printed)
    # The last of 31 steps has a learning rate of 1e-3 (1e-4 + ½ (1 + cos(30/31 π))) = 2.7e-6.
    name = "synthesis_transform/layer_3/bias"
    assert 0 < np.abs(after[name] - before[name]).max() < 1e-5
    # The validation continues, on the same images.
    rows = validation.read_log(copy)
    assert [row["step"] for row in rows[-3:]] == [STEPS, STEPS, last]
    assert rows[-3]["rd_loss"] == pytest.approx(rows[-2]["rd_loss"], rel=1e-4)
    assert len({row["images"] for row in rows}) == 1


def test_a_checkpoint_of_another_shape_is_refused(copy, photos, tmp_path, capsys):
    os.rename(copy, copy.replace("filters=4", "filters=5"))
    line = fails(capsys, photos, tmp_path, "--last_step", STEPS + 2, n=5)
    assert "of another shape" in line


def test_images_that_all_fail_to_decode_are_an_error(photos, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    whole = (photos / "0.png").read_bytes()
    for name in ("a.png", "b.png"):
        (tmp_path / "broken" / name).write_bytes(whole[: len(whole) // 2])
    line = fails(capsys, tmp_path / "broken", tmp_path, "--last_step", 2)
    assert "none of the images can be decoded" in line


def test_a_crop_of_an_array_reads_its_rows_alone(tmp_path):
    """The array is memory-mapped: reading a patch takes little memory, however large the file."""
    path = str(tmp_path / "large.npy")
    large = np.lib.format.open_memmap(path, "w+", np.float32, (40000, 8000, 3))  # 3.8 GB, sparse
    large[20000, :64] = 0.5
    del large
    code = (
        "import resource, sys, numpy as np; sys.path.insert(0, {!r});"
        "from training import data;"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "places = np.array([[20000 / (40000 - 63), 0.0]]);"
        "(patch,) = data._read_patches({!r}, 64, places, print);"
        "assert patch.shape == (64, 64, 3) and patch[0].min() == 0.5 and patch[1].max() == 0;"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 50e3"
    ).format(ROOT, path)
    subprocess.run([sys.executable, "-c", code], check=True)
    os.unlink(path)


def test_patches_are_parts_of_the_images(photos):
    paths = data.find_images(str(photos / "*.npy"), 16)
    with tf.Graph().as_default(), tf.Session() as session:
        batch = session.run(data.batches(paths, 4, 16, 2, seed=1))
    arrays = [np.load(path) for path in paths]
    windows = {
        array[r : r + 16, c : c + 16].tobytes()
        for array in arrays
        for r in range(array.shape[0] - 15)
        for c in range(array.shape[1] - 15)
    }
    assert all(patch.tobytes() in windows for patch in batch)
    assert len({patch.tobytes() for patch in batch}) == 4
    with pytest.raises(InputError):
        data.find_images(str(photos / "nothing*"), 16)


def test_parts_of_a_batch_are_the_whole(monkeypatch):
    x = np.random.RandomState(0).uniform(size=(6, 4, 4, 3)).astype(np.float32)
    results = []
    for number in (1, 4):  # of which 3 are used, because 3 divides 6
        monkeypatch.setattr(machine, "cores", lambda number=number: number)
        with tf.Graph().as_default(), tf.Session(config=cores.config(3)) as session:
            weights = tf.constant([1.0, 2.0, 3.0])
            parts = []

            def loss(x, parts=parts, weights=weights):
                parts.append(x.shape.as_list()[0])
                each = tf.reduce_sum((x * weights) ** 3, axis=(1, 2, 3))
                return tf.reduce_mean(each), {"each": each}

            total, metrics = cores.by_cores(loss, tf.constant(x))
            results.append(session.run([total, metrics["each"], tf.gradients(total, weights)[0]]))
        assert parts == ([6] if number == 1 else [2, 2, 2])
    for whole, joined in zip(*results):
        np.testing.assert_allclose(joined, whole, rtol=1e-6)


def test_the_learning_rate_falls_along_a_cosine():
    args = argparse.Namespace(learning_rate=2e-3, lr_final=0.1, last_step=100)
    with tf.Session() as session:
        values = session.run([tf_boilerplate.learning_rate(step, args) for step in (0, 50, 100)])
    np.testing.assert_allclose(values, [2e-3, 1.1e-3, 2e-4], rtol=1e-6)
    args.lr_final = 1.0
    assert tf_boilerplate.learning_rate(7, args) == 2e-3


@pytest.mark.parametrize("flip", [False, True])
def test_patches_are_mirrored_if_asked(flip, tmp_path):
    rng = np.random.RandomState(0)
    image = rng.uniform(size=(20, 24, 3)).astype(np.float32)
    np.save(str(tmp_path / "a.npy"), image)
    with tf.Graph().as_default(), tf.Session() as session:
        batch = session.run(data.batches([str(tmp_path / "a.npy")], 32, 16, 1, 1, flip))
    mirrored = 0
    for patch in batch:
        windows = [image[i : i + 16, j : j + 16] for i in range(5) for j in range(9)]
        straight = any((window == patch).all() for window in windows)
        assert straight or any((window[:, ::-1] == patch).all() for window in windows)
        mirrored += not straight
    assert 8 <= mirrored <= 24 if flip else mirrored == 0


@pytest.mark.parametrize("model,script", [("mbt2018", "mbt2018"), ("mbt2018_bb", "bb_plain")])
def test_validation_is_what_the_scripts_measure(model, script, trained, photos, tmp_path):
    folder = trained(model)
    rows = validation.read_log(folder)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    means = []
    for name in ("0.png", "1.png"):
        top, run = os.path.split(folder)
        means.append(compress(script, run, photos / name, tmp_path / name, checkpoint_dir=top))
    assert rows[-1]["psnr"] == pytest.approx(np.mean([m["psnr"] for m in means]), rel=1e-3)
    # For bits-back it is for other samples of z, of which there are only 16.
    tolerance = 1e-4 if model == "mbt2018" else 0.03
    assert rows[-1]["bpp"] == pytest.approx(np.mean([m["est_bpp"] for m in means]), abs=tolerance)
    for row in rows:
        assert row["rd_loss"] == pytest.approx(0.01 * row["mse"] + row["bpp"], rel=1e-4)
    # The best one is kept under a separate name, and does not count as the newest.
    best = min(rows, key=lambda row: row["rd_loss"])["step"]
    kept = glob.glob(os.path.join(folder, "best.ckpt-*.index"))
    assert [os.path.basename(path) for path in kept] == ["best.ckpt-{:g}.index".format(best)]
    assert tf.train.load_checkpoint(kept[0][: -len(".index")]).get_tensor("global_step") == best
    for is_best, step in ((True, best), (False, STEPS)):
        copied = str(tmp_path / str(is_best) / os.path.basename(folder))
        export.main(folder, copied, best=is_best)
        assert checkpoints.find_run(*os.path.split(copied)).step == step
        with pytest.raises(InputError, match="is there already"):
            export.main(folder, copied)
        (tmp_path / "link").symlink_to(copied)
        export.main(folder, str(tmp_path / "link"), best=is_best, replace=True)
        assert checkpoints.find_run(*os.path.split(copied)).step == step
        (tmp_path / "link").unlink()
        assert os.listdir(os.path.dirname(copied)) == [os.path.basename(folder)]
    assert checkpoint_values(folder)["global_step"] == STEPS


def test_validation_images_that_cannot_be_used(photos, tmp_path, capsys):
    line = fails(capsys, photos, tmp_path, "--last_step", 1, "--val_glob", "/nothing/*.png")
    assert "--val_glob" in line and "/nothing/*.png" in line
    (tmp_path / "text.png").write_text("not an image")
    line = fails(capsys, photos, tmp_path, "--last_step", 1, "--val_glob", tmp_path / "text.png")
    assert "text.png: not a readable image" in line


def test_a_recipe_resumes_after_a_kill(photos, tmp_path, monkeypatch, capsys):
    """Killed twice without warning, it ends with all models at the same steps as otherwise."""
    stages = ("trunk", "mbt2018_bb-0.001")
    argv = ["--train_glob", str(photos / "*"), "--checkpoint_dir", str(tmp_path / "runs")]
    argv += ["--output", str(tmp_path / "out"), "--scale", "0.001", "--num_filters", "4"]
    argv += ["--patchsize", "32", "--batchsize", "2", "--save_checkpoint_secs", "0"]
    argv += ["--only", *stages]
    command = [sys.executable, "-m", "tools.recipe", *argv]
    for stage in stages:  # with the second checkpoint begun, the first is complete
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while not glob.glob(str(tmp_path / "runs" / stage / "*" / "model.ckpt-[2-9]*.index")):
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
    recipe.main(argv)
    steps = {stage.name: round(0.001 * stage.steps) for stage in recipe.STAGES}
    for stage in stages:
        (folder,) = glob.glob(str(tmp_path / "runs" / stage / "*"))
        values = checkpoint_values(folder)
        assert values["global_step"] == steps[stage]
        # Adam went on too: one that began anew would have multiplied by β₁ less often.
        assert values["beta1_power"] == pytest.approx(0.9 ** (steps[stage] + 1), rel=1e-5)
        if stage == "trunk":
            with open(os.path.join(folder, "record.txt")) as file:
                starts = re.findall(r'"start_step": (\d+)', file.read())
            # The kill is one start, the larger patches of the trunk's second stage another.
            assert len(starts) == 3 and starts[0] == "0" != starts[1]
            assert starts[-1] == "44" or starts[1] == "44"
    outputs = sorted(glob.glob(str(tmp_path / "out" / "*")))
    assert [os.path.basename(path) for path in outputs] == ["mbt2018_bb-num_filters=4-lmbda=0.001"]
    assert not any("Adam" in name for path in outputs for name in checkpoint_values(path))
    # Copies are renewed, but only those of these runs; the others are named before any training.
    record = pathlib.Path(outputs[0], "record.txt")
    whole = record.read_text()
    record.write_text(whole[:100])
    recipe.main(argv)
    assert record.read_text() == whole
    record.write_text("of another run")
    monkeypatch.setattr(recipe, "train", None)
    with pytest.raises(SystemExit):
        recipe.main([*argv[:-2], "mbt2018-0.001", stages[1]])
    assert "--output: {}: not of the runs in".format(outputs[0]) in capsys.readouterr().err
    assert record.read_text() == "of another run"


def test_a_stage_waits_for_the_one_that_it_starts_from(tmp_path, capsys):
    argv = ["--train_glob", "none", "--checkpoint_dir", str(tmp_path), "--only", "mbt2018-0.001"]
    with pytest.raises(SystemExit) as exit:
        recipe.main(argv)
    assert (
        exit.value.code == 2 and "trunk, which is at step 0, not 127390" in capsys.readouterr().err
    )


def test_a_stage_that_began_before_the_end_of_its_source_is_refused(trained, tmp_path, capsys):
    """As where the table of stages has been changed since."""
    folders = {}
    for stage, script in (("trunk", "mbt2018"), ("mbt2018_bb-0.0025", "mbt2018_bb")):
        folders[stage] = tmp_path / stage / (script + "-num_filters=4-lmbda=0.0025")
        shutil.copytree(trained(script), str(folders[stage]))
    argv = ["--train_glob", "none", "--checkpoint_dir", str(tmp_path), "--num_filters", "4"]
    argv += ["--scale", "0.000235", "--only", "mbt2018_bb-0.0025"]
    record = {"init_from_step": STEPS}
    (folders["mbt2018_bb-0.0025"] / "args.json").write_text(json.dumps(record))
    recipe.main(argv)
    record["init_from_step"] -= 1
    (folders["mbt2018_bb-0.0025"] / "args.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit):
        recipe.main(argv)
    line = capsys.readouterr().err
    assert "{}: began at another step".format(folders["mbt2018_bb-0.0025"]) in line


def test_learning_curves_count_the_steps_before(tmp_path, capsys):
    """A stage that started from step 30 of a trunk goes on where that ended."""
    rows = "step,images,rd_loss,bpp,mse,psnr\n{}"
    for folder, settings, lines in (
        ("trunk/mbt2018-n", {"lmbda": 0.01}, "0,old,9,1,1,1\n10,i,3,1,1,1\n30,i,2,1,1,1\n"),
        ("last/mbt2018-n", {"lmbda": 0.01, "init_from_step": 30}, "0,i,2,1,1,1\n5,i,1.5,1,1,1\n"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "validation.csv").write_text(rows.format(lines))
        (tmp_path / folder / "args.json").write_text(json.dumps(settings))
    folders = [str(tmp_path / name / "mbt2018-n") for name in ("trunk", "last")]
    trunk, last = map(learning_curves.read, folders)
    assert (trunk.steps, trunk.losses) == ((10, 30), (3, 2))  # of the newest images alone
    assert (last.steps, last.losses) == ((30, 35), (2, 1.5))
    log = tmp_path / "last" / "mbt2018-n" / "validation.csv"
    whole = log.read_text()
    for cut in ("10,i,1.2", "10,i,1.2,1,1,", "10,i,1.2,1,1,3"):  # by a full disk
        log.write_text(whole + cut)
        assert learning_curves.read(folders[1]) == last
    log.write_text(whole + "10,i,nan,1,1,1\n")
    assert learning_curves.read(folders[1]) == last
    log.write_text(rows.format("0,i,nan,1,1,1\n"))
    with pytest.raises(InputError, match="no finite loss"):
        learning_curves.read(folders[1])
    log.write_text("step,rd_loss\n3,0.5\n")
    with pytest.raises(InputError, match="line 2: not the numbers"):
        learning_curves.read(folders[1])
    log.write_text(whole + "10,i,none,1,1,1\n")
    with pytest.raises(InputError, match="line 4"):
        learning_curves.read(folders[1])
    log.write_text(whole)
    figure = learning_curves.draw([trunk, last])
    (panel,) = figure.axes
    assert [line.get_label() for line in panel.lines] == ["mbt2018, trunk", "mbt2018, last"]
    learning_curves.main([*folders, "--output", str(tmp_path / "curves")])
    assert (tmp_path / "curves.png").exists() and (tmp_path / "curves.svg").exists()
    os.remove(os.path.join(folders[0], "validation.csv"))
    with pytest.raises(InputError, match="no validation.csv there"):
        learning_curves.read(folders[0])
