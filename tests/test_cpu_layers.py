"""CPU layers and tiles, compared with TensorFlow's own operations and the baseline graph."""

import os
import subprocess
import sys

import numpy as np
import plain
import pytest
from conftest import DEMO, DEMO_DIR, ROOT

import bb_no_sga
import sga
import tf_boilerplate
from inference.evaluation import Evaluation
from inference.noise import Noise, image_keys
from model import checkpoints, cpu_layers, hyperprior, patch_products, stored, tiling, winograd
from runtime import machine
from runtime.quiet_tf import tf


@pytest.fixture(autouse=True)
def generator():
    """Each test draws its data from a generator of its own, so that none depends on another."""
    global RNG
    RNG = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def fresh_graph():
    with tf.Graph().as_default():
        yield


def constant(*shape):
    return tf.constant(RNG.normal(0, 1, shape), tf.float32)


def kernels(*shape):
    """A kernel as a constant, and as in training, where it is not constant."""
    kernel = constant(*shape)
    return kernel, tf.identity(kernel)


def with_gradients(y, *inputs):
    """Values of `y`, and its gradients weighted with fixed random numbers."""
    pull = tf.constant(np.random.RandomState(1).normal(0, 1, y.shape), tf.float32)
    with tf.Session() as session:
        return session.run([y, *tf.gradients(y, inputs, pull)])


def assert_close(ours, theirs, error):
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=error * np.abs(b).max())


def plain_up(x, kernel):
    n, h, w, _ = x.shape.as_list()
    shape = (n, 2 * h + 3, 2 * w + 3, int(kernel.shape[3]))
    kernel = tf.transpose(kernel, (0, 1, 3, 2))
    up = tf.nn.conv2d_transpose(x, kernel, shape, strides=2, padding="VALID")
    return up[:, 2 : 2 + 2 * h, 2 : 2 + 2 * w]


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (13, 4)])
@pytest.mark.parametrize("channels", [(3, 20), (20, 3), (17, 18)])
def test_convolutions(size, channels):
    """With gradients of inputs and of weights."""
    x = constant(2, *size, channels[0])
    for kernel in kernels(5, 5, *channels):
        ours = with_gradients(cpu_layers.conv_up(x, kernel), x, kernel)
        assert_close(ours, with_gradients(plain_up(x, kernel), x, kernel), 2e-6)
        ours = with_gradients(cpu_layers.conv_down(x, kernel), x, kernel)
        theirs = tf.nn.conv2d(x, kernel, strides=2, padding=[[0, 0], [2, 2], [2, 2], [0, 0]])
        assert_close(ours, with_gradients(theirs, x, kernel), 2e-6)


@pytest.mark.parametrize("support", [3, 5])
@pytest.mark.parametrize("channels", [3, 17])
def test_convolution_without_stride(support, channels):
    x = constant(2, 5, 8, channels)
    for kernel in kernels(support, support, channels, 7):
        ours = with_gradients(cpu_layers.conv(x, kernel), x, kernel)
        theirs = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
        assert_close(ours, with_gradients(theirs, x, kernel), 2e-6)


@pytest.mark.parametrize("limit", [1, 10000])
def test_patches_of_a_few_images_at_a_time(limit, monkeypatch):
    """One image, and two or one of three: 20 positions of 25 taps and 17 channels are 34 kB."""
    monkeypatch.setattr(patch_products, "PATCHES_BYTES", 7 * limit)
    x, kernel = constant(3, 7, 10, 17), tf.identity(constant(5, 5, 17, 6))
    ours = with_gradients(cpu_layers.conv_down(x, kernel), kernel)
    theirs = tf.nn.conv2d(x, kernel, strides=2, padding=[[0, 0], [2, 2], [2, 2], [0, 0]])
    assert_close(ours, with_gradients(theirs, kernel), 2e-6)
    operations = [op for op in tf.get_default_graph().get_operations() if op.type == "GatherV2"]
    assert len(operations) == {1: 3, 10000: 2}[limit]


@pytest.mark.parametrize("channels", [3, 20])
def test_bias_and_error(channels):
    x, target, bias = constant(2, 5, 8, channels), constant(2, 5, 8, channels), constant(channels)
    ours, theirs = cpu_layers.bias_add(x, bias), x + bias
    assert_close(with_gradients(ours, x, bias), with_gradients(theirs, x, bias), 2e-6)
    theirs = tf.reduce_mean(tf.math.squared_difference(target, x), axis=(1, 2, 3))
    ours = cpu_layers.mean_squared_error(target, x)
    assert_close(with_gradients(ours, x), with_gradients(theirs, x), 2e-6)


def allow_winograd(monkeypatch):
    """Uses Winograd's filtering even for a few channels and tiles."""
    monkeypatch.setattr(cpu_layers, "WINOGRAD_CHANNELS", 8)
    monkeypatch.setattr(cpu_layers, "WINOGRAD_TILES", 1)


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (7, 13)])
def test_winograd(size, monkeypatch):
    allow_winograd(monkeypatch)
    x, kernel = constant(2, *size, 24), constant(5, 5, 24, 9)
    ours = with_gradients(cpu_layers.conv_up(x, kernel, winograd=True), x)
    theirs = with_gradients(plain_up(x, kernel), x)
    assert_close(ours, theirs, 1e-5)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(ours, theirs)), "not Winograd's"


@pytest.mark.parametrize("size", [(2, 4), (7, 6)])
def test_winograd_in_training(size, monkeypatch):
    """With gradients of inputs, and of weights shared by two convolutions."""
    monkeypatch.setattr(cpu_layers, "TRAINED_CHANNELS", 8)
    monkeypatch.setattr(cpu_layers, "TRAINED_TILES", 1)
    kernel = tf.identity(constant(5, 5, 24, 9))
    small, large = constant(2, *size, 24), constant(2, 2 * size[0], 2 * size[1], 24)
    ours, theirs = cpu_layers.conv_up(small, kernel), plain_up(small, kernel)
    ours, theirs = (with_gradients(y, small, kernel) for y in (ours, theirs))
    assert_close(ours, theirs, 1e-5)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(ours, theirs)), "not Winograd's"

    halves = tf.split(large, 2)
    ours = tf.concat([cpu_layers.conv_down(half, kernel) for half in halves], 0)
    theirs = tf.nn.conv2d(large, kernel, strides=2, padding=[[0, 0], [2, 2], [2, 2], [0, 0]])
    ours, theirs = (with_gradients(y, large, kernel) for y in (ours, theirs))
    assert_close(ours, theirs, 1e-5)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(ours, theirs)), "not Winograd's"


@pytest.mark.parametrize("outputs", [2, 4])
def test_toom_cook(outputs):
    a, g, b = winograd.toom_cook((0, 1, -1, 2, -0.5), outputs)
    d, taps = RNG.normal(0, 1, 6), RNG.normal(0, 1, 7 - outputs)
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ d)), np.correlate(d, taps, "valid"))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("strip, rows", [(100, 1024), (2**22, 1024), (2**22, 10)])
def test_gdn(inverse, strip, rows, monkeypatch):
    """Against TensorFlow's own gradients of the formula, in one strip and in many."""
    monkeypatch.setattr(cpu_layers, "STRIP_BYTES", strip)
    monkeypatch.setattr(cpu_layers, "MOMENT_ROWS", rows)
    x = constant(2, 5, 3, 7)
    beta, gamma = 1 + tf.math.abs(constant(7)), tf.math.abs(constant(7, 7))
    p = tf.math.square(x) @ gamma + beta
    plain_gdn = x * tf.math.sqrt(p) if inverse else x / tf.math.sqrt(p)
    ours = with_gradients(cpu_layers.gdn(x, beta, gamma, inverse), x, beta, gamma)
    assert_close(ours, with_gradients(plain_gdn, x, beta, gamma), 2e-6)


def test_gdn_with_weights_that_are_not_trained():
    x, weights = constant(2, 5, 3, 7), (1 + RNG.uniform(size=7), RNG.uniform(size=(7, 7)))
    frozen, trained = ([f(np.float32(w)) for w in weights] for f in (tf.constant, tf.identity))
    ours, others = (cpu_layers.gdn(x, *kind) for kind in (frozen, trained))
    assert tf.gradients(ours, frozen) == [None, None]
    assert_close(with_gradients(ours, x), with_gradients(others, x), 1e-7)
    half = [frozen[1], trained[0]]  # as long as one is trained, both have gradients
    assert None not in tf.gradients(cpu_layers.gdn(x, half[1], half[0]), half)


# --- Tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(12, 80, 3))
def test_spans(length):
    """Cores cover everything exactly once; halos reach two latents into the neighbours."""
    cut = tiling.spans(length, 11)
    places = [place for span in cut for place in range(span.core_begin, span.core_end)]
    assert places == list(range(length)) and len(cut) > 1
    for span in cut:
        end = span.begin + span.size
        assert span.size == cut[0].size <= 11 and span.begin >= 0 and end <= length
        assert span.begin in (0, *range(span.core_begin - 1)), "halo before"
        assert end in (length, *range(span.core_end + 2, length)), "halo behind"


WHOLE = 10**6


@pytest.mark.parametrize(
    "batch, size, areas",
    [
        (2, (171, 333), (11 * 21, 9 * 9)),  # an image at a time; tiles
        (2, (40, 611), (9 * 9,)),
        (4, (48, 37), (2 * 3 * 3,)),  # two images at a time
    ],
)
@pytest.mark.parametrize("as_tensor", [tf.constant, stored.store])
def test_pieces_equal_the_whole(as_tensor, batch, size, areas, monkeypatch):
    """Transforms, loss and gradients agree, for images of arbitrary size."""
    monkeypatch.setattr(stored, "SMALL", 0)
    run = checkpoints.find_run(DEMO_DIR, DEMO["sga"])
    weights = checkpoints.load(hyperprior.Mbt2018, run)
    values = []
    x = RNG.uniform(0, 1, (batch, *size, 3)).astype(np.float32)
    for area in (WHOLE, *areas):
        monkeypatch.setattr(tiling, "largest", lambda channels, area=area: area)
        with tf.Graph().as_default(), tf.Session() as session:
            model = hyperprior.build(hyperprior.Mbt2018, weights, as_tensor)
            y = model.analysis(tf.constant(x))
            z = model.hyper_analysis(y)["z"]
            loss, metrics = model.rate_distortion(tf.constant(x), 0.01, y=y, z=z)
            loops = [op for op in session.graph.get_operations() if op.type == "Exit"]
            assert bool(loops) == (area < WHOLE)
            gradients = tf.gradients(metrics["mse"], y)
            session.run(tf.global_variables_initializer())
            values.append(session.run([y, metrics["mse"], loss, metrics["x_tilde"], *gradients]))
    for others in values[1:]:
        assert_close(values[0], others, 1e-5)


@pytest.mark.parametrize(
    "batch, area, images, tiles",
    [(24, 4096, 8, 1), (23, 4096, 1, 1), (1, 384, 1, 1), (3, 300, 1, 2), (2, 768, 2, 1)],
)
def test_batches_are_split_by_image_first(batch, area, images, tiles, monkeypatch):
    """Images of 384 × 256 pixels, which have 24 × 16 latents."""
    monkeypatch.setattr(tiling, "largest", lambda channels: area)
    pieces = tiling._Pieces(batch, 256, 384, 32)
    assert pieces.images == images and len(pieces.rows) * len(pieces.columns) == tiles
    assert len(pieces) == batch // images * tiles


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    """That of its own cgroup, or of one that this is in."""
    job = tmp_path / "slurm" / "job_1" / "step_0"
    job.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "slurm" / "job_1" / "memory.max").write_text("{}\n".format(2**30))
    (job / "memory.max").write_text("{}\n".format(2**31))
    no_limit = tmp_path / "memory" / "memory.limit_in_bytes"  # of version 1
    no_limit.parent.mkdir()
    no_limit.write_text("{}\n".format(2**63 - 4096))
    (tmp_path / "own").write_text("1:cpu:/x\n2:cpu,memory:/slurm/job_1/step_0\n")
    monkeypatch.setattr(machine, "OWN_CGROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(machine, "CGROUPS", str(tmp_path))
    assert machine.memory() == 2**30
    monkeypatch.setenv("STUDY_TASKS", "4")
    assert machine.memory() == 2**28
    monkeypatch.delenv("STUDY_TASKS")
    areas = [tiling.largest(channels) for channels in (32, 192, 10**6)]
    assert areas == [2**28 // (2048 * 32), 2**28 // (2048 * 192), 64]
    monkeypatch.setattr(machine, "OWN_CGROUPS", "/none")
    monkeypatch.setattr(machine, "CGROUPS", "/none")
    with open("/proc/meminfo") as file:
        kilobytes = int(file.readline().split()[1])
    assert machine.memory() == pytest.approx(1024 * kilobytes, rel=0.01)


@pytest.mark.parametrize(
    "shares, cores",
    [
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3),
        ({"job/cpu.max": "1600000 100000"}, 8),
    ],
)
def test_the_cpu_share_of_a_container_counts(shares, cores, tmp_path, monkeypatch):
    for name, text in shares.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("2:cpuacct,cpu:/job\n0::/job\n")
    monkeypatch.setattr(machine, "OWN_CGROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(machine, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(machine, "affinity", lambda: 8)
    assert machine.cores() == cores


@pytest.mark.parametrize("given, threads", [({}, "1 1"), ({"TF_NUM_INTEROP_THREADS": "3"}, "1 3")])
def test_tensorflow_keeps_to_the_cpu_share_of_a_container(given, threads, tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    program = """
import os
from runtime import machine
machine.CGROUPS = {!r}
machine.affinity = lambda: 8
import runtime.quiet_tf
print(*(os.environ["TF_NUM_%s_THREADS" % kind] for kind in ("INTRAOP", "INTEROP")))
""".format(str(tmp_path))
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("TF_NUM")}
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=ROOT, env={**environment, **given}, text=True)
    assert printed.split("\n")[0] == threads


# --- The baseline graph ----------------------------------------------------------------------


def started(method_class, model_class, pixels, *flags):
    """An `Evaluation` of an image whose first stage has started, its seed, and the run folder."""
    script = method_class.script()
    run = checkpoints.find_run(DEMO_DIR, DEMO[script])
    args = tf_boilerplate.parse(
        script, "", method_class, None, ["compress", run.name, "image", *flags]
    )
    args.lmbda = run.lmbda
    weights = checkpoints.load(model_class, run)
    evaluation = Evaluation(method_class, weights, (1, *pixels.shape), args)
    evaluation.begin(pixels[None])
    evaluation.session.run(evaluation.method.stages[0].start)
    return evaluation, args.seed, os.path.join(DEMO_DIR, run.name)


@pytest.mark.parametrize("with_winograd", [False, True])
def test_an_iteration_of_sga_equals_the_plain_one(with_winograd, monkeypatch):
    """With the same noise, the relaxed loss, the gradients and Adam's steps agree."""
    if with_winograd:
        allow_winograd(monkeypatch)
    # Independent of which tests ran before, since Adam's bound below depends on the image.
    pixels = np.random.RandomState(0).randint(0, 256, (75, 53, 3)).astype(np.uint8)
    evaluation, seed, folder = started(sga.SGA, hyperprior.Mbt2018, pixels)
    (stage,) = evaluation.method.stages

    theirs = plain.SGA(folder, pixels)
    ours_y, ours_z = (stage.latents[name] for name in "yz")
    for value, latents in zip(theirs.values, evaluation.session.run([ours_y, ours_z])):
        np.testing.assert_allclose(value, latents, atol=2e-5)
    starts = [value.copy() for value in theirs.values]
    for t in range(3):
        with tf.Graph().as_default(), tf.Session() as session:
            noise = Noise(tf.constant(image_keys(pixels[None], seed)))
            pairs = zip("yz", theirs.values)
            uniform = [noise.at(t, name).uniform(tf.zeros(v.shape)) for name, v in pairs]
            uniform = session.run(uniform)
        logistic = [np.log(u) - np.log1p(-u) for u in uniform]
        loss = theirs.step(
            {
                gumbel: np.stack([value, np.zeros_like(value)], axis=-1)
                for gumbel, value in zip(theirs.noise, logistic)
            }
        )
        relaxed = evaluation.session.run([stage.update, stage._relaxed])[1]
        assert relaxed["rd_loss"] == pytest.approx(loss, rel=1e-5)
    for start, value, latents in zip(
        starts, theirs.values, evaluation.session.run([ours_y, ours_z])
    ):
        # Adam's first steps are as long where the gradient is almost zero, and may differ there.
        assert np.abs(value - latents).sum() < 0.01 * np.abs(value - start).sum() != 0


def test_an_iteration_of_q_equals_the_plain_one():
    """With the same noise, the loss of q(z|y) and Adam's steps agree."""
    pixels = np.random.RandomState(1).randint(0, 256, (75, 53, 3)).astype(np.uint8)
    flags = ("--estimate_only", "--lr", "3e-3")
    evaluation, seed, folder = started(bb_no_sga.BBNoSGA, hyperprior.Mbt2018BB, pixels, *flags)
    (stage,) = evaluation.method.stages

    theirs = plain.Fit(folder, pixels)
    ours = [stage.latents[name] for name in ("z_mean", "z_logvar")]
    starts = [value.copy() for value in theirs.values]
    for value, latents in zip(starts, evaluation.session.run(ours)):
        np.testing.assert_allclose(value, latents, atol=2e-5)
    for t in range(3):
        with tf.Graph().as_default(), tf.Session() as session:
            noise = Noise(tf.constant(image_keys(pixels[None], seed)))
            normal = noise.at(t, "z given y").normal(tf.zeros(theirs.values[0].shape))
            normal = session.run(normal)
        loss = theirs.step({theirs.noise[0]: normal})
        relaxed = evaluation.session.run([stage.update, stage._relaxed])[1]
        assert relaxed["bpp"] == pytest.approx(loss, rel=1e-5)
    for start, value, latents in zip(starts, theirs.values, evaluation.session.run(ours)):
        assert np.abs(value - latents).sum() < 0.01 * np.abs(value - start).sum() != 0
