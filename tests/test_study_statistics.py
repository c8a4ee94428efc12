"""Numbers of reports: gains, intervals, Bjøntegaard deltas and hulls, against plain loops."""

import csv
import itertools
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from scipy import integrate, interpolate, spatial
from test_study import LAMBDAS, made_rows, write_rows

from runtime.errors import InputError
from study import curves, documents, figures, rd_figures, report, selection, statistics, tables
from tools import paste_tables


def table_of(rows):
    return tables.frame(rows)


# --- Intervals -------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [3, 8, 24])
def test_intervals_of_gains_hold_the_truth(images):
    """In 95% ± 3 of simulated studies, whose images have gains around 5%, skewed to larger ones."""
    rng = np.random.RandomState(images)
    trials, held = 1000, 0
    for _ in range(trials):
        gains = 5 + rng.gamma(4, 0.5, images) - 2
        low, high = statistics.interval(lambda w, g=gains: g @ w, images, resamples=150)
        held += low <= 5 <= high
    assert held / trials == pytest.approx(0.95, abs=0.03)


def test_intervals_of_bd_rates_hold_the_truth():
    """Of images of any rate and quality, which a method saves 10% of the rate on average."""
    rng = np.random.RandomState(1)
    trials, images, held = 300, 10, 0
    rates, psnr = np.array([0.2, 0.35, 0.6, 1.0]), np.array([28.0, 30.1, 32.0, 33.7])
    for _ in range(trials):
        scale, saved = rng.lognormal(0, 0.4, images), rng.normal(0.1, 0.04, images)
        values = psnr[:, None] + rng.normal(0, 2, images)
        lines = [scale * rates[:, None], scale * (1 - saved) * rates[:, None]]
        anchor, curve = (
            curves.Curve("", "", [], {"rate": line, "psnr": values}, False) for line in lines
        )

        def statistic(weights, one=anchor, other=curve):
            measure = statistics.MEASURES["bd_rate"]
            both = [curves.line(c, "psnr", weights) for c in (one, other)]
            return statistics._bd(measure, *both, "cubic")

        low, high = statistics.interval(statistic, images, resamples=50)
        held += low <= -10 <= high
    assert held / trials == pytest.approx(0.95, abs=0.03)


def test_deltas_and_gains_of_a_report_are_those_of_its_rates(tmp_path):
    """A method that saves 10% on each image saves 10% whatever the images."""
    rows = made_rows(images="abc") + made_rows("sga", rate=0.9, images="abc")
    delta = statistics.delta(*curves.of_rows(table_of(rows), "est_bpp"))
    assert delta["bd_rate_low"] == pytest.approx(-10) == pytest.approx(delta["bd_rate_high"])
    one = [row for row in rows if row["image"] == "a"]
    delta = statistics.delta(*curves.of_rows(table_of(one), "est_bpp"))
    assert delta["bd_rate_low"] is None
    for row in rows[:4]:
        row["est_bpp"] *= 1.1
    delta = statistics.delta(*curves.of_rows(table_of(rows), "est_bpp"))
    assert delta["bd_rate_low"] < delta["bd_rate"] < delta["bd_rate_high"]


# --- Gains -----------------------------------------------------------------------------------


def noisy_rows(seed=0):
    """Rows of two methods, of which one has two seeds, with noise in the losses."""
    rng = np.random.RandomState(seed)
    rows = made_rows(seed=0, images="abc")
    for number in range(2):
        rows += made_rows("sga", seed=number, images="abc")
    return [{**row, "est_rd_loss": 2 + rng.rand()} for row in rows]


def test_gains_are_means_of_gains_of_images():
    rows = noisy_rows()
    loss = {(r["method"], r["image"], r["lambda"], r["seed"]): r["est_rd_loss"] for r in rows}

    def gain(image, lmbda, seed):
        return 100 * (1 - loss["sga", image, lmbda, seed] / loss["mbt2018", image, lmbda, 0])

    found = statistics.summary(statistics.gains(table_of(rows), "mbt2018"))
    of_images = [np.mean([gain(i, k, s) for k in LAMBDAS for s in (0, 1)]) for i in "abc"]
    of_seeds = [np.mean([gain(i, k, s) for k in LAMBDAS for i in "abc"]) for s in (0, 1)]
    assert found["gain"] == pytest.approx(np.mean(of_images))
    assert (found["images"], found["seeds"]) == (3, 2)
    assert found["gain_se"] == pytest.approx(np.std(of_images, ddof=1) / 3**0.5)
    assert found["gain_se_seeds"] == pytest.approx(np.std(of_seeds, ddof=1) / 2**0.5)
    expected = sum(
        np.mean([loss["sga", i, k, s] for s in (0, 1)]) < loss["mbt2018", i, k, 0]
        for i, k in itertools.product("abc", LAMBDAS)
    )
    wins = statistics.wins(table_of(rows))
    assert wins["sga", "mbt2018"] == (expected, 12)
    assert wins["mbt2018", "sga"] == (12 - expected, 12)


def test_seeds_that_are_not_complete_count_for_what_they_have():
    """Each λ counts once, and seeds are compared on what all have."""
    rows = [row for row in noisy_rows() if (row["seed"], row["lambda"]) != (1, LAMBDAS[0])]
    found = statistics.gains(table_of(rows), "mbt2018")
    of_lambdas = found.groupby(["image", "lambda", "seed"])["gain"].mean()
    by_seed = of_lambdas.drop(LAMBDAS[0], level="lambda").groupby("seed").mean()
    summary = statistics.summary(found)
    expected = of_lambdas.groupby(["image", "lambda"]).mean().mean()
    assert summary["gain"] == pytest.approx(expected)
    assert summary["gain_se_seeds"] == pytest.approx(np.std(by_seed, ddof=1) / 2**0.5)


def test_models_of_two_kinds_are_compared_by_their_names():
    """Where a λ has several models."""
    rows = []
    for size, factor in ((4, 1.0), (8, 0.5)):
        for method, kind, part in (("mbt2018", "mbt2018", 1.0), ("bb_sga", "mbt2018_bb", 0.9)):
            rows += made_rows(method, lambdas=(0.01,), model="{}-num_filters={}".format(kind, size))
            for row in rows[-2:]:
                row["est_rd_loss"] *= factor * part
    found = statistics.gains(table_of(rows), "mbt2018")
    assert len(found) == 4 and np.allclose(found["gain"], 10)


def test_each_method_is_compared_with_its_own_model_too(tmp_path):
    rows = made_rows(model="m") + made_rows("sga", rate=0.9, model="m")
    rows += made_rows("bb_plain", rate=0.8, model="n") + made_rows("bb_sga", rate=0.6, model="n")
    rows = [{**row, "model": "{}-{}".format(row["model"], row["lambda"])} for row in rows]
    path = write_rows(tmp_path / "images.csv", rows)
    report.main([path, "--output", str(tmp_path / "out")])
    with open(str(tmp_path / "out" / "bd.csv"), newline="") as file:
        found = {(r["method"], r["anchor"]): float(r["bd_rate"]) for r in csv.DictReader(file)}
    expected = {("sga", "mbt2018"): -10, ("bb_plain", "mbt2018"): -20, ("bb_sga", "mbt2018"): -40}
    expected["bb_sga", "bb_plain"] = -25
    assert found == {pair: pytest.approx(value) for pair, value in expected.items()}
    with open(str(tmp_path / "out" / "gains.csv"), newline="") as file:
        over_all = [row for row in csv.DictReader(file) if not row["lambda"]]
    assert {(r["method"], r["anchor"]): float(r["gain"]) for r in over_all} == found_gains(expected)


def found_gains(deltas):
    return {pair: pytest.approx(-value) for pair, value in deltas.items()}


# --- Bjøntegaard deltas ----------------------------------------------------------------------


def made_curve(rng, points, shift):
    rates = np.sort(rng.uniform(0.1, 2, points))
    psnr = 30 + 4 * np.log(rates / shift) + 0.3 * np.sort(rng.rand(points))
    found = [{"rate": r, "psnr": p, "msssim_db": p / 2} for r, p in zip(rates, psnr)]
    return curves.Curve("", "x", found, {}, False)


def fitted(x, y, interpolation):
    if interpolation == "pchip":
        return interpolate.PchipInterpolator(x, y)
    return np.polynomial.Polynomial.fit(x, y, 3)


@pytest.mark.parametrize("points", [(4, 4), (5, 7)])
def test_deltas_equal_a_numerical_integration(points):
    rng = np.random.RandomState(sum(points))
    for _ in range(5):
        anchor, curve = (made_curve(rng, n, s) for n, s in zip(points, (1, 0.9)))
        found = statistics.delta(anchor, curve)
        for name, measure in statistics.MEASURES.items():
            lines = []
            for one in (anchor, curve):
                rates = np.log([point["rate"] for point in one.points])
                values = np.array([point[measure.quality] for point in one.points])
                lines.append((rates, values) if measure.base == "rate" else (values, rates))
            low = max(x[0] for x, _ in lines)
            high = min(x[-1] for x, _ in lines)
            (first, last) = lines[0][0][[0, -1]]
            assert found[name + "_overlap"] == pytest.approx((high - low) / (last - first))
            for interpolation in statistics.INTERPOLATIONS:
                one, other = (fitted(x, y, interpolation) for x, y in lines)
                area, _ = integrate.quad(
                    lambda x, f=one, g=other: g(x) - f(x), low, high, limit=200
                )
                value = area / (high - low)
                value = value if measure.base == "rate" else 100 * (np.exp(value) - 1)
                assert found["{}_{}".format(name, interpolation)] == pytest.approx(value, rel=1e-5)


# --- Curves of several models ----------------------------------------------------------------


def test_one_model_at_several_lambdas_is_a_curve_of_its_own():
    """Whose name says so; the method's curve has the λ of each model's name."""
    rows = []
    for name, own in (("a-lmbda=0.01", 0.01), ("b-lmbda=0.03", 0.03)):
        rows += made_rows("sga", lambdas=(0.003, 0.01, 0.03), rate=1 + own, model=name)
        rows += made_rows(lambdas=(own,), model=name)
        rows += made_rows("map", lambdas=(own,), model=name)
    found = {c.method: c for c in curves.of_rows(table_of(rows), "est_bpp")}
    assert set(found) == {"mbt2018", "map", "sga", "sga of a-lmbda=0.01", "sga of b-lmbda=0.03"}
    pairs = [(point["model"], point["lambda"]) for point in found["sga"].points]
    assert sorted(pairs) == [("a-lmbda=0.01", 0.01), ("b-lmbda=0.03", 0.03)]
    assert [p["lambda"] for p in found["sga of b-lmbda=0.03"].points] == [0.003, 0.01, 0.03]
    (hull,) = (c for c in curves.of_rows(table_of(rows), "est_bpp", True) if c.method == "sga")
    assert len(hull.points) == 6


def test_a_hull_is_the_best_of_all_points():
    """As SciPy finds it: no point is above, and it rises."""
    rng = np.random.RandomState(0)
    for _ in range(20):
        points = [{"rate": r, "psnr": p} for r, p in zip(rng.rand(12) + 0.1, 30 * rng.rand(12))]
        rates, values = curves.line(curves.Curve("", "", points, {}, True), "psnr")
        assert (np.diff(rates) > 0).all() and (np.diff(values) > 0).all()
        everything = np.array([(p["rate"], p["psnr"]) for p in points])
        hull = everything[spatial.ConvexHull(everything).vertices]
        top, left = hull[hull[:, 1].argmax()], hull[hull[:, 0].argmin()]
        chord = np.interp(hull[:, 0], (left[0], top[0]), (left[1], top[1]))
        upper = hull[(hull[:, 1] >= chord - 1e-12) & (hull[:, 0] <= top[0])]
        expected = sorted(map(tuple, upper))
        assert list(zip(rates, values)) == [p for p in expected if p[0] >= left[0]]


# --- What is compared ------------------------------------------------------------------------


def test_an_unfinished_study_is_reported_on_what_all_have(tmp_path, capsys):
    rows = made_rows(images="abc") + made_rows("sga", rate=0.9, images="abc")[:9]
    path = write_rows(tmp_path / "images.csv", rows)
    report.main([path, "--output", str(tmp_path / "out")])
    text = capsys.readouterr().out
    note = "made: means over the 2 of 3 images that all have; some are not there yet of "
    assert note + "sga, λ = 0.01 and 2 more\n" in text
    whole = [row for row in rows if row["image"] != "c"]
    kept, _ = selection.comparable(table_of(rows))
    assert tables.means(kept.to_dict("records")) == tables.means(whole)
    # A method that has only begun does not take away all that others have.
    rows += made_rows("map", images="d")[:1]
    kept, (first, _) = selection.comparable(table_of(rows))
    assert set(kept["method"]) == {"mbt2018", "sga"}
    assert (
        first == "made, map, λ = 0.003: left out, as it has only 1 of 4 images and they share none"
    )


def test_folders_that_share_tasks_give_one_row(tmp_path):
    rows = made_rows() + made_rows("sga", rate=0.9)
    rows = [{**row, "task": str(index)} for index, row in enumerate(rows)]
    for name, part in (("one", rows[:10]), ("two", rows[4:])):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "images.csv", part)
    found, _ = curves.read([str(tmp_path / "one"), str(tmp_path / "two")], "")
    assert [row["task"] for row in found] == [row["task"] for row in rows]
    # The same without a task may be anything.
    for row in rows:
        row["task"] = ""
    with pytest.raises(InputError, match="mbt2018, λ = 0.003: a twice"):
        selection.comparable(table_of(rows + rows[:1]))


def test_results_of_a_study_without_its_table_are_read(tmp_path):
    """As after a kill; several seeds are one method."""
    folder = tmp_path / "tasks" / "sga" / "m"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        values = {"script": "sga", "method": "sga --lr 1", "runname": "m", "lmbda": 0.01}
        values.update(image="a", input="a.png", seed=seed, task=str(seed), psnr=np.ones(1))
        np.savez(str(folder / "a-{}.npz".format(seed)), est_bpp=np.ones(1) + seed, **values)
    rows, _ = curves.read([str(tmp_path)], "made")
    assert [(row["method"], row["seed"]) for row in rows] == [("sga --lr 1", 0), ("sga --lr 1", 1)]
    (mean,) = tables.means(rows)
    assert (mean["est_bpp"], mean["images"], mean["seeds"]) == (1.5, 1, 2)
    # Once the table is there, it says which results count.
    write_rows(tmp_path / "images.csv", made_rows())
    assert {row["method"] for row in curves.read([str(tmp_path)], "")[0]} == {"mbt2018"}


def test_classical_codecs_have_a_quality_in_place_of_lambda(tmp_path):
    rows = [{**row, "quality": ""} for row in made_rows()]
    for index, row in enumerate(made_rows("jpeg", rate=1.3)):
        rows.append(
            {**row, "lambda": "", "model": "", "est_rd_loss": "", "quality": 10 + index % 4}
        )
    path = write_rows(tmp_path / "images.csv", rows)
    report.main([path, "--output", str(tmp_path / "out")])
    with open(str(tmp_path / "out" / "bd.csv"), newline="") as file:
        (delta,) = csv.DictReader(file)
    assert (delta["method"], float(delta["bd_rate"])) == ("jpeg", pytest.approx(30))
    with open(str(tmp_path / "out" / "points.csv"), newline="") as file:
        points = [row for row in csv.DictReader(file) if row["method"] == "jpeg"]
    assert [point["quality"] for point in points] == ["10", "11", "12", "13"]
    # Rates are of the file; seeds and λ do not matter to the order.
    again = tables.read_csv(path, "")
    assert [row["method"] for row in tables.in_order(again)][-1] == "jpeg"


# --- Tables to paste -------------------------------------------------------------------------


def test_tables_are_the_same_in_all_formats():
    rows = [{"a": "x_1 & 50%", "b": -1.5}, {"a": "y|z λ", "b": None}]
    columns = [("na_me", "a", "{}"), ("value", "b", "{:+.2f}%"), ("none", "c", "{}")]
    table = documents.Table("made", "Title with λ_1", columns, rows, ["A note: 50%."])
    text = documents.as_text(table).splitlines()
    assert text == ["na_me       value", "x_1 & 50%  -1.50%", "y|z λ           –", "A note: 50%."]
    lines = documents.as_markdown(table).splitlines()
    assert lines[1].startswith("|:--") and lines[1].endswith("--:|")
    assert [cell.strip() for cell in lines[2].split("|")] == ["", "x_1 & 50%", "-1.50%", ""]
    assert r"y\|z λ" in lines[3]
    latex = documents.as_latex(table)
    assert latex.isascii() if hasattr(latex, "isascii") else latex.encode("ascii")
    assert r"x\_1 \& 50\%" in latex and r"\ensuremath{-}1.50\%" in latex
    assert r"\caption{Title with \ensuremath{\lambda}\_1}" in latex and r"A note: 50\%." in latex
    assert latex.count(r"\\") == 3 and latex.count("{") == latex.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the PATH")
def test_latex_sets_all_tables_of_a_report_within_the_line(tmp_path):
    rows = made_rows(seed=0) + made_rows("sga --preset fast", rate=0.9, seed=0)
    rows += made_rows("sga --preset best", rate=0.8, seed=0)
    report.main([write_rows(tmp_path / "images.csv", rows), "--output", str(tmp_path)])
    lines = r"\documentclass{article} \usepackage{booktabs,graphicx} \begin{document}"
    (tmp_path / "paper.tex").write_text(lines + r"\input{report.tex} \end{document}")
    command = ["pdflatex", "-halt-on-error", "paper.tex"]
    process = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE)
    assert process.returncode == 0 and b"Overfull" not in process.stdout
    assert (tmp_path / "paper.pdf").exists()
    assert "sga -{}-preset fast" in (tmp_path / "report.tex").read_text()


def test_what_documents_say_of_the_lowest_rates_of_the_paper():
    def curve(method):
        rates, psnr = np.loadtxt("results/kodak/{}-psnr.csv".format(method), delimiter=",")[:4].T
        points = [{"rate": rate, "psnr": db} for rate, db in zip(rates, psnr)]
        return curves.Curve("", method, points, {}, True)

    texts = [pathlib.Path(path).read_text("utf-8") for path in ("README.md", "docs/results.md")]
    for method in ("sga", "bb_sga"):
        found = statistics.delta(curve("mbt2018"), curve(method))
        for text, rate in zip(texts, ("{bd_rate:.1f}%", "{bd_rate:.2f}%")):
            said = (rate + " and {bd_psnr:+.3f} dB").format(**found)
            assert said in " ".join(text.split())


def test_tables_of_the_documents_are_those_of_the_results():
    """`python -m tools.paste_tables` writes them."""
    number = 0
    for path in paste_tables.documents():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert paste_tables.pasted(text) == text
        number += text.count("<!-- table: ")
    assert number >= 3
    block = "<!-- table: results/nine/report.md, {} -->\nold\n<!-- end of table -->"
    whole = paste_tables.pasted(block.format("Gains"))

    def gain(method):
        lines = ([cell.strip() for cell in line.split("|")] for line in whole.splitlines()[1:-1])
        (cells,) = (cells for cells in lines if cells[1] == method)
        return cells[4]

    part = paste_tables.pasted(block.format("Gains; columns: gain, method; rows: sga, ste"))
    cells = [[cell.strip() for cell in line.split("|")] for line in part.splitlines()[1:-1]]
    assert [row[1:-1] for row in cells] == [
        ["gain", "method"],
        [cells[1][1], cells[1][2]],
        [gain("sga"), "sga"],
        [gain("ste"), "ste"],
    ]
    for wrong, message in (
        ("Nothing", "no heading that begins with Nothing"),
        ("Gains; columns: x", "nothing is called x"),
        ("Gains; rows: y", "nothing is called y"),
    ):
        with pytest.raises(LookupError, match=message):
            paste_tables.pasted(block.format(wrong))


# --- Figures ---------------------------------------------------------------------------------


def test_everyone_has_a_colour_of_their_own():
    """Whatever else is drawn; black is the base model's."""
    names = ["mbt2018", "cosine", "mine", "sga", "jpeg", "jpeg2000", "webp", "mine --flag 3"]
    looks = figures.looks(names)
    colours = {name: looks[name]["color"] for name in names}
    assert colours["mbt2018"] == "#000000" and colours["mine"] == colours["mine --flag 3"]
    assert looks["mine"]["linestyle"] != looks["mine --flag 3"]["linestyle"]
    assert len(set(colours.values())) == len(names) - 1
    assert figures.looks(["jpeg", "sga"])["sga"] == looks["sga"]
    assert figures.looks(["cosine"])["cosine"]["color"] not in figures.COLOURS


def test_markers_of_the_gain_figure_do_not_hide_each_other():
    gains = {name: {image: 5.0 for image in "abcdefgh"} for name in ("sga", "map", "ste", "mine")}
    figure = rd_figures.draw_gains(gains, "mbt2018", figures.looks(gains))
    (axes,) = figure.axes
    figure.canvas.draw()
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 8]
    places = np.concatenate([axes.transData.transform(line.get_xydata())[:, 0] for line in lines])
    pixels = 5 * figure.dpi / 72  # of a marker
    assert len(places) == 32 and np.diff(np.sort(places)).min() > pixels
    figures.plt.close(figure)


def test_axes_show_what_matters():
    """The learned methods', with classical codecs where they are near."""
    rows = made_rows() + made_rows("sga", rate=0.9)
    found = curves.of_rows(table_of(rows), "est_bpp")
    points = [{"rate": r, "psnr": p} for r, p in ((0.01, 10.0), (2.0, 31.0), (50.0, 60.0))]
    found.append(curves.Curve("made", "jpeg", points, {}, False))
    looks = figures.looks([curve.method for curve in found])
    figure = rd_figures.draw_curves(found, [], "psnr", "est_bpp", looks)
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 5
    low, high = axes.get_ylim()
    assert 27 < low < 28.5 and 34.5 < high < 36
    figures.plt.close(figure)
