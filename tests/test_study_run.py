"""Studies: classical codecs, seeds, the order of tasks, and processes that take many images."""

import contextlib
import csv
import io
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import ROOT, UNTRAINED, compress
from PIL import Image
from test_study import write_images
from test_study_tables import MODEL, Future

import utils
from runtime import files
from runtime.errors import InputError
from study import cluster, codecs, execution, inputs, run, schedule, tables, tasks

CAT = os.path.join(ROOT, "samples", "chelsea.png")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`study(images, *flags)` runs a study in this process; returns the rows of its table.

    Results of scripts are made up: `study.ran` lists the tasks.
    """
    ran, output = [], tmp_path / "out"

    def submit(function, task, threads, separate, **_):
        ran.append(task)
        return Future(function(task, threads))

    def of_script(task, pixels, threads):
        values = {"script": task.script, "runname": task.run.name, **task.settings}
        numbers = ("est_bpp", "psnr", "mse", "est_rd_loss", "seconds")
        return {**values, **{key: np.array([1e-9]) for key in numbers}}, True

    def made(images, *flags):
        ran.clear()
        assert run.main([str(images), "--output", str(output), *map(str, flags)]) == 0
        with contextlib.suppress(FileNotFoundError), open(str(output / "images.csv")) as file:
            return list(csv.DictReader(file))

    client = types.SimpleNamespace(submit=submit, scheduler_info=lambda: {"workers": {}})
    monkeypatch.setattr(cluster, "_client", lambda *_: contextlib.nullcontext((client, 1)))
    monkeypatch.setattr(cluster.distributed, "as_completed", list)
    monkeypatch.setattr(execution, "_of_script", of_script)
    monkeypatch.setattr(tasks, "find_models", lambda *_: [MODEL])
    made.ran, made.output = ran, output
    return made


# --- Classical codecs ------------------------------------------------------------------------


def by_pillow(kind, **settings):
    """A function from pixels to the bytes of a file and their pixels, by Pillow alone."""

    def code(pixels):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format=kind, **settings)
        decoded = Image.open(io.BytesIO(content.getvalue())).convert("RGB")
        return content.getvalue(), np.asarray(decoded).astype(int)

    return code


LOOPS = {
    ("jpeg", 30): by_pillow("JPEG", quality=30, subsampling="4:2:0", optimize=True),
    ("jpeg", 7): by_pillow("JPEG", quality=7, subsampling="4:2:0", optimize=True),
    ("webp", 20): by_pillow("WEBP", quality=20, method=6),
    ("jpeg2000", 40): by_pillow("JPEG2000", irreversible=True, mct=1, quality_layers=[40]),
    ("jpeg2000", 12.5): by_pillow("JPEG2000", irreversible=True, mct=1, quality_layers=[12.5]),
}


def test_points_of_codecs_are_those_of_a_loop_over_pillow(study, tmp_path):
    """To the last byte, also where sides are odd and there is no MS-SSIM."""
    (tmp_path / "images").mkdir()
    cat = Image.open(CAT)
    cat.crop((10, 20, 210, 201)).save(str(tmp_path / "images" / "cat.png"))
    cat.crop((100, 100, 133, 117)).save(str(tmp_path / "images" / "small.png"))
    methods = ["jpeg --quality 30 7", "webp --quality 20", "jpeg2000 --quality 40 12.5"]
    rows = study(tmp_path / "images", "--methods", *methods)
    assert len(rows) == 2 * len(LOOPS) == len(study.ran)
    for row in rows:
        path = tmp_path / "images" / (row["image"] + ".png")
        pixels = np.asarray(Image.open(str(path)).convert("RGB"))
        content, decoded = LOOPS[row["method"], float(row["quality"])](pixels)
        bpp = 8 * len(content) / pixels[..., 0].size
        for rate in ("est_bpp", "actual_bpp", "net_bpp"):
            assert float(row[rate]) == pytest.approx(bpp, rel=1e-8)
        mse = ((decoded - pixels) ** 2).mean()
        assert float(row["mse"]) == pytest.approx(mse, rel=1e-8)
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-8)
        assert (row["msssim"] == "nan") == (row["image"] == "small")
        for column in ("model", "lambda", "est_rd_loss", "seed", "iterations", "est_y_bpp"):
            assert row[column] == ""
        assert row["script"] == row["method"] and float(row["encode_seconds"]) > 0
        assert row["height"] == str(len(pixels)) and row["version"].endswith("Pillow 9.5.0")
    # Means are over images, one for each quality; and nothing is computed twice.
    means = [(m["method"], m["quality"], m["images"]) for m in tables.means(rows_of(study))]
    assert sorted(means) == sorted((*setting, 2) for setting in LOOPS)
    assert study(tmp_path / "images", "--methods", "jpeg --quality 30 8")
    assert [(task.image.name, task.settings["quality"]) for task in study.ran] == [
        ("cat", 8),
        ("small", 8),
    ]
    assert len(study(tmp_path / "images", "--methods", "webp --quality 20")) == 2 * len(LOOPS) + 2


def test_ms_ssim_of_a_codec_is_that_of_its_pixels():
    pixels = utils.read_image(CAT)[:170, :190]
    _, decoded = by_pillow("WEBP", quality=20, method=6)(pixels)
    values = codecs.evaluate("webp", pixels, 20, 1)
    expected = utils.ms_ssim(pixels, decoded.astype(np.uint8))["msssim"]
    assert values["msssim"] == [pytest.approx(expected)] and 0.5 < expected < 1


@pytest.mark.parametrize("name", codecs.CODECS)
def test_every_codec_covers_the_rates_of_the_models(name):
    """With the qualities that it has by default, of a photograph."""
    codec = codecs.CODECS[name]
    if codec.missing():
        pytest.skip("{}: {}".format(name, codec.missing()))
    pixels = utils.read_image(CAT)
    values = [
        codecs.evaluate(name, pixels, q, 1) for q in (codec.qualities[0], codec.qualities[-1])
    ]
    low, high = (float(value["actual_bpp"]) for value in values)
    assert low < 0.25 and 0.7 < high < 2 and values[0]["psnr"] + 5 < values[1]["psnr"]
    assert len(set(codec.qualities)) >= 4 and codec.version() != "unknown"


def test_avif_does_not_depend_on_the_number_of_cores():
    """As it does with tiles that the encoder chooses."""
    if codecs.CODECS["avif"].missing():
        pytest.skip(codecs.CODECS["avif"].missing())
    pixels = np.asarray(Image.open(CAT).convert("RGB").resize((1100, 600)))  # enough for tiles
    loop = by_pillow("AVIF", quality=30, autotiling=False, codec="aom", speed=6)
    content, decoded = loop(pixels)
    values = codecs.evaluate("avif", pixels, 30, 1)
    assert values["actual_bpp"] == [8 * len(content) / (1100 * 600)]
    assert values["mse"] == [pytest.approx(((decoded - pixels) ** 2).mean())]


@pytest.fixture
def fake_commands(tmp_path, monkeypatch):
    """Commands on the PATH that only copy, in place of cjxl and djxl."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cjxl", "djxl"):
        (folder / name).write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo "cjxl v9.1 [AVX]" && exit\ncp "$1" "$2"\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", "{}:/bin:/usr/bin".format(folder))
    return folder


def test_commands_are_codecs(fake_commands, study, tmp_path):
    (tmp_path / "images").mkdir()
    (row,) = study(write_images(tmp_path / "images", (24, 20)), "--methods", "jpegxl --quality 70")
    assert row["version"] == "cjxl v9.1" and row["quality"] == "70"
    assert row["mse"] == "0" and row["psnr"] == "inf"
    assert float(row["actual_bpp"]) > 24  # of a PNG of noise


def test_a_command_that_fails_says_why(fake_commands):
    (fake_commands / "cjxl").write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    with pytest.raises(InputError, match="cjxl: no memory"):
        codecs.evaluate("jpegxl", np.zeros((8, 8, 3), np.uint8), 70.0, 1)
    (fake_commands / "cjxl").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(RuntimeError, match="cjxl: ended by SIGKILL"):
        codecs.evaluate("jpegxl", np.zeros((8, 8, 3), np.uint8), 70.0, 1)


def test_codecs_that_are_missing_are_left_out(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(codecs.CODECS["avif"], "module", "no_such_module")
    (row,) = study(tmp_path / "images", "--methods", "avif", "jpegxl", "heic", "jpeg --quality 9")
    assert row["method"] == "jpeg"
    notes = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in notes] == ["avif", "jpegxl", "heic"]
    assert "cjxl and djxl not on the PATH (Debian package libjxl-tools); the study" in notes[1]
    with pytest.raises(InputError, match="--methods: none of these codecs is there"):
        study(tmp_path / "images", "--methods", "heic")


@pytest.mark.parametrize(
    "method, message",
    [
        ("jpeg --quality 0", "jpeg --quality 0: not a whole number from 1 to 95"),
        ("jpeg --quality 5.5", "jpeg --quality 5.5: not a whole number from 1 to 95"),
        ("jpeg2000 --quality 10 nan", "jpeg2000 --quality nan: not a number from 1 to"),
        ("webp --quality", "webp --quality: the only flag is --quality, with numbers"),
        ("webp --lossless", "webp --lossless: the only flag is --quality"),
        ("webp 7", "webp 7: the only flag is --quality"),
    ],
)
def test_wrong_qualities_are_refused(method, message, study, tmp_path):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20))
    with pytest.raises(InputError) as error:
        study(tmp_path / "images", "--methods", method)
    assert str(error.value).startswith(message) and not study.output.exists()


def test_another_version_of_an_encoder_is_computed_anew(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    argv = [write_images(tmp_path / "images", (24, 20)), "--methods", "jpeg --quality 9"]
    study(*argv)
    monkeypatch.setattr(codecs.CODECS["jpeg"], "version", lambda: "libjpeg 99")
    (row,) = study(*argv)
    assert row["version"] == "libjpeg 99" and len(study.ran) == 1
    assert "1 rows are computed anew" in capsys.readouterr().out
    # A worker with another one than the study began with refuses.
    outcome = execution.attempt(study.ran[0]._replace(version="libjpeg 98"), 1)
    assert "another encoder than the study began with: libjpeg 99, not" in outcome.refusal


def test_images_that_a_format_cannot_hold_are_refused():
    with pytest.raises(InputError, match="WEBP cannot be encoded"):
        codecs.evaluate("webp", np.zeros((1, 16384, 3), np.uint8), 20, 1)


# --- Seeds -----------------------------------------------------------------------------------


def test_seeds_have_a_row_each_under_one_name(study, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20))
    methods = ["--methods", "sga --sga_its 3", "mbt2018 --seed 5", "jpeg --quality 9"]
    rows = study(tmp_path / "images", *methods, "--seeds", 0, 1)
    found = [(row["method"], row["seed"]) for row in rows]
    assert found == [
        ("mbt2018", "5"),
        ("sga --sga_its 3", "0"),
        ("sga --sga_its 3", "1"),
        ("jpeg", ""),
    ]
    assert "4 tasks (1 image × 4 settings: 3 methods, 1 model, 1 codec setting, 3 seeds)" in (
        capsys.readouterr().out
    )
    # Others come beside them, also by a flag; without --seeds, it is the default, which is there.
    rows = study(tmp_path / "images", "--methods", "sga --sga_its 3 --seed 2", "sga --sga_its 3")
    assert [row["seed"] for row in rows if row["script"] == "sga"] == ["0", "1", "2"]
    assert [task.settings["seed"] for task in study.ran] == [2]
    (mean,) = (m for m in tables.means(rows_of(study)) if m["method"].startswith("sga"))
    assert mean["images"] == 1


def rows_of(study):
    return tables.read_csv(str(study.output / "images.csv"), "")


@pytest.mark.parametrize("seeds", [["-1"], ["x"], []])
def test_seeds_are_whole_numbers(seeds, capsys):
    with pytest.raises(SystemExit):
        run.main(["images", "--seeds", *seeds])
    assert "--seeds" in capsys.readouterr().err


# --- What is to be done, and when it will be -------------------------------------------------


def test_a_dry_run_says_what_is_to_be_done_and_writes_nothing(study, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20), (20, 24))
    argv = [tmp_path / "images", "--methods", "mbt2018", "jpeg --quality 5 9"]
    assert study(*argv, "--dry-run") is None and not study.ran and not study.output.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 tasks (2 images × 3 settings: 2 methods, 1 model, 2 codec sett")
    assert [line.split() for line in lines[2:]] == [
        "2 to do of 2: jpeg, quality 5".split(),
        "2 to do of 2: jpeg, quality 9".split(),
    ]
    study(tmp_path / "images", "--methods", "jpeg --quality 9")
    before = (study.output / "images.csv").read_bytes()
    capsys.readouterr()
    study(*argv, "--dry-run")
    assert "     0 to do of 2: jpeg, quality 9" in capsys.readouterr().out
    assert (study.output / "images.csv").read_bytes() == before


def test_a_study_says_how_long_the_first_tasks_took(study, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20), (24, 20))
    study(tmp_path / "images", "--methods", "mbt2018", "jpeg --quality 9")
    lines = capsys.readouterr().out.splitlines()
    first = "0, mbt2018, {}, λ = 0.01: the first took 0.".format(MODEL.name)
    assert lines[1].startswith(first) and " of them to start; all tasks done in" in lines[1]
    assert " in about 0:00:0" in lines[1] and "to start" not in lines[2]
    assert lines[2].startswith("0, jpeg, quality 9: the first took")
    assert len(lines) == 4  # with how many there are, and what was written


def test_the_table_does_not_wait_for_the_next_task(study, tmp_path, monkeypatch):
    """Which may take hours, after some that ended in a moment."""
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20))
    monkeypatch.setattr(run.Table, "PAUSE", 50)
    seen = []

    def as_completed(futures):
        *before, last = futures
        yield from before
        deadline = time.time() + 120
        while len(seen) < 2 and time.time() < deadline:
            time.sleep(0.02)
            seen[:] = rows_of(study)
        yield last

    monkeypatch.setattr(cluster.distributed, "as_completed", as_completed)
    assert len(study(tmp_path / "images", "--methods", "jpeg --quality 1 2 3")) == 3
    assert len(seen) == 2


def made_tasks(methods, sizes, its=()):
    """Tasks of made-up images and methods, image by image; `its` are iterations by method."""
    found = []
    for number, (height, width) in enumerate(sizes):
        image = inputs.Image(str(number), "/x", None, None, str(number), height, width)
        for method in methods:
            run_ = None if method in codecs.CODECS else MODEL
            settings = {"seed": 0, "lmbda": 0.01, "sga_its": dict(its).get(method, 0)}
            settings = settings if run_ else {"quality": 5}
            found.append(tasks.Task(image, method, run_, settings, "", method + str(number)))
    return found


def runs_of(placed, slot):
    """How many processes the tasks of a slot need."""
    return len(list(itertools.groupby(t.kind + str(t.image[5:]) for t, s in placed if s == slot)))


def test_short_tasks_of_one_kind_stand_together():
    made = made_tasks(["mbt2018", "sga"], [(64, 96)] * 40, {"sga": 20})
    placed = schedule.placed(made, 2)
    assert sorted(task.key for task, _ in placed) == sorted(task.key for task in made)
    for slot in (0, 1):  # both have half of each method
        assert [task.method for task, s in placed if s == slot].count("sga") == 20
        assert runs_of(placed, slot) == 2
    # Few images do not make it worth to start a process on each; sizes need one each.
    placed = schedule.placed(made_tasks(["a", "b", "c", "d"], [(64, 96)] * 3), 2)
    assert [runs_of(placed, slot) for slot in (0, 1)] == [2, 2]
    placed = schedule.placed(made_tasks(["a"], [(64, 96), (96, 64)] * 3), 1)
    assert runs_of(placed, 0) == 2


def test_long_tasks_go_image_by_image():
    """So that a study that is interrupted has complete images."""
    made = made_tasks(["sga", "map"], [(512, 768)] * 3, {"sga": 2000, "map": 2000})
    placed = schedule.placed(made, 1)
    assert [task.key for task, _ in placed] == ["sga0", "map0", "sga1", "map1", "sga2", "map2"]
    # Those of classical codecs, which need no process, count for little.
    made = made_tasks(["sga", "jpeg"], [(512, 768)] * 3, {"sga": 2000})
    order = [task.key for task, _ in schedule.placed(made, 1)]
    assert order == ["sga0", "jpeg0", "jpeg1", "jpeg2", "sga1", "sga2"]


def test_the_time_left_is_that_of_tasks_like_those_before():
    """Of a made-up machine, on which an iteration takes as long as it likes for each method."""
    seconds = {"sga": 2e-6, "map": 1e-6}
    made = made_tasks(["sga", "map"], [(64, 96), (64, 96), (128, 96)], {"sga": 100, "map": 50})
    takes = {t.key: seconds[t.method] * schedule.work(t) for t in made}
    estimate = schedule.Estimate(made, 2)
    assert estimate.seconds() is None
    assert estimate.ended(made[0], takes["sga0"] + 7, 7)
    assert estimate.seconds() > 0  # map's is a guess
    assert estimate.ended(made[1], takes["map0"], 0)
    assert not estimate.ended(made[2], takes["sga1"], 0)
    left = sum(takes[key] for key in ("map1", "sga2", "map2"))
    assert estimate.seconds() == pytest.approx(left / 2)
    assert not estimate.ended(made[3], None, None)
    assert estimate.seconds() == pytest.approx((left - takes["map1"]) / 2)
    for task in made[4:]:
        estimate.ended(task, takes[task.key], 0)
    assert estimate.seconds() == 0


# --- Processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["mbt2018", "sga --sga_its 3 --seed 1", "bb_sga --sga_its 2 --r_its 2"],
)
def test_images_in_one_process_have_the_results_of_the_script(
    method, untrained, tmp_path, monkeypatch
):
    """To the last bit, and the sizes of files too: bits-back images do not share a stack."""
    (tmp_path / "images").mkdir()
    found = inputs.find([write_images(tmp_path / "images", (36, 30), (36, 30), (36, 30))])
    script, *flags = method.split()
    models = tasks.find_models(str(untrained), [UNTRAINED[script]])
    started = []
    process = execution.Process
    monkeypatch.setattr(execution, "_kept", types.SimpleNamespace())
    monkeypatch.setattr(execution, "Process", lambda *a: started.append(a) or process(*a))
    outcomes = [execution.run_task(task, 1) for task in tasks.make_tasks(found, [method], models)]
    execution.end_process()
    assert len(started) == 1
    assert outcomes[0].seconds > outcomes[0].start > 0 == outcomes[1].start == outcomes[2].start
    with np.load(io.BytesIO(outcomes[-1].content)) as result:
        ours = dict(result)
    assert ours["image"] == "2" and ours["script"] == script
    alone = compress(
        script,
        UNTRAINED[script],
        found[2].path,
        tmp_path,
        *flags,
        checkpoint_dir=str(untrained),
    )
    for key in {*alone} - {*tables.SECONDS, "result_file", "input_sha256", "input"}:
        np.testing.assert_array_equal(ours[key], alone[key], key)
    assert ours["mse"].shape == (1,) and ours["actual_bpp"] > 0


def test_a_process_is_kept_for_what_differs_in_the_image_alone(tmp_path, monkeypatch):
    """One that has ended meanwhile, or failed, is started again."""
    alive, answers = [], []

    class Fake:
        def __init__(self, identity, command, environment):
            self.identity = identity
            alive.append(self)

        def ask(self, image, result):
            answer = answers.pop(0) if answers else True
            if isinstance(answer, Exception):
                raise answer
            if answer:
                np.savez(result, psnr=np.array([30.0]), seconds=np.array([0.1]))
            return answer

        def close(self):
            alive.remove(self)

    monkeypatch.setattr(execution, "Process", Fake)
    monkeypatch.setattr(execution, "_command", lambda task: [])
    monkeypatch.setattr(execution, "_kept", types.SimpleNamespace())
    shutil.copy(CAT, str(tmp_path / "a.png"))
    shutil.copy(CAT, str(tmp_path / "b.png"))
    write_images(tmp_path, (20, 24))
    other, a, b = inputs.find([str(tmp_path)])
    (of_a, of_b, of_other) = tasks.make_tasks([a, b, other], ["sga"], [MODEL])

    def first():
        return alive[0]

    execution.run_task(of_a, 1)
    kept = first()
    execution.run_task(of_b, 1)
    assert alive == [kept]
    execution.attempt(of_a, 1, separate=True)
    assert not alive
    for changed in (
        (of_other, 1),  # another size
        (of_a, 2),
        (of_a._replace(settings={**of_a.settings, "seed": 1}), 2),
        (of_a._replace(version="later"), 2),
    ):
        before = alive[:]
        execution.run_task(*changed)
        assert len(alive) == 1 and alive != before
    kept = first()
    answers[:] = [False]
    execution.run_task(changed[0], 2)
    assert alive[-1] is not kept
    answers[:] = [RuntimeError("died")]
    with pytest.raises(RuntimeError, match="died"):
        execution.run_task(changed[0], 2)
    assert execution._kept.process is None
    answers[:] = [False]
    with pytest.raises(RuntimeError, match="ended before its first image"):
        execution.run_task(changed[0], 2)


def test_a_process_that_nobody_asks_ends_without_an_error(tmp_path):
    """As on a cluster whose study has ended."""
    code = "from study import serve; serve.PATIENCE = 0.1; print(*serve.requests(), end='')"
    process = execution.Process(None, [execution.sys.executable, "-c", code], None)
    process._popen.wait(300)
    assert process.ask("image", "result") is False


def test_messages_name_the_image_and_not_a_temporary_file(untrained, tmp_path):
    (tmp_path / "images").mkdir()
    found = inputs.find([write_images(tmp_path / "images", (36, 30))])
    models = tasks.find_models(str(untrained), [UNTRAINED["sga"]])
    (task,) = tasks.make_tasks(found, ["sga --lr 1e30 --sga_its 3"], models)
    refusal = execution.attempt(task, 1).refusal
    assert refusal.startswith("sga.py: error: {}: image 0: ".format(found[0].path))
    assert "try a lower --lr" in refusal and execution._kept.process is None


def test_studies_that_write_to_one_table_wait_for_each_other(tmp_path):
    """A process that locks the folder keeps others waiting, and no longer than it lives."""
    code = "from runtime import files\nwith files.locked({!r}): print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code.format(str(tmp_path))],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT},
    )
    assert process.stdout.readline() == b"1\n"
    entered = threading.Event()

    def enter():
        with files.locked(str(tmp_path)):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.5)
    process.kill()
    assert entered.wait(10)
    thread.join()
    process.communicate()
