"""Studies: their tasks, interruptions and failures, and reports of their results."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, UNTRAINED
from PIL import Image

import utils
from inference import scripts
from model import checkpoints
from runtime import files
from runtime.errors import InputError
from study import (
    budgets,
    cluster,
    curves,
    execution,
    figures,
    inputs,
    rd_figures,
    report,
    run,
    statistics,
    tables,
    tasks,
    traces,
)

PUBLISHED = os.path.join(ROOT, "results")


def write_images(folder, *sizes, seed=0):
    """PNGs 0.png, 1.png, … of (width, height)."""
    rng = np.random.RandomState(seed)
    for index, (width, height) in enumerate(sizes):
        pixels = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(os.path.join(str(folder), "{}.png".format(index)))
    return str(folder)


# --- Images and tasks ------------------------------------------------------------------------


def test_images_of_folders_patterns_and_arrays(tmp_path):
    write_images(tmp_path, (40, 30), (30, 40))
    (tmp_path / "notes.txt").write_text("not an image")
    more = np.random.RandomState(1).randint(0, 256, (12, 16, 24, 3))
    np.save(str(tmp_path / "more.npy"), more.astype(np.uint8))
    images = inputs.find([str(tmp_path), str(tmp_path / "*.png")])
    assert [image.name for image in images[:3]] == ["0", "1", "more-00"] and len(images) == 14
    assert images[-1].name == "more-11" and inputs.read(images[-1]).shape == (16, 24, 3)
    assert [(image.width, image.height) for image in images[:2]] == [(40, 30), (30, 40)]
    assert len({image.sha256 for image in images}) == 14


def test_crops_are_the_middle_and_turn_with_the_image(tmp_path):
    write_images(tmp_path, (41, 30), (30, 40))
    wide, high = inputs.find([str(tmp_path)], (20, 10))
    whole = utils.read_image(wide.path)
    np.testing.assert_array_equal(inputs.read(wide), whole[10:20, 10:30])
    assert inputs.read(high).shape == (20, 10, 3)


def test_images_of_one_name_get_longer_ones(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_images(tmp_path / folder, (20, 20))
    images = inputs.find([str(tmp_path / "*" / "*.png")])
    assert [image.name for image in images] == ["a_0", "b_0"]
    Image.open(images[0].path).save(str(tmp_path / "a" / "0.bmp"))
    names = [image.name for image in inputs.find([str(tmp_path / "*" / "*")])]
    assert names == ["a_0.bmp", "a_0.png", "b_0.png"]


def test_names_of_arrays_and_files_differ(tmp_path):
    write_images(tmp_path, (20, 20))
    (tmp_path / "0.png").rename(tmp_path / "a-0.png")
    np.save(str(tmp_path / "a.npy"), np.zeros((1, 20, 20, 3), np.uint8))
    names = [image.name for image in inputs.find([str(tmp_path)])]
    assert names == ["a-0.png", "a.npy-0"]


def test_a_key_depends_on_all_that_a_result_depends_on(tmp_path, untrained, monkeypatch):
    (tmp_path / "images").mkdir()
    images = inputs.find([write_images(tmp_path / "images", (20, 20), (20, 20))])
    shutil.copytree(str(untrained), str(tmp_path / "models"))

    def keys(*methods):
        models = tasks.find_models(str(tmp_path / "models"), ["mbt2018-*"])
        made = tasks.make_tasks(images, methods, models)
        assert not any("--lambda" in task.method for task in made)
        return [task.key for task in made]

    plain = keys("sga")
    assert plain == keys("sga --lr 0.005") == keys("sga", "sga --lambda 0.01")
    others = keys("sga --seed 1", "sga --lr 0.006", "sga --preset fast", "unoise", "map")
    others += keys("sga --lambda 0.02", "sga --seed 1 --lambda=0.02")
    assert len({*plain, *others}) == 16
    # Another method under the same name: a script's code counts, its comments do not.
    code = files.read_bytes(os.path.join(ROOT, "sga.py"))

    def edit(patch, name, content):
        read = files.read_bytes

        def edited(path):
            return content if path == os.path.join(ROOT, *name.split("/")) else read(path)

        patch.setattr(files, "read_bytes", edited)

    for replaced, by, same in [(b"# ", b"# X", True), (b"self.temperature(t)", b"0.3", False)]:
        edited = code.replace(replaced, by) if replaced in code else code + b"\n# X"
        with monkeypatch.context() as patch:
            edit(patch, "sga.py", edited)
            assert (plain == keys("sga")) is same
    # Another checkpoint under the same name and step.
    name = os.path.join("mbt2018-num_filters=4-lmbda=0.01", "model.ckpt-0.data-00000-of-00001")
    path = tmp_path / "models" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not {*keys("sga")} & {*plain}


@pytest.mark.parametrize(
    "argv, message",
    [
        (["nowhere"], "nowhere: no image there"),
        (["{images}", "--methods", "sgaa"], "sgaa: no script of that name is a method"),
        (["{images}", "--methods", "utils"], "utils: no script of that name is a method"),
        (["{images}", "--methods", "sga --sga_it 3"], "not known to this command: --sga_it"),
        (["{images}", "--methods", "sga --lr 0"], "--lr: 0 is not above 0"),
        (["{images}", "--methods", ""], "'': not the name of a script"),
        (["{images}", "--methods", "sga '"], "not the name of a script and its flags"),
        (["{images}", "--methods", "inference"], "inference: no script of that name is a method"),
        (["{images}", "--methods", "sga out.tfci"], "sga out.tfci: files are not named here"),
        (["{images}", "--methods", "sga --overwrite"], "there is no --overwrite"),
        (["{images}", "--methods", "sga --eval_batch_size 2"], "and no --eval_batch_size"),
        (["{images}", "--models", "nothing"], "no such run folder"),
        (
            ["{images}", "--models", "mbt2018_bb-*", "--methods", "sga"],
            "none of the models is one of",
        ),
        (["{images}", "--crop", "64x64"], "0.png: 40 x 30 pixels, less than 64 x 64"),
        (["{images}", "--crop", "64"], "--crop: '64' is not <width>x<height>"),
        (["{images}", "--threads", "0"], "--threads"),
        (["{images}", "--scheduler", "tcp://127.0.0.1:9"], "--scheduler: tcp://127.0.0.1:9"),
        (["{images}", "--methods", "bb_sga --side_info x"], "files are not named here"),
        (["{images}", "--methods", "sga --t_min 1"], "sga: --t_min: 1 is above --t_max, 0.5"),
        (["{images}", "--methods", ""], "'': not the name of a script and its flags"),
        (["{images}", "--methods", "sga --step 100"], "--step: 100 is not between"),
        (["{images}", "--methods", "sga --keep_weights"], "no effect without --weight_map"),
        (["{images}", "--methods", "sga --lr_final 5"], "--lr_final: 5 is above 1"),
        (["{images}", "--methods", "sga --target_bpp 1 --target_psnr 30"], "give one target"),
        (["{images}", "--methods", "bb_plain --z_spacing 0.3"], "--z_spacing: 0.3 is not a power"),
        (["{images}", "--methods", "mbt2018 --target_bpp 1"], "can only choose a model"),
        (
            ["{images}", "--methods", "bb_sga --estimate_only --max_bytes 900"],
            "not with --estimate_only",
        ),
        (["{images}", "--methods", "jpeg", "--models", "x"], "--models: classical codecs"),
        (["{images}", "--methods", "jpeg", "--seeds", "1"], "--seeds: classical codecs"),
        (["{broken}"], "broken.png: not a readable image"),
        (["{empty}"], "empty/*: no image there"),
    ],
)
def test_wrong_input_of_a_study(argv, message, untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "images", (40, 30))
    content = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[: len(content) // 2])
    places = {name: str(tmp_path / name) for name in ("images", "empty")}
    argv = [text.format(broken=tmp_path / "broken.png", **places) for text in argv]
    argv += ["--checkpoint_dir", str(untrained), "--output", str(tmp_path / "out")]
    with pytest.raises((InputError, SystemExit)) as error:
        run.main(argv)
    if error.type is SystemExit:  # argparse has reported why
        assert error.value.code == 2 and message in capsys.readouterr().err
    else:
        assert message in str(error.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_wrong_input_ends_a_command_with_one_line(tmp_path):
    process = start("study.run", tmp_path, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 2 and not stdout
    (line,) = stderr.splitlines()
    assert line.startswith("study.run: error: {}".format(tmp_path)) and "no image there" in line


# --- Runs ------------------------------------------------------------------------------------


def start(module, *argv, **kwargs):
    """Starts `python -m module` in a new process group."""
    command = [sys.executable, "-m", module, *(str(arg) for arg in argv)]
    kwargs = {"stdout": subprocess.PIPE, "start_new_session": True, "text": True, **kwargs}
    return subprocess.Popen(command, cwd=ROOT, **kwargs)


def study_argv(untrained, folder, output, *flags):
    """Arguments of the smallest study: two images, three methods, both models."""
    methods = ["--methods", "mbt2018", "map --sga_its 3", "bb_plain"]
    where = ["--checkpoint_dir", str(untrained), "--output", str(output)]
    return [str(folder), *methods, *where, *flags]


def without_times(path):
    """Rows of a table without the columns that differ between two runs."""
    with open(str(path), newline="") as file:
        rows = list(csv.DictReader(file))
    of_run = {"threads", *tables.SECONDS}
    return [{key: row[key] for key in row if key not in of_run} for row in rows]


def wait_for(condition, process, seconds=300):
    """Waits until `condition()` holds; fails if the process ends first."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.02)


def results(output):
    return sorted(output.glob("tasks/*/*/*.npz"))


@pytest.fixture(scope="module")
def uninterrupted(untrained, tmp_path_factory):
    """The folders of the images and of the output of a study that was not interrupted."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "images").mkdir()
    write_images(folder / "images", (36, 30), (20, 50))
    process = start("study.run", *study_argv(untrained, folder / "images", folder / "out"))
    stdout, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "6 tasks (2 images × 3 settings: 3 methods, 2 models)" in stdout
    return folder / "images", folder / "out"


def test_a_study_has_the_results_of_the_scripts(uninterrupted, untrained, tmp_path):
    images, output = uninterrupted
    rows = without_times(output / "images.csv")
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in "01" for method in ("mbt2018", "map --sga_its 3", "bb_plain")
    ]
    flags = ["--results_dir", str(tmp_path), "--sga_its", "3"]
    run_name = UNTRAINED["map"]
    command = [sys.executable, os.path.join(ROOT, "map.py"), "--checkpoint_dir", str(untrained)]
    command += ["compress", run_name, str(images / "1.png"), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = tmp_path.glob("*.npz")
    with np.load(str(path)) as alone:
        for key in ("est_bpp", "mse", "actual_bpp", "est_rd_loss"):
            assert float(rows[4][key]) == pytest.approx(alone[key][0], rel=1e-4)
    assert rows[4]["iterations"] == "3" and rows[4]["width"] == "20" and rows[4]["seed"] == "0"
    checkpoint = os.path.join(str(untrained), run_name, "model.ckpt-0")
    assert rows[4]["checkpoint_sha256"] == checkpoints.checkpoint_sha256(checkpoint)
    with open(str(output / "means.csv"), newline="") as file:
        means = list(csv.DictReader(file))
    expected = np.mean([float(row["psnr"]) for row in rows if row["method"] == "mbt2018"])
    assert float(means[0]["psnr"]) == pytest.approx(expected) and means[0]["images"] == "2"


def test_a_study_that_is_killed_goes_on_where_it_was(uninterrupted, untrained, tmp_path):
    images, expected = uninterrupted
    output = tmp_path / "out"
    argv = study_argv(untrained, images, output, "--workers", 1)
    for number in (1, 3):
        process = start("study.run", *argv)
        wait_for(lambda number=number: len(results(output)) >= number, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    # The table has been written meanwhile, with what was done. Result files do without it.
    rows, all_rows = (without_times(folder / "images.csv") for folder in (output, expected))
    assert rows and all(row in all_rows for row in rows)
    (output / "images.csv").unlink()
    # One is damaged besides: that is noticed.
    kept = {path: path.stat().st_mtime_ns for path in results(output)[1:]}
    damaged = results(output)[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    process = start("study.run", *argv)
    stdout, _ = process.communicate(timeout=300)
    assert "of which {} are done already".format(len(kept)) in stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    for name in ("images.csv", "means.csv"):
        assert without_times(output / name) == without_times(expected / name)


def test_the_table_alone_says_what_is_done(uninterrupted, untrained, tmp_path, capsys):
    """Rows replace result files; rows of other methods, such as other people's, are kept."""
    images, expected = uninterrupted
    shutil.copy(str(expected / "images.csv"), str(tmp_path / "images.csv"))
    before = (tmp_path / "images.csv").read_text()
    argv = [str(images), "--checkpoint_dir", str(untrained), "--output", str(tmp_path)]
    assert run.main([*argv, "--methods", "bb_plain", "map --sga_its 3"]) == 0
    assert "of which 4 are done already" in capsys.readouterr().out
    assert (tmp_path / "images.csv").read_text() == before
    assert (tmp_path / "means.csv").read_text() == (expected / "means.csv").read_text()
    assert run.main([*argv, "--methods", "ste --sga_its 1", "--dataset", "more"]) == 0
    with open(str(tmp_path / "images.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and sum(row["dataset"] == "more" for row in rows) == 2


def test_another_part_of_an_image_takes_the_place_of_the_first(
    uninterrupted, untrained, tmp_path, capsys
):
    """Under the same name. Rows of other methods on the first part are not compared with it."""
    images, _ = uninterrupted
    argv = [str(images / "0.png"), "--checkpoint_dir", str(untrained), "--output", str(tmp_path)]
    for flags in (["mbt2018", "bb_plain"], ["mbt2018", "--crop", "20x20"]):
        assert run.main([*argv, "--methods", *flags]) == 0
    rows = without_times(tmp_path / "images.csv")
    assert [(row["method"], row["width"]) for row in rows] == [
        ("mbt2018", "20"),
        ("bb_plain", "36"),
    ]
    with pytest.raises(InputError, match="0 is another image, or another part of it"):
        report.main([str(tmp_path), "--output", str(tmp_path / "report")])


def test_an_interrupted_study_leaves_no_process(uninterrupted, untrained, tmp_path):
    images, _ = uninterrupted
    methods = ["--methods", "sga --sga_its 100000"]
    argv = [str(images), "--checkpoint_dir", str(untrained), "--output", str(tmp_path), *methods]

    def handled():  # even if pytest was started in the background, with SIGINT ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = start("study.run", *argv, stderr=subprocess.PIPE, preexec_fn=handled)
    wait_for(lambda: b"study.serve sga" in commands_of(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and stderr == "study.run: interrupted\n"
    deadline = time.time() + 30
    while commands_of(process.pid):
        assert time.time() < deadline
        time.sleep(0.1)


def commands_of(group):
    """The command lines of a process group."""
    command = ["ps", "-o", "args=", "-g", str(group)]
    return subprocess.run(command, stdout=subprocess.PIPE).stdout


def test_an_image_that_changes_meanwhile_is_not_taken(untrained, tmp_path):
    images = inputs.find([write_images(tmp_path, (24, 20))])
    models = tasks.find_models(str(untrained), [UNTRAINED["mbt2018"]])
    (task,) = tasks.make_tasks(images, ["mbt2018"], models)
    write_images(tmp_path, (20, 24))
    with pytest.raises(InputError, match="0.png: is not as it was"):
        execution.run_task(task, 1)
    assert "0.png: is not as it was" in execution.attempt(task, 1).refusal  # not tried again


def test_a_task_says_why_it_ended():
    def reason(code):
        process = execution.Process(None, [sys.executable, "-c", code], None)
        with pytest.raises((InputError, RuntimeError)) as error:
            process.ask("image.npy", "result.npz")
        return error.type, str(error.value)

    killed = reason("import os; os.kill(os.getpid(), 9)")
    assert killed == (RuntimeError, "ended by SIGKILL (memory?)")
    refused = reason("import sys; sys.stderr.write('one\\ntwo\\n'); sys.exit(2)")
    assert refused == (InputError, "two")
    assert reason("import sys; sys.exit(3)") == (RuntimeError, "ended with exit code 3")


def test_a_study_on_a_cluster_of_which_a_worker_dies(uninterrupted, untrained, tmp_path):
    images, expected = uninterrupted
    output = tmp_path / "out"
    info = tmp_path / "scheduler.json"
    flags = ["--no-dashboard", "--scheduler-file", info]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    others = [start("distributed.cli.dask_scheduler", "--port", 0, *flags, **quiet)]
    try:
        wait_for(info.exists, others[0])
        for _ in range(2):
            flags = ["--scheduler-file", info, "--nthreads", 1, "--no-dashboard"]
            flags += ["--local-directory", tmp_path]
            others.append(start("distributed.cli.dask_worker", *flags, **quiet))
        address = json.loads(info.read_text())["address"]
        argv = study_argv(untrained, images, output, "--scheduler", address)
        process = start("study.run", *argv)
        wait_for(lambda: results(output), process)
        os.killpg(others[1].pid, signal.SIGKILL)
        process.communicate(timeout=300)
        assert process.returncode == 0
        assert others[0].poll() is None and others[2].poll() is None
        assert without_times(output / "images.csv") == without_times(expected / "images.csv")
    finally:
        for other in others:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(other.pid, signal.SIGKILL)
            other.wait()


def test_a_task_that_fails_does_not_stop_the_others(uninterrupted, untrained, tmp_path, capfd):
    """With a learning rate that leads to NaN."""
    images, _ = uninterrupted
    argv = [str(images / "0.png"), "--checkpoint_dir", str(untrained), "--output", str(tmp_path)]
    argv += ["--methods", "sga --lr 1e30 --sga_its 3", "mbt2018", "--retries", "0"]
    assert run.main(argv) == 1
    output = capfd.readouterr()
    assert "1 of 2 tasks failed" in output.out
    (line,) = output.err.strip().splitlines()
    assert line.startswith(
        "failed: 0, sga --lr 1e30 --sga_its 3, mbt2018-num_filters=4-lmbda=0.01, λ = 0.01: "
    )
    assert str(images / "0.png") in line
    assert "try a lower --lr" in line
    (row,) = without_times(tmp_path / "images.csv")
    assert row["method"] == "mbt2018"


# --- Reports ---------------------------------------------------------------------------------

LAMBDAS = (0.003, 0.01, 0.03, 0.1)


def made_rows(method="mbt2018", rate=1.0, more=0.0, images="ab", lambdas=LAMBDAS, **values):
    """Rows of a plausible curve, with rates multiplied by `rate` and `more` added to PSNR."""
    return [
        {
            "dataset": "made",
            "image": image,
            "method": method,
            "model": "m-{}".format(lmbda),
            "lambda": lmbda,
            "est_bpp": rate * (0.2 + index) * (1 + 0.1 * number),
            "psnr": more + 28 + 3 * np.log2(1 + index) + number,
            "est_rd_loss": 2.0 * rate,
            **values,
        }
        for number, image in enumerate(images)
        for index, lmbda in enumerate(lambdas)
    ]


def write_rows(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return str(path)


@pytest.mark.parametrize(
    "name, method, expected",
    [
        ("kodak", "sga", -15.2),
        ("tecnick", "sga", -18.7),
        ("kodak", "bb_sga", -16.8),
        ("tecnick", "bb_sga", -20.3),
    ],
)
@pytest.mark.parametrize("interpolation", statistics.INTERPOLATIONS)
def test_deltas_of_the_published_points(name, method, expected, interpolation):
    """They equal the paper's savings, as computed by others from the same points."""
    anchor, curve = (
        curves.read_published(os.path.join(PUBLISHED, name, "{}-psnr.csv".format(one)))
        for one in ("mbt2018", method)
    )
    value = statistics.delta(anchor, curve)["bd_rate_" + interpolation]
    assert value == pytest.approx(expected, abs=0.3)


def test_deltas_that_are_known():
    """10% less rate gives -10%; a curve that is 0.2 dB higher everywhere gives +0.2 dB."""
    rows = made_rows() + made_rows("less", rate=0.9) + made_rows("more", more=0.2)
    anchor, less, more = curves.of_rows(tables.frame(rows), "est_bpp")
    less, more = (statistics.delta(anchor, curve) for curve in (less, more))
    for interpolation in statistics.INTERPOLATIONS:
        assert less["bd_rate_" + interpolation] == pytest.approx(-10, abs=1e-6)
        assert more["bd_psnr_" + interpolation] == pytest.approx(0.2, abs=1e-6)
    assert more["bd_rate_overlap"] == pytest.approx(5.8 / 6) and more["bd_psnr_overlap"] == 1


@pytest.mark.parametrize(
    "rows, reason",
    [
        (made_rows("x", lambdas=LAMBDAS[:3]), "x has 3 of the 4 points"),
        (made_rows("x", more=20), "no PSNR in common"),
        (made_rows("x", rate=100), "no log-rate in common"),
        (
            [{**row, "psnr": 60 - row["psnr"]} for row in made_rows("x")],
            "x has a psnr that does not rise",
        ),
    ],
)
def test_deltas_that_there_are_not(rows, reason):
    value = statistics.delta(*curves.of_rows(tables.frame(made_rows() + rows), "est_bpp"))
    assert reason in value["reason"]
    assert value["bd_rate"] is None or value["bd_psnr"] is None


def test_report_writes_what_it_prints(tmp_path, capsys):
    rows = made_rows(msssim_db=np.nan, seconds=2.0) + made_rows("sga", rate=0.9)
    path = write_rows(
        tmp_path / "images.csv", [{"msssim_db": "", "seconds": "", **r} for r in rows]
    )
    output = tmp_path / "report"
    report.main([path, "--output", str(output), "--published", os.path.join(PUBLISHED, "kodak")])
    printed = capsys.readouterr().out
    assert printed.startswith((output / "report.txt").read_text())
    assert "\nsga     -10.00%" in printed
    text = (output / "report.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert written["deltas"][0]["bd_rate"] == pytest.approx(-10)
    with open(str(output / "bd.csv"), newline="") as file:
        (delta,) = csv.DictReader(file)
    assert (delta["rate"], delta["interpolation"]) == ("est_bpp", "cubic")
    with open(str(output / "points.csv"), newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 8 and float(points[0]["rate"]) == pytest.approx(0.21)
    assert points[0]["gain"] == "" and float(points[4]["gain"]) == pytest.approx(10)
    for name in ("made-psnr", "made-gain"):
        with Image.open(str(output / (name + ".png"))) as figure:
            assert np.asarray(figure).std() > 10
        assert "<svg" in (output / (name + ".svg")).read_text()
    gains = rd_figures.gains_by_image(tables.frame(rows), "mbt2018")
    assert gains == {"sga": {image: pytest.approx(10) for image in "ab"}}


def test_net_rates_are_those_of_files_where_nothing_comes_back(tmp_path):
    rows = [{**row, "actual_bpp": 2 * row["est_bpp"], "net_bpp": ""} for row in made_rows()]
    rows += [{**row, "actual_bpp": 9.0, "net_bpp": row["est_bpp"]} for row in made_rows("bb_plain")]
    path = write_rows(tmp_path / "images.csv", rows)
    report.main([path, "--rate", "net_bpp", "--output", str(tmp_path), "--methods", "bb_plain"])
    report_json = json.loads((tmp_path / "report.json").read_text())
    assert report_json["deltas"][0]["bd_rate"] == pytest.approx(-50)


@pytest.mark.parametrize(
    "codec, beside, rate",
    [
        ("jpeg", (), "net_bpp"),
        ("map", (), "est_bpp"),
        ("jpeg", ("--published", "kodak"), "est_bpp"),
    ],
)
def test_rates_are_those_of_files_beside_classical_codecs(codec, beside, rate, tmp_path):
    rows = made_rows() + made_rows(codec)
    rows = [{**row, "actual_bpp": 2 * row["est_bpp"], "net_bpp": ""} for row in rows]
    beside = [os.path.join(PUBLISHED, name) if name == "kodak" else name for name in beside]
    report.main([write_rows(tmp_path / "i.csv", rows), "--output", str(tmp_path), *beside])
    assert json.loads((tmp_path / "report.json").read_text())["rate"] == rate


def test_the_base_model_is_the_anchor_whatever_its_flags(tmp_path):
    rows = made_rows("mbt2018 --container") + made_rows(rate=0.9, method="map")
    report.main([write_rows(tmp_path / "i.csv", rows), "--output", str(tmp_path)])
    (delta,) = json.loads((tmp_path / "report.json").read_text())["deltas"]
    assert (delta["method"], delta["anchor"]) == ("map", "mbt2018 --container")


@pytest.mark.parametrize("number, shown", [(20, True), (21, False)])
def test_comparisons_of_pairs_of_methods_as_long_as_they_are_readable(number, shown, tmp_path):
    rows = made_rows()
    for index in range(1, number):
        rows += made_rows("sga --sga_its {}".format(index), rate=0.9)
    report.main([write_rows(tmp_path / "i.csv", rows), "--output", str(tmp_path)])
    assert ("In how many (image" in (tmp_path / "report.md").read_text()) == shown


def test_the_methods_of_the_study_that_ships_rank_as_in_the_paper():
    rows, _ = curves.read([os.path.join(PUBLISHED, "nine")], "")
    found = {curve.method: curve for curve in curves.of_rows(tables.frame(rows), "est_bpp")}
    assert set(scripts.METHODS) <= set(found)
    deltas = {name: statistics.delta(found["mbt2018"], found[name])["bd_rate"] for name in found}
    for best, others in (("sga", ("ste", "unoise", "map", "danneal")), ("bb_sga", ("sga",))):
        assert deltas[best] < min(deltas[other] for other in others) < 0
    assert deltas["bb_sga"] < deltas["bb_no_sga"] < deltas["bb_plain"]


def test_published_points_are_drawn_where_ours_are():
    """They cover more rates; the axes show the rates of the results, and all of those."""
    rows = made_rows() + made_rows("sga", rate=0.9, more=0.1)
    found = curves.of_rows(tables.frame(rows), "est_bpp")
    points = [{"rate": r, "psnr": 30 + r} for r in (0.01, 1.0, 9.0)]
    beside = [curves.Curve("all", "sga", points, {}, False)]
    looks = figures.looks(["mbt2018", "sga"])
    figure = rd_figures.draw_curves(found, beside, "psnr", "est_bpp", looks)
    (axes,) = figure.axes
    rates = [point["rate"] for curve in found for point in curve.points]
    assert axes.get_xlim() == pytest.approx((0.8 * min(rates), 1.2 * max(rates)))
    low, high = axes.get_ylim()
    assert low < 28.5 and 34.6 < high < 37
    figures.plt.close(figure)


def test_report_of_result_files(uninterrupted, tmp_path):
    """The files of a study without its table; each method has only one point."""
    _, output = uninterrupted
    process = start("study.report", *results(output), "--output", tmp_path)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    rows = without_times(output / "images.csv")
    mean = np.mean([float(row["est_bpp"]) for row in rows if row["method"] == "bb_plain"])
    assert "{:.4f}".format(mean) in printed and "has 1 of the 4 points" in printed


@pytest.mark.parametrize(
    "rows, flags, message",
    [
        (made_rows(psnr=np.nan), (), "made, mbt2018, λ = 0.003: image a has no finite psnr"),
        (made_rows(est_bpp=np.inf), (), "image a has no finite est_bpp"),
        (made_rows(method=" "), (), "line 2: no method"),
        (made_rows(est_bpp=""), (), "line 2: est_bpp is '', not a number"),
        (made_rows(psnr="high"), (), "line 2: psnr is 'high', not a number"),
        ([{**row, "lambda": "inf"} for row in made_rows()], (), "lambda is 'inf', not a number"),
        ([{k: v for k, v in r.items() if k != "psnr"} for r in made_rows()], (), "column psnr"),
        (made_rows() + made_rows(), (), "made, mbt2018, λ = 0.003: a twice"),
        (
            made_rows() + made_rows(model="other", lambdas=(0.01,)),
            (),
            "λ = 0.01: of two checkpoints, m-0.01 and other",
        ),
        (made_rows("sga"), (), "--anchor: made has no mbt2018, but sga"),
        (made_rows(), ("--methods", "sga"), "--methods: no results of sga, but of mbt2018"),
        (made_rows(), ("--models", "n*"), "--models: no results of n*, but of m-0.003, "),
        (made_rows(), ("--rate", "actual_bpp"), "image a has no finite actual_bpp"),
        (made_rows(), ("--published", os.path.join(ROOT, "samples")), "in this folder"),
    ],
)
def test_wrong_input_of_a_report(rows, flags, message, tmp_path):
    path = write_rows(tmp_path / "images.csv", rows)
    with pytest.raises(InputError) as error:
        report.main([path, "--output", str(tmp_path / "out"), *flags])
    assert message in str(error.value)
    assert not (tmp_path / "out" / "report.txt").exists()


def test_published_points_are_of_estimated_rates(tmp_path):
    with pytest.raises(InputError, match="--rate net_bpp: published points have est_bpp"):
        kodak = os.path.join(PUBLISHED, "kodak")
        report.main([kodak, "--rate", "net_bpp", "--output", str(tmp_path / "out")])


def test_points_that_are_given_twice(tmp_path):
    kodak = os.path.join(PUBLISHED, "kodak")
    again = os.path.join(kodak, "sga-psnr.csv")
    with pytest.raises(InputError, match="kodak, published: sga twice"):
        report.main([kodak, again, "--output", str(tmp_path / "out")])


def test_common_images_can_be_compared(tmp_path, capsys):
    path = write_rows(
        tmp_path / "images.csv", made_rows() + made_rows("sga", rate=0.9, images="ac")
    )
    report.main([path, "--output", str(tmp_path / "out")])
    assert "\nsga     -10.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty", None, "empty: no images.csv (which study.run writes)"),
        ("missing.csv", None, "missing.csv: "),
        ("cut.npz", b"PK\3\4 cut", "cut.npz: not a readable .npz file"),
        ("nul.csv", b"image,method\na,\0\n", "nul.csv: not a CSV file"),
        ("other.csv", b"\xff\xfe\0", "other.csv: not a text file"),
        ("x-psnr.csv", b"0.1,27\n0.2\n", "x-psnr.csv: line 2: not two numbers"),
        ("x-psnr.csv", b"", "x-psnr.csv: no points"),
        ("short.csv", b"image,method,lambda,est_bpp,psnr\na,sga\n", "line 2: lambda is '', not"),
        ("x-psnr.csv", b"0.1,nan\n", "x-psnr.csv: a point of 0.1 bits per pixel and nan dB"),
    ],
)
def test_files_that_are_no_results(name, content, message, tmp_path):
    path = tmp_path / name
    if content is None and "." not in name:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        report.main([str(path), "--output", str(tmp_path / "out")])
    assert message in str(error.value)


def test_lines_can_be_told_apart():
    names = [*scripts.METHODS, *("sga --seed {}".format(seed) for seed in range(30))]
    looks = figures.looks(names)
    assert len({str(look) for look in looks.values()}) == len(names)
    assert len({look["color"] for look in looks.values()}) == len(scripts.METHODS)


# --- Budgets and traces ----------------------------------------------------------------------


def test_budgets_are_falls_below_the_prediction(untrained, tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "others").mkdir()
    write_images(tmp_path / "images", (24, 20), (20, 24))
    write_images(tmp_path / "others", (30, 20))
    (tmp_path / "others" / "0.png").rename(tmp_path / "others" / "x.png")
    monkeypatch.setattr(budgets, "BUDGETS", (1, 3))
    monkeypatch.setattr(budgets, "RATES", {1: 0.05, 3: 0.02})
    linear = "--probability linear --lr {lr}"
    monkeypatch.setattr(budgets, "SETTINGS", {"default": "", "linear": linear})
    output = tmp_path / "out"
    where = ["--checkpoint_dir", str(untrained), "--output", str(output)]
    # Rows of another image and of another λ are in the table already.
    assert run.main([str(tmp_path / "others"), *where, "--methods", "mbt2018"]) == 0
    methods = ["mbt2018 --lambda 0.5"]
    assert run.main([str(tmp_path / "images"), *where, "--methods", *methods]) == 0
    argv = [str(tmp_path / "images"), *where, "--runname", UNTRAINED["sga"]]
    assert budgets.main(argv) == 0
    loss = {}
    for row in without_times(output / "images.csv"):
        if row["image"] in "01" and row["lambda"] == "0.01":
            loss.setdefault(row["method"], []).append(float(row["est_rd_loss"]))
    with open(str(output / "budgets.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["iterations"]) for row in rows] == [
        (setting, its) for setting in ("default", "linear") for its in "13"
    ]
    method = "sga --probability linear --lr 0.02 --sga_its 3"
    assert rows[3]["method"] == method and rows[3]["images"] == "2"
    gain = 100 * np.mean(1 - np.divide(loss[method], loss["mbt2018"]))
    assert float(rows[3]["gain"]) == pytest.approx(gain, rel=1e-5)
    text = capsys.readouterr().out
    line = "| linear | {:.2f}% | {:.2f}% |".format(float(rows[2]["gain"]), gain)
    assert line in re.sub(" +", " ", text.replace("**", ""))
    best = max(rows[1::2], key=lambda row: float(row["gain"]))
    assert "**{:.2f}%** |\n".format(float(best["gain"])) in text
    # Drawn again from the table alone, the same.
    before = (output / "budgets.md").read_text()
    assert budgets.main([*argv, "--redraw"]) == 0 and (output / "budgets.md").read_text() == before
    with Image.open(str(output / "budgets.png")) as figure:
        assert np.asarray(figure).std() > 10
    # Without a row of one image, none of its rows counts, and this is noted.
    rows = tables.read_csv(str(output / "images.csv"), "")
    gone = next(row for row in rows if (row["method"], row["image"]) == (method, "1"))
    rows.remove(gone)
    (output / "images.csv").write_bytes(tables.to_csv(rows, tables.COLUMNS))
    assert budgets.main([*argv, "--redraw"]) == 0
    assert "only these images have results of all methods: 0\n" in capsys.readouterr().err
    with open(str(output / "budgets.csv"), newline="") as file:
        assert {row["images"] for row in csv.DictReader(file)} == {"1"}


def test_traces_of_result_files(uninterrupted, tmp_path, capsys):
    _, output = uninterrupted
    paths = [str(path) for path in results(output)]
    map_of_0, map_of_1 = (path for path in paths if os.sep + "map" + os.sep in path)
    figure = tmp_path / "traces.svg"
    traces.main([map_of_0, "--output", str(figure)])
    text = figure.read_text()
    assert "<svg" in text
    trace = traces.read(map_of_0, 0)
    assert list(trace["its"]) == [0, 2] and trace["what"] == "0, λ = 0.01"
    assert trace["its_z_changed_after_rounding"].shape == (2,)
    # A result of a script, which has no digest of its pixels, and one of other pixels.
    values = {**tables.load(map_of_0), "method": "other"}
    other_pixels, unnamed = str(tmp_path / "pixels.npz"), str(tmp_path / "unnamed.npz")
    np.savez(other_pixels, **{**values, "image_sha256": "0"})
    np.savez(unnamed, **{key: values[key] for key in values if key != "image_sha256"})
    traces.main([map_of_0, unnamed, "--output", str(figure)])
    for argv, message in [
        ([map_of_0, other_pixels], "a figure is of one image, all its pixels, and λ"),
        ([map_of_0, map_of_0], "a second result of map"),
        ([path for path in paths if "tasks" + os.sep + "mbt2018" in path][:1], "has no record"),
        ([map_of_1, "--image", "1"], "has 1 images, and no number 1"),
        ([str(tmp_path / "none.npz")], "no such file"),
        ([map_of_0, "--output", "traces.jpg"], "ends in .png or .svg"),
    ]:
        with pytest.raises(InputError) as error:
            traces.main([*argv, *([] if "--output" in argv else ["--output", str(figure)])])
        assert message in str(error.value)


def test_traces_of_images_that_were_optimised_together(tmp_path):
    """With two records of two images each."""
    record = np.array([[1.0, 2.0], [3.0, 4.0]])
    values = {"psnr": np.zeros(4), "script": "sga", "input": "four.npy", "lmbda": 0.01}
    values.update(eval_batch_size=2, its=np.array([0, 100]), rd_loss=record)
    path = str(tmp_path / "result.npz")
    np.savez(path, **values)
    for index, row in enumerate((0, 0, 1, 1)):
        trace = traces.read(path, index)
        np.testing.assert_array_equal(trace["rd_loss"], record[row])
        assert trace["what"].endswith("image {} (mean of the 2 optimised with it)".format(index))
    # The coder of bb_no_sga.py fits q(z|y) to each image by itself.
    np.savez(path, **{**values, "rd_loss": np.arange(8.0).reshape(4, 2)})
    for index in range(4):
        trace = traces.read(path, index)
        np.testing.assert_array_equal(trace["rd_loss"], [2 * index, 2 * index + 1])
        assert trace["what"].endswith("image {}".format(index))
