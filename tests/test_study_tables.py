"""Studies and reports, function by function, on result files and tables that are made up here."""

import contextlib
import csv
import glob
import os
import shutil
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from conftest import ROOT, UNTRAINED
from PIL import Image
from test_study import made_rows, write_images, write_rows

from runtime import files
from runtime.errors import InputError
from study import (
    cluster,
    curves,
    documents,
    execution,
    figures,
    inputs,
    look,
    rd_figures,
    report,
    run,
    selection,
    statistics,
    tables,
    tasks,
    traces,
    versions,
)

MODEL = tasks.Model("/models", "mbt2018-num_filters=4-lmbda=0.01", 0, "c" * 64, 0.01, "mbt2018")


def made_result(path, its=0, **values):
    """Writes a result file of one image, as scripts do, less what nobody reads here."""
    result = {
        **{"script": "sga", "runname": MODEL.name, "lmbda": 0.01, "input": "a.png"},
        **{"eval_batch_size": 1, "device": "CPU", "seed": 0, "sga_its": its},
        **{"est_bpp": np.array([0.5]), "psnr": np.array([30.0]), "mse": np.array([65.0])},
        **{"est_rd_loss": np.array([1.15]), "seconds": np.array([2.0])},
        **{"its": np.arange(3), "rd_loss": np.ones(3), **values},
    }
    np.savez(str(path), **result)
    return str(path)


# --- Versions of the code --------------------------------------------------------------------


def test_a_version_covers_all_that_a_script_imports(monkeypatch):
    names = {os.path.relpath(path, ROOT) for path in versions.sources("bb_sga")}
    assert names >= {"bb_sga.py", "sga.py", "tf_boilerplate.py", "utils.py", "runtime/flags.py"}
    assert names >= {"inference/rounding.py", "model/hyperprior.py", "coding/writers.py"}
    assert not any(name.startswith(("study", "tests", "tools")) for name in names)

    read, before = files.read_bytes, versions.version("bb_sga")

    def version_with(name, more):
        with monkeypatch.context() as patch:
            path = os.path.join(ROOT, name)
            patch.setattr(files, "read_bytes", lambda p: read(p) + (more if p == path else b""))
            return versions.version("bb_sga")

    for name in ("bb_sga.py", "sga.py", "inference/rounding.py", "model/__init__.py"):
        assert version_with(name, b"\n# a comment\n") == before
        assert version_with(name, b"\nchanged = 1\n") != before
    for name in ("study/tasks.py", "training/validation.py"):
        assert version_with(name, b"\nchanged = 1\n") == before


def test_imports_are_found_wherever_they_stand(monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "ROOT", str(tmp_path))
    sources = {
        "script.py": "import os\ndef late():\n    from pack.deep import mod as m, other\n",
        "pack/__init__.py": "",
        "pack/deep/__init__.py": "from . import sibling\nfrom .. import uncle",
        "pack/deep/mod.py": "from .cousin import value\nimport alone.within",
        "pack/deep/sibling.py": "",
        "pack/deep/cousin.py": "value = 1",
        "pack/deep/unused.py": "",
        "pack/uncle.py": "import pack.deep",
        "alone/within.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {os.path.relpath(path, str(tmp_path)) for path in versions.sources("script")}
    assert found == {*sources} - {"pack/deep/unused.py"}


# --- Tasks -----------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_are_named_in_another_way(tmp_path):
    folder = write_images(tmp_path, (20, 20), (20, 21))
    os.rename(os.path.join(folder, "0.png"), os.fsencode(folder) + b"/caf\xe9.png")
    images = inputs.find([folder])
    assert [image.name for image in images] == ["1", "caf%E9"]
    assert inputs.read(images[1]).shape == (20, 20, 3)
    for task in tasks.make_tasks(images, ["mbt2018"], [MODEL]):
        str(task).encode()
        run.result_path(folder, task).encode(sys.getfilesystemencoding(), "strict")
    odd = os.fsdecode(b"caf\xe9.png")
    path = made_result(tmp_path / "odd.npz", input=odd, runname=os.fsdecode(b"mod\xe8le"))
    (row,) = tables.rows_of_result(path, "made")
    assert (row["image"], row["model"]) == ("caf%E9", "mod%E8le")
    assert b"caf%E9" in tables.to_csv([row], tables.COLUMNS)


def test_an_invalid_run_does_not_stop_those_of_a_pattern(untrained, tmp_path, capsys):
    shutil.copytree(str(untrained), str(tmp_path / "models"))
    folder = tmp_path / "models"
    (folder / "broken").mkdir()
    (folder / "broken" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"')
    names = [model.name for model in tasks.find_models(str(folder), ["*"])]
    assert names == sorted({*UNTRAINED.values()})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: {}".format(folder / "broken")) and "leaves this run out" in line
    for patterns in (["broken"], ["bro*"], ["*", "broken"]):
        with pytest.raises(InputError, match="broken"):
            tasks.find_models(str(folder), patterns)


class MadeUp:
    """A stand-in for `execution.Process`, which writes made-up results, or raises `error`."""

    error, commands = None, []

    def __init__(self, identity, command, environment):
        self.identity = identity
        self.commands.append((command, environment))

    def ask(self, image, result):
        assert os.path.isfile(image)
        if self.error:
            raise self.error
        made_result(result)
        return True

    def close(self):
        pass


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task whose model need not be there."""
    images = inputs.find([write_images(tmp_path, (24, 20))])
    monkeypatch.setattr(tasks.checkpoints, "find_run", lambda *_: MODEL_RUN)
    monkeypatch.setattr(tasks.checkpoints, "checkpoint_sha256", lambda _: MODEL.sha256)
    monkeypatch.setattr(execution, "Process", MadeUp)
    monkeypatch.setattr(execution, "_kept", types.SimpleNamespace())
    monkeypatch.setattr(MadeUp, "commands", [])
    (made,) = tasks.make_tasks(images, ["sga --sga_its 3"], [MODEL])
    return made


MODEL_RUN = tasks.checkpoints.Run(MODEL.name, "/models/model.ckpt-0", 0, 4, 0.01)


def test_a_task_has_its_threads_and_says_where_it_ran(task, tmp_path):
    (tmp_path / "result.npz").write_bytes(execution.attempt(task, 3).content)
    ((command, environment),) = MadeUp.commands
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        assert environment[name] == "3"
    assert environment["OPENBLAS_NUM_THREADS"] == "3"
    assert command[-6:] == ["--sga_its", "3", "--lambda", "0.01", "--seed", "0"]
    (row,) = tables.rows_of_result(str(tmp_path / "result.npz"), "made")
    assert row["task"] == task.key and row["version"] == versions.version("sga")
    assert row["device"] == "CPU" and row["cpu"].strip() and row["threads"] == 3


def test_what_a_script_refuses_is_not_tried_again(task, monkeypatch):
    """Dask tries again what raises."""
    monkeypatch.setattr(MadeUp, "error", InputError("sga.py: error: of no use"))
    outcome = execution.attempt(task, 1)
    assert outcome.refusal == "sga.py: error: of no use" and not outcome.content
    monkeypatch.setattr(MadeUp, "error", RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        execution.attempt(task, 1)


def test_code_that_changes_meanwhile_is_not_taken(task):
    reason = execution.attempt(task._replace(version="other"), 1).refusal
    assert reason == "sga.py, or what it imports, is not as it was when the study began"


def test_a_map_that_changes_meanwhile_is_not_taken(task, tmp_path):
    path = str(tmp_path / "map.png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    settings = {**task.settings, "weight_map": path}
    task = task._replace(settings=settings)
    task = task._replace(key=tasks.key_of(*task[:5]))
    command = execution._command(task._replace(method="sga --weight_map map.png"))
    assert command[-2:] == ["--weight_map", path]  # the last one counts
    assert not execution.attempt(task, 1).refusal
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).T).save(path)
    reason = execution.attempt(task, 1).refusal
    assert reason == path + ": is not as it was when the study began"


# --- The table of a study --------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`study(*flags)` runs a study of made-up results; `study.table()` is its table."""
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", (24, 20), (20, 24), (20, 21))
    output = tmp_path / "out"
    computed = []

    def client(args, number):
        info = {"workers": {}}
        made_up = types.SimpleNamespace(submit=submit, scheduler_info=lambda: info)
        return contextlib.nullcontext((made_up, 1))

    def submit(function, task, threads, separate, key, retries, priority):
        key.encode()
        outcome = made.attempt(task, threads)
        computed.append(task.image.name)
        return Future(outcome)

    def of_script(task, pixels, threads):
        return tables.load(made_result(tmp_path / "made.npz", script=task.script)), True

    def made(*flags):
        computed.clear()
        argv = [str(tmp_path / "images"), "--output", str(output), *flags]
        return run.main(["--methods=mbt2018", *argv] if "--methods" not in flags else argv)

    def table():
        with open(str(output / "images.csv"), newline="") as file:
            return list(csv.DictReader(file))

    monkeypatch.setattr(tasks, "find_models", lambda *_: [MODEL])
    monkeypatch.setattr(execution, "_of_script", of_script)
    monkeypatch.setattr(cluster, "_client", client)
    monkeypatch.setattr(cluster.distributed, "as_completed", lambda futures: list(futures))
    made.attempt, made.computed = execution.attempt, computed
    made.table, made.output = table, output
    made.images = tmp_path / "images"
    return made


class Future:
    def __init__(self, outcome):
        self.outcome = outcome

    def result(self):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def release(self):
        pass


def test_rows_of_other_code_are_computed_anew_and_a_line_says_so(study, monkeypatch, capsys):
    assert study() == 0 and study.computed == ["0", "1", "2"]
    assert "computed anew" not in capsys.readouterr().out
    assert study() == 0 and study.computed == []
    assert study("--recompute") == 0 and len(study.computed) == 3
    assert "3 rows are computed anew: --recompute" in capsys.readouterr().out
    # As tables of before rows had a version, and keys covered the script alone.
    rows = [{**row, "task": "old"} for row in study.table()]
    for row in rows:
        del row["version"], row["device"], row["cpu"]
    write_rows(study.output / "images.csv", rows)
    shutil.rmtree(str(study.output / "tasks"))
    curves.of_rows(tables.frame(curves.read([str(study.output)], "")[0]), "est_bpp")
    assert study() == 0 and len(study.computed) == 3
    assert "images.csv: 3 rows are computed anew: of other code" in capsys.readouterr().out
    assert {row["version"] for row in study.table()} == {versions.version("mbt2018")}
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "version", lambda script: "later")
        assert study() == 0 and len(study.computed) == 3


def test_the_table_grows_as_tasks_end(study, monkeypatch):
    seen = []
    write = run.Table.write
    monkeypatch.setattr(run.Table, "PAUSE", 0)

    def watched(table, *args):
        write(table, *args)
        seen.append(len(study.table()))

    monkeypatch.setattr(run.Table, "write", watched)
    assert study() == 0
    assert seen == [1, 2, 3, 3]
    # Rows of before stay until theirs are there.
    seen.clear()
    assert study("--recompute") == 0
    assert seen == [3, 3, 3, 3]


def test_failures_are_counted_image_by_image(study, capsys):
    """Also those of images with the same pixels, which have the same key."""
    shutil.copy(str(study.images / "0.png"), str(study.images / "again.png"))
    attempt = study.attempt

    def fails(task, threads):
        if task.image.name in ("0", "again"):
            return execution.Outcome(b"", "of no use", None, None)
        return RuntimeError("died") if task.image.name == "2" else attempt(task, threads)

    study.attempt = fails
    assert study() == 1
    output = capsys.readouterr()
    assert "3 of 4 tasks failed" in output.out and output.err.count("failed: ") == 3
    assert [row["image"] for row in study.table()] == ["1"]
    study.attempt = attempt
    assert study() == 0
    assert [row["image"] for row in study.table()] == ["0", "1", "2", "again"]
    assert sorted(study.computed) == ["0", "2", "again"]


def test_the_count_of_tasks_is_honest(study, capsys, monkeypatch):
    other = MODEL._replace(name="mbt2018_bb-num_filters=4-lmbda=0.01", kind="mbt2018_bb")
    more = MODEL._replace(name="mbt2018-num_filters=4-lmbda=0.02", lmbda=0.02)
    monkeypatch.setattr(tasks, "find_models", lambda *_: [MODEL, more, other])
    assert study("--methods", "mbt2018", "bb_plain") == 0
    line = "9 tasks (3 images × 3 settings: 2 methods, 3 models), of which 0 are done already"
    assert line in capsys.readouterr().out


def test_means_are_means(tmp_path):
    """Not medians: of three images with skewed values."""
    rows = made_rows(images="abc", lambdas=(0.01,))
    for row, value in zip(rows, (1.0, 2.0, 9.0)):
        row.update(est_bpp=value, psnr=20 + value, est_rd_loss=3 * value)
    better = [{**row, "method": "sga"} for row in rows]
    for row, part in zip(better, (0.9, 0.8, 0.1)):
        row["est_rd_loss"] *= part
    (mean,) = tables.means(rows)
    assert (mean["est_bpp"], mean["psnr"], mean["est_rd_loss"]) == (4.0, 24.0, 12.0)
    several = [{**row, "lambda": lmbda} for row in rows + better for lmbda in (0.01, 0.02, 0.03)]
    for row in several:
        if row["method"] == "sga" and row["lambda"] == 0.03:
            row["est_rd_loss"] *= 0.1
    gains = rd_figures.gains_by_image(tables.frame(several), "mbt2018")["sga"]
    assert gains == {
        image: pytest.approx(100 * (1 - part * (1 + 1 + 0.1) / 3))
        for image, part in zip("abc", (0.9, 0.8, 0.1))
    }
    gains = rd_figures.gains_by_image(tables.frame(rows + better), "mbt2018")
    figure = rd_figures.draw_gains(gains, "mbt2018", LOOKS)
    (label,) = (text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert label == "sga (mean 40.00%)"  # of 10, 20 and 90
    figures.plt.close(figure)


LOOKS = figures.looks(["mbt2018", "sga"])


# --- Reports ---------------------------------------------------------------------------------


def with_msssim(rows, shift):
    """Rows with MS-SSIM too, as if the rate were `shift` times as large for it."""
    return [{**r, "msssim_db": 8 + 2 * np.log2(r["est_bpp"] / shift)} for r in rows]


def report_of(rows, tmp_path, *flags):
    """Reports rows; returns what report.txt says."""
    path = write_rows(tmp_path / "images.csv", rows)
    report.main([path, "--output", str(tmp_path / "report"), *flags])
    return (tmp_path / "report" / "report.txt").read_text(encoding="utf-8")


def test_deltas_of_msssim_are_those_of_msssim(tmp_path):
    rows = with_msssim(made_rows(images="a"), 1) + with_msssim(
        made_rows("sga", rate=0.9, images="a"), 0.7
    )
    delta = statistics.delta(*curves.of_rows(tables.frame(rows), "est_bpp"))
    for interpolation in statistics.INTERPOLATIONS:
        assert delta["bd_rate_" + interpolation] == pytest.approx(-10, abs=1e-6)
        assert delta["bd_rate_msssim_" + interpolation] == pytest.approx(-30, abs=1e-6)
    assert "  -30.00%" in report_of(rows, tmp_path)


def drawn(monkeypatch, tmp_path, rows, *flags):
    """The figures of a report, open, by the ends of their names."""
    found = {}
    monkeypatch.setattr(
        figures, "save_all", lambda figure, stem: [found.setdefault(stem, figure) and stem]
    )
    report_of(rows, tmp_path, *flags)
    return {os.path.basename(stem): figure for stem, figure in found.items()}


def test_figures_show_what_they_are_named_after(monkeypatch, tmp_path):
    rows = with_msssim(made_rows(), 1) + with_msssim(made_rows("sga", rate=0.9), 0.7)
    found = drawn(monkeypatch, tmp_path, rows)
    assert set(found) == {"made-psnr", "made-msssim", "made-gain"}
    for name, key in (("made-psnr", "psnr"), ("made-msssim", "msssim_db")):
        (axes,) = found[name].axes
        lines = {line.get_label(): line.get_data() for line in axes.get_lines()}
        for curve in curves.of_rows(tables.frame(rows), "est_bpp"):
            rates, values = lines[curve.method]
            np.testing.assert_allclose(rates, [point["rate"] for point in curve.points])
            np.testing.assert_allclose(values, [point[key] for point in curve.points])
    assert "MS-SSIM" in found["made-msssim"].axes[0].get_ylabel()
    figures.plt.close("all")


def test_the_gain_figure_has_each_image_above_its_name(monkeypatch, tmp_path):
    gains = {"b": 5.0, "d": 20.0, "a": 1.0, "c": 10.0}
    rows = made_rows(images="abcd")
    rows += [
        {
            **row,
            "method": "sga",
            "est_rd_loss": row["est_rd_loss"] * (1 - gains[row["image"]] / 100),
        }
        for row in rows
    ]
    (axes,) = drawn(monkeypatch, tmp_path, rows)["made-gain"].axes
    names = [text.get_text() for text in axes.get_xticklabels()]
    (line,) = (line for line in axes.get_lines() if line.get_label().startswith("sga"))
    places, values = line.get_data()
    assert names == ["a", "b", "c", "d"]
    at = dict(zip(places, values))
    ticks = axes.get_xticks()
    np.testing.assert_allclose([at[tick] for tick in ticks], [gains[name] for name in names])
    figures.plt.close("all")


def test_deltas_of_curves_that_overlap_little_are_in_brackets(tmp_path):
    """And not in the main column of the CSV. Overlaps are shares of the anchor's range."""
    rows = made_rows(images="a") + made_rows("sga", rate=0.9, images="a", more=0.2)
    far = made_rows("map", rate=0.9, images="a", more=4)
    line = next(n for n in report_of(rows + far, tmp_path).splitlines() if "of mbt2018's" in n)
    words = line.split()
    assert words[0] == "map" and words[1].startswith("(-") and words[2] == "33%"
    assert line.endswith("33% of mbt2018's PSNR range")
    with open(str(tmp_path / "report" / "bd.csv"), newline="") as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    assert found["map"]["bd_rate"] == "" and float(found["map"]["bd_rate_cubic"]) < -50
    assert float(found["map"]["bd_rate_overlap"]) == pytest.approx(2 / 6)
    assert float(found["sga"]["bd_rate_overlap"]) == pytest.approx(5.8 / 6)
    # At equal rate, of the logarithm: 0.2 to 3.2 bits per pixel, and 0.18 to 2.88.
    overlap = np.log(2.88 / 0.2) / np.log(3.2 / 0.2)
    assert float(found["map"]["bd_psnr_overlap"]) == pytest.approx(overlap)


def test_models_pick_rows(tmp_path):
    rows = made_rows(images="a", lambdas=(0.003, 0.01)) + made_rows(
        images="a", lambdas=(0.01, 0.02), model="other"
    )
    for flags, lambdas in (
        (["m-*"], [0.003, 0.01]),
        (["oth?r", "m-0.003"], [0.003, 0.01, 0.02]),
    ):
        args = report.parse(["x", "--models", *flags])
        kept, _ = selection.select(tables.frame(rows), [], args)
        assert sorted(kept["lambda"]) == lambdas
    assert "0.01 " in report_of(rows, tmp_path, "--models", "other")


SATURATING = {
    "mbt2018": [(0.21, 36.7), (0.31, 39.5), (0.41, 39.92), (0.5, 39.98)],
    "sga": [(0.2, 37.1), (0.3, 39.66), (0.4, 39.94), (0.51, 39.981)],
}


def saturating():
    return [
        {
            **{"dataset": "made", "image": "a", "method": method, "lambda": 0.01 * index},
            **{"est_bpp": rate, "psnr": psnr},
        }
        for method, points in SATURATING.items()
        for index, (rate, psnr) in enumerate(points, 1)
    ]


def test_polynomials_that_go_astray_are_not_believed(tmp_path):
    text = " ".join(report_of(saturating(), tmp_path).split())
    assert " sga -8.35% 88% +0.276 dB 100% pchip BD-rate +6949.67% by cubic, -8.35% by " in text
    with open(str(tmp_path / "report" / "bd.csv"), newline="") as file:
        (delta,) = csv.DictReader(file)
    assert delta["interpolation"] == "pchip" and float(delta["bd_rate"]) == pytest.approx(
        -8.35, abs=0.01
    )
    assert float(delta["bd_rate_cubic"]) == pytest.approx(6949.67, abs=0.01)
    assert "pchip" not in report_of(made_rows() + made_rows("sga", rate=0.9), tmp_path)


def test_published_points_may_end_in_blank_lines(tmp_path):
    path = tmp_path / "sga-psnr.csv"
    path.write_text("0.1,26\n0.2,28\n\n   \n")
    assert [point["psnr"] for point in curves.read_published(str(path)).points] == [26, 28]


def test_a_report_says_of_what_versions_and_machines_its_rows_are(tmp_path):
    rows = made_rows(version="1", device="CPU", cpu="Fast", seconds=1.0, threads="")
    assert "versions" not in report_of(rows, tmp_path)
    rows += made_rows("sga", version="2", device="CPU", cpu="Fast", seconds=1.0, threads="")
    text = report_of(rows, tmp_path)
    assert "versions" not in text and "machines" not in text
    rows[0].update(version="")
    rows[1].update(cpu="Slow")
    for row, threads in zip(rows, (2, 12)):
        row["threads"] = threads
    text = report_of(rows, tmp_path)
    assert "made: seconds with different numbers of threads: 2, 12, unknown\n" in text
    assert "made, mbt2018: rows of 2 versions of the code\n" in text
    assert "made: seconds of 2 machines: CPU / Fast, CPU / Slow\n" in text


def test_a_report_says_of_what_checkpoints_its_rows_are(tmp_path):
    rows = made_rows(checkpoint_sha256="1", model="mbt2018-N=64")
    same = made_rows("sga", checkpoint_sha256="1", model="mbt2018-N=64")
    assert "checkpoints" not in report_of(rows + same, tmp_path)
    text = report_of(rows + [{**row, "checkpoint_sha256": "2"} for row in same], tmp_path)
    assert "made, mbt2018-N=64: rows of 2 checkpoints of this name\n" in text
    assert "2 checkpoints" in (tmp_path / "report" / "report.tex").read_text()
    others = [{**row, "checkpoint_sha256": "2", "model": "mbt2018-N=192"} for row in same]
    text = report_of(rows + others, tmp_path)
    assert "the models of mbt2018 and sga differ in more than their kind\n" in text
    without = [{**row, "checkpoint_sha256": ""} for row in rows]
    assert report_of(without + same, tmp_path) == report_of(rows + same, tmp_path)


def test_a_report_of_published_points_alone(tmp_path):
    report.main([os.path.join(ROOT, "results", "kodak"), "--output", str(tmp_path)])
    assert "-15.17%" in (tmp_path / "report.txt").read_text(encoding="utf-8")


def test_a_lossless_point_is_left_out_with_a_note(tmp_path):
    rows = made_rows() + made_rows("sga")
    rows[-1].update(psnr=np.inf)
    line = "made, sga, λ = {:g}: left out, as the PSNR of a lossless image is infinite\n"
    assert line.format(rows[-1]["lambda"]) in report_of(rows, tmp_path)


def test_reports_write_their_files_before_they_print(tmp_path):
    """A terminal that cannot show λ loses nothing."""
    path = write_rows(tmp_path / "images.csv", made_rows() + made_rows("sga", rate=0.9))
    command = [sys.executable, "-m", "study.report", path, "--output", str(tmp_path / "report")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "HOME": os.devnull}
    environment.pop("MPLCONFIGDIR", None)
    process = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    assert "λ" in (tmp_path / "report" / "report.txt").read_text(encoding="utf-8")
    for name in ("points.csv", "bd.csv", "report.json", "made-psnr.png", "made-gain.svg"):
        assert (tmp_path / "report" / name).stat().st_size
    assert b"Matplotlib" not in process.stderr  # of a folder for its files, which HOME has not


# --- Results of several settings -------------------------------------------------------------


def test_results_are_called_by_the_settings_in_which_they_differ(tmp_path):
    paths = [
        made_result(tmp_path / "1.npz", its=50),
        made_result(tmp_path / "2.npz", its=2000, fit_schedule=True),
        made_result(tmp_path / "3.npz", its=2000, fit_schedule=False, seed=3),
        made_result(tmp_path / "4.npz", script="gone", avg_bpp=0.5),
        made_result(tmp_path / "5.npz", script="mbt2018", input="a.png", avg_bpp=0.5),
        made_result(tmp_path / "6.npz", script="mbt2018", input="b.png", avg_bpp=0.6, seed=1),
    ]
    labels = ["sga --sga_its 50", "sga --sga_its 2000 --fit_schedule", "sga --sga_its 2000"]
    labels += ["gone", "mbt2018", "mbt2018"]
    assert tables.labels([tables.load(path) for path in paths]) == labels
    rows, _ = curves.read(paths, "made")
    assert [row["method"] for row in rows] == labels
    # One that a study made is called as there; seeds tell results of one image apart.
    one, two, three = (
        tables.load(made_result(tmp_path / "x.npz", **values))
        for values in ({}, {"seed": 1}, {"method": "sga --lr 1", "lr": 1.0})
    )
    assert tables.labels([one, three]) == ["sga", "sga --lr 1"]
    assert tables.labels([one, two, three]) == ["sga --seed 0", "sga --seed 1", "sga --lr 1"]
    padded = tables.load(made_result(tmp_path / "x.npz", pad="edge"))
    plain = tables.load(made_result(tmp_path / "x.npz", pad="none"))
    assert tables.labels([plain, padded]) == ["sga --pad none", "sga --pad edge"]
    assert tables.labels([one]) == ["sga"] and tables.labels([one, one]) == ["sga", "sga"]


def test_results_of_two_seeds_can_be_reported_and_traced(tmp_path, capsys):
    paths = [made_result(tmp_path / "{}.npz".format(seed), seed=seed) for seed in (0, 1)]
    argv = ["--output", str(tmp_path / "report"), "--anchor", "sga --seed 0"]
    report.main([*paths, *argv])
    assert "sga --seed 1" in capsys.readouterr().out
    traces.main([*paths, "--output", str(tmp_path / "traces.png")])
    assert (tmp_path / "traces.png").stat().st_size
    with pytest.raises(InputError, match="a second result of sga"):
        traces.main([paths[0], paths[0], "--output", str(tmp_path / "traces.png")])


# --- Text of users in figures ----------------------------------------------------------------


def texts(figure):
    """What is drawn, as it is drawn."""
    figure.canvas.draw()
    return [
        text._preprocess_math(text.get_text())
        for text in figure.findobj(figures.matplotlib.text.Text)
    ]


@pytest.mark.parametrize("name", ["$x_{$", "$a$", r"\$5", "$$", "a_b^c", "_under", "100% $"])
def test_text_of_users_is_no_markup(name, monkeypatch, tmp_path):
    rows = [{**row, "dataset": name, "image": name + row["image"]} for row in made_rows()]
    rows += [{**row, "method": "sga " + name, "est_rd_loss": 1.0} for row in rows]
    for figure in drawn(monkeypatch, tmp_path, rows).values():
        found = texts(figure)
        shown = [text for text, is_math in found if name in text]
        assert len(shown) >= 2 and not any(is_math for _, is_math in found)
    figures.plt.close("all")
    path = made_result(tmp_path / "r.npz", input=name + ".png")
    traces.main([path, "--output", str(tmp_path / "traces.svg")])


def test_flags_in_captions_are_as_they_were_given():
    """Two hyphens do not become minus signs, nor what stands between two $ a formula."""
    pixels = np.random.RandomState(0).randint(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    result = {"est_bpp": [0.5], "actual_bpp": [0.5], "psnr": [30.0]}
    bits = np.arange(6.0).reshape(2, 3)
    name = "sga --preset fast --lr $a_b$"
    base = look.Coded("mbt2018", pixels[0], bits + 1, result)
    method = look.Coded(name, pixels[1], bits, result)
    figure = look.draw("a $file$.png", pixels[0], base, method, 16)
    found = texts(figure)
    assert not any(is_math for _, is_math in found)
    shown = [text.replace("\n", " ") for text, _ in found]  # long names are broken into lines
    assert "a $file$.png" in shown and sum(text.startswith(name + " ") for text in shown) == 4
    assert name + " less mbt2018 y −6 bits" in shown
    figures.plt.close(figure)


def test_names_without_a_font_are_replaced_with_one_note(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures, "_font_of", lambda characters: None)
    figures._note_once.cache_clear()
    rows = [{**row, "image": "図" + row["image"]} for row in made_rows()]
    rows += [{**row, "method": "sga", "est_rd_loss": 1.0} for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_of(rows, tmp_path)
    error = capsys.readouterr().err
    assert error == "note: no installed font has 図: figures show � instead\n"


def test_names_get_a_font_that_has_their_characters(capsys):
    """Of the fonts that come with Matplotlib, STIX has characters that that of figures has not."""
    (path,) = glob.glob(os.path.join(figures.matplotlib.get_data_path(), "fonts/*/STIXGeneral.ttf"))
    usual = figures.font_manager.findfont("DejaVu Sans")
    odd = chr(min(figures._glyphs(path) - figures._glyphs(usual)))
    figure, axes = figures.subplots()
    axes.set_title(figures.plain("an " + odd))
    assert axes.get_title() == "an " + odd
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures._choose_fonts(figure)
        figure.canvas.draw()
    chosen = axes.title.get_fontproperties().get_file()
    assert ord(odd) in figures._glyphs(chosen) and not capsys.readouterr().err
    assert axes.xaxis.label.get_fontproperties().get_file() is None
    figures.plt.close(figure)


def test_figures_stay_in_the_output_folder(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "dataset"} for row in made_rows()]
    report_of(rows, tmp_path, "--dataset", "../../up/a")
    names = sorted(os.listdir(str(tmp_path / "report")))
    assert [n for n in names if "psnr" in n] == ["..-..-up-a-psnr.png", "..-..-up-a-psnr.svg"]
    taken = set()
    stems = [rd_figures.file_stem(name, taken) for name in ("a/b", "a-b", "a\\b", "x, published")]
    assert stems == ["a-b", "a-b-2", "a-b-3", "x-published"]


def test_a_table_has_each_column_once():
    for columns in (tables.COLUMNS, tables.MEANS):
        assert len(set(columns)) == len(columns)


def test_no_number_is_minus_zero():
    columns = [("a", "a", "{:+.2f} dB"), ("b", "b", "{:.1f}"), ("c", "c", "{:+.2f}")]
    rows = [{"a": -0.004, "b": -0.04, "c": -0.006}, {"a": -10.0, "b": 0.0, "c": 0.004}]
    table = documents.Table("t", "t", columns, rows, [])
    assert documents.cells(table) == [["+0.00 dB", "0.0", "-0.01"], ["-10.00 dB", "0.0", "+0.00"]]
