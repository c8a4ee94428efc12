"""Run folders: which checkpoint is read, and what a folder's name says."""

import functools
import glob
import os
import shutil

import conftest
import numpy as np
import pytest
from conftest import UNTRAINED, checkpoint_values, train_argv
from PIL import Image

import mbt2018
import tf_boilerplate
from model import checkpoints, hyperprior
from runtime.errors import InputError
from runtime.quiet_tf import tf
from study import tasks

RUN = UNTRAINED["sga"]


@pytest.fixture
def copy(untrained, tmp_path):
    """A run folder with two checkpoints, of steps 0 and 7, that the test may damage."""
    folder = tmp_path / "runs" / RUN
    shutil.copytree(str(untrained / RUN), str(folder))
    for path in glob.glob(str(folder / "model.ckpt-0.*")):
        shutil.copy(path, path.replace("ckpt-0", "ckpt-7"))
        shutil.copy(path, path.replace("model.ckpt-0", "best.ckpt-9"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    return folder


def newest(folder):
    return os.path.basename(checkpoints.newest_checkpoint(str(folder)))


STATES = {
    "missing": None,
    "empty": b"",
    "not UTF-8": b"\xff" * 64,
    "not a message": b"model.ckpt-7",
    "of a file that is gone": b'model_checkpoint_path: "model.ckpt-5"\n',
}


@pytest.mark.parametrize("state", list(STATES))
def test_the_newest_complete_checkpoint_without_a_state_file(state, copy, capsys):
    assert newest(copy) == "model.ckpt-7" and capsys.readouterr().err == ""
    os.unlink(str(copy / "checkpoint"))
    if STATES[state] is not None:
        (copy / "checkpoint").write_bytes(STATES[state])
    assert newest(copy) == "model.ckpt-7"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: " + str(copy / "checkpoint")) and "taking model.ckpt-7" in line
    assert checkpoints.find_run(str(copy.parent), RUN).step == 0
    assert [model.name for model in tasks.find_models(str(copy.parent), ["*"])] == [RUN]
    os.unlink(str(copy / "model.ckpt-7.data-00000-of-00001"))
    assert newest(copy) == "model.ckpt-0"
    (copy / "model.ckpt-0.index").write_bytes(b"")
    with pytest.raises(InputError, match="no complete checkpoint"):
        newest(copy)


def test_the_newest_is_another_where_the_named_one_is_incomplete(copy, capsys):
    os.unlink(str(copy / "model.ckpt-7.data-00000-of-00001"))
    assert newest(copy) == "model.ckpt-0"
    assert "names model.ckpt-7" in capsys.readouterr().err


def test_a_folder_without_checkpoints(tmp_path):
    assert checkpoints.newest_checkpoint(str(tmp_path)) is None
    (tmp_path / "checkpoint").write_bytes(b"")
    assert checkpoints.newest_checkpoint(str(tmp_path)) is None


def test_a_pattern_of_models_leaves_out_what_cannot_be_read(copy, capsys):
    broken = copy.parent / "broken-lmbda=1"
    broken.mkdir()
    (broken / "checkpoint").write_bytes(b"")
    assert [model.name for model in tasks.find_models(str(copy.parent), ["*"])] == [RUN]
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken-lmbda=1" in line and "leaves this run out" in line
    with pytest.raises(InputError, match="broken-lmbda=1"):
        tasks.find_models(str(copy.parent), [broken.name])
    with pytest.raises(InputError, match="broken-lmbda=1"):
        tasks.find_models(str(copy.parent), ["broken*"])


def test_find_runs_filters_and_says_what_it_cannot_read(copy, capsys):
    broken = copy.parent / "broken-lmbda=1"
    broken.mkdir()
    (broken / "checkpoint").write_bytes(b"")
    base, bits_back = hyperprior.Mbt2018, hyperprior.Mbt2018BB
    folder = str(copy.parent.parent)
    for num_filters in (None, 4):
        (run,) = checkpoints.find_runs(folder, "*/*", base, num_filters)
        assert run.name == RUN
        (line,) = capsys.readouterr().err.splitlines()
        assert "broken-lmbda=1" in line and "left out" in line
    checkpoints.find_runs(folder, "*/*", base, tell=lambda line: None)
    for pattern, model_class, num_filters, message in (
        ("runs/broken*", base, None, "broken-lmbda=1"),
        ("runs/mbt*", bits_back, None, "no run of mbt2018_bb.py there, whose"),
        ("runs/mbt*", base, 5, "no run of mbt2018.py there with --num_filters 5"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoints.find_runs(folder, pattern, model_class, num_filters)
    assert capsys.readouterr().err == ""


def test_a_pattern_of_models_in_folders(copy, tmp_path):
    where = str(copy.parent)
    for name in ("*/mbt2018*", "./runs/" + RUN, "runs/{}/".format(RUN)):
        (model,) = tasks.find_models(str(tmp_path), [name])
        assert (model.folder, model.name) == (where, RUN)
    patterns = ["runs/*", "./runs/mbt2018*", "runs/../runs/m*"]
    assert len(tasks.find_models(str(tmp_path), patterns)) == 1
    shutil.copytree(where, str(tmp_path / "others"))
    find = functools.partial(checkpoints.find_runs, model_class=hyperprior.Mbt2018)
    for function in (find, lambda folder, pattern: tasks.find_models(folder, [pattern])):
        with pytest.raises(InputError, match="same name"):
            function(str(tmp_path), "*/mbt2018*")


def test_a_path_that_tensorflow_takes_for_a_pattern(copy, tmp_path):
    os.rename(str(copy.parent), str(tmp_path / "runs [1]"))
    with pytest.raises(InputError, match=r"runs \[1\].*rename"):
        checkpoints.find_run(str(tmp_path / "runs [1]"), RUN)


def train(photos, folder, *flags):
    with tf.Graph().as_default():
        argv = train_argv(photos, folder, *flags)
        tf_boilerplate.main(mbt2018.BaseHyperprior, mbt2018.training_graph, argv=argv)


def test_training_goes_on_without_a_state_file_and_keeps_three_checkpoints(
    photos, tmp_path, capsys
):
    folder = tmp_path / "mbt2018-num_filters=4-lmbda=0.01"
    folder.mkdir()
    (folder / "checkpoint").write_bytes(b"")  # an empty one alone is a new run
    train(photos, tmp_path, "--last_step", 2, "--save_checkpoint_secs", 0)
    assert "steps 0 to 2" in capsys.readouterr().out
    for last, content in ((3, None), (4, b"")):
        (folder / "checkpoint").unlink()
        if content is not None:
            (folder / "checkpoint").write_bytes(content)
        train(photos, tmp_path, "--last_step", last)
        assert "steps {} to {}".format(last - 1, last) in capsys.readouterr().out
        assert checkpoint_values(folder)["global_step"] == last
        names = sorted(path.name for path in folder.glob("model.ckpt-*.index"))
        expected = ["model.ckpt-{}.index".format(step) for step in (last - 2, last - 1, last)]
        assert names == expected
    # If there is nothing left to do, it says so and changes nothing.
    train(photos, tmp_path, "--last_step", 3)
    assert "steps 4 to 4" in capsys.readouterr().out
    assert checkpoint_values(folder)["global_step"] == 4


def test_training_into_a_path_that_could_not_be_read_again(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train(photos, tmp_path / "a[1]", "--last_step", 1)
    assert exit_info.value.code == 2 and "rename the folder" in capsys.readouterr().err
    assert not (tmp_path / "a[1]").exists()


LAMBDAS = {
    "lmbda=0.02": 0.02,
    "lmbda=0.02-sharp": 0.02,
    "lmbda=1E-2": 0.01,
    "lmbda=1e-05": 1e-5,
    "lmbda=1.5e+1_old": 15.0,
    "lmbda=.5": 0.5,
    "lmbda=0.5.old": 0.5,
    "lmbda=0.0.1": None,
    "lmbda=1.": 1.0,
    "lmbda=0,01": None,
    "lmbda=1e": None,
    "lmbda=-1": None,
    "lmbda=1e-2x": None,
    "other": None,
}


@pytest.mark.parametrize("name", list(LAMBDAS))
def test_lambda_in_a_name(name, copy):
    os.rename(str(copy), str(copy.parent / name))
    run = checkpoints.find_run(str(copy.parent), name)
    assert run.lmbda == LAMBDAS[name]
    assert checkpoints.lambda_of(run, 0.5) == 0.5
    if run.lmbda is None:
        with pytest.raises(InputError, match="give --lambda"):
            checkpoints.lambda_of(run, -1)
    else:
        assert checkpoints.lambda_of(run, -1) == run.lmbda


def test_a_negative_lambda_other_than_the_one_that_means_the_runs(untrained, tmp_path, capsys):
    image = str(tmp_path / "image.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(image)
    with pytest.raises(SystemExit) as exit_info:
        flags = ("--lambda", -0.5)
        conftest.compress("mbt2018", RUN, image, tmp_path, *flags, checkpoint_dir=untrained)
    assert exit_info.value.code == 2
    assert "--lambda: -0.5 is below 0" in capsys.readouterr().err
