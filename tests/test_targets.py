"""Results of a given size, rate or PSNR, through the command lines, and the steering of λ."""

import os

import conftest
import numpy as np
import pytest
from conftest import ROOT, run_script, runs
from PIL import Image

import study.targets
from coding import container, writers
from inference import steering, targets
from model import checkpoints
from runtime.errors import InputError
from study import documents

RUNS = runs("-num_filters=8-lmbda=0.02")
COFFEE = np.asarray(Image.open(os.path.join(ROOT, "samples", "coffee.png")).convert("RGB"))

PIXELS = 160 * 192

# As few iterations as move latents at all.
# The models were trained with a larger λ, with which their rate hardly depends on it.
LAMBDA, ITS = 0.004, 80
OWN = ("--lambda", LAMBDA, "--sga_its", ITS)
SETTINGS = {
    "sga": (*OWN, "--preset", "fast", "--lr", 0.1),
    "unoise": (*OWN, "--lr", 0.05),
    "map": (*OWN, "--lr", 0.05),
    "danneal": (*OWN, "--lr", 0.05, "--annealing_rate", 0.04),
    "bb_sga": (*OWN, "--preset", "fast", "--lr", 0.1, "--r_its", 100),
}


# A model whose rate does follow λ.
RUN = "mbt2018-num_filters=32-lmbda=0.003"
DEMO = (conftest.DEMO_DIR, "--preset", "fast")


@pytest.fixture
def photo(tmp_path):
    """The path of a crop of 160 × 192 pixels."""
    path = str(tmp_path / "photo.png")
    Image.fromarray(COFFEE[150:342, 250:410]).save(path)
    return path


def compress(script, folder, image, models, *flags, run=None, **kwargs):
    run = run or RUNS[script]
    output = (folder / "out.tfci",)
    kwargs = {"output": output, "checkpoint_dir": models, **kwargs}
    return conftest.compress(script, run, image, folder, *flags, "--overwrite", **kwargs)


def refused(capsys, *args, **kwargs):
    """The one line with which a command line is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        compress(*args, **kwargs)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and "Traceback" not in error
    lines = [
        line for line in error.splitlines() if not line.startswith(("usage", " ", "note: MS-SSIM"))
    ]
    assert len(lines) == 1, error
    return lines[0]


def decoded(script, folder, models, run):
    """The pixels of out.tfci, decoded in a fresh process."""
    process = run_script(
        script,
        *("--checkpoint_dir", models, "decompress", run),
        *(folder / "out.tfci", folder / "out.png"),
    )
    assert process.returncode == 0, process.stderr
    return np.asarray(Image.open(str(folder / "out.png")))


@pytest.mark.parametrize("script", ["map"])  # with these models, others hardly follow λ
def test_rates(script, photo, shipped, tmp_path):
    """Asked for the rate of a run at fixed λ, a method finds it and its loss from another."""
    plain = compress(script, tmp_path, photo, shipped, *SETTINGS[script])
    key = "net_bpp" if script == "bb_sga" else "actual_bpp"
    rate = round(float(plain[key][0]), 4)
    flags = (*SETTINGS[script], "--target_bpp", rate, "--lambda", LAMBDA / 4)
    result = compress(script, tmp_path, photo, shipped, *flags)
    assert result[key][0] == pytest.approx(rate, rel=0.01)
    assert result["target_bpp"] == rate and result["lmbda"] == LAMBDA / 4
    assert "-target_bpp={:g}+".format(rate) in result["result_file"]
    assert result["more_its"] <= 0.4 * ITS
    losses = [LAMBDA * r["mse"][0] + r["est_bpp"][0] for r in (plain, result)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    loss = result["lmbda_found"] * result["mse"] + result["est_bpp"]
    assert result["est_rd_loss"] == pytest.approx(loss, rel=1e-4)
    assert len(result["steered_its"]) == len(result["steered_lmbda"])


def test_sizes(photo, tmp_path):
    """Files never exceed the size, and decode in a fresh process to the PSNR that is reported."""
    plain = compress("sga", tmp_path, photo, *DEMO, run=RUN)
    whole = plain["actual_bpp"][0] * PIXELS / 8
    for part in (0.9, 0.97):
        size = int(part * whole)
        result = compress("sga", tmp_path, photo, *DEMO, "--max_bytes", size, run=RUN)
        written = os.path.getsize(str(tmp_path / "out.tfci"))
        assert 0.98 * size <= written <= size
        assert written == result["actual_bpp"][0] * PIXELS / 8
    pixels = decoded("sga", tmp_path, conftest.DEMO_DIR, RUN)
    mse = np.mean((pixels.astype(float) - np.asarray(Image.open(photo))) ** 2)
    assert 10 * np.log10(255**2 / mse) == pytest.approx(result["psnr"][0], abs=0.01)


def test_psnr(photo, tmp_path):
    plain = compress("sga", tmp_path, photo, *DEMO, run=RUN)
    for offset in (-0.5,):
        psnr = round(float(plain["psnr"][0]) + offset, 2)
        result = compress("sga", tmp_path, photo, *DEMO, "--target_psnr", psnr, run=RUN)
        assert result["psnr"][0] == pytest.approx(psnr, abs=0.02)
        assert (result["est_bpp"][0] - plain["est_bpp"][0]) * offset > 0


def test_a_choice_of_models(photo, shipped, tmp_path, capsys):
    """Of two models, that with the rate closer to the target, by files of mbt2018.py."""
    sizes = {}
    for name in (RUNS["mbt2018"], RUNS["mbt2018"] + "-sharp"):
        compress("mbt2018", tmp_path, photo, shipped, run=name)
        sizes[os.path.getsize(str(tmp_path / "out.tfci"))] = name
    small, large = sorted(sizes)
    pattern = {"run": "mbt2018-*"}
    for limit, size in ((large, large), (large - 1, small)):
        result = compress("mbt2018", tmp_path, photo, shipped, "--max_bytes", limit, **pattern)
        assert str(result["runname"]) == sizes[size]
        assert os.path.getsize(str(tmp_path / "out.tfci")) == size
        assert "of 2 models, {} is taken".format(sizes[size]) in capsys.readouterr().err
    line = refused(capsys, "mbt2018", tmp_path, photo, shipped, "--max_bytes", small - 1, **pattern)
    assert "the smallest file is one of {} bytes, with {}".format(small, sizes[small]) in line
    rate = 1.02 * large * 8 / PIXELS
    result = compress("mbt2018", tmp_path, photo, shipped, "--target_bpp", rate, **pattern)
    assert str(result["runname"]) == sizes[large]


def test_estimated_rates(photo, shipped, tmp_path, capsys):
    """With --estimate_only, q(z|y) is fitted to the latents that meet the target."""
    flags = ("--preset", "fast", "--sga_its", 30, "--r_its", 30, "--r_lr", 0.02, "--z_spacing", 0.5)
    flags = (*flags, "--target_psnr", 21.9)
    coded = compress("bb_sga", tmp_path, photo, shipped, *flags, run="mbt2018_bb-*")
    flags = (*flags[:-4], *flags[-2:], "--estimate_only")
    estimated = compress("bb_sga", tmp_path, photo, shipped, *flags, run="mbt2018_bb-*", output=())
    assert str(estimated["runname"]) == str(coded["runname"])
    assert estimated["psnr"][0] == pytest.approx(21.9, abs=0.02)
    assert estimated["est_bpp"][0] == pytest.approx(coded["est_bpp"][0], rel=0.01)


def test_what_no_lambda_can_reach(photo, shipped, tmp_path, capsys):
    flags = ("--preset", "fast", "--sga_its", 10, "--target_psnr", 45)
    flags = (*flags, "--save_reconstruction")
    line = refused(capsys, "sga", tmp_path, photo, shipped, *flags)
    assert "--target_psnr 45: with " + RUNS["sga"] + ", λ leads to 2" in line
    assert "closer" in line and os.listdir(str(tmp_path)) == ["photo.png"]
    # A size that is more than the model can use is no error.
    flags = (*flags[:4], "--max_bytes", 20000)
    result = compress("sga", tmp_path, photo, shipped, *flags)
    assert "λ leads to" in capsys.readouterr().err
    assert result["lmbda_found"][0] > 0.02


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("sga", ("--target_bpp", 0), "0 is not above 0"),
        ("sga", ("--max_bytes", -5), "-5 is not above 0"),
        ("sga", ("--max_bytes", "many"), "'many' is not a whole number"),
        ("sga", ("--max_bytes", 18), "--max_bytes 18: no more than the 18 bytes of a file without"),
        (
            "sga",
            ("--sga_its", 1, "--target_bpp", 24),
            "not less than the 24.0000 bpp of the image's own pixels",
        ),
        ("sga", ("--target_psnr", 98), "above 97.78 dB there is only the image itself"),
        ("sga", ("--target_bpp", 1, "--target_psnr", 30), "--target_bpp and --target_psnr: give"),
        ("bb_plain", ("--target_bpp", 1), "not known to this command: --target_bpp 1"),
        ("bb_no_sga", ("--max_bytes", 900), "not known to this command: --max_bytes 900"),
        ("mbt2018", ("--target_bpp", 1), "can only choose a model; outside of studies, give"),
    ],
)
def test_targets_that_cannot_be(script, flags, message, photo, shipped, tmp_path, capsys):
    assert message in refused(capsys, script, tmp_path, photo, shipped, *flags)
    assert not (tmp_path / "out.tfci").exists()


def test_what_targets_need(photo, shipped, tmp_path, capsys):
    line = refused(capsys, "sga", tmp_path, photo, shipped, "--max_bytes", 900, output=())
    assert "--max_bytes 900: needs a file to write" in line
    np.save(str(tmp_path / "two.npy"), np.stack([COFFEE[:64, :64]] * 2))
    line = refused(capsys, "sga", tmp_path, tmp_path / "two.npy", shipped, "--target_bpp", 1)
    assert "holds 2 images; a target is for one" in line
    line = refused(capsys, "sga", tmp_path, photo, shipped, "--target_bpp", 1, run="none-*")
    assert "none-*: no such run folder" in line
    line = refused(capsys, "sga", tmp_path, photo, shipped, run="mbt2018-*")
    assert "mbt2018-*: a pattern of run names needs a target" in line
    flags = ("--estimate_only", "--max_bytes", 900)
    line = refused(capsys, "bb_sga", tmp_path, photo, shipped, *flags, output=())
    assert "--max_bytes 900: not with --estimate_only" in line


def test_a_size_taken_back(photo, shipped, tmp_path):
    """A bits-back writer that takes an image back writes the file that it would have without it."""
    run = checkpoints.find_run(str(shipped), RUNS["bb_sga"])
    rng = np.random.RandomState(0)
    one, two = ({"y": np.float32(3 * rng.randn(6, 6, 8))} for _ in range(2))

    def content(*images):
        writer = writers.BitsBackWriter(run, 0.125, container.Settings(), 0, "")
        for latents in images:
            writer.add(latents, (96, 96), None)
            writer.finish()
            if latents is two:
                writer.take_back()
        return writer.finish()[0]

    assert content(two, one) == content(one)


def test_the_best_attempt_is_kept(photo, tmp_path, monkeypatch):
    """Of three files, the second is the only one that is nearly as large as it may be."""
    lambdas = []
    contents, misses, finish = [], steering.Steering.misses, writers.GridWriter.finish

    def missed(self, bits, psnr):
        attempt = len(self._tried)
        misses(self, bits * (0.9, 1.1, 1)[attempt], psnr)  # so that the next one differs
        result = np.log(8 * 800 * (0.5, 0.97, 1.1)[attempt])
        lambdas.append(self.lmbda * 1.5**attempt)
        self._tried[-1] = lambdas[-1], result
        contents.append(last["content"])
        return True

    last = {}

    def finished(self):
        last["content"], bits = finish(self)
        return last["content"], bits

    def exhausted(self):
        return len(self._tried) == 3

    monkeypatch.setattr(steering.Steering, "misses", missed)
    monkeypatch.setattr(steering.Steering, "exhausted", property(exhausted))
    monkeypatch.setattr(writers.GridWriter, "finish", finished)
    result = compress("sga", tmp_path, photo, *DEMO, "--max_bytes", 800, run=RUN)
    assert len(set(contents)) == 3
    with open(str(tmp_path / "out.tfci"), "rb") as file:
        assert file.read() == contents[1]
    assert result["lmbda_found"] == pytest.approx(lambdas[1])
    loss = result["lmbda_found"] * result["mse"] + result["est_bpp"]
    assert result["est_rd_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_net_size_below_nothing_is_no_hit():
    target = targets.Target("max_bytes", 100, 1024)
    steered = steering.Steering.__new__(steering.Steering)
    steered.target, steered.lmbda, steered._offset, steered._log = target, 0.01, 0.0, 1.0
    steered._tried = []
    assert steered.misses(-80.0, 30.0) and target.side(steered.result) == -1


# --- The controller --------------------------------------------------------------------------


class Plant:
    """A stage whose result follows λ with a lag: d log r / dt = (slope · log λ - log r) / lag."""

    def __init__(self, slope, lag, its):
        self.slope, self.lag, self.its = slope, lag, its
        self.rounded_figures = {"bpp": "bpp", "psnr": "psnr"}
        self.remember, self.go_back = "remember", "go back"

    def begin(self, log, log_lambda):
        self.log, self.own, self.log_lambda = log, (log, log_lambda), log_lambda

    def run(self, fetch):
        if fetch == "remember":
            self.kept = self.log
        elif fetch == "go back":
            self.log = self.kept
        return np.exp(self.log)

    def step(self):
        rest = self.own[0] + self.slope * (self.log_lambda - self.own[1])
        self.log += (rest - self.log) / self.lag

    def again(self, session, position, number):
        self.step()


@pytest.mark.parametrize("slope", [0.05, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("lag", [0.05, 0.2])
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("its", [100, 2000])
def test_steering_of_a_lag(slope, lag, ratio, its):
    """Against a simulated run: the target is met, and λ is the one that holds it there."""
    plant = Plant(slope, lag * its, its)

    class Variable:
        start = 0.01

        @staticmethod
        def set(session, value):
            plant.log_lambda = np.log(value)

    class Method:
        stages, landing = [plant], 0.7

    target = targets.Target("target_bpp", 0.3 * ratio, 10**6)
    steered = steering.Steering(target, Method, Variable)
    plant.begin(np.log(0.3), np.log(0.01))
    steered.begin(plant)
    for t in range(its):
        plant.step()
        steered.after(plant, t)
    steered.land(plant)
    right = np.log(ratio) / slope
    reachable = abs(right) < np.log(steering.FACTOR) / 2
    if reachable:
        assert np.exp(plant.log) == pytest.approx(0.3 * ratio, rel=0.01)
        assert steered.record()["more_its"] <= 0.4 * its
    else:  # as far towards it as λ goes
        assert np.sign(right) * np.log(steered.lmbda / 0.01) > 3
    if reachable and slope > 0.1:
        assert slope * abs(np.log(steered.lmbda / 0.01) - right) < (0.05 if lag < 0.1 else 0.1)


# --- The evaluation --------------------------------------------------------------------------


def test_a_summary_of_rates():
    """A target that was missed counts as such, and in nothing else."""
    figures = {"iterations": 1.1, "seconds": 1.2, "loss": 0.003}
    rows = [
        {"factor": 1.0, "error": -0.004, **figures},
        {"factor": 1.0, "error": 0.002, **{**figures, "loss": -0.001}},
        {"factor": 0.5, **dict.fromkeys(study.targets.RATES, np.nan)},
    ]
    for row in rows:
        row.update({key: 0.0 for key in study.targets.RATES if key not in row})
    lines = documents.cells(study.targets.summary(rows))
    assert ["0.5", "0 of 1", *["–"] * 5] in lines
    assert ["1", "2 of 2", "0.40%", "1.10", "1.20", "+0.10%", "+0.30%"] in lines


def test_hits_are_counted(photo, tmp_path, monkeypatch):
    """Of a method whose file is as large as asked, or 5% smaller, and whose PSNR is 0.01 dB off."""

    class Runs:
        def __init__(self, image, method, args, folder):
            self.folder, self.pixels = folder, image.height * image.width

        def result(self, runname, output, size=1000, psnr=30.0):
            with open(output, "wb") as file:
                file.write(bytes(int(size)))
            bpp = [8 * size / self.pixels]
            figures = {"psnr": [psnr], "est_bpp": bpp, "actual_bpp": bpp, "mse": [65.0]}
            return {"lmbda": 0.01, "seconds": [2.0], **figures}

        def result_if_met(self, runname, output, flag, aim):
            if flag == "--max_bytes":
                return self.result(runname, output, size=aim if aim > 800 else int(0.95 * aim))
            return self.result(runname, output, psnr=aim + 0.01) if aim >= 30 else None

    monkeypatch.setattr(study.targets, "Runs", Runs)
    argv = ["hits", str(photo), "--method", "ste --lr 5e-3", "sga", "--output", str(tmp_path)]
    study.targets.main(argv)
    lines = (tmp_path / "hits.md").read_text().splitlines()[-4:-2]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["ste --lr 5e-3", "--max_bytes", "3 of 5", "0", "0.00%", "1.00"],
        ["ste --lr 5e-3", "--target_psnr", "2 of 5", "–", "0.010 dB", "1.00"],
    ]
    # A complete table stays until the next one is complete.
    before = (tmp_path / "hits.csv").read_bytes()
    met, left = Runs.result_if_met, [1, 2]

    def interrupted(*args):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return met(*args)

    monkeypatch.setattr(Runs, "result_if_met", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.targets.main(argv)
    assert (tmp_path / "hits.csv").read_bytes() == before
    assert len((tmp_path / "hits-begun.csv").read_text().splitlines()) > 1


@pytest.mark.parametrize(
    "argv, message",
    [
        (("hits", "--bytes", "9"), "--bytes: not for hits"),
        (("rates", "--method", "sga", "map"), "--method: rates takes one"),
        (("rates", "--models", "x"), "--models: not for rates"),
        (("steps", "--runname", "x"), "--runname: not for steps"),
        (("steps", "--bytes", "9"), "--bytes: not for steps"),
        (("rates", "--method", "mbt2018"), "--method mbt2018: has no --target_bpp to choose"),
        (("steps", "--method", "bb_sga"), "--method bb_sga: has no --step to choose"),
        (("picture", "--method", "bb_no_sga"), "--method bb_no_sga: has no --max_bytes"),
    ],
)
def test_options_that_a_part_of_the_evaluation_does_not_use(argv, message, photo):
    with pytest.raises(InputError, match=message):
        study.targets.main([argv[0], str(photo), *argv[1:]])


def test_a_summary_of_steps():
    """Means over the images; a way with a tenth less rate at equal PSNR has a BD-rate of -10%."""
    rows = [
        {"image": image, "way": way, "model": "m", "lambda": lmbda, "est_bpp": bpp, "psnr": psnr}
        for image, more in (("a", 0.9), ("b", 1.1))
        for way, factor in (("λ", 1.0), ("λ and step", 0.9))
        for lmbda, bpp, psnr in (
            *((1, 0.1 * factor * more, 25), (2, 0.2 * factor * more, 27)),
            *((4, 0.4 * factor * more, 29), (8, 0.8 * factor * more, 31)),
        )
    ]
    lines = documents.cells(study.targets.step_summary(rows))
    assert ["λ", "0.100", "0.800", "25.00", "31.00", "–", "–"] in lines
    (line,) = (line for line in lines if line[0] == "λ and step")
    assert line[1:3] == ["0.090", "0.720"] and line[5] == "-10.0%"
    (panel,) = study.targets.draw_steps(rows).axes
    assert panel.lines[1].get_xdata() == pytest.approx([0.09, 0.18, 0.36, 0.72])
